"""The lossless link to recorder and analysis: frames go out against credit, results come in."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import zmq
import zmq.asyncio

from ...protocols.messages.credit_link import END_TOPIC, FLUSH_TOPIC, parse_upstream
from ...protocols.messages.stream import BadMessage, Message


@dataclass
class Consumer:
    """One process that must not miss a frame.

    One that is `essential` holds the schedule when it has no credit left; another one is then
    sent headers alone, marked ``in_file``, and reads the pixels from the run file.
    """

    name: str
    essential: bool = True
    credit: int = 0
    granted: int = 0
    sent: int = 0
    headers_only: int = 0
    heard_s: float = 0.0
    sent_s: deque[float] = field(default_factory=deque[float])
    ended: bool = False
    alive: bool = True
    status: dict[str, Any] = field(default_factory=dict[str, Any])
    hello: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    summary: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def receives(self) -> bool:
        """Whether it can be sent something: it has said hello, lives, and expects more."""
        return self.alive and not self.ended and self.hello.is_set()

    @property
    def backlog(self) -> int:
        """Frames sent and not yet reported as dealt with."""
        return len(self.sent_s)

    @property
    def keeps_all(self) -> bool:
        """Whether no death can take away a frame that was sent to it."""
        kept = self.status.get("kept")
        return self.sent == 0 or (type(kept) is int and kept >= self.sent)

    @property
    def problem(self) -> str | None:
        """Why it cannot deal with anything now, in its own words."""
        problem = self.status.get("problem")
        return problem if isinstance(problem, str) else None

    def staleness_s(self, now_s: float) -> float:
        """Wall seconds since the oldest frame was sent that is not yet dealt with."""
        return now_s - self.sent_s[0] if self.sent_s else 0.0

    def note_status(self, body: dict[str, Any]) -> None:
        """Take in what it says of itself; ``dealt`` counts the frames that it is done with.

        For one that says no such thing, ``frames`` does.
        """
        self.status = body
        dealt = body.get("dealt", body.get("frames"))
        if type(dealt) is int:
            while self.sent_s and self.sent - len(self.sent_s) < dealt:
                self.sent_s.popleft()


class CreditLink:
    """Sends stream messages to every consumer and takes what they send back.

    Parameters
    ----------
    context : zmq.asyncio.Context
        The daemon's context.
    on_result, on_event : callable
        Called with a consumer's name, body and payload.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        on_result: Callable[[str, dict[str, Any], Sequence[bytes | memoryview]], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pyrotome-")
        self.endpoint = f"ipc://{Path(self._folder.name) / 'link'}"
        self._socket = context.socket(zmq.ROUTER)
        # Frames are limited by credit, the rest is small: nothing may be dropped here.
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(self.endpoint)
        self._on_result, self._on_event = on_result, on_event
        self.consumers: dict[str, Consumer] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._receive(), name="outlet")

    def expect(self, name: str, essential: bool = True) -> Consumer:
        """Reckon with a consumer; until it says hello, nothing is sent to it."""
        consumer = Consumer(name, essential)
        self.consumers[name] = consumer
        return consumer

    def lose(self, name: str) -> None:
        """Go on without a consumer that has died."""
        consumer = self.consumers.get(name)
        if consumer is not None:
            consumer.alive = False
            consumer.hello.set()
            consumer.done.set()
            self._changed.set()

    @property
    def most_at_a_time(self) -> int:
        """Half of the credit that the essential living consumers granted at first."""
        granted = [c.granted for c in self.consumers.values() if c.essential and c.alive]
        return max(1, min(granted, default=1) // 2)

    def waiting_for(self, frames: int = 1, kept: bool = False) -> dict[str, str]:
        """Essential living consumers that cannot take more, and why.

        Parameters
        ----------
        frames : int
            For how many they must have credit.
        kept : bool
            Whether they must also keep for good what they have got.
        """
        essential = [c for c in self.consumers.values() if c.essential and c.alive]
        waiting = {
            c.name: c.problem or ""
            for c in essential
            if c.credit < frames or c.problem or (kept and not c.keeps_all)
        }
        return {name: why or "it has not yet dealt with what came" for name, why in waiting.items()}

    async def credit(self, frames: int = 1, kept: bool = False) -> None:
        """Wait until there is nobody to be waited for."""
        while self.waiting_for(frames, kept):
            self._changed.clear()
            await self._changed.wait()

    def ask_to_keep(self) -> None:
        """Ask essential consumers to keep for good what they have got, without delay."""
        for consumer in self.consumers.values():
            if consumer.essential and not consumer.keeps_all:
                self.send_only(consumer.name, Message(FLUSH_TOPIC, {}))

    def send(self, message: Message, frame: bool = False) -> None:
        """Send a message to every living consumer that has said hello; never waits."""
        parts = message.parts()
        for consumer in self.consumers.values():
            if not consumer.receives:
                continue
            if not frame:
                self._send_to(consumer, parts)
                continue
            if consumer.credit > 0 or consumer.essential:
                consumer.credit -= 1
                self._send_to(consumer, parts)
            else:
                header = {**message.header, "in_file": True}
                self._send_to(consumer, Message(message.topic, header).parts())
                consumer.headers_only += 1
            consumer.sent += 1
            consumer.sent_s.append(time.monotonic())

    def send_only(self, name: str, message: Message) -> None:
        """Send a message to one consumer."""
        consumer = self.consumers.get(name)
        if consumer is not None and consumer.receives:
            self._send_to(consumer, message.parts())

    def send_recorded(self, name: str, message: Message) -> None:
        """Tell a consumer of a frame that is in the file, or lost, since before it was started."""
        consumer = self.consumers.get(name)
        if consumer is not None and consumer.receives:
            self._send_to(consumer, message.parts())
            consumer.sent += 1
            consumer.sent_s.append(time.monotonic())

    def end(self, name: str, body: dict[str, Any]) -> None:
        """Tell a consumer that nothing more will come; it answers with `done`."""
        self.send_only(name, Message(END_TOPIC, body))
        self.consumers[name].ended = True

    def _send_to(self, consumer: Consumer, parts: list[Any]) -> None:
        # Sent at once, for nothing limits the queue; through the asyncio socket all the same,
        # because sending past it would swallow the wake-up of a message that has just come in.
        message = [consumer.name.encode(), *parts]
        sent = cast(asyncio.Future[Any], self._socket.send_multipart(message, copy=False))
        error = sent.exception() if sent.done() else None
        if error is None:
            return
        if not isinstance(error, zmq.ZMQError) or error.errno != zmq.EHOSTUNREACH:
            raise error
        self.lose(consumer.name)
        self._on_event(consumer.name, {"level": "error", "message": f"the {consumer.name} is gone"})

    async def _receive(self) -> None:
        while True:
            # A volume is tens of megabytes: it goes through here without being copied.
            identity, *frames = await self._socket.recv_multipart(copy=False)
            name = identity.bytes.decode(errors="replace")
            parts = [frame.buffer for frame in frames]
            consumer = self.consumers.get(name)
            if consumer is None:
                continue
            try:
                kind, body, payload = parse_upstream(parts)
            except BadMessage as error:
                self._on_event(name, {"level": "error", "message": f"unreadable: {error}"})
                continue
            consumer.heard_s = time.monotonic()
            if kind == "hello":
                consumer.granted = int(body.get("credit", 0))
                consumer.credit += consumer.granted
                consumer.hello.set()
            elif kind == "credit":
                consumer.credit += int(body.get("frames", 0))
            elif kind == "status":
                consumer.note_status(body)
            elif kind == "result":
                self._on_result(name, body, payload)
            elif kind == "event":
                self._on_event(name, body)
            elif kind == "done":
                consumer.summary = body
                consumer.done.set()
            self._changed.set()

    async def close(self) -> None:
        """Close the socket and remove its folder."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
        self._folder.cleanup()
