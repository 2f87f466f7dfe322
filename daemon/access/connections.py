"""Keep account of the connections to a public socket, and bound their number.

libzmq accepts every connection and spins when file descriptors run out. So each connection is
known here, from the socket's monitor, and those too many are disconnected by shutting them down:

- at most `MOST_SILENT` that have not sent a byte yet; the oldest goes first;
- at most half as many that have sent the ZMTP greeting alone; the oldest goes first;
- at most `MOST_ACTIVE` that have sent a message; the one that was silent for the longest goes
  first.

The socket listens all the time, so that every peer has a place for long enough to send something.
"""

from __future__ import annotations

import contextlib
import os
import socket as sockets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import zmq

from .socket_monitor import HANDSHAKE_S, SocketEvent, SocketMonitor
from .tcp_info import Ends, address_of, ends_of, port_of, received_bytes, sent_bytes

MOST_SILENT = 512
MOST_ACTIVE = 256
# ZMTP begins with so many bytes, which a client sends as soon as it is connected.
SIGNATURE_BYTES = 10
# Connections that wait to be accepted; beyond that (or the kernel's bound) they try again later.
BACKLOG = 1024
# A peer that has sent no message by then is disconnected.
SILENT_S = 30.0
# The kernel probes an idle connection after so long, so often, so many times.
KEEPALIVE_S, KEEPALIVES_EVERY_S, KEEPALIVES = 5, 5, 3
# A subscriber that has received nothing for so long, while data waits, is disconnected.
STALLED_S = 10.0
# Events dealt with in one go, so that a storm of them does not hold up the loop.
EVENTS_AT_ONCE = 50
# So long the socket does not listen when descriptors have run out and none can be freed.
_PAUSE_S = 1.0


