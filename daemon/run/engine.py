"""Carry out a plan: heat, hold, tilt, expose. A frame's own way is in `exposing.py`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ...drivers.base import FrameData, StagePosition
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import Begun, Decision, Ended, Moment, MomentName, Pause
from ..resume.remaining import ALL, Rest
from ..resume.resume_point import ResumePoint
from ..resume.run_journal import NoNotes, Notes
from ..safety.devices import Devices
from ..schedule.dose import DoseLedger
from ..schedule.hold_timing import HoldTiming
from ..schedule.plan import AcquireStack, Decide, HeatTo, HoldAt, HoldPlan, Operation, Plan, RampTo
from ..schedule.states import State, StateMachine
from ..steering.steering import Steering
from .acquisition import StackAcquisition, frames_per_trigger
from .heater_watch import PROGRESS_TIMEOUT_S, HeaterWatch
from .hold_timer import HoldTimer

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

    async def keep(self) -> None:
        """Wait until no death of a process can take away a frame that was sent."""

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
        self.journal: Notes = NoNotes()
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
        await self.journal.caught_up()
        if not self._pause:
            return
        await self._look_at_stage()
        self.machine.to(State.PAUSED)
        self.out.event("info", "engine", "paused at standby")
        self.journal.note(Pause(paused=True))
        await self._go_on.wait()
        self._stood = None
        self.machine.to(State.RUNNING)
        self.out.event("info", "engine", "resumed")
        self.journal.note(Pause(paused=False))

    def remaining_s(self) -> float:
        """Estimated experiment time to the end of the plan."""
        durations = self.plan.durations_s[self.operation_index :]
        if not durations:
            return 0.0
        elapsed_s = (self.clock.now_ns() - self.operation_started_ns) * 1e-9
        return max(0.0, durations[0] - elapsed_s) + sum(durations[1:])

    # --- operations --------------------------------------------------------------------------

    async def run(self, point: ResumePoint | None = None) -> None:
        """Carry out every operation of the plan, or those that an interrupted run has left.

        Raises
        ------
        DeviceError
            If a device refused or was lost.
        DoseExceeded, ExperimentFailed
            If the experiment must not or cannot go on.
        """
        index, rest = 0, dict[int, Rest]()
        if point is not None:
            index, rest = point.index, dict(point.rest)
            await self._take_up(point)
        while index < len(self.plan.operations):
            await self._checkpoint()
            await self.room()
            if not isinstance(self.plan.operations[index], AcquireStack):
                await self._keep()
            left = rest.pop(index, ALL)
            self._begin(index, left)
            following = await self._carry_out(index, left)
            self.journal.note(Ended(index=index, next=following))
            self.journal.save()
            index = following
        self.operation, self.operation_index = None, len(self.plan.operations)

    async def room(self, frames: int = 1) -> None:
        """Wait until so many frames can be recorded; nothing is exposed meanwhile."""
        with self._waiting():
            await self.out.credit(frames)

    async def _keep(self) -> None:
        """Before the specimen changes: frames of how it is now could not be taken again."""
        with self._waiting():
            await self.out.keep()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self.waiting_for_credit = True
        try:
            yield
        finally:
            self.waiting_for_credit = False

    def expect(self, index: int) -> None:
        """Count everything before an operation as done."""
        self.operation_index = index
        if index < len(self.plan.operations):
            self.operation = self.plan.operations[index]

    def _begin(self, index: int, rest: Rest) -> None:
        operation, done_s = self.plan.operations[index], rest.done_s
        if isinstance(operation, AcquireStack) and rest.places is not None:
            done = 1 - len(rest.places) / operation.stack.frames
            done_s = done * self.plan.durations_s[index]
        self.operation, self.operation_index = operation, index
        self.operation_started_ns = self.clock.now_ns() - int(done_s * 1e9)
        steps = len(self.plan.operations)
        self.out.event("info", "engine", operation.label, step=index + 1, steps=steps)
        self.journal.note(Begun(index=index))

    async def _take_up(self, point: ResumePoint) -> None:
        """Bring the specimen to where it was, and take again what was lost there."""
        for held in point.untold:
            self._tell_hold(held.hold, held.timing, held.achieved_s)
        if point.start_c is not None:
            self.out.event("info", "engine", f"back to {point.start_c:g} °C")
            latest = self.watch.latest
            hotter = latest is not None and latest.temperature_c > point.start_c
            await self._go_to(point.start_c, None if hotter else point.rate_c_per_s)
        for index, places in point.retakes:
            operation = self.plan.operations[index]
            assert isinstance(operation, AcquireStack)
            self.operation, self.operation_index = operation, index
            label = f"{operation.stack.name}: {len(places)} frames again"
            self.out.event("info", "engine", label)
            await self._take(operation, Rest(places=places))

    @property
    def takes_frames(self) -> bool:
        """Whether frames are exposed, one after the other, in the operation under way."""
        operation = self.operation
        return isinstance(operation, AcquireStack) or (
            isinstance(operation, RampTo) and operation.stack is not None
        )

    @property
    def step_number(self) -> int:
        """Number of the operation under way from 1; 0 before the first."""
        return self.operation_index + (self.operation is not None)

    async def _carry_out(self, index: int, rest: Rest) -> int:
        """Do what is left of an operation; returns the index of the one that follows."""
        following = index + 1
        match self.plan.operations[index]:
            case HeatTo() as heat:
                await self._heat(heat, rest)
            case HoldAt() as hold:
                await self._hold(hold, rest)
            case AcquireStack() as stack:
                await self._take(stack, rest)
            case RampTo() as ramp:
                await self._ramp(ramp, rest)
            case Decide() as decision:
                goes_on = rest.goes_on
                if goes_on is None:
                    goes_on = await self.steering.go_on(decision)
                    self.journal.note(Decision(index=index, goes_on=goes_on))
                following += 0 if goes_on else decision.skip
        return following

    def _moment(self, what: MomentName, at_ns: int) -> None:
        self.journal.note(Moment(what=what, at_ns=at_ns))

    async def _heat(self, heat: HeatTo, rest: Rest) -> None:
        await self._go_to(heat.to_c, heat.rate_c_per_s)
        reached_ns = self.clock.now_ns()
        self._moment("reached", reached_ns)
        await self.clock.sleep_until_ns(reached_ns + int((heat.hold_s - rest.done_s) * 1e9))

    async def _go_to(self, to_c: float, rate_c_per_s: float | None) -> None:
        """Heat or cool to a temperature, at a rate if one is given, and wait until it is there."""
        travel_s = 0.0
        heater = self.devices.heater
        if rate_c_per_s is None:
            self._commanded_ns = await heater.set_temperature(to_c)
            limit = heater.rig.limits.rate_c_per_s
        else:
            limit = rate_c_per_s
        latest = self.watch.latest
        if limit is not None and latest is not None:
            travel_s = abs(to_c - latest.temperature_c) / limit
        if rate_c_per_s is not None:
            self._commanded_ns = await heater.start_ramp(to_c, travel_s)
        await self.watch.settled(to_c, self._commanded_ns, travel_s + PROGRESS_TIMEOUT_S)

    async def _hold(self, operation: HoldAt, rest: Rest) -> None:
        plan = operation.hold
        timing, achieved_s = rest.over, rest.done_s
        if timing is None:
            left_s = plan.requested_s - rest.done_s
            left = plan.model_copy(update={"requested_s": left_s})
            timing = await self.holds.hold(left, self._moment)
            achieved_s += timing.achieved_s
            self._commanded_ns = timing.commanded_down_ns
            timing = rest.since_its_rise(timing)
        self._tell_hold(plan, timing, achieved_s)
        await self.watch.settled(plan.standby_c, self._commanded_ns)

    def _tell_hold(self, plan: HoldPlan, timing: HoldTiming, achieved_s: float) -> None:
        self.out.event(
            "info",
            "engine",
            f"hold {plan.index}: {achieved_s:.3f} s at {plan.target_c:g} degC "
            f"(asked {plan.requested_s:g} s)",
            hold={
                "index": plan.index,
                "commanded_up_ns": timing.commanded_up_ns,
                "crossed_up_ns": timing.crossed_up_ns,
                "commanded_down_ns": timing.commanded_down_ns,
                "crossed_down_ns": timing.crossed_down_ns,
            },
        )

    async def _take(self, operation: AcquireStack, rest: Rest) -> None:
        stack, places = operation.stack, rest.places
        if places is not None and not places:
            return
        await self.watch.settled(operation.at_c, self._commanded_ns)
        exposure_s, most = self.plan.recipe.beam.exposure_s, self.out.most_at_a_time
        at_a_time = frames_per_trigger(stack.tilt_deg, exposure_s, most, places)
        async with StackAcquisition(self, stack, at_a_time, places) as frames:
            for first, tilt_deg in frames.triggers():
                await self.between_exposures()
                await self._checkpoint()
                await self._tilt(tilt_deg)
                await frames.expose(first)
                last = first + at_a_time - 1
                self._was_exposed(stack.name, frames.places[first], frames.places[last])
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

    async def _ramp(self, ramp: RampTo, rest: Rest) -> None:
        duration_s = ramp.duration_s - rest.done_s
        if ramp.stack is None or rest.places == ():
            await self._start_ramp(ramp.to_c, duration_s)
        else:
            assert ramp.frame_every_s is not None
            async with StackAcquisition(self, ramp.stack, places=rest.places) as frames:
                await self._tilt(ramp.stack.tilt_deg[0])
                await self._start_ramp(ramp.to_c, duration_s)
                for position, place in enumerate(frames.places):
                    due_s = place * ramp.frame_every_s - rest.done_s
                    await self.between_exposures()
                    await self.clock.sleep_until_ns(self._commanded_ns + int(due_s * 1e9))
                    await frames.expose(position)
                    self._was_exposed(ramp.stack.name, place, place)
                    if time.monotonic() - self._looked_s > _STAGE_LOOK_S:
                        await self._look_at_stage()
                await self._look_at_stage()
        await self.watch.settled(ramp.to_c, self._commanded_ns, duration_s + PROGRESS_TIMEOUT_S)

    async def _start_ramp(self, to_c: float, duration_s: float) -> None:
        self._commanded_ns = await self.devices.heater.start_ramp(to_c, duration_s)
        self._moment("ramp", self._commanded_ns)
