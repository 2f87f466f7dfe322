"""Who is connected to a public socket, how many there may be, and who is cut.

libzmq accepts whoever comes, spins when descriptors run out, and tells on a monitor socket what
happened to which descriptor. A thread listens there, for the address of a peer that fails is known
only for the moment until its descriptor is closed. So we know every connection, and cut those too
many by shutting them down: at most `MOST_SILENT` that have not said a word yet, at most
half as many more of which the greeting at least has come, at most `MOST_HEARD` that have said
something; the oldest goes first, of the last kind who was silent for the longest. The listening
socket stays open all the time, so that whoever comes has a place for long enough to be heard.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket as sockets
import struct
import termios
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import zmq

MOST_SILENT = 512
MOST_HEARD = 256
# ZMTP begins with so many bytes, which a client sends as soon as it is connected.
SIGNATURE_BYTES = 10
# Connections that wait to be accepted; beyond that (or the kernel's bound) they try again later.
BACKLOG = 1024
# A handshake takes milliseconds; whoever has not finished by then is cut by libzmq.
HANDSHAKE_S = 2.0
# Whoever has said nothing after that is cut by us.
SILENT_S = 30.0
# A silent peer's machine is asked for a sign of life after so long, so often, so many times.
KEEPALIVE_S, KEEPALIVES_EVERY_S, KEEPALIVES = 5, 5, 3
# What a subscriber has not taken for so long, it will not take: it is cut.
STALLED_S = 10.0
# Events dealt with in one go, so that a storm of them does not hold up the loop.
EVENTS_AT_ONCE = 50
# So long nobody is let in when descriptors have run out and none can be freed.
_PAUSE_S = 1.0
_MOST_DESCRIPTORS = 65_536
# Offsets of tcpi_bytes_acked and tcpi_bytes_received in Linux' struct tcp_info.
_TCPI_BYTES_ACKED, _TCPI_BYTES_RECEIVED = 120, 128

_PROBLEMS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it came without a key",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it does not know this daemon's public key",
    zmq.PROTOCOL_ERROR_ZMTP_KEY_EXCHANGE: "it does not know this daemon's public key",
}

# Events that wait to be dealt with.
_MOST_NEWS = 500

Ends = tuple[object, object]


@dataclass
class Connection:
    """One peer, by the descriptor of its connection.

    Attributes
    ----------
    address : str
        Host and port.
    name : str
        Whose key it has; empty without keys.
    prefixes : set of bytes
        What it subscribes to.
    behind_since_s : float or None
        Since when it has not taken all that was sent to it.
    """

    fd: int
    address: str
    ends: Ends
    since_s: float
    name: str = ""
    prefixes: set[bytes] = field(default_factory=set[bytes])
    said: int = 0
    behind_since_s: float | None = None
    moved_s: float = 0.0
    progress: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Event:
    """What happened to a connection; `why` if it did not come about."""

    kind: int
    fd: int
    ends: Ends
    why: str = ""


class _News:
    """Listens to a socket's monitor in a thread, and keeps what it tells until it is asked for."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        where = f"inproc://connections-{id(self)}"
        socket.monitor(where, zmq.EVENT_ALL)
        self._events: zmq.Socket[bytes] = zmq.Socket(socket.context, zmq.PAIR)
        self._events.set(zmq.LINGER, 0)
        self._events.connect(where)
        self._told: deque[_Event] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="connections", daemon=True)
        self._thread.start()

    def next(self) -> _Event | None:
        """What happened next; None if nothing did."""
        return self._told.popleft() if self._told else None

    def _listen(self) -> None:
        ends: dict[int, Ends] = {}
        why = ""
        while True:
            event, *_rest = self._events.recv_multipart()
            kind, value = struct.unpack("=HI", event)
            if kind == zmq.EVENT_ACCEPTED:
                ends[value] = ends_of(value)
                self._told.append(_Event(kind, value, ends[value]))
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                why = _PROBLEMS.get(value, f"it does not speak ZMTP (0x{value:x})")
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                late = value in (errno.EAGAIN, errno.ETIMEDOUT)
                why = (
                    f"it did not finish its handshake within {HANDSHAKE_S:g} s"
                    if late
                    else f"it left in the middle of the handshake ({os.strerror(value)})"
                )
            elif kind == zmq.EVENT_DISCONNECTED:
                # One thread of libzmq serves the socket: why it failed comes just before this.
                self._told.append(_Event(kind, value, ends.pop(value, (None, None)), why))
                why = ""
            elif kind == zmq.EVENT_ACCEPT_FAILED:
                self._told.append(_Event(kind, -1, (None, None)))
            elif kind == zmq.EVENT_MONITOR_STOPPED:
                break
            # libzmq waits for us in turn, so that a storm is taken in no faster than dealt with.
            while len(self._told) > _MOST_NEWS and not self._closing:
                time.sleep(0.001)
        self._events.close()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._thread.join()


