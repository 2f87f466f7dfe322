"""The credit-controlled link to recorder and analysis: frames go out, results come in."""

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
    """A process that must not miss a frame.

    An `essential` consumer without credit holds the schedule. Another consumer without credit gets
    headers alone, marked ``in_file``, and reads the pixels from the run file.
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
        """Whether messages can be sent to it: it has said hello, lives, and expects more."""
        return self.alive and not self.ended and self.hello.is_set()

    @property
    def backlog(self) -> int:
        """Number of frames sent and not yet reported as processed."""
        return len(self.sent_s)

    @property
    def keeps_all(self) -> bool:
        """Whether every frame sent to it survives its death."""
        kept = self.status.get("kept")
        return self.sent == 0 or (type(kept) is int and kept >= self.sent)

    @property
    def problem(self) -> str | None:
        """Why it cannot process anything now, as it reports it."""
        problem = self.status.get("problem")
        return problem if isinstance(problem, str) else None

    def staleness_s(self, now_s: float) -> float:
        """Wall seconds since the oldest unprocessed frame was sent."""
        return now_s - self.sent_s[0] if self.sent_s else 0.0

    def reason_to_wait(self, frames: int, kept: bool) -> str | None:
        """Why so many frames cannot be sent to it now; None if they can.

        Parameters
        ----------
        frames : int
            Number of frames for which it must have credit.
        kept : bool
            Whether every frame sent so far must survive its death.
        """
        if self.problem:
            return self.problem
        if self.credit >= frames and (not kept or self.keeps_all):
            return None
        if self.backlog:
            return f"{self.backlog} frames not yet written"
        return "no credit yet" if self.credit < frames else "frames not yet on the disk"

    def note_status(self, body: dict[str, Any]) -> None:
        """Keep its status; ``dealt`` counts the frames that it has processed.

        A consumer that does not report ``dealt`` reports ``frames``.
        """
        self.status = body
        dealt = body.get("dealt", body.get("frames"))
        if type(dealt) is int:
            while self.sent_s and self.sent - len(self.sent_s) < dealt:
                self.sent_s.popleft()


@dataclass(frozen=True)
class _OpenLink:
    """What exists while the link is open."""

    socket: zmq.asyncio.Socket
    task: asyncio.Task[None]
    folder: tempfile.TemporaryDirectory[str]


class CreditLink:
    """Sends stream messages to every consumer and receives what they send back.

    Before `open` and after `close` it has no consumers, and sending does nothing.

    Parameters
    ----------
    context : zmq.asyncio.Context
        The daemon's context.
    on_result : callable
        Called with a consumer's name, and body and payload of its result.
    on_event : callable
        Called with a consumer's name, and the body of its event.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        on_result: Callable[[str, dict[str, Any], Sequence[bytes | memoryview]], None],
        on_event: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._context = context
        self._on_result, self._on_event = on_result, on_event
        self.consumers: dict[str, Consumer] = {}
        self._changed = asyncio.Event()
        self._open: _OpenLink | None = None

    def open(self) -> str:
        """Bind the socket and begin to receive; returns the endpoint for the consumers."""
        folder = tempfile.TemporaryDirectory(prefix="pyrotome-")
        endpoint = f"ipc://{Path(folder.name) / 'link'}"
        socket = self._context.socket(zmq.ROUTER)
        # Frames are limited by credit, the rest is small: nothing may be dropped here.
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.LINGER, 0)
        socket.bind(endpoint)
        task = asyncio.create_task(self._receive(socket), name="credit link")
        self._open = _OpenLink(socket, task, folder)
        return endpoint

    def expect(self, name: str, essential: bool = True) -> Consumer:
        """Add a consumer; until it says hello, nothing is sent to it."""
        consumer = Consumer(name, essential)
        self.consumers[name] = consumer
        return consumer

    def lose(self, name: str) -> None:
        """Mark a consumer as dead; nothing waits for it any longer."""
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
        """Essential living consumers that cannot take more frames, and why.

        Parameters
        ----------
        frames : int
            Number of frames for which they must have credit.
        kept : bool
            Whether every frame sent so far must also be on the disk.
        """
        return {
            consumer.name: why
            for consumer in self.consumers.values()
            if consumer.essential
            and consumer.alive
            and (why := consumer.reason_to_wait(frames, kept)) is not None
        }

    async def credit(self, frames: int = 1, kept: bool = False) -> None:
        """Wait until every essential consumer can take so many frames; see `waiting_for`."""
        while self.waiting_for(frames, kept):
            self._changed.clear()
            await self._changed.wait()

    def ask_to_keep(self) -> None:
        """Ask essential consumers to write what they have to the disk without delay."""
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
        """Send the header of a frame that was recorded, or lost, before a consumer was started."""
        consumer = self.consumers.get(name)
        if consumer is not None and consumer.receives:
            self._send_to(consumer, message.parts())
            consumer.sent += 1
            consumer.sent_s.append(time.monotonic())

    def end(self, name: str, body: dict[str, Any]) -> None:
        """Tell a consumer that nothing more follows; it answers with ``done``."""
        self.send_only(name, Message(END_TOPIC, body))
        self.consumers[name].ended = True

    def _send_to(self, consumer: Consumer, parts: list[Any]) -> None:
        # Sent at once, for nothing limits the queue; through the asyncio socket all the same,
        # because sending past it would swallow the wake-up of a message that has just come in.
        message = [consumer.name.encode(), *parts]
        assert self._open is not None
        socket = self._open.socket
        sent = cast(asyncio.Future[Any], socket.send_multipart(message, copy=False))
        error = sent.exception() if sent.done() else None
        if error is None:
            return
        if not isinstance(error, zmq.ZMQError) or error.errno != zmq.EHOSTUNREACH:
            raise error
        self.lose(consumer.name)
        self._on_event(consumer.name, {"level": "error", "message": f"the {consumer.name} is gone"})

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            # A volume is tens of megabytes: it goes through here without being copied.
            identity, *frames = await socket.recv_multipart(copy=False)
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
        """Close the socket and remove its folder; harmless when called again."""
        opened, self._open = self._open, None
        self.consumers = {}
        if opened is None:
            return
        opened.task.cancel()
        await asyncio.gather(opened.task, return_exceptions=True)
        opened.socket.close()
        opened.folder.cleanup()
