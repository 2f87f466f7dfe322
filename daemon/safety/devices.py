"""The four devices of a rig together: connect them, and bring them to safety in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic as monotonic_s
from typing import Any

from ...drivers.base import Beam, Detector, Device, DeviceError, Heater, Identity, Stage
from ...drivers.registry import make_device
from ...protocols.config.rig import ROLES, Rig, Role
from ...protocols.core.clock import ExperimentClock
from .deadlines import SAFING_STEP_TIMEOUT_S, heater_timeout_s

# Wall seconds that a beam has to confirm before the heater's step is taken as well.
BEAM_GRACE_S = 0.005
# Wall seconds between two tries of beam or heater.
SAFING_RETRY_S = 0.5
# And after a safing that was not confirmed: there may be nobody at the other end for hours.
PRESS_EVERY_S = 2.0


@dataclass(frozen=True)
class SafingStep:
    """One step of safing: what was done with which device, whether and when it was confirmed."""

    role: Role
    action: str
    confirmed: bool
    took_s: float
    problem: str = ""

    @property
    def level(self) -> str:
        """Level of the event that tells of it."""
        return "info" if self.confirmed else "error"

    @property
    def text(self) -> str:
        """What it was and how long it took, or why it was not confirmed."""
        if not self.confirmed:
            return f"NOT {self.action}: {self.problem}"
        return f"{self.action} in {self.took_s * 1e3:.0f} ms"


@dataclass
class Devices:
    """The devices of one rig.

    Attributes
    ----------
    safing : int
        How many are bringing them to safety right now.
    unconfirmed : set of Role
        Which of beam and heater did not confirm when they were last asked to be safe.
    reconnecting : asyncio.Task or None
        Connects a lost heater anew; gives way to safing, which does so itself.
    """

    heater: Heater
    stage: Stage
    beam: Beam
    detector: Detector
    safing: int = 0
    unconfirmed: set[Role] = field(default_factory=set[Role])
    reconnecting: asyncio.Task[None] | None = None
    _pressing: dict[Role, asyncio.Task[SafingStep]] = field(
        default_factory=dict[Role, asyncio.Task[SafingStep]]
    )

    @classmethod
    def of(cls, rig: Rig, clock: ExperimentClock) -> Devices:
        """Drivers of a rig, not yet connected; raises BadInput if the rig is wrong."""
        return cls(**{role: make_device(rig, role, clock) for role in ROLES})

    @property
    def may_reconnect(self) -> bool:
        """Whether nobody is connecting the heater in order to make it safe."""
        return not self.safing and "heater" not in self._pressing

    def all(self) -> tuple[Device, ...]:
        """Every device, in the order in which they are connected."""
        return (self.beam, self.heater, self.stage, self.detector)

    def channels(self) -> dict[str, dict[str, str]]:
        """Telemetry channels and their units, by role."""
        return {device.role: dict(device.channels) for device in self.all() if device.channels}

    async def connect(self) -> dict[str, Identity]:
        """Connect and identify every device.

        Raises
        ------
        DeviceError
            From the first that fails; those already connected are disconnected again.
        """
        identities: dict[str, Identity] = {}
        try:
            for device in self.all():
                identities[device.role] = await device.connect()
        except BaseException:
            await self.disconnect()
            raise
        return identities

    async def disconnect(self) -> None:
        """Disconnect every device, whatever the others do; nobody is asked any more."""
        self.unconfirmed.clear()
        for task in self._pressing.values():
            task.cancel()
        await asyncio.gather(*(d.disconnect() for d in self.all()), return_exceptions=True)

    async def make_safe(
        self,
        told: Callable[[SafingStep], None],
        before_rest: Callable[[], Awaitable[object]] | None = None,
    ) -> bool:
        """Blank the beam, heater to its safe level, stage and detector to a stop, in this order.

        A step that fails does not keep the next from being taken, and a beam that does not answer
        keeps the heater waiting for no longer than `BEAM_GRACE_S`. Beam and heater are asked again
        and again while there is time: an instrument that refuses once need not do so for ever.

        Parameters
        ----------
        told : callable
            Called after each step.
        before_rest : callable, optional
            Waited for between the heater and the others, which may still be in use.

        Returns
        -------
        bool
            Whether beam and heater have confirmed; if not, a person must look.
        """
        self.safing += 1
        tasks: list[asyncio.Task[SafingStep]] = []

        def begin(work: Coroutine[Any, Any, SafingStep]) -> asyncio.Task[SafingStep]:
            tasks.append(asyncio.create_task(work, name="safing"))
            return tasks[-1]

        try:
            others: list[asyncio.Task[Any]] = [*self._pressing.values()]
            if self.reconnecting is not None:
                others.append(self.reconnecting)
            for other in others:
                other.cancel()
            if others:
                await asyncio.wait(others)
            beam = begin(self._ask("beam", SAFING_RETRY_S))
            await asyncio.wait([beam], timeout=BEAM_GRACE_S)
            heater = begin(self._ask("heater", SAFING_RETRY_S))
            confirmed = True
            for task in (beam, heater):
                step = await task
                told(step)
                confirmed = confirmed and step.confirmed
            if before_rest is not None:
                await before_rest()
            for device in (self.stage, self.detector):
                action, timeout_s = f"{device.role} stopped", SAFING_STEP_TIMEOUT_S
                told(await begin(_take(device.role, action, device.make_safe, timeout_s)))
            return confirmed
        finally:
            self.safing -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def press_on(self, tell: Callable[[str], None]) -> None:
        """Go on asking whoever did not confirm, once every `PRESS_EVERY_S`; until cancelled.

        An instrument that was out of order for a minute must not leave the beam on the specimen
        until somebody comes. What has confirmed is left alone from then on: the panic stays, and
        whoever looks may have reasons to change it.

        Parameters
        ----------
        tell : callable
            Takes what has confirmed at last.
        """
        await asyncio.gather(self._press("beam", tell), self._press("heater", tell))

    async def _press(self, role: Role, tell: Callable[[str], None]) -> None:
        while True:
            await asyncio.sleep(PRESS_EVERY_S)
            if role not in self.unconfirmed or self.safing:
                continue
            if role == "heater" and self.reconnecting is not None:
                continue
            asked = self._pressing[role] = asyncio.create_task(self._ask(role), name=f"ask {role}")
            try:
                await asyncio.wait([asked])
            finally:
                del self._pressing[role]
                asked.cancel()
            if not asked.cancelled() and asked.result().confirmed:
                tell(f"{asked.result().action} at last; a person must look all the same")

    async def _ask(self, role: Role, retry_s: float = math.inf) -> SafingStep:
        """Ask beam or heater to be safe, and note whether it has confirmed."""
        beam = role == "beam"
        step = await _take(
            role,
            "beam blanked" if beam else "heater at its safe level",
            self.beam.make_safe if beam else self.heater.make_safe,
            SAFING_STEP_TIMEOUT_S if beam else heater_timeout_s(self.heater),
            retry_s,
        )
        (self.unconfirmed.discard if step.confirmed else self.unconfirmed.add)(role)
        return step


async def _take(
    role: Role,
    action: str,
    act: Callable[[], Awaitable[object]],
    timeout_s: float,
    retry_s: float = math.inf,
) -> SafingStep:
    """Take a step, and again after a while as long as it fails and there is time."""
    started = monotonic_s()
    while True:
        problem = ""
        left_s = started + timeout_s - monotonic_s()
        try:
            async with asyncio.timeout(left_s):
                await act()
        except DeviceError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"not confirmed within {timeout_s:g} s"
        except Exception as error:
            problem = f"unexpected: {error!r}"
        took_s = monotonic_s() - started
        if not problem or took_s + retry_s >= timeout_s:
            return SafingStep(role, action, not problem, took_s, problem)
        await asyncio.sleep(retry_s)
