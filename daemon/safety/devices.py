"""The four devices of a rig together: connect them, and bring them to safety in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from time import monotonic as monotonic_s
from typing import Any

from ...drivers.base import Beam, Detector, Device, DeviceError, DeviceLost, Heater, Identity, Stage
from ...drivers.registry import make_device
from ...protocols.config.rig import ROLES, Rig, Role
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from .guardian.deadlines import SAFING_STEP_TIMEOUT_S, heater_timeout_s

# Wall seconds for which the heater waits for the beam to confirm.
BEAM_GRACE_S = 0.005
# Wall seconds between two attempts with beam or heater.
SAFING_RETRY_S = 0.5
# The same after a safing that was not confirmed: the instrument may be off for hours.
UNCONFIRMED_RETRY_S = 2.0


@dataclass(frozen=True)
class SafingStep:
    """One step of safing: the device, the action, and whether and how fast it was confirmed."""

    role: Role
    action: str
    confirmed: bool
    took_s: float
    problem: str = ""

    @property
    def level(self) -> str:
        """Level of the event about it."""
        return "info" if self.confirmed else "error"

    @property
    def text(self) -> str:
        """The action and how long it took, or why it was not confirmed."""
        if not self.confirmed:
            return f"NOT {self.action}: {self.problem}"
        return f"{self.action} in {self.took_s * 1e3:.0f} ms"


@dataclass
class Devices:
    """The devices of one rig.

    Attributes
    ----------
    safing : int
        Number of calls of `make_safe` under way.
    unconfirmed : set of Role
        Which of beam and heater did not confirm the last safing.
    reconnecting : asyncio.Task or None
        Reconnects a lost heater; cancelled by safing, which reconnects it itself.
    """

    heater: Heater
    stage: Stage
    beam: Beam
    detector: Detector
    safing: int = 0
    unconfirmed: set[Role] = field(default_factory=set[Role])
    reconnecting: asyncio.Task[None] | None = None
    _retrying: dict[Role, asyncio.Task[SafingStep]] = field(
        default_factory=dict[Role, asyncio.Task[SafingStep]]
    )

    @classmethod
    def of(cls, rig: Rig, clock: ExperimentClock) -> Devices:
        """Drivers of a rig, not yet connected; raises BadInput if the rig is wrong."""
        return cls(**{role: make_device(rig, role, clock) for role in ROLES})

    @property
    def may_reconnect(self) -> bool:
        """Whether the heater may be reconnected: no safing is connecting it."""
        return not self.safing and "heater" not in self._retrying

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
                identities[device.role] = await _connected(device)
        except BaseException:
            await self.disconnect()
            raise
        return identities

    async def disconnect(self) -> None:
        """Disconnect every device, also if some fail; end all attempts to make them safe."""
        self.unconfirmed.clear()
        for task in self._retrying.values():
            task.cancel()
        await asyncio.gather(*(d.disconnect() for d in self.all()), return_exceptions=True)

    async def make_safe(
        self,
        on_step: Callable[[SafingStep], None],
        before_stage: Callable[[], Awaitable[object]] | None = None,
    ) -> bool:
        """Blank the beam, heater to its safe level, stage and detector to a stop, in this order.

        A step that fails does not prevent the next one, and the heater waits for the beam no
        longer than `BEAM_GRACE_S`. Beam and heater are tried again until their deadline.

        Parameters
        ----------
        on_step : callable
            Called after each step.
        before_stage : callable, optional
            Awaited after the heater's step, because stage and detector may still be in use.

        Returns
        -------
        bool
            Whether beam and heater have confirmed; if not, a person must check them.
        """
        self.safing += 1
        tasks: list[asyncio.Task[SafingStep]] = []

        def begin(work: Coroutine[Any, Any, SafingStep]) -> asyncio.Task[SafingStep]:
            tasks.append(asyncio.create_task(work, name="safing"))
            return tasks[-1]

        try:
            others: list[asyncio.Task[Any]] = [*self._retrying.values()]
            if self.reconnecting is not None:
                others.append(self.reconnecting)
            for other in others:
                other.cancel()
            if others:
                await asyncio.wait(others)
            beam = begin(self._request_safe("beam", SAFING_RETRY_S))
            await asyncio.wait([beam], timeout=BEAM_GRACE_S)
            heater = begin(self._request_safe("heater", SAFING_RETRY_S))
            confirmed = True
            for task in (beam, heater):
                step = await task
                on_step(step)
                confirmed = confirmed and step.confirmed
            if before_stage is not None:
                await before_stage()
            for device in (self.stage, self.detector):
                action, timeout_s = f"{device.role} stopped", SAFING_STEP_TIMEOUT_S
                on_step(await begin(_carry_out(device.role, action, device.make_safe, timeout_s)))
            return confirmed
        finally:
            self.safing -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def retry_unconfirmed(self, notify: Callable[[str], None]) -> None:
        """Retry beam and heater that did not confirm, every `UNCONFIRMED_RETRY_S`; until cancelled.

        An instrument that was out of order for a minute must not leave the beam on the specimen
        until a person comes. A device that has confirmed is left alone from then on: the panic
        stays, and the person may have reasons to change its state.

        Parameters
        ----------
        notify : callable
            Called with a text when a device has confirmed.
        """
        await asyncio.gather(self._retry("beam", notify), self._retry("heater", notify))

    async def _retry(self, role: Role, notify: Callable[[str], None]) -> None:
        while True:
            await asyncio.sleep(UNCONFIRMED_RETRY_S)
            if role not in self.unconfirmed or self.safing:
                continue
            if role == "heater" and self.reconnecting is not None:
                continue
            task = asyncio.create_task(self._request_safe(role), name=f"make {role} safe")
            self._retrying[role] = task
            try:
                await asyncio.wait([task])
            finally:
                del self._retrying[role]
                task.cancel()
            if not task.cancelled() and task.result().confirmed:
                action = task.result().action
                notify(f"{action} at last; a person must still check and clear the panic")

    async def _request_safe(self, role: Role, retry_s: float = math.inf) -> SafingStep:
        """Make beam or heater safe, and note whether it has confirmed."""
        beam = role == "beam"
        step = await _carry_out(
            role,
            "beam blanked" if beam else "heater at its safe level",
            self.beam.make_safe if beam else self.heater.make_safe,
            SAFING_STEP_TIMEOUT_S if beam else heater_timeout_s(self.heater),
            retry_s,
        )
        (self.unconfirmed.discard if step.confirmed else self.unconfirmed.add)(role)
        return step


async def _connected(device: Device) -> Identity:
    """Connect a device; whatever its driver does instead becomes a `DeviceError`."""
    try:
        async with asyncio.timeout(device.start_timeout_s):
            return await device.connect()
    except (DeviceError, BadInput):
        raise
    except TimeoutError:
        raise DeviceLost(
            device.name,
            "connect",
            f"its driver was not done within {device.start_timeout_s:g} s",
            "Check that the instrument responds and that the rig's endpoint is right",
        ) from None
    except Exception as error:
        raise DeviceLost(
            device.name,
            "connect",
            f"its driver failed: {error!r}",
            "Check the rig's endpoint and options; `--debug` shows where it failed",
        ) from error


async def _carry_out(
    role: Role,
    action: str,
    act: Callable[[], Awaitable[object]],
    timeout_s: float,
    retry_s: float = math.inf,
) -> SafingStep:
    """Carry out a step, and try again every `retry_s` until it is confirmed or out of time."""
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
