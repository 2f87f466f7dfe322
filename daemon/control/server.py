"""The control endpoint: receives requests, limits their rates, and sends the replies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import cast

import zmq

from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    MAX_REQUEST_BYTES,
    BadRequest,
    Reply,
    Request,
    encode,
    parse_request,
)
from ..access.connections import disconnect_stalled
from ..access.lease import LeaseRefused
from ..access.people import Person
from ..access.rate_limits import (
    BURST_ALL,
    BURST_EACH,
    BURST_REFUSALS,
    MOST_COUNTED,
    RATE_ALL,
    RATE_EACH,
    REFUSAL_BYTES,
    REFUSALS,
    SAFE_ALL,
    SAFE_BURST_ALL,
    SAFE_BURST_EACH,
    SAFE_EACH,
    RateLimits,
    Replayed,
    ReplayGuard,
    TokenBuckets,
)
from ..access.sockets import bind
from ..access.zap import descriptor, metadata
from ..service.daemon import Daemon
from .commands import Commands, Denied, admitted

# Replies that wait for one connection; further ones are lost.
_MOST_WAITING_OUT = 32
# Answers under way at a time, in all and to one client; those to `safe` are not counted.
MOST_ANSWERS, MOST_ANSWERS_EACH = 32, 8
# Messages received at a time; of these `safe` is answered first.
_BATCH = 32
# Messages of a disconnected client that are dropped in one go, and for how long they are dropped.
_MOST_DROPPED, _DROPPED_S = 1000, 5.0
# No request but a recipe is longer; a longer one is not read before its turn.
_SMALL_BYTES = 2_000
_LOOK_S = 0.025


@dataclass(frozen=True)
class _Message:
    """One message, and where it came from."""

    route: list[bytes]
    raw: memoryview
    name: str
    connection: int
    address: str


class ControlServer:
    """Answers control requests, each in a task of its own so that `safe` never waits in a queue.

    Parameters
    ----------
    daemon : Daemon
        Is controlled.
    endpoint : str
        Where to bind.
    fall_back : bool
        Take any free port when that of `endpoint` is in use.
    accept_submit : bool
        Whether recipes may be submitted (`serve`), or one is already running (`run`).
    """

    def __init__(
        self, daemon: Daemon, endpoint: str, fall_back: bool = False, accept_submit: bool = True
    ) -> None:
        self._access = daemon.access_control
        self._commands = Commands(daemon, accept_submit)
        self._socket = self._access.context.socket(zmq.ROUTER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._socket.set(zmq.SNDHWM, _MOST_WAITING_OUT)
        self._socket.set(zmq.LINGER, 500)
        self._connections = self._access.protect(self._socket, "control")
        try:
            self.endpoint = bind(self._socket, endpoint, "streams.control", fall_back)
        except BadInput:
            self._connections.close()
            self._socket.close(linger=0)
            raise
        self._rates = RateLimits(RATE_EACH, BURST_EACH, RATE_ALL, BURST_ALL)
        self._safe_rates = RateLimits(SAFE_EACH, SAFE_BURST_EACH, SAFE_ALL, SAFE_BURST_ALL)
        self._refusals = TokenBuckets(REFUSALS, BURST_REFUSALS)
        # Until when what still comes from a client that was disconnected is dropped, by route.
        self._dropped_until_s: dict[bytes, float] = {}
        self._replays = ReplayGuard()
        self._answers: set[asyncio.Task[None]] = set()
        self._under_way: Counter[object] = Counter()
        self._tasks = [
            asyncio.create_task(self._serve(), name="control"),
            asyncio.create_task(self._look_after(), name="control connections"),
        ]

    async def _serve(self) -> None:
        while True:
            batch = await self._receive()
            small = [message for message in batch if len(message.raw) <= _SMALL_BYTES]
            read = [(message, _parsed(message)) for message in small]
            safe = [
                pair for pair in read if isinstance(pair[1], Request) and pair[1].verb == "safe"
            ]
            rest = [pair for pair in read if pair not in safe]
            rest += [(message, None) for message in batch if len(message.raw) > _SMALL_BYTES]
            for message, request in [*safe, *rest]:
                await self._begin(message, request)
            # Other tasks have their turn, however fast requests come.
            await asyncio.sleep(0)

    async def _receive(self) -> list[_Message]:
        """Messages that have come, some at a time, without those of disconnected clients."""
        batch: list[_Message] = []
        dropped = self._dropped_until_s
        for number in range(_BATCH + _MOST_DROPPED):
            if number and not cast(int, self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
                break
            frames = await self._socket.recv_multipart(copy=False)
            if dropped and (until_s := dropped.get(frames[0].bytes)) is not None:
                if time.monotonic() < until_s:
                    continue
                del dropped[frames[0].bytes]
            batch.append(self._message(frames))
            if len(batch) >= _BATCH:
                break
        return batch

    async def _look_after(self) -> None:
        while True:
            now_s = time.monotonic()
            done = self._connections.take_events(now_s)
            disconnect_stalled(self._connections, now_s)
            await asyncio.sleep(0 if not done else _LOOK_S)

    # --- one request ----------------------------------------------------------------------------

    def _message(self, frames: list[zmq.Frame]) -> _Message:
        # A REQ client puts an empty part between its identity and the body, a DEALER may not.
        *route, raw = frames
        name, source = metadata(raw, "User-Id"), descriptor(raw)
        self._connections.take_events(time.monotonic())
        connection = self._connections.message_from(source, time.monotonic(), name)
        address = connection.address if connection is not None else metadata(raw, "Peer-Address")
        return _Message([frame.bytes for frame in route[:2]], raw.buffer, name, source, address)

    async def _begin(self, message: _Message, request: Request | Reply | None) -> None:
        """Begin to answer a request, or refuse it; takes no time."""
        client = message.name or message.connection
        safe = isinstance(request, Request) and request.verb == "safe"
        rates = self._safe_rates if safe else self._rates
        number = request.id if request is not None else ""
        if not rates.take(client, time.monotonic()):
            self._rejected(message, "too many requests")
            if not self._disconnect_if_persistent(message):
                await self._refuse(message, number, "too many requests: wait a moment")
            return
        if request is None:
            request = _parsed(message)
        if isinstance(request, Reply):
            await self._send(message, request)
            return
        if not safe and (
            self._under_way[client] >= MOST_ANSWERS_EACH or self._under_way.total() >= MOST_ANSWERS
        ):
            await self._refuse(message, request.id, "busy: too many requests are under way")
            return
        try:
            person = admitted(self._access, self._replays, message.name, request)
        except (Denied, LeaseRefused, Replayed) as error:
            self._rejected(message, f"{request.verb}: {error}")
            await self._refuse(message, request.id, str(error))
            return
        answer = asyncio.create_task(self._answer(message, request, person), name="control answer")
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        if not safe:
            self._under_way[client] += 1
            answer.add_done_callback(lambda _: self._answered(client))

    def _disconnect_if_persistent(self, message: _Message) -> bool:
        """Disconnect a client that keeps sending after many refusals; whether it was."""
        now_s, route = time.monotonic(), message.route[0]
        if self._refusals.take(route, now_s, 1.0 + len(message.raw) / REFUSAL_BYTES):
            return False
        self._refusals.forget(route)
        # What it has sent until now is still to come.
        self._dropped_until_s[route] = now_s + _DROPPED_S
        if len(self._dropped_until_s) > MOST_COUNTED:
            del self._dropped_until_s[next(iter(self._dropped_until_s))]
        connection = self._connections.find(message.connection)
        if connection is not None:
            why = f"still sending after {BURST_REFUSALS:g} refusals"
            self._connections.disconnect(connection, why)
        return True

    def _answered(self, client: object) -> None:
        self._under_way[client] -= 1
        if not self._under_way[client]:
            del self._under_way[client]

    def _rejected(self, message: _Message, why: str) -> None:
        client = f"'{message.name}'" if message.name else "a client"
        self._access.rejected(f"{client} at {message.address} on control", why)

    async def _refuse(self, message: _Message, number: str, why: str) -> None:
        await self._send(message, Reply(id=number, ok=False, code=EXIT_BAD_INPUT, error=why))

    async def _send(self, message: _Message, reply: Reply) -> None:
        # Never waits: a ROUTER drops what a client does not receive.
        await self._socket.send_multipart([*message.route, encode(reply)])

    async def _answer(self, message: _Message, request: Request, person: Person) -> None:
        await self._send(message, await self._commands.reply(request, person))

    async def close(self) -> None:
        """Finish the answers under way, then stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._answers:
            await asyncio.wait(self._answers, timeout=2.0)
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        await self._commands.close()
        self._connections.close()
        self._socket.close()


def _parsed(message: _Message) -> Request | Reply:
    """The request of a message, or the reply to a message that is not a request."""
    try:
        return parse_request(message.raw)
    except BadRequest as error:
        return Reply(ok=False, code=EXIT_BAD_INPUT, error=f"not a request: {error}")
