"""A stage that gets a target and is then polled: what such drivers have in common."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from ...protocols.config.rig import StageRig
from ...protocols.core.clock import ExperimentClock
from ..base import GRACE_S, DeviceLost, DeviceRefused, OutOfRange, Stage, StagePosition

POLL_S = 0.02  # experiment seconds between looks at a moving stage
MIN_POLL_S = 0.002  # wall seconds
# Experiment seconds after which a stage that is ready, and stands elsewhere, will not come.
UNMOVED_S = 0.5
MIN_UNMOVED_S = 0.05  # wall seconds


class MovingStage(Stage):
    """Moves, arrives from one side, settles and stops; a driver implements its wire."""

    channels: ClassVar[Mapping[str, str]] = {
        "tilt_deg": "deg",
        "x_nm": "nm",
        "y_nm": "nm",
        "z_nm": "nm",
    }

    def __init__(self, name: str, rig: StageRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self._limits_deg: tuple[float, float] | None = None
        self._arrived_at_deg: float | None = None

    # What a driver implements.

    @property
    @abstractmethod
    def _is_connected(self) -> bool: ...

    @abstractmethod
    async def _command(self, tilt_deg: float, timeout_s: float) -> None:
        """Send the stage somewhere; whether it returns before the arrival is the wire's choice."""

    @abstractmethod
    async def _motion(self) -> str | None:
        """The motion that the stage reports; None where it stands and accepts a command."""

    def _refuse_motion(self, motion: str, tilt_deg: float) -> None:
        """Raise DeviceRefused where this motion can never reach the tilt."""

    async def _halt(self, timeout_s: float) -> None:
        """Make the stage stand: without a command for it, by sending it to where it is."""
        here = await self.position()
        # A server may take no new target while the stage moves: then it will arrive.
        with contextlib.suppress(DeviceRefused):
            await self._command(here.tilt_deg, timeout_s)

    # What follows from it.

    async def make_safe(self) -> None:
        """Stop, connecting first if need be."""
        if self._is_connected:
            try:
                return await self.stop()
            except DeviceLost:
                if self._is_connected:
                    raise
        await self.connect()
        return await self.stop()

    async def move_to(self, tilt_deg: float) -> StagePosition:
        """Tilt, always arriving from below where the rig names a backlash.

        The command may be answered when the stage has arrived, or at once: both are waited for
        until the same deadline.
        """
        self._refuse_beyond_limits(tilt_deg)
        limits = self.rig.limits
        start = await self.position()
        if self._arrived_at_deg == tilt_deg and self._is_at(start, tilt_deg):
            return start
        self._arrived_at_deg = None
        lowest = max(limits.tilt_deg[0], (self._limits_deg or limits.tilt_deg)[0])
        below_deg = max(tilt_deg - limits.backlash_deg, lowest)
        distance_deg = abs(start.tilt_deg - below_deg) + abs(tilt_deg - below_deg)
        needed_s = distance_deg / limits.speed_deg_per_s + limits.settle_s + UNMOVED_S
        deadline = time.monotonic() + self.clock.wall_s(needed_s) + GRACE_S
        if limits.backlash_deg > 0 and start.tilt_deg > below_deg:
            await self._go(below_deg, deadline)
        while True:
            await self._go(tilt_deg, deadline)
            await self.clock.sleep(limits.settle_s)
            at = await self.position()
            if self._is_at(at, tilt_deg) and await self._motion() is None:
                self._arrived_at_deg = tilt_deg
                return at
            if time.monotonic() > deadline:
                raise self._not_arrived(tilt_deg, f"stands at {at.tilt_deg:.3f} deg")

    async def stop(self) -> None:
        """Stop moving; returns when the stage stands.

        Raises
        ------
        DeviceLost
            If it has not come to a stand by the time in which it would have crossed its range.
        """
        self._arrived_at_deg = None
        span_deg = self.rig.limits.tilt_deg[1] - self.rig.limits.tilt_deg[0]
        full_s = self.clock.wall_s(span_deg / self.rig.limits.speed_deg_per_s)
        deadline = time.monotonic() + full_s + GRACE_S
        if await self._motion() is None:
            return
        await self._halt(full_s + GRACE_S)
        while (motion := await self._motion()) is not None:
            if time.monotonic() > deadline:
                raise DeviceLost(
                    self.name,
                    "stop",
                    f"the stage still reports {motion}",
                    "Stop it at the microscope",
                )
            await self._pause()

    async def _go(self, target_deg: float, deadline: float) -> None:
        """Command one move and wait until the stage is ready there."""
        await self._command(target_deg, max(MIN_POLL_S, deadline - time.monotonic()))
        unmoved_s = max(MIN_UNMOVED_S, self.clock.wall_s(UNMOVED_S))
        stands_at, stands_since = math.inf, time.monotonic()
        while True:
            motion = await self._motion()
            at = (await self.position()).tilt_deg
            now = time.monotonic()
            if motion is None and abs(at - target_deg) <= self.rig.limits.tolerance_deg:
                return
            if motion is not None:
                self._refuse_motion(motion, target_deg)
            if motion is not None or abs(at - stands_at) > self.rig.limits.tolerance_deg:
                stands_at, stands_since = at, now
            elif now - stands_since > unmoved_s:
                raise DeviceRefused(
                    self.name,
                    f"tilt to {target_deg:g} deg",
                    f"the stage is ready at {at:.3f} deg",
                    "Compare the stage's limits with the rig's",
                )
            if now > deadline:
                raise self._not_arrived(target_deg, f"{motion or 'ready'} at {at:.3f} deg")
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(max(MIN_POLL_S, self.clock.wall_s(POLL_S)))

    def _is_at(self, position: StagePosition, tilt_deg: float) -> bool:
        return abs(position.tilt_deg - tilt_deg) <= self.rig.limits.tolerance_deg

    def _refuse_beyond_limits(self, tilt_deg: float) -> None:
        for whose, pair in (
            ("the rig's", self.rig.limits.tilt_deg),
            ("the stage's own", self._limits_deg),
        ):
            # A hair wider: a limit that came over in radians must not refuse its own value.
            if pair is not None and not pair[0] - 1e-9 <= tilt_deg <= pair[1] + 1e-9:
                raise OutOfRange(
                    self.name,
                    f"tilt to {tilt_deg:g} deg",
                    f"{whose} limits are {pair[0]:g} to {pair[1]:g} deg; nothing was sent",
                    "Change the tilt range",
                )

    def _not_arrived(self, tilt_deg: float, answered: str) -> DeviceLost:
        return DeviceLost(
            self.name,
            f"tilt to {tilt_deg:g} deg",
            f"by the deadline the stage was {answered}",
            "Check that the stage is not blocked and not slower than the rig's speed",
        )