class Connections:
    """Keeps account of the connections to one socket, and bounds their number.

    Parameters
    ----------
    socket : zmq.Socket
        Bound afterwards.
    refused : callable
        Told of address and reason, of each connection that failed or was cut.
    """

    def __init__(
        self,
        socket: zmq.Socket[Any],
        refused: Callable[[str, str], None],
        most_silent: int = MOST_SILENT,
        most_heard: int = MOST_HEARD,
    ) -> None:
        self._socket, self._refused = socket, refused
        self._most_silent, self._most_heard = most_silent, most_heard
        socket.set(zmq.BACKLOG, BACKLOG)
        socket.set(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
        socket.set(zmq.TCP_KEEPALIVE, 1)
        socket.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
        socket.set(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVES_EVERY_S)
        socket.set(zmq.TCP_KEEPALIVE_CNT, KEEPALIVES)
        # libzmq 4.3.5 aborts the process when a peer leaves while what it sent waits for room, and
        # a ZMTP heartbeat of ours or of theirs comes after that. Without a bound nothing waits;
        # whoever sends too much is cut instead. And without heartbeats of ours.
        socket.set(zmq.RCVHWM, 0)
        self._news = _News(socket)
        self._silent: OrderedDict[int, Connection] = OrderedDict()
        self._greeting: OrderedDict[int, Connection] = OrderedDict()
        self._heard: OrderedDict[int, Connection] = OrderedDict()
        self._endpoint = ""
        self._closed_until_s: float | None = None
        self.on_gone: Callable[[Connection], None] | None = None
        self.cut_count = 0
        self.failed_count = 0

    def __len__(self) -> int:
        return len(self._heard)

    def all(self) -> list[Connection]:
        """Every connection that has said something."""
        return list(self._heard.values())

    def heard(self, fd: int, now_s: float, name: str = "") -> Connection | None:
        """A message came from there; None if it is gone already."""
        connection = self._heard.get(fd)
        if connection is not None:
            self._heard.move_to_end(fd)
            return connection
        if fd not in self._silent and fd not in self._greeting:
            # The message was faster than the news of the connection.
            ends = ends_of(fd)
            if _port(ends[0]) is None or _port(ends[0]) != self._port():
                return None
            self._accepted(fd, ends, now_s)
        connection = self._silent.pop(fd, None) or self._greeting.pop(fd)
        connection.name, connection.moved_s = name, now_s
        self._heard[fd] = connection
        if len(self._heard) > self._most_heard:
            self.cut(
                next(iter(self._heard.values())),
                f"more than {self._most_heard} connections, and it was silent for the longest",
            )
        return connection

    def _port(self) -> object:
        if not self._endpoint:
            self._endpoint = cast(bytes, self._socket.get(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
        scheme, _, rest = self._endpoint.partition("://")
        return int(rest.rpartition(":")[2]) if scheme == "tcp" else rest

    # --- what libzmq tells ----------------------------------------------------------------------

    def take_events(self, now_s: float, most: int = EVENTS_AT_ONCE) -> bool:
        """Take in what has happened; whether that was all of it."""
        for _ in range(most):
            news = self._news.next()
            if news is None:
                return True
            if news.kind == zmq.EVENT_ACCEPTED:
                self._accepted(news.fd, news.ends, now_s)
            elif news.kind == zmq.EVENT_DISCONNECTED:
                self._disconnected(news)
            else:
                self._out_of_descriptors(now_s)
        return False

    def _accepted(self, fd: int, ends: Ends, now_s: float) -> None:
        known = self.find(fd)
        if known is not None:
            if known.ends == ends:
                return
            # The descriptor is somebody else's now; the news of it is still to come.
            self._forget(known)
        # Room is made first: who has just come is not the one to go.
        while len(self._silent) >= self._most_silent:
            self._make_room()
        self._silent[fd] = Connection(fd, address_of(ends), ends, now_s)

    def _make_room(self) -> None:
        """Cut the oldest connection that says nothing; who has begun to greet is spared for now."""
        oldest = next(iter(self._silent.values()))
        if _told(oldest.fd, _TCPI_BYTES_RECEIVED) < SIGNATURE_BYTES:
            why = (
                f"more than {self._most_silent} connections that say nothing, and it is the oldest"
            )
            self.cut(oldest, why)
            return
        self._greeting[oldest.fd] = self._silent.pop(oldest.fd)
        if len(self._greeting) > self._most_silent // 2:
            self.cut(
                next(iter(self._greeting.values())),
                f"more than {self._most_silent // 2} connections that only greet, and it is the "
                "oldest",
            )

    def find(self, fd: int) -> Connection | None:
        """The connection of a descriptor."""
        return self._heard.get(fd) or self._greeting.get(fd) or self._silent.get(fd)

    def _disconnected(self, news: _Event) -> None:
        if news.why:
            self.failed_count += 1
            self._refused(address_of(news.ends), news.why)
        connection = self.find(news.fd)
        if connection is not None and connection.ends == news.ends:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        for kind in (self._silent, self._greeting, self._heard):
            kind.pop(connection.fd, None)
        if self.on_gone is not None:
            self.on_gone(connection)

    def _out_of_descriptors(self, now_s: float) -> None:
        """Make room; where there is none to be made, stop listening instead of spinning."""
        if self._closed_until_s is not None:
            return
        if self._silent or self._greeting:
            for connection in [*self._silent.values(), *self._greeting.values()]:
                self.cut(connection, "no file descriptor is left")
            return
        self._refused("everyone", "no file descriptor is left, nobody is let in for a second")
        self._port()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.unbind(self._endpoint)
            self._closed_until_s = now_s + _PAUSE_S

    # --- who is cut -----------------------------------------------------------------------------

    def cut(self, connection: Connection, why: str) -> None:
        """Shut a connection down; libzmq then drops it and all that waited for it."""
        if connection.fd in self._heard:
            self.cut_count += 1
        else:
            self.failed_count += 1
        with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(connection.fd)) as held:
            # The descriptor may be somebody else's by now: a heater's, say.
            if (held.getsockname(), held.getpeername()) == connection.ends:
                held.shutdown(sockets.SHUT_RDWR)
        self._forget(connection)
        self._refused(connection.address, why)

    def sweep(self, now_s: float) -> None:
        """Cut who says nothing; let everyone in again after a pause. To be called now and then."""
        for kind in (self._silent, self._greeting):
            while kind:
                oldest = next(iter(kind.values()))
                if now_s - oldest.since_s < SILENT_S:
                    break
                self.cut(oldest, f"it said nothing for {SILENT_S:g} s")
        if self._closed_until_s is not None and now_s >= self._closed_until_s:
            try:
                self._socket.bind(self._endpoint)
                self._closed_until_s = None
            except zmq.ZMQError:
                self._closed_until_s = now_s + _PAUSE_S

    def cut_stalled(self, now_s: float) -> None:
        """Look at what each peer has taken, and cut whoever has taken nothing for `STALLED_S`."""
        for connection in self.all():
            waiting, taken = _outgoing(connection.fd)
            if waiting == 0:
                connection.behind_since_s = None
            elif connection.behind_since_s is None:
                connection.behind_since_s = connection.moved_s = now_s
            if (waiting, taken) != connection.progress:
                connection.progress, connection.moved_s = (waiting, taken), now_s
            if waiting and now_s - connection.moved_s > STALLED_S:
                self.cut(connection, f"it has taken nothing for {STALLED_S:g} s")

    def cut_slowest(self, now_s: float, after_s: float) -> bool:
        """Cut who has been behind for the longest, if for so long; whether there was one."""
        behind = [(c.behind_since_s, c) for c in self.all() if c.behind_since_s is not None]
        if not behind:
            return False
        since_s, slowest = min(behind, key=lambda pair: pair[0])
        if now_s - since_s < after_s:
            return False
        self.cut(slowest, "it is too slow for what it subscribes to")
        return True

    def close(self) -> None:
        """Listen to no more events; to be called before the socket is closed."""
        self._news.close()


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def ends_of(fd: int) -> Ends:
    """Addresses of both ends of a connection; Nones if it is gone already."""
    try:
        held = sockets.socket(fileno=fd)
    except OSError:
        return None, None
    try:
        return held.getsockname(), held.getpeername()
    except OSError:
        return None, None
    finally:
        held.detach()


def address_of(ends: Ends) -> str:
    """Whom a connection leads to, for people."""
    match ends[1]:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case None:
            return "an address that was gone before it could be read"
        case _:
            return "a local socket"


def _port(end: object) -> object:
    """Port of an address, or path of a local one."""
    match end:
        case (str(), int(port), *_):
            return port
        case _:
            return end


def _told(fd: int, offset: int) -> int:
    """One of the kernel's counts of a TCP connection; 0 for others."""
    try:
        held = sockets.socket(fileno=fd)
    except OSError:
        return 0
    try:
        told = held.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        return int(struct.unpack_from("=Q", told, offset)[0])
    except (OSError, struct.error):
        return 0
    finally:
        held.detach()


def _outgoing(fd: int) -> tuple[int, int]:
    """Bytes that a peer has not taken yet, and bytes that it has taken (TCP alone tells)."""
    waiting = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, waiting)
    except OSError:
        return 0, 0
    return struct.unpack("=i", waiting)[0], _told(fd, _TCPI_BYTES_ACKED)
