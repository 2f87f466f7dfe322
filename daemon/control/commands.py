"""Carry out control requests that were admitted, and check who may make them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...drivers.base import DeviceError
from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import Rig
from ...protocols.core.documents import load_model
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_FAILED,
    Latest,
    Reply,
    Request,
    Resume,
    Submit,
    TakeLease,
)
from ..access.access_control import AccessControl
from ..access.lease import LeaseRefused
from ..access.people import Person
from ..access.rate_limits import ReplayGuard
from ..run.run_file_plan import new_output
from ..safety.devices import SafingStep
from ..schedule.plan import Plan, make_new_plan
from ..service.daemon import Busy, Daemon

READING = {"status", "latest"}


class Denied(Exception):
    """The person may not make this request."""


def admitted(access: AccessControl, guard: ReplayGuard, name: str, request: Request) -> Person:
    """The person who makes a request, if they may.

    Parameters
    ----------
    access : AccessControl
        Keys and the control lease.
    guard : ReplayGuard
        Remembers the request.
    name : str
        Owner of the key that the request came with; empty without keys.
    request : Request
        What they request.

    Raises
    ------
    Denied, LeaseRefused, Replayed
        With the reason.
    """
    person = access.person(name)
    if person is None:
        raise Denied(f"the key of '{name}' was revoked")
    keyed, verb = access.keyed, request.verb
    strict = keyed and verb != "safe"
    guard.admit(person.name, request.id, request.sent_ns, time.time_ns(), strict)
    if verb in READING:
        return person
    if person.role == "observer":
        raise Denied(f"'{person.name}' is an observer, who may watch and request the status only")
    if isinstance(request, TakeLease) and request.take_over and person.role != "admin":
        raise Denied(f"'{person.name}' is an {person.role}; an admin can take the lease over")
    if verb not in ("safe", "lease", "release") and (keyed or request.token is not None):
        access.lease.check(person.name, request.token, time.monotonic())
    return person


class Commands:
    """What a daemon does on request.

    Parameters
    ----------
    daemon : Daemon
        Is controlled.
    accept_submit : bool
        Whether recipes may be submitted (`serve`), or one is already running (`run`).
    """

    def __init__(self, daemon: Daemon, accept_submit: bool) -> None:
        self._daemon, self._accept_submit = daemon, accept_submit
        self._access = daemon.access_control
        self._safing: asyncio.Task[list[SafingStep]] | None = None

    async def reply(self, request: Request, person: Person) -> Reply:
        """Carry out a request; an error becomes a reply that tells it."""

        def refused(code: int, error: BaseException) -> Reply:
            return Reply(id=request.id, ok=False, code=code, error=str(error))

        try:
            data = await self._carry_out(request, person)
        except (BadInput, Busy, LeaseRefused) as error:
            return refused(EXIT_BAD_INPUT, error)
        except DeviceError as error:
            return refused(EXIT_DEVICE, error)
        except Exception as error:
            return Reply(id=request.id, ok=False, code=EXIT_FAILED, error=f"unexpected: {error!r}")
        return Reply(id=request.id, ok=True, data=data)

    async def _carry_out(self, request: Request, person: Person) -> dict[str, Any]:
        daemon = self._daemon
        if isinstance(request, Submit):
            return await self._submit(request)
        if isinstance(request, TakeLease):
            return self._take_lease(request, person)
        if isinstance(request, Latest):
            return {"headers": daemon.publisher.latest(request.topics)}
        if isinstance(request, Resume):
            daemon.resume(request.at, person.name)
            return daemon.status()
        match request.verb:
            case "status":
                return daemon.status()
            case "pause":
                daemon.pause()
            case "abort":
                outcome = await daemon.abort()
                return {"status": outcome.status, "reason": outcome.reason}
            case "safe":
                return {"steps": [asdict(step) for step in await self._safe()]}
            case "clear":
                return {"steps": [asdict(step) for step in await daemon.safing.clear()]}
            case "release":
                self._access.lease.release(person.name, request.token, time.monotonic())
        return daemon.status()

    async def _safe(self) -> list[SafingStep]:
        """Make everything safe; requests that come meanwhile share the one safing under way."""
        if self._safing is None or self._safing.done():
            self._safing = asyncio.create_task(self._daemon.safing.safe(), name="safe")
        return await asyncio.shield(self._safing)

    def _take_lease(self, request: TakeLease, person: Person) -> dict[str, Any]:
        grant = self._access.lease.take(person.name, time.monotonic(), request.take_over)
        if grant.taken_from is not None:
            self._access.notify(
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
        """End a safing that is under way."""
        if self._safing is not None:
            self._safing.cancel()
            await asyncio.gather(self._safing, return_exceptions=True)


def _planned(request: Submit, rig: Rig) -> Plan:
    recipe = load_model(Recipe, request.recipe, request.name)
    return make_new_plan(recipe, rig, request.name, request.recipe)
