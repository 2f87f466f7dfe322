"""The control socket (ROUTER) of the daemon: who may ask what, how often, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import zmq

from ...drivers.base import DeviceError
from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import Rig
from ...protocols.core.documents import load_model
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_FAILED,
    MAX_REQUEST_BYTES,
    BadRequest,
    Latest,
    Reply,
    Request,
    Submit,
    TakeLease,
    encode,
    parse_request,
)
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
    Buckets,
    Memory,
    Rates,
    Replayed,
)
from ..access.sockets import bind
from ..access.zap import descriptor, metadata
from ..run.experiment import new_output
from ..safety.devices import SafingStep
from ..schedule.plan import Plan, make_plan
from ..service.daemon import Busy, Daemon

READING = {"status", "latest"}
# Replies that wait for one connection; further ones are lost.
_MOST_WAITING_OUT = 32
# Answers under way at a time, in all and to one; those to `safe` are not counted.
MOST_ANSWERS, MOST_ANSWERS_EACH = 32, 8
# Taken in at a time, of which `safe` is answered first.
_BATCH = 32
# What is dropped unread in between, and for how long after a connection was cut.
_MOST_DROPPED, _DROPPED_S = 1000, 5.0
# No request but a recipe is longer; what is longer is not read before its turn.
_SMALL_BYTES = 2_000
_LOOK_S = 0.025


class Denied(Exception):
    """Somebody who may not do this, or not now."""


@dataclass(frozen=True)
class _Asked:
    """One message, and by whom."""

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
        Who is controlled.
    endpoint : str
        Where to bind.
    fall_back : bool
        Take any free port when that one is in use.
    accept_submit : bool
        Whether recipes may be submitted (`serve`), or one is already running (`run`).
    """

    def __init__(
        self, daemon: Daemon, endpoint: str, fall_back: bool = False, accept_submit: bool = True
    ) -> None:
        self._daemon, self._accept_submit = daemon, accept_submit
        self._gate = daemon.gate
        self._socket = daemon.gate.context.socket(zmq.ROUTER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._socket.set(zmq.SNDHWM, _MOST_WAITING_OUT)
        self._socket.set(zmq.LINGER, 500)
        self._connections = self._gate.protect(self._socket, "control")
        try:
            self.endpoint = bind(self._socket, endpoint, "streams.control", fall_back)
        except BadInput:
            self._connections.close()
            self._socket.close(linger=0)
            raise
        self._rates = Rates(RATE_EACH, BURST_EACH, RATE_ALL, BURST_ALL)
        self._safe_rates = Rates(SAFE_EACH, SAFE_BURST_EACH, SAFE_ALL, SAFE_BURST_ALL)
        self._patience = Buckets(REFUSALS, BURST_REFUSALS)
        self._cut: dict[bytes, float] = {}
        self._memory = Memory()
        self._safing: asyncio.Task[list[SafingStep]] | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._under_way: Counter[object] = Counter()
        self._tasks = [
            asyncio.create_task(self._serve(), name="control"),
            asyncio.create_task(self._look_after(), name="control connections"),
        ]

    async def _serve(self) -> None:
        while True:
            batch = await self._take()
            small = [asked for asked in batch if len(asked.raw) <= _SMALL_BYTES]
            read = [(asked, self._read(asked)) for asked in small]
            safe = [
                pair for pair in read if isinstance(pair[1], Request) and pair[1].verb == "safe"
            ]
            rest = [pair for pair in read if pair not in safe]
            rest += [(asked, None) for asked in batch if len(asked.raw) > _SMALL_BYTES]
            for asked, request in [*safe, *rest]:
                await self._begin(asked, request)
            # So that others have their turn, however fast requests come.
            await asyncio.sleep(0)

    async def _take(self) -> list[_Asked]:
        """What has come, some at a time; what is left of a connection that was cut is dropped."""
        batch: list[_Asked] = []
        for number in range(_BATCH + _MOST_DROPPED):
            if number and not cast(int, self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
                break
            frames = await self._socket.recv_multipart(copy=False)
            if self._cut and (until_s := self._cut.get(frames[0].bytes)) is not None:
                if time.monotonic() < until_s:
                    continue
                del self._cut[frames[0].bytes]
            batch.append(self._asked(frames))
            if len(batch) >= _BATCH:
                break
        return batch

    async def _look_after(self) -> None:
        while True:
            now_s = time.monotonic()
            done = self._connections.take_events(now_s)
            self._connections.cut_stalled(now_s)
            await asyncio.sleep(0 if not done else _LOOK_S)

    # --- one request ----------------------------------------------------------------------------

    def _asked(self, frames: list[zmq.Frame]) -> _Asked:
        # A REQ client puts an empty part between its identity and the body, a DEALER may not.
        *route, raw = frames
        name, source = metadata(raw, "User-Id"), descriptor(raw)
        self._connections.take_events(time.monotonic())
        connection = self._connections.heard(source, time.monotonic(), name)
        address = connection.address if connection is not None else metadata(raw, "Peer-Address")
        return _Asked([frame.bytes for frame in route[:2]], raw.buffer, name, source, address)

    def _read(self, asked: _Asked) -> Request | Reply:
        """The request, or what is answered to what is none."""
        try:
            return parse_request(asked.raw)
        except BadRequest as error:
            return Reply(ok=False, code=EXIT_BAD_INPUT, error=f"not a request: {error}")

    async def _begin(self, asked: _Asked, request: Request | Reply | None) -> None:
        """Let a request in or refuse it, in no time."""
        who = asked.name or asked.connection
        safe = isinstance(request, Request) and request.verb == "safe"
        rates = self._safe_rates if safe else self._rates
        number = request.id if request is not None else ""
        if not rates.take(who, time.monotonic()):
            self._turned_away(asked, "too many requests")
            if not self._cut_if_deaf(asked):
                await self._refuse(asked, number, "too many requests: wait a moment")
            return
        if request is None:
            request = self._read(asked)
        if isinstance(request, Reply):
            await self._send(asked, request)
            return
        if not safe and (
            self._under_way[who] >= MOST_ANSWERS_EACH or self._under_way.total() >= MOST_ANSWERS
        ):
            await self._refuse(asked, request.id, "busy: too many requests are under way")
            return
        try:
            person = self._admitted(asked, request)
        except (Denied, LeaseRefused, Replayed) as error:
            self._turned_away(asked, f"{request.verb}: {error}")
            await self._refuse(asked, request.id, str(error))
            return
        answer = asyncio.create_task(self._answer(asked, request, person), name="control answer")
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        if not safe:
            self._under_way[who] += 1
            answer.add_done_callback(lambda _: self._answered(who))

    def _cut_if_deaf(self, asked: _Asked) -> bool:
        """Cut a connection that goes on however often it is refused; whether it was."""
        now_s, route = time.monotonic(), asked.route[0]
        if self._patience.take(route, now_s, 1.0 + len(asked.raw) / REFUSAL_BYTES):
            return False
        self._patience.forget(route)
        # What it has sent until now is still to come, and is nobody's any more.
        self._cut[route] = now_s + _DROPPED_S
        if len(self._cut) > MOST_COUNTED:
            del self._cut[next(iter(self._cut))]
        connection = self._connections.find(asked.connection)
        if connection is not None:
            self._connections.cut(connection, "it goes on however often it is refused")
        return True

    def _answered(self, who: object) -> None:
        self._under_way[who] -= 1
        if not self._under_way[who]:
            del self._under_way[who]

    def _admitted(self, asked: _Asked, request: Request) -> Person:
        """Who asks, if they may."""
        person = self._gate.person(asked.name)
        if person is None:
            raise Denied(f"the key of '{asked.name}' was revoked")
        keyed, verb = self._gate.keyed, request.verb
        strict = keyed and verb != "safe"
        self._memory.admit(person.name, request.id, request.sent_ns, time.time_ns(), strict)
        if verb in READING:
            return person
        if person.role == "observer":
            raise Denied(f"'{person.name}' is an observer, who may watch and ask for the status")
        if isinstance(request, TakeLease) and request.take_over and person.role != "admin":
            raise Denied(f"'{person.name}' is an {person.role}; an admin can take the lease over")
        if verb not in ("safe", "lease", "release") and (keyed or request.token is not None):
            self._gate.lease.check(person.name, request.token, time.monotonic())
        return person

    def _turned_away(self, asked: _Asked, why: str) -> None:
        name = f"'{asked.name}'" if asked.name else "somebody"
        self._gate.turned_away(f"{name} at {asked.address} on control", why)

    async def _refuse(self, asked: _Asked, number: str, why: str) -> None:
        await self._send(asked, Reply(id=number, ok=False, code=EXIT_BAD_INPUT, error=why))

    async def _send(self, asked: _Asked, reply: Reply) -> None:
        # Never waits: a ROUTER drops what a client does not take.
        await self._socket.send_multipart([*asked.route, encode(reply)])

    async def _answer(self, asked: _Asked, request: Request, person: Person) -> None:
        await self._send(asked, await self._carry_out(request, person))

    async def _carry_out(self, request: Request, person: Person) -> Reply:
        def refused(code: int, error: BaseException) -> Reply:
            return Reply(id=request.id, ok=False, code=code, error=str(error))

        try:
            data = await self._do(request, person)
        except (BadInput, Busy, LeaseRefused) as error:
            return refused(EXIT_BAD_INPUT, error)
        except DeviceError as error:
            return refused(EXIT_DEVICE, error)
        except Exception as error:
            return Reply(id=request.id, ok=False, code=EXIT_FAILED, error=f"unexpected: {error!r}")
        return Reply(id=request.id, ok=True, data=data)

    async def _do(self, request: Request, person: Person) -> dict[str, Any]:
        daemon = self._daemon
        if isinstance(request, Submit):
            return await self._submit(request)
        if isinstance(request, TakeLease):
            return self._lease(request, person)
        if isinstance(request, Latest):
            return {"headers": daemon.publisher.latest(request.topics)}
        match request.verb:
            case "status":
                return daemon.status()
            case "pause":
                daemon.pause()
            case "resume":
                daemon.resume()
            case "abort":
                outcome = await daemon.abort()
                return {"status": outcome.status, "reason": outcome.reason}
            case "safe":
                return {"steps": [asdict(step) for step in await self._safe()]}
            case "clear":
                return {"steps": [asdict(step) for step in await daemon.clear()]}
            case "release":
                self._gate.lease.release(person.name, request.token, time.monotonic())
        return daemon.status()

    async def _safe(self) -> list[SafingStep]:
        """Make everything safe; however many ask, once at a time."""
        if self._safing is None or self._safing.done():
            self._safing = asyncio.create_task(self._daemon.safe(), name="safe")
        return await asyncio.shield(self._safing)

    def _lease(self, request: TakeLease, person: Person) -> dict[str, Any]:
        grant = self._gate.lease.take(person.name, time.monotonic(), request.take_over)
        if grant.taken_from is not None:
            self._gate.tell(
                "warning", "lease",
                f"'{person.name}' took the control lease over from '{grant.taken_from}'",
                who=person.name,
            )  # fmt: skip
        return {
            "token": grant.token,
            "seconds": grant.seconds,
            "holder": person.name,
            "renewed": grant.renewed,
        }

    async def _submit(self, request: Submit) -> dict[str, Any]:
        if not self._accept_submit:
            raise Busy("this daemon runs one recipe in the foreground; start `pyrotome serve`")
        if self._daemon.experiment is not None:
            raise Busy("an experiment is under way; wait for it or abort it")
        # A megabyte of YAML takes seconds, in which heartbeats and holds must go on.
        plan = await asyncio.to_thread(_planned, request, self._daemon.rig)
        title = plan.recipe.title
        output = new_output(Path(request.output) if request.output else None, title)
        experiment = self._daemon.start(plan, request.recipe, output)
        return {
            "run": experiment.run_id,
            "file": str(output),
            "frames": plan.frames,
            "duration_s": plan.duration_s,
        }

    async def close(self) -> None:
        """Answer what is being answered, then stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._answers:
            await asyncio.wait(self._answers, timeout=2.0)
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        if self._safing is not None:
            self._safing.cancel()
            await asyncio.gather(self._safing, return_exceptions=True)
        self._connections.close()
        self._socket.close()


def _planned(request: Submit, rig: Rig) -> Plan:
    recipe = load_model(Recipe, request.recipe, request.name)
    return make_plan(recipe, rig, request.name)
