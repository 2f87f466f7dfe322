"""The monitor: a PUB socket that anyone may watch and that may drop, never waiting for anyone.

It is an XPUB, which is a PUB that tells who subscribes to what.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import zmq
from numpy.typing import NDArray

from ..protocols.loading import BadInput
from ..protocols.messages import Message
from ..protocols.timebase import ExperimentClock

# Messages kept for one slow subscriber before it loses some.
HIGH_WATER_MARK = 200
PREVIEW_SIDE = 256


class Publisher:
    """Give every message its run, sequence number and time, and publish it.

    Parameters
    ----------
    context : zmq.Context
        The daemon's context.
    endpoint : str
        Where to bind; port 0 or ``*`` chooses one, see `endpoint` afterwards.
    clock : ExperimentClock
        Time of messages that do not bring their own.
    fall_back : bool
        Take any free port when the one asked for is in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        clock: ExperimentClock,
        fall_back: bool = False,
    ) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Socket(context, zmq.XPUB)
        self._socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
        self._socket.set(zmq.LINGER, 500)
        self.endpoint = bind(self._socket, endpoint, "streams.monitor", fall_back)
        self._clock = clock
        self._seq: dict[str, int] = {}
        self._prefixes: set[str] = set()
        self.run: str | None = None
        self.last: dict[str, Message] = {}
        self.on_event: Callable[[dict[str, Any]], None] | None = None

    def publish(
        self,
        topic: str,
        kind: str,
        body: dict[str, Any],
        payload: tuple[Any, ...] = (),
        t_ns: int | None = None,
    ) -> Message:
        """Publish a message and return it as sent, for those who must not miss it."""
        message = self.stamp(topic, kind, body, payload, t_ns)
        self.send(message)
        if kind == "event" and self.on_event is not None:
            self.on_event(message.header)
        return message

    def stamp(
        self,
        topic: str,
        kind: str,
        body: dict[str, Any],
        payload: tuple[Any, ...] = (),
        t_ns: int | None = None,
    ) -> Message:
        """Give a message its run, number and time; it is for `send`, in the order of numbers."""
        seq = self._seq.get(topic, 0)
        self._seq[topic] = seq + 1
        header = {
            "type": kind,
            "run": self.run,
            "seq": seq,
            "t_ns": self._clock.now_ns() if t_ns is None else t_ns,
            **body,
        }
        return Message(topic, header, payload)

    def send(self, message: Message) -> None:
        """Send a message to whoever watches its topic."""
        if not message.payload:
            self.last[message.topic] = message
        self._socket.send_multipart(message.parts(), flags=zmq.NOBLOCK, copy=False)

    def watched(self, topic: str) -> bool:
        """Whether anyone has subscribed to a topic."""
        while cast(int, self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            change = self._socket.recv(zmq.NOBLOCK)
            prefix = change[1:].decode(errors="replace")
            if change[:1] == b"\x01":
                self._prefixes.add(prefix)
            else:
                self._prefixes.discard(prefix)
        return any(topic.startswith(prefix) for prefix in self._prefixes)

    def close(self) -> None:
        """Close the socket; what subscribers have not taken within half a second is lost."""
        self._socket.close()


def bind(socket: zmq.Socket[Any], endpoint: str, what: str, fall_back: bool) -> str:
    """Bind a socket and return where it listens.

    Raises
    ------
    BadInput
        If that is impossible, saying what could be done.
    """
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if not (fall_back and error.errno == zmq.EADDRINUSE):
            socket.close(linger=0)
            raise BadInput(
                f"rig: {what}",
                f"cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}. Name another "
                "port in the rig, or stop the program that uses it",
            ) from None
        socket.bind(endpoint.rsplit(":", 1)[0] + ":*")
    where = cast(bytes, socket.get(zmq.LAST_ENDPOINT))
    return where.decode().rstrip("\0")


def make_preview(frame: NDArray[Any]) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Bin a frame to at most 256 pixels a side and scale it to 8 bits.

    A frame much longer than wide keeps more pixels along it, for the binning is the same in both
    directions and leaves one pixel across at least.

    Returns
    -------
    preview : ndarray of uint8
        (rows // b, columns // b), with b the binning.
    scale : dict
        ``binning``, and the mean counts that black and white stand for (``low``, ``high``).
    """
    binning = max(1, min(-(-max(frame.shape) // PREVIEW_SIDE), *frame.shape))
    rows, columns = (side // binning for side in frame.shape)
    # Sums of strided slices: an order of magnitude quicker than reducing over two axes at once.
    blocks = frame[: rows * binning, : columns * binning].reshape(rows, binning, -1)
    total = blocks[:, 0].astype(np.uint32 if frame.itemsize <= 2 else np.uint64)
    for row in range(1, binning):
        total += blocks[:, row]
    total = total.reshape(rows, columns, binning)
    binned = total[..., 0].astype(np.float32)
    for column in range(1, binning):
        binned += total[..., column]
    binned /= binning**2
    low, high = float(binned.min()), float(binned.max())
    span = high - low or 1.0
    preview = np.clip((binned - low) * (255.0 / span), 0, 255).astype(np.uint8)
    return preview, {"binning": float(binning), "low": low, "high": high}


def monotonic_s() -> float:
    """Wall seconds, for rates and ages that people see."""
    return time.monotonic()
