"""Events of a ZeroMQ socket's monitor, received by a thread: accepted, disconnected, failed.

The address of a peer that fails is known only until its descriptor is closed, so a thread of its
own waits for the events.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import zmq

from .tcp_info import Ends, ends_of

# A handshake takes milliseconds; libzmq disconnects a peer that has not finished by then.
HANDSHAKE_S = 2.0
# Events that wait; libzmq waits beyond that.
_MOST_WAITING = 500

_PROBLEMS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it came without a key",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it does not know this daemon's public key",
    zmq.PROTOCOL_ERROR_ZMTP_KEY_EXCHANGE: "it does not know this daemon's public key",
}


@dataclass(frozen=True)
class SocketEvent:
    """What happened to a connection.

    Attributes
    ----------
    kind : int
        ``EVENT_ACCEPTED``, ``EVENT_DISCONNECTED`` or ``EVENT_ACCEPT_FAILED`` of zmq.
    fd : int
        Descriptor of the connection; -1 if there is none.
    ends : tuple
        Its addresses.
    why : str
        Why its handshake failed; empty if it did not.
    """

    kind: int
    fd: int
    ends: Ends
    why: str = ""


class SocketMonitor:
    """Receives the events of a socket, and keeps them until they are taken.

    Parameters
    ----------
    socket : zmq.Socket
        Not bound yet.
    """

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        where = f"inproc://connections-{id(self)}"
        socket.monitor(where, zmq.EVENT_ALL)
        self._events: zmq.Socket[bytes] = zmq.Socket(socket.context, zmq.PAIR)
        self._events.set(zmq.LINGER, 0)
        self._events.connect(where)
        self._waiting: deque[SocketEvent] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._receive, name="connections", daemon=True)
        self._thread.start()

    def next(self) -> SocketEvent | None:
        """The next event; None if none waits."""
        return self._waiting.popleft() if self._waiting else None

    def _receive(self) -> None:
        ends: dict[int, Ends] = {}
        why = ""
        while True:
            event, *_rest = self._events.recv_multipart()
            kind, value = struct.unpack("=HI", event)
            if kind == zmq.EVENT_ACCEPTED:
                ends[value] = ends_of(value)
                self._waiting.append(SocketEvent(kind, value, ends[value]))
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                why = _PROBLEMS.get(value, f"it does not speak ZMTP (0x{value:x})")
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                why = _handshake_problem(value)
            elif kind == zmq.EVENT_DISCONNECTED:
                # One thread of libzmq serves the socket: the reason comes just before this.
                closed = ends.pop(value, (None, None))
                self._waiting.append(SocketEvent(kind, value, closed, why))
                why = ""
            elif kind == zmq.EVENT_ACCEPT_FAILED:
                self._waiting.append(SocketEvent(kind, -1, (None, None)))
            elif kind == zmq.EVENT_MONITOR_STOPPED:
                break
            # libzmq waits for this thread: a storm comes in no faster than it is dealt with.
            while len(self._waiting) > _MOST_WAITING and not self._closing:
                time.sleep(0.001)
        self._events.close()

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._thread.join()


def _handshake_problem(error: int) -> str:
    if error in (errno.EAGAIN, errno.ETIMEDOUT):
        return f"it did not finish its handshake within {HANDSHAKE_S:g} s"
    return f"it disconnected during the handshake ({os.strerror(error)})"