@dataclass
class ClientConnection:
    """One peer, by the descriptor of its connection.

    Attributes
    ----------
    address : str
        Host and port.
    name : str
        Owner of its key; empty without keys.
    prefixes : set of bytes
        What it subscribes to.
    behind_since_s : float or None
        Since when it has not received all that was sent to it.
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


class Connections:
    """The connections to one socket.

    Parameters
    ----------
    socket : zmq.Socket
        Not bound yet.
    rejected : callable
        Called with address and reason for each connection that fails or is disconnected.
    on_gone : callable, optional
        Called with each connection that is closed.
    most_silent, most_active : int
        Bounds of the numbers of connections.
    """

    def __init__(
        self,
        socket: zmq.Socket[Any],
        rejected: Callable[[str, str], None],
        on_gone: Callable[[ClientConnection], None] | None = None,
        most_silent: int = MOST_SILENT,
        most_active: int = MOST_ACTIVE,
    ) -> None:
        self._socket, self._rejected, self._on_gone = socket, rejected, on_gone
        self._most_silent, self._most_active = most_silent, most_active
        socket.set(zmq.BACKLOG, BACKLOG)
        socket.set(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
        socket.set(zmq.TCP_KEEPALIVE, 1)
        socket.set(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
        socket.set(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVES_EVERY_S)
        socket.set(zmq.TCP_KEEPALIVE_CNT, KEEPALIVES)
        # libzmq 4.3.5 aborts the process when a peer leaves while what it sent waits for room, and
        # a ZMTP heartbeat of either side comes after that. Without a bound nothing waits; a peer
        # that sends too much is disconnected instead. And without heartbeats of ours.
        socket.set(zmq.RCVHWM, 0)
        self._monitor = SocketMonitor(socket)
        self._silent: OrderedDict[int, ClientConnection] = OrderedDict()
        self._greeting: OrderedDict[int, ClientConnection] = OrderedDict()
        self._active: OrderedDict[int, ClientConnection] = OrderedDict()
        self._endpoint = ""
        self._closed_until_s: float | None = None
        self.disconnected_count = 0
        self.failed_count = 0

    def __len__(self) -> int:
        return len(self._active)

    def all(self) -> list[ClientConnection]:
        """Every connection that has sent a message."""
        return list(self._active.values())

    def find(self, fd: int) -> ClientConnection | None:
        """The connection of a descriptor."""
        return self._active.get(fd) or self._greeting.get(fd) or self._silent.get(fd)

    def message_from(self, fd: int, now_s: float, name: str = "") -> ClientConnection | None:
        """Note that a message came.

        Parameters
        ----------
        fd : int
            Descriptor of the connection that it came by.
        now_s : float
            Monotonic seconds.
        name : str
            Owner of its key; empty without keys.

        Returns
        -------
        Connection or None
            None if it is closed already.
        """
        connection = self._active.get(fd)
        if connection is not None:
            self._active.move_to_end(fd)
            return connection
        if fd not in self._silent and fd not in self._greeting:
            # The message was faster than the event of the connection.
            ends = ends_of(fd)
            if port_of(ends[0]) is None or port_of(ends[0]) != self._port():
                return None
            self._accepted(fd, ends, now_s)
        connection = self._silent.pop(fd, None) or self._greeting.pop(fd)
        connection.name, connection.moved_s = name, now_s
        self._active[fd] = connection
        if len(self._active) > self._most_active:
            self.disconnect(
                next(iter(self._active.values())),
                f"more than {self._most_active} connections; this one was silent for the longest",
            )
        return connection

    def _port(self) -> object:
        if not self._endpoint:
            self._endpoint = cast(bytes, self._socket.get(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
        scheme, _, rest = self._endpoint.partition("://")
        return int(rest.rpartition(":")[2]) if scheme == "tcp" else rest

    # --- events of libzmq -----------------------------------------------------------------------

    def take_events(self, now_s: float, most: int = EVENTS_AT_ONCE) -> bool:
        """Deal with the events that wait, `most` at a time; returns whether that was all."""
        for _ in range(most):
            event = self._monitor.next()
            if event is None:
                return True
            if event.kind == zmq.EVENT_ACCEPTED:
                self._accepted(event.fd, event.ends, now_s)
            elif event.kind == zmq.EVENT_DISCONNECTED:
                self._disconnected(event)
            else:
                self._out_of_descriptors(now_s)
        return False

    def _accepted(self, fd: int, ends: Ends, now_s: float) -> None:
        known = self.find(fd)
        if known is not None:
            if known.ends == ends:
                return
            # Another connection has the descriptor now; the event of its end is still to come.
            self._forget(known)
        # Room is made first: the newest connection is not the one to go.
        while len(self._silent) >= self._most_silent:
            self._make_room()
        self._silent[fd] = ClientConnection(fd, address_of(ends), ends, now_s)

    def _make_room(self) -> None:
        """Disconnect the oldest silent peer, or move it on if its greeting has come."""
        oldest = next(iter(self._silent.values()))
        if received_bytes(oldest.fd) < SIGNATURE_BYTES:
            why = f"more than {self._most_silent} silent connections; this one is the oldest"
            self.disconnect(oldest, why)
            return
        self._greeting[oldest.fd] = self._silent.pop(oldest.fd)
        most = self._most_silent // 2
        if len(self._greeting) > most:
            self.disconnect(
                next(iter(self._greeting.values())),
                f"more than {most} connections that only greet; this one is the oldest",
            )

    def _disconnected(self, event: SocketEvent) -> None:
        if event.why:
            self.failed_count += 1
            self._rejected(address_of(event.ends), event.why)
        connection = self.find(event.fd)
        if connection is not None and connection.ends == event.ends:
            self._forget(connection)

    def _forget(self, connection: ClientConnection) -> None:
        for kind in (self._silent, self._greeting, self._active):
            kind.pop(connection.fd, None)
        if self._on_gone is not None:
            self._on_gone(connection)

    def _out_of_descriptors(self, now_s: float) -> None:
        """Free descriptors; where none can be freed, stop listening instead of spinning."""
        if self._closed_until_s is not None:
            return
        if self._silent or self._greeting:
            for connection in [*self._silent.values(), *self._greeting.values()]:
                self.disconnect(connection, "no file descriptor is left")
            return
        self._rejected("everyone", "no file descriptor is left; listening again in a second")
        self._port()
        with contextlib.suppress(zmq.ZMQError):
            self._socket.unbind(self._endpoint)
            self._closed_until_s = now_s + _PAUSE_S

    # --- disconnecting --------------------------------------------------------------------------

    def disconnect(self, connection: ClientConnection, why: str) -> None:
        """Shut a connection down; libzmq then drops it and all that waits for it."""
        if connection.fd in self._active:
            self.disconnected_count += 1
        else:
            self.failed_count += 1
        with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(connection.fd)) as socket:
            # The descriptor may belong to another connection by now: the heater's, say.
            if (socket.getsockname(), socket.getpeername()) == connection.ends:
                socket.shutdown(sockets.SHUT_RDWR)
        self._forget(connection)
        self._rejected(connection.address, why)

    def sweep(self, now_s: float) -> None:
        """Disconnect silent peers, and listen again after a pause; to be called now and then."""
        for kind in (self._silent, self._greeting):
            while kind:
                oldest = next(iter(kind.values()))
                if now_s - oldest.since_s < SILENT_S:
                    break
                self.disconnect(oldest, f"it sent nothing for {SILENT_S:g} s")
        if self._closed_until_s is not None and now_s >= self._closed_until_s:
            try:
                self._socket.bind(self._endpoint)
                self._closed_until_s = None
            except zmq.ZMQError:
                self._closed_until_s = now_s + _PAUSE_S

    def close(self) -> None:
        """Receive no more events; to be called before the socket is closed."""
        self._monitor.close()


def disconnect_stalled(connections: Connections, now_s: float) -> None:
    """Disconnect every peer that has received nothing for `STALLED_S` while data waits for it."""
    for connection in connections.all():
        waiting, received = sent_bytes(connection.fd)
        if waiting == 0:
            connection.behind_since_s = None
        elif connection.behind_since_s is None:
            connection.behind_since_s = connection.moved_s = now_s
        if (waiting, received) != connection.progress:
            connection.progress, connection.moved_s = (waiting, received), now_s
        if waiting and now_s - connection.moved_s > STALLED_S:
            connections.disconnect(connection, f"it received nothing for {STALLED_S:g} s")


def disconnect_slowest(connections: Connections, now_s: float, after_s: float) -> bool:
    """Disconnect the peer that has been behind for the longest.

    Parameters
    ----------
    connections : Connections
        Looked at by `disconnect_stalled` before.
    now_s : float
        Monotonic seconds.
    after_s : float
        How long it must have been behind at least.

    Returns
    -------
    bool
        Whether there was such a peer.
    """
    behind = [(c.behind_since_s, c) for c in connections.all() if c.behind_since_s is not None]
    if not behind:
        return False
    since_s, slowest = min(behind, key=lambda pair: pair[0])
    if now_s - since_s < after_s:
        return False
    connections.disconnect(slowest, "it is too slow for what it subscribes to")
    return True
