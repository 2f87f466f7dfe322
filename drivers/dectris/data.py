"""DECTRIS' stream: the PULL socket that frames come to, and what is taken from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from ...protocols.wires import simplon_stream as wire
from ..base import DeviceError
from ..links.errors import broken, no_answer, not_connected, nothing_listens

# Room for a frame that did not shrink, and for the tables of a detailed header.
_SLACK_BYTES = 1 << 24
_QUEUE_BYTES = 1 << 28


class StreamLink:
    """Receives messages of the stream, in order, and without copying what they hold.

    The detector sends its messages to all pulling sockets in turns: no other program may pull.

    Parameters
    ----------
    device : str
        For messages.
    endpoint : str
        Such as ``tcp://127.0.0.1:9999``.
    """

    def __init__(self, device: str, endpoint: str) -> None:
        self._device = device
        self.endpoint = endpoint
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._at_once: zmq.Socket[bytes] | None = None
        self._kept: Sequence[wire.Buffer] | None = None
        self._frame_bytes = 0

    def accepts(self, frame_bytes: int) -> bool:
        """Whether it is open, and for frames of that size."""
        return self._socket is not None and frame_bytes <= self._frame_bytes

    @property
    def is_open(self) -> bool:
        """Whether messages can come."""
        return self._socket is not None

    async def open(self, frame_bytes: int, timeout_s: float) -> None:
        """Connect, and wait until the other end has answered.

        Parameters
        ----------
        frame_bytes : int
            Size of the largest frame that may come, uncompressed.
        timeout_s : float
            Wall seconds.

        Raises
        ------
        DeviceLost
            If nothing listens there, or something that is not ZeroMQ.
        """
        self.close()
        self._frame_bytes = frame_bytes
        self._context = zmq.asyncio.Context()
        # From the first connection on: set at the end, it can hang libzmq (its issue 3252).
        self._context.setsockopt(zmq.LINGER, 0)
        link = self._socket = self._context.socket(zmq.PULL)
        # The same socket without an event loop, for what is there already.
        self._at_once = zmq.Socket.shadow(link.underlying)
        link.setsockopt(zmq.LINGER, 0)
        link.setsockopt(zmq.MAXMSGSIZE, frame_bytes + frame_bytes // 8 + _SLACK_BYTES)
        link.setsockopt(zmq.RCVHWM, max(4, _QUEUE_BYTES // frame_bytes))
        monitor = link.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CONNECT_RETRIED)
        request = "connect the frame socket"
        try:
            link.connect(self.endpoint)
            async with asyncio.timeout(timeout_s):
                found: Any = await recv_monitor_message(monitor)
            if found["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
                raise nothing_listens(self._device, request, self.endpoint, "not connected")
        except TimeoutError:
            self.close()
            raise no_answer(self._device, request, self.endpoint, timeout_s) from None
        except BaseException:
            self.close()
            raise
        finally:
            monitor.close(linger=0)
        link.disable_monitor()

    def close(self) -> None:
        """Close the socket; a task that waits on it sees the device lost."""
        link, self._socket = self._socket, None
        self._at_once = self._kept = None
        if link is not None:
            link.close(linger=0)
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)

    async def receive(
        self, request: str, timeout_s: float, failed: asyncio.Future[DeviceError]
    ) -> Sequence[wire.Buffer]:
        """Parts of the next message.

        Parameters
        ----------
        request : str
            For messages.
        timeout_s : float
            Wall seconds.
        failed : asyncio.Future
            Gives the error for which no message will come, if there is one.

        Raises
        ------
        DeviceLost
            If none comes by the deadline.
        DeviceError
            What `failed` gives.
        """
        # Frames that come without a pause would otherwise keep every other task waiting.
        await asyncio.sleep(0)
        if self._socket is None:
            raise not_connected(self._device, request)
        if (parts := self._there()) is not None:
            return parts
        coming: asyncio.Future[Any] = self._socket.recv_multipart(copy=False)  # pyright: ignore[reportAssignmentType]
        try:
            await asyncio.wait((coming, failed), timeout=timeout_s, return_when="FIRST_COMPLETED")
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled() and coming.exception() is None:
                self._kept = _buffers(coming.result())
            raise
        finally:
            coming.cancel()
        if coming.cancelled():
            if failed.done():
                raise failed.result()
            if not self.is_open:  # pyzmq cancels what waits on a socket that is closed
                raise broken(self._device, request, self.endpoint, "closed here")
            raise no_answer(self._device, request, self.endpoint, timeout_s)
        if (error := coming.exception()) is not None:
            raise broken(self._device, request, self.endpoint, error)
        return _buffers(coming.result())

    async def drain(self, quiet_s: float, timeout_s: float) -> None:
        """Throw away what comes until nothing has come for `quiet_s`, or the time is over."""
        link = self._socket
        deadline = time.monotonic() + timeout_s
        while link is not None and link is self._socket and time.monotonic() < deadline:
            if self._there() is None and not await link.poll(int(quiet_s * 1e3)):
                return

    def _there(self) -> Sequence[wire.Buffer] | None:
        if self._at_once is None:
            return None
        if (kept := self._kept) is not None:
            self._kept = None
            return kept
        try:
            return _buffers(self._at_once.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.ZMQError:
            return None  # none is there, or it is closed: the next call that waits reports it


def _buffers(frames: Sequence[Any]) -> list[wire.Buffer]:
    return [frame.buffer for frame in frames]
