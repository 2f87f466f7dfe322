"""Carry out a plan: heat, hold, tilt, expose. A frame's own way is in `exposing.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..drivers.base import FrameData, StagePosition
from ..protocols.timebase import ExperimentClock
from .devices import Devices
from .dose import DoseLedger
from .exposing import Stack, frames_per_trigger
from .heating import PROGRESS_TIMEOUT_S, HeaterWatch, HoldTimer
from .plan import Decide, HeatTo, HoldAt, Operation, Plan, RampTo, TakeStack
from .states import State, StateMachine
from .steering import Steering

# Wall seconds between looks at a stage that stands while a ramp goes on.
_STAGE_LOOK_S = 0.5


async def _nothing() -> None:
    """Nobody wants to know."""


class Outgoing(Protocol):
    """Where the engine sends what it makes."""

    @property
    def most_at_a_time(self) -> int:
        """Frames for which credit can be had at once."""
        ...

    async def credit(self, frames: int = 1) -> None:
        """Wait until so many frames can be taken by everyone who must not miss them."""

    def frame(self, header: dict[str, Any], data: FrameData | None, t_ns: int) -> None:
        """Send a frame, or the notice that it was lost (no data)."""

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        """Send a reading."""

    def event(self, level: str, source: str, message: str, **more: Any) -> None:
        """Send an event."""


class ExperimentFailed(Exception):
    """The experiment cannot go on, for a reason that is no single device's answer."""


