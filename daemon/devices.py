"""The four devices of a rig together: connect them, and bring them to safety in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..drivers.base import Beam, Detector, Device, DeviceError, Heater, Identity, Stage
from ..drivers.registry import make_device
from ..protocols.rig import ROLES, Rig
from ..protocols.timebase import ExperimentClock
from .publisher import monotonic_s

# A safing step that has not confirmed by then counts as failed, and the next one is taken.
SAFING_STEP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class SafingStep:
    """One step of safing: what was done, whether it was confirmed, how long it took."""

    action: str
    confirmed: bool
    took_s: float
    problem: str = ""


@dataclass
class Devices:
    """The devices of one rig."""

    heater: Heater
    stage: Stage
    beam: Beam
    detector: Detector

    @classmethod
    def of(cls, rig: Rig, clock: ExperimentClock) -> Devices:
        """Drivers of a rig, not yet connected; raises BadInput if the rig is wrong."""
        return cls(**{role: make_device(rig, role, clock) for role in ROLES})

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
        """Disconnect every device, whatever the others do."""
        await asyncio.gather(*(d.disconnect() for d in self.all()), return_exceptions=True)

    async def make_safe(self, told: Callable[[SafingStep], None]) -> bool:
        """Blank the beam, heater to its safe level, detector and stage to a stop, in this order.

        A step that fails does not keep the next from being taken.

        Parameters
        ----------
        told : callable
            Called after each step.

        Returns
        -------
        bool
            Whether beam and heater have confirmed; if not, a person must look.
        """
        limits = self.heater.rig.limits
        # A chip that may only cool slowly is given the time that its whole range takes.
        cooling_s = (limits.temperature_c - limits.safe_c) / (limits.rate_c_per_s or math.inf)
        heater_s = SAFING_STEP_TIMEOUT_S + self.heater.clock.wall_s(cooling_s)
        steps: tuple[tuple[str, Callable[[], Awaitable[object]], float], ...] = (
            ("beam blanked", self.beam.make_safe, SAFING_STEP_TIMEOUT_S),
            ("heater at its safe level", self.heater.make_safe, heater_s),
            ("stage stopped", self.stage.make_safe, SAFING_STEP_TIMEOUT_S),
            ("detector stopped", self.detector.make_safe, SAFING_STEP_TIMEOUT_S),
        )
        confirmed: list[bool] = []
        for action, act, timeout_s in steps:
            started = monotonic_s()
            problem = ""
            try:
                await asyncio.wait_for(act(), timeout_s)
            except DeviceError as error:
                problem = str(error)
            except TimeoutError:
                problem = f"not confirmed within {timeout_s:g} s"
            except Exception as error:
                problem = f"unexpected: {error!r}"
            confirmed.append(not problem)
            told(SafingStep(action, not problem, monotonic_s() - started, problem))
        return confirmed[0] and confirmed[1]
