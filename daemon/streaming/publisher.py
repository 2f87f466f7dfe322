"""The monitor: a PUB socket for any number of subscribers, which may drop and never waits.

It is an XPUB, a PUB that reports subscriptions. A subscription to ``last/PREFIX`` brings the last
message of every topic that begins with PREFIX, once, as ``last/TOPIC``.

The cost of subscribers that do not read is bounded: each holds at most `HIGH_WATER_MARK` messages
of less than `LARGE_BYTES` (13 MB), and all together hold at most `HELD_BYTES` of larger messages,
or one of them. While that much is held, further large messages are not sent, and subscribers that
have not caught up for `SLOW_S` are disconnected. A subscriber that has read nothing for ten seconds
is disconnected in any case (`connections.STALLED_S`). It may connect again; gaps in ``seq`` show
the messages that it has missed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import zmq

from ...protocols.core.errors import BadInput
from ...protocols.messages.stream import Message
from ..access.connections import (
    ClientConnection,
    Connections,
    disconnect_slowest,
    disconnect_stalled,
)
from ..access.rate_limits import TokenBucket
from ..access.sockets import bind
from ..access.zap import descriptor, metadata
from .last_values import LAST, LastValues, payload_bytes

# Messages kept for one slow subscriber before it loses some.
HIGH_WATER_MARK = 200
# Parts of at least this size are sent without a copy, and counted until they are sent.
LARGE_BYTES = 65_536
HELD_BYTES = 256_000_000
SLOW_S = 2.0
# A subscription is a byte and the beginning of a topic.
MAX_SUBSCRIPTION_BYTES = 1000
# Of one subscriber: different subscriptions, and changes of them in a second.
MOST_SUBSCRIPTIONS, MOST_CHANGES = 200, 2000
# Subscriptions processed at a time.
_AT_ONCE = 100
_LOOK_S = 0.025
_SWEEP_S = 0.5
# Rate and burst of answers to subscriptions of last/, per second.
_LATE_RATE, _LATE_BURST = 20.0, 40.0


Protect = Callable[[zmq.Socket[Any], Callable[[ClientConnection], None]], Connections]


class Publisher:
    """Sends stamped messages to subscribers.

    Parameters
    ----------
    context : zmq.Context
        Of the public sockets.
    endpoint : str
        Where to bind; port 0 or ``*`` chooses one, see `endpoint` afterwards.
    fall_back : bool
        Whether to take any free port when that of the endpoint is in use.
    protect : callable, optional
        Protects the socket before it is bound (`AccessControl.protect`); else anyone may connect.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        fall_back: bool = False,
        protect: Protect | None = None,
    ) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Socket(context, zmq.XPUB)
        self._socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.set(zmq.LINGER, 500)
        # Every subscription is reported, also to a topic that has a subscriber already.
        self._socket.set(zmq.XPUB_VERBOSE, 1)
        self._socket.set(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        self.connections = (protect or _unprotected)(self._socket, self._gone)
        try:
            self.endpoint = bind(self._socket, endpoint, "streams.monitor", fall_back)
        except BadInput:
            self.close()
            raise
        self._prefixes: dict[bytes, int] = {}
        self._late: dict[bytes, None] = {}
        self._late_rate = TokenBucket(_LATE_RATE, _LATE_BURST)
        self._values = LastValues()
        self._held: list[tuple[zmq.MessageTracker, int]] = []
        self.held_back = 0
        self.last: dict[str, Message] = {}

    def send(self, message: Message) -> None:
        """Send a message to the subscribers of its topic.

        A large one is not sent while too much is held for subscribers that do not read.
        """
        if not message.payload:
            self.last[message.topic] = message
        self._values.note(message)
        self._send(message)

    def _send(self, message: Message) -> None:
        topic, header, *payload = message.parts()
        parts: list[Any] = [topic, header]
        large = [part for part in payload if memoryview(part).nbytes >= LARGE_BYTES]
        if large:
            size = payload_bytes(message)
            held = self.held_bytes()
            if held and held + size > HELD_BYTES:
                self.held_back += 1
                return
        for part in payload:
            frame = zmq.Frame(part, track=True, copy=False, copy_threshold=LARGE_BYTES)
            if frame.tracker is not None and memoryview(part).nbytes >= LARGE_BYTES:
                self._held.append((frame.tracker, memoryview(part).nbytes))
            parts.append(frame)
        self._socket.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)

    def held_bytes(self) -> int:
        """Bytes of large messages that a subscriber has not read yet."""
        self._held = [(tracker, size) for tracker, size in self._held if not tracker.done]
        return sum(size for _, size in self._held)

    # --- subscriptions --------------------------------------------------------------------------

    def watched(self, topic: str) -> bool:
        """Whether a topic has a subscriber."""
        self.take_subscriptions()
        raw = topic.encode()
        return any(raw.startswith(prefix) for prefix in self._prefixes)

    def take_subscriptions(self, most: int = _AT_ONCE) -> bool:
        """Process connections and subscriptions; returns whether none are left.

        Parameters
        ----------
        most : int
            Number of subscriptions to process at most.
        """
        now_s = time.monotonic()
        done = self.connections.take_events(now_s)
        for _ in range(most):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._take_subscription(frame, now_s)
        else:
            done = False
        self._answer_late(now_s)
        return done

    def _take_subscription(self, frame: zmq.Frame, now_s: float) -> None:
        change = frame.bytes
        kind, prefix = change[:1], change[1:]
        source = descriptor(frame)
        connection = None
        if source >= 0:
            connection = self.connections.message_from(source, now_s, metadata(frame, "User-Id"))
        if connection is None or kind not in (b"\x00", b"\x01"):
            return
        connection.said += 1
        if kind == b"\x00":
            if prefix in connection.prefixes:
                connection.prefixes.discard(prefix)
                self._less(prefix)
            return
        if prefix not in connection.prefixes:
            connection.prefixes.add(prefix)
            self._prefixes[prefix] = self._prefixes.get(prefix, 0) + 1
        if len(connection.prefixes) > MOST_SUBSCRIPTIONS:
            self.connections.disconnect(connection, f"more than {MOST_SUBSCRIPTIONS} subscriptions")
        elif connection.said > MOST_CHANGES * _SWEEP_S:
            self.connections.disconnect(connection, "it changes its subscriptions all the time")
        elif prefix.startswith(LAST.encode()):
            self._late[prefix] = None

    def _less(self, prefix: bytes) -> None:
        left = self._prefixes.get(prefix, 0) - 1
        if left > 0:
            self._prefixes[prefix] = left
        else:
            self._prefixes.pop(prefix, None)

    def _gone(self, connection: Any) -> None:
        for prefix in connection.prefixes:
            self._less(prefix)
        connection.prefixes.clear()

    def _answer_late(self, now_s: float) -> None:
        """Send the last messages to new subscribers of ``last/``."""
        while self._late and self._late_rate.take(now_s):
            prefix = next(iter(self._late))
            del self._late[prefix]
            for message in self._values.matching(prefix[len(LAST) :].decode(errors="replace")):
                self._send(message)

    def latest(self, topics: list[str]) -> dict[str, dict[str, Any]]:
        """Header of the last message of each topic that begins with one of `topics`."""
        found: dict[str, dict[str, Any]] = {}
        for prefix in topics:
            for message in self._values.matching(prefix):
                found[message.topic.removeprefix(LAST)] = message.header
        return found

    async def look_after(self) -> None:
        """Process subscriptions, and disconnect subscribers that do not read; until cancelled."""
        swept_s = 0.0
        while True:
            done = self.take_subscriptions()
            now_s = time.monotonic()
            if now_s - swept_s > _SWEEP_S:
                swept_s = now_s
                for connection in self.connections.all():
                    connection.said = 0
                disconnect_stalled(self.connections, now_s)
                if self.held_bytes() > HELD_BYTES / 2:
                    disconnect_slowest(self.connections, now_s, SLOW_S)
            await asyncio.sleep(0 if not done else _LOOK_S)

    def losses(self) -> dict[str, int]:
        """Counts of messages not sent and of subscribers disconnected."""
        return {"held_back": self.held_back, "cut": self.connections.disconnected_count}

    def close(self) -> None:
        """Close the socket; messages not read within half a second are lost."""
        self.connections.close()
        self._socket.close()


def _unprotected(
    socket: zmq.Socket[Any], on_gone: Callable[[ClientConnection], None]
) -> Connections:
    return Connections(socket, lambda _address, _why: None, on_gone)
