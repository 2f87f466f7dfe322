"""A monitor and a credit-controlled link with a consumer in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import zmq
import zmq.asyncio

from pyrotome.daemon.runtime.event_bus import EventBus
from pyrotome.daemon.streaming.credit_link import CreditLink
from pyrotome.daemon.streaming.publisher import Publisher
from pyrotome.daemon.streaming.telemetry_hub import TelemetryHub
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.credit_link import upstream
from pyrotome.protocols.messages.stream import Message, parse


class Linked:
    """A hub attached to a link, and one consumer of it that answers on request."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.clock, self.bus = ExperimentClock(), EventBus()
        self.status: dict[str, Any] = {"state": "idle"}
        self.publisher = Publisher(context, "tcp://127.0.0.1:*")
        self.hub = TelemetryHub(self.bus, self.publisher, self.clock, lambda: dict(self.status))
        self.link = CreditLink(context, lambda *_: None, lambda *_: None)
        self._context = context
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)

    async def connect(self, name: str = "recorder", credit: int = 10) -> None:
        """Open the link and say hello on it."""
        endpoint = self.link.open()
        consumer = self.link.expect(name, essential=name == "recorder")
        self._socket.set(zmq.IDENTITY, name.encode())
        self._socket.connect(endpoint)
        await self.answer("hello", {"credit": credit})
        await asyncio.wait_for(consumer.hello.wait(), 10)
        self.hub.attach(self.link)

    async def answer(self, kind: Any, body: dict[str, Any]) -> None:
        """Send what a consumer sends."""
        await self._socket.send_multipart(upstream(kind, body))

    async def receive(self) -> Message:
        """The next message that came over the link."""
        return parse(await asyncio.wait_for(self._socket.recv_multipart(), 10))

    async def close(self) -> None:
        """Close everything."""
        self._socket.close()
        await self.link.close()
        self.publisher.close()


@asynccontextmanager
async def linked() -> AsyncIterator[Linked]:
    """A hub with publisher and link of its own; closed afterwards."""
    context = zmq.asyncio.Context()
    here = Linked(context)
    try:
        yield here
    finally:
        await here.close()
        context.destroy(linger=0)
