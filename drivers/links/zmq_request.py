"""ZeroMQ requests, each with a deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import zmq
import zmq.asyncio

from ..base import GRACE_S
from .errors import broken, no_answer

MAX_REPLY_BYTES = 1_000_000


class RequestLink:
    """ZeroMQ REQ that never stays stuck: a socket whose reply was lost is replaced.

    Parameters
    ----------
    device : str
        For messages.
    endpoint : str
        Such as ``tcp://127.0.0.1:5557``.
    context : zmq.asyncio.Context
        Stays the caller's.
    """

    def __init__(self, device: str, endpoint: str, context: zmq.asyncio.Context) -> None:
        self._device = device
        self.endpoint = endpoint
        self._context = context
        self._socket: zmq.asyncio.Socket | None = None
        self._lock = asyncio.Lock()

    async def exchange(
        self, raw: bytes, request: str, timeout_s: float = GRACE_S, sent: Any = None
    ) -> bytes:
        """Send one request and wait for its reply.

        Parameters
        ----------
        raw : bytes
            The request.
        request : str
            What is request, for messages.
        timeout_s : float
            Wall seconds for the exchange, waiting for an earlier one included.
        sent : callable, optional
            Called without arguments when the request goes out.

        Raises
        ------
        DeviceLost
            If no reply comes by the deadline.
        """
        try:
            async with asyncio.timeout(timeout_s), self._lock:
                try:
                    link = self._opened()
                    if sent is not None:
                        sent()
                    await link.send(raw)
                    return await link.recv()
                except BaseException:
                    self.close()  # it owes a reply, and would give it to the next request
                    raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # pyzmq cancels what waits on a socket that is closed; this task was not cancelled.
            raise broken(self._device, request, self.endpoint, "closed here") from None
        except TimeoutError:
            raise no_answer(self._device, request, self.endpoint, timeout_s) from None
        except zmq.ZMQError as error:
            raise broken(self._device, request, self.endpoint, error) from None

    def close(self) -> None:
        """Close the socket; the next exchange opens another."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _opened(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            self._socket = self._context.socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
            self._socket.connect(self.endpoint)
        return self._socket
