"""A stage that gets a target and is then polled: what such drivers have in common."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.rig import StageRig
from ...protocols.core.clock import ExperimentClock
from ..base import GRACE_S, DeviceLost, DeviceRefused, Reach, Stage, StagePosition
from .stage_axes import LINEAR, TILT, StageAxes, Targets, at, in_words, seen

POLL_S = 0.02  # experiment seconds between looks at a moving stage
MIN_POLL_S = 0.002  # wall seconds
# Experiment seconds after which a stage that is ready, and stands elsewhere, will not come.
UNMOVED_S = 0.5
MIN_UNMOVED_S = 0.05  # wall seconds


class StageOptions(BaseModel):
    """How the stage is driven.

    `speed` is a fraction of its full speed, with which the axes then move one at a time:
    microscopes refuse several at once with a speed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    speed: float | None = Field(default=None, gt=0, le=1)


class MovingStage(Stage):
    """Moves, arrives from one side, settles and stops; a driver implements its wire.

    Axes are named ``tilt`` (deg), ``x``, ``y`` and ``z`` (nm).
    """

    channels: ClassVar[Mapping[str, str]] = {
        "tilt_deg": "deg",
        "x_nm": "nm",
        "y_nm": "nm",
        "z_nm": "nm",
    }

    def __init__(self, name: str, rig: StageRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self._axes = StageAxes(name, rig.limits)
        self._arrived: Targets = {}

    @property
    def _limits_deg(self) -> tuple[float, float] | None:
        """The stage's own limits of the tilt, once it has told them."""
        return self._axes.own.get(TILT)

    @_limits_deg.setter
    def _limits_deg(self, limits: tuple[float, float]) -> None:
        self._axes.own[TILT] = limits

    # What a driver implements.

    @property
    @abstractmethod
    def _is_connected(self) -> bool: ...

    @abstractmethod
    async def _command(self, targets: Mapping[str, float], timeout_s: float) -> None:
        """Send the stage somewhere; whether it returns before the arrival is the wire's choice."""

    @abstractmethod
    async def _motion(self) -> str | None:
        """The motion that the stage reports; None where it stands and accepts a command."""

    def _refuse_motion(self, motion: str, request: str) -> None:
        """Raise DeviceRefused where this motion can never carry out the request."""

    async def _halt(self, timeout_s: float) -> None:
        """Make the stage stand: without a command for it, by sending it to where it is."""
        here = await self.position()
        targets = {TILT: here.tilt_deg}
        targets |= {a: at(here, a) for a in LINEAR if self._axes.by_rig(a) is not None}
        # A server may take no new target while the stage moves: then it will arrive.
        with contextlib.suppress(DeviceRefused):
            await self._command(targets, timeout_s)

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

    async def reach(self) -> Mapping[str, Reach | None]:
        """How far each axis may be sent: by the rig's limits and the stage's own."""
        await self.tilt_limits_deg()  # where the stage has limits of its own, they are read again
        return {axis: self._axes.reach(axis) for axis in (TILT, *LINEAR)}

    async def move_to(
        self,
        tilt_deg: float,
        *,
        x_nm: float | None = None,
        y_nm: float | None = None,
        z_nm: float | None = None,
    ) -> StagePosition:
        """Move, always arriving from below where the rig names a backlash.

        A command may be answered when the stage has arrived, or at once: both are waited for
        until the same deadline.
        """
        axes, wanted = self._axes, {"z": z_nm, TILT: tilt_deg, "x": x_nm, "y": y_nm}
        targets = {axis: value for axis, value in wanted.items() if value is not None}
        axes.refuse_beyond_limits(targets)
        start = await self.position()
        # Where it stands, and has arrived from the right side, an axis need not move.
        kept = {a for a, v in targets.items() if self._arrived.get(a) == v}
        targets = {a: v for a, v in targets.items() if a not in kept or not axes.is_at(start, a, v)}
        if not targets:
            return start
        axes.refuse_long_moves(start, targets)
        for axis in targets:
            self._arrived.pop(axis, None)
        steps = axes.steps(start, targets)
        needed_s = axes.needed_s(start, steps) + self.rig.limits.settle_s + UNMOVED_S
        deadline = time.monotonic() + self.clock.wall_s(needed_s) + GRACE_S
        for step in steps[:-1]:
            await self._go(step, deadline)
        left = steps[-1]
        while True:
            await self._go(left, deadline)
            await self.clock.sleep(self.rig.limits.settle_s)
            here = await self.position()
            left = axes.away(here, targets)
            if not left and await self._motion() is None:
                self._arrived |= targets
                return here
            left = left or steps[-1]
            if time.monotonic() > deadline:
                raise self._not_arrived(left, f"stands at {seen(here, left)}")

    async def stop(self) -> None:
        """Stop moving; returns when the stage stands.

        Raises
        ------
        DeviceLost
            If it has not come to a stand by the time in which it would have crossed its range.
        """
        self._arrived.clear()
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

    async def _go(self, targets: Targets, deadline: float) -> None:
        """Command one move and wait until the stage is ready there."""
        await self._command(targets, max(MIN_POLL_S, deadline - time.monotonic()))
        unmoved_s = max(MIN_UNMOVED_S, self.clock.wall_s(UNMOVED_S))
        stood: StagePosition | None = None
        stands_since = time.monotonic()
        while True:
            motion = await self._motion()
            here = await self.position()
            now = time.monotonic()
            away = self._axes.away(here, targets)
            if motion is None and not away:
                return
            if motion is not None:
                self._refuse_motion(motion, in_words(targets))
            moved = stood is None or self._axes.away(here, {a: at(stood, a) for a in targets})
            if motion is not None or moved:
                stood, stands_since = here, now
            elif now - stands_since > unmoved_s:
                raise DeviceRefused(
                    self.name,
                    in_words(away),
                    f"the stage is ready at {seen(here, away)}",
                    "Compare the stage's limits with the rig's",
                )
            if now > deadline:
                late = away or targets
                raise self._not_arrived(late, f"{motion or 'ready'} at {seen(here, late)}")
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(max(MIN_POLL_S, self.clock.wall_s(POLL_S)))

    def _not_arrived(self, targets: Targets, answered: str) -> DeviceLost:
        return DeviceLost(
            self.name,
            in_words(targets),
            f"by the deadline the stage was {answered}",
            "Check that the stage is not blocked and not slower than the rig's speed",
        )