class Engine:
    """Executes one plan with connected devices.

    Parameters
    ----------
    plan : Plan
        What to do.
    devices : Devices
        Connected; the beam is blanked.
    watch : HeaterWatch
        Following the heater.
    ledger : DoseLedger
        Fluence so far and its limits.
    machine : StateMachine
        Told when the engine pauses and goes on.
    clock : ExperimentClock
        The one clock.
    out : Outgoing
        Takes frames, readings and events.
    """

    def __init__(
        self,
        plan: Plan,
        devices: Devices,
        watch: HeaterWatch,
        ledger: DoseLedger,
        machine: StateMachine,
        clock: ExperimentClock,
        out: Outgoing,
    ) -> None:
        self.plan, self.devices, self.watch, self.ledger = plan, devices, watch, ledger
        self.machine, self.clock, self.out = machine, clock, out
        self.holds = HoldTimer(watch)
        self.steering = Steering(out.event)
        self.operation: Operation | None = None
        self.operation_index = 0
        self.operation_started_ns = clock.now_ns()
        self.frames_done = 0
        self.frames_lost = 0
        self.position: StagePosition | None = None
        self.waiting_for_credit = False
        self._pause = False
        self._go_on = asyncio.Event()
        self._commanded_ns = clock.now_ns()
        # What the supervisor wants to know: whether the beam may be on, what it asks between
        # exposures, and what it is told of the stage.
        self.exposing = False
        self.between_exposures: Callable[[], Awaitable[None]] = _nothing
        self.stage_seen: Callable[[StagePosition, StagePosition, str], None] | None = None
        self._stood: StagePosition | None = None
        self._exposed: tuple[str, int, int] | None = None
        self._looked_s = 0.0

    # --- control -----------------------------------------------------------------------------

    def pause(self) -> None:
        """Finish the exposure or hold under way, then wait at standby."""
        self._pause = True
        self._go_on.clear()

    def resume(self) -> None:
        """Go on after a pause."""
        self._pause = False
        self._go_on.set()

    @property
    def pause_requested(self) -> bool:
        """Whether a pause has been asked for."""
        return self._pause

    async def _checkpoint(self) -> None:
        """Where a pause takes effect: nothing is exposed, the chip is not being driven."""
        if not self._pause:
            return
        await self._look_at_stage()
        self.machine.to(State.PAUSED)
        self.out.event("info", "engine", "paused at standby")
        await self._go_on.wait()
        self._stood = None
        self.machine.to(State.RUNNING)
        self.out.event("info", "engine", "resumed")

    def remaining_s(self) -> float:
        """Estimated experiment time to the end of the plan."""
        durations = self.plan.durations_s[self.operation_index :]
        if not durations:
            return 0.0
        elapsed_s = (self.clock.now_ns() - self.operation_started_ns) * 1e-9
        return max(0.0, durations[0] - elapsed_s) + sum(durations[1:])

    # --- operations --------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry out every operation of the plan.

        Raises
        ------
        DeviceError
            If a device refused or was lost.
        DoseExceeded, ExperimentFailed
            If the experiment must not or cannot go on.
        """
        steps = len(self.plan.operations)
        index = 0
        while index < steps:
            operation = self.plan.operations[index]
            await self._checkpoint()
            self.operation, self.operation_index = operation, index
            self.operation_started_ns = self.clock.now_ns()
            self.out.event("info", "engine", operation.label, step=index + 1, steps=steps)
            index += 1
            if isinstance(operation, Decide):
                if not await self.steering.go_on(operation):
                    index += operation.skip
            else:
                await self._carry_out(operation)
        self.operation, self.operation_index = None, steps

    @property
    def takes_frames(self) -> bool:
        """Whether frames are exposed, one after the other, in the operation under way."""
        operation = self.operation
        return isinstance(operation, TakeStack) or (
            isinstance(operation, RampTo) and operation.stack is not None
        )

    @property
    def step_number(self) -> int:
        """Number of the operation under way from 1; 0 before the first."""
        return self.operation_index + (self.operation is not None)

    def _carry_out(self, operation: HeatTo | HoldAt | TakeStack | RampTo) -> Awaitable[None]:
        match operation:
            case HeatTo():
                return self._heat(operation)
            case HoldAt():
                return self._hold(operation)
            case TakeStack():
                return self._take(operation)
            case RampTo():
                return self._ramp(operation)

    async def _heat(self, heat: HeatTo) -> None:
        travel_s = 0.0
        heater = self.devices.heater
        if heat.rate_c_per_s is None:
            self._commanded_ns = await heater.set_temperature(heat.to_c)
            limit = heater.rig.limits.rate_c_per_s
        else:
            limit = heat.rate_c_per_s
        latest = self.watch.latest
        if limit is not None and latest is not None:
            travel_s = abs(heat.to_c - latest.temperature_c) / limit
        if heat.rate_c_per_s is not None:
            self._commanded_ns = await heater.start_ramp(heat.to_c, travel_s)
        await self.watch.settled(heat.to_c, self._commanded_ns, travel_s + PROGRESS_TIMEOUT_S)
        if heat.hold_s:
            await self.clock.sleep_until_ns(self.clock.now_ns() + int(heat.hold_s * 1e9))

    async def _hold(self, operation: HoldAt) -> None:
        plan = operation.hold
        timing = await self.holds.hold(plan)
        self._commanded_ns = timing.commanded_down_ns
        self.out.event(
            "info",
            "engine",
            f"hold {plan.index}: {timing.achieved_s:.3f} s at {plan.target_c:g} degC "
            f"(asked {plan.requested_s:g} s)",
            hold={
                "index": plan.index,
                "commanded_up_ns": timing.commanded_up_ns,
                "crossed_up_ns": timing.crossed_up_ns,
                "commanded_down_ns": timing.commanded_down_ns,
                "crossed_down_ns": timing.crossed_down_ns,
            },
        )
        await self.watch.settled(plan.standby_c, timing.commanded_down_ns)

    async def _take(self, operation: TakeStack) -> None:
        stack = operation.stack
        await self.watch.settled(operation.at_c, self._commanded_ns)
        exposure_s = self.plan.recipe.beam.exposure_s
        at_a_time = frames_per_trigger(stack.tilt_deg, exposure_s, self.out.most_at_a_time)
        async with Stack(self, stack, at_a_time) as frames:
            for first, tilt_deg in frames.triggers():
                await self.between_exposures()
                await self._checkpoint()
                await self._tilt(tilt_deg)
                await frames.expose(first)
                self._was_exposed(stack.name, first, first + at_a_time - 1)
            await self._look_at_stage()

    async def _tilt(self, tilt_deg: float) -> None:
        tolerance_deg = self.devices.stage.rig.limits.tolerance_deg
        if self.position is not None and abs(self.position.tilt_deg - tilt_deg) <= tolerance_deg:
            self.position = await self.devices.stage.position()
            self._judge_stage(self.position)
        else:
            await self._look_at_stage()
            self.position = self._stood = await self.devices.stage.move_to(tilt_deg)
        if self._stood is None:
            self._stood = self.position
        self.out.telemetry("stage", {"tilt_deg": self.position.tilt_deg}, self.position.t_ns)

    def _was_exposed(self, stack: str, first: int, last: int) -> None:
        """Note frames for which it is not known yet whether the stage stood still."""
        known = self._exposed
        self._exposed = (stack, first if known is None else known[1], last)

    async def _look_at_stage(self) -> None:
        """Read back whether the stage still stands where it stood before the latest frames."""
        if self._exposed is not None and self.stage_seen is not None:
            self._judge_stage(await self.devices.stage.position())

    def _judge_stage(self, found: StagePosition) -> None:
        exposed, self._exposed = self._exposed, None
        self._looked_s = time.monotonic()
        if exposed is None or self._stood is None or self.stage_seen is None:
            return
        stack, first, last = exposed
        which = f"frame {first}" if first == last else f"frames {first} to {last}"
        self.stage_seen(self._stood, found, f"{which} of {stack}")

    async def _ramp(self, ramp: RampTo) -> None:
        heater = self.devices.heater
        if ramp.stack is None:
            self._commanded_ns = await heater.start_ramp(ramp.to_c, ramp.duration_s)
        else:
            assert ramp.frame_every_s is not None
            async with Stack(self, ramp.stack) as frames:
                await self._tilt(ramp.stack.tilt_deg[0])
                self._commanded_ns = await heater.start_ramp(ramp.to_c, ramp.duration_s)
                for index in range(ramp.stack.frames):
                    due_ns = self._commanded_ns + int(index * ramp.frame_every_s * 1e9)
                    await self.between_exposures()
                    await self.clock.sleep_until_ns(due_ns)
                    await frames.expose(index)
                    self._was_exposed(ramp.stack.name, index, index)
                    if time.monotonic() - self._looked_s > _STAGE_LOOK_S:
                        await self._look_at_stage()
                await self._look_at_stage()
        await self.watch.settled(
            ramp.to_c, self._commanded_ns, ramp.duration_s + PROGRESS_TIMEOUT_S
        )
