"""The engine walks the operations of a plan, and pauses between them on request.

The way of a frame is in `acquisition.py`, that of a temperature in `heating.py`.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from typing import Any, Protocol

from ...drivers.base import Beam, StagePosition
from ...protocols.config.tracking import Track
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import Point
from ...protocols.messages.journal import Begun, Chosen, Decision, Ended, FinishedMoments, Pause
from ..acquisition.context import AcquisitionContext
from ..acquisition.heater_watch import HeaterWatch
from ..acquisition.outgoing import Outgoing
from ..acquisition.plan_progress import PlanProgress
from ..acquisition.stack_acquisition import StackAcquisition, frames_per_trigger
from ..acquisition.stage_check import StageCheck
from ..resume.remaining import NOTHING_DONE, RemainingWork
from ..resume.resume_point import ResumePoint
from ..resume.run_journal import Journal
from ..safety.devices import Devices
from ..schedule.dose import DoseLedger
from ..schedule.plan import (
    AcquireStack,
    CalibrateHeight,
    CalibratePixel,
    CalibrateShifts,
    ChooseHold,
    Decide,
    HeatTo,
    HoldAt,
    Plan,
    RampTo,
)
from ..schedule.states import State, StateMachine
from ..schedule.steering_history import SteeringHistory
from ..steering.steering import Steering
from ..tracking.follower import Follower
from .heating import Heating
from .pixel_calibration import PixelCalibrator
from .shift_calibration import ShiftCalibrator
from .specimen_tracking import SpecimenTracking


class ExposureObserver(Protocol):
    """What the supervisor needs of the engine; `safety.observer.Observer` in the program."""

    async def between_exposures(self) -> None:
        """Look at the column while nothing is exposed."""

    def stage_seen(self, before: StagePosition, after: StagePosition, frames: str) -> None:
        """Take the positions of the stage before and after the exposure of some frames."""


class Engine:
    """Carries out one plan with connected devices.

    Parameters
    ----------
    plan : Plan
        What to do.
    devices : Devices
        Connected; the beam is blanked.
    watch : HeaterWatch
        Follows the heater.
    ledger : DoseLedger
        Fluence so far and its limits.
    machine : StateMachine
        Changed when the engine pauses and resumes.
    clock : ExperimentClock
        The clock of the experiment.
    out : Outgoing
        Takes frames, readings, holds and events.
    journal : Journal
        Takes what the specimen goes through.
    observer : ExposureObserver
        Looks at column and stage between exposures.

    Attributes
    ----------
    progress : PlanProgress
        How far the run has come.
    stage : StageCheck
        The stage and its position.
    steering : Steering
        Decides about cycles.
    follower : Follower or None
        Keeps the specimen in the frame.
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
        journal: Journal,
        observer: ExposureObserver,
    ) -> None:
        self._plan, self._machine, self._clock, self._out = plan, machine, clock, out
        self._journal, self._observer = journal, observer
        self.progress = PlanProgress(plan, clock)
        self.steering = Steering(plan, out.event, out.steering)
        self.stage = StageCheck(devices.stage, out, observer.stage_seen)
        self._heating = Heating(devices.heater, watch, clock, journal, out)
        self.follower = self._followed(devices.beam) if plan.recipe.tracked else None
        self._watch = watch
        self._acquisition = AcquisitionContext(
            devices.beam, devices.detector, plan.recipe.beam, ledger, journal, clock, watch,
            self.stage, self.progress, out, follower=self.follower,
        )  # fmt: skip
        self._tracking = (
            None
            if self.follower is None
            else SpecimenTracking(
                self._acquisition, self.follower, plan.recipe.settle, self._checkpoint
            )
        )
        self._shifts = ShiftCalibrator(
            self._acquisition, self.follower, self.pause, self._checkpoint
        )
        self._pixel = PixelCalibrator(self._acquisition, self.pause, self._checkpoint)
        self._pause = False
        self._resumed = asyncio.Event()

    def _followed(self, beam: Beam) -> Follower:
        """What keeps the specimen in the frame."""
        recipe, out = self._plan.recipe, self._out
        return Follower(
            recipe.track or Track(), recipe.focus, beam, self._clock, recipe.beam.field_nm,
            out.tracking, out.telemetry, out.event, self.pause,
        )  # fmt: skip

    @property
    def tracking_status(self) -> dict[str, Any] | None:
        """How the specimen is kept in the frame at this moment; None in a run that does not."""
        return None if self._tracking is None else self._tracking.status

    # --- control -----------------------------------------------------------------------------

    def pause(self) -> None:
        """Finish the exposure or hold under way, then wait at standby."""
        self._pause = True
        self._resumed.clear()

    def resume(self) -> None:
        """Continue after a pause."""
        self._pause = False
        self._resumed.set()

    def point_out(self, point: Point) -> str:
        """A person says where the specimen stands; see `SpecimenTracking.point_out`.

        Raises
        ------
        BadInput
            If the run does not track, or that is outside the picture.
        """
        if self._tracking is None:
            raise BadInput("--at", "the run does not track the specimen; resume without it")
        return self._tracking.point_out(point)

    @property
    def pause_requested(self) -> bool:
        """Whether a pause has been requested."""
        return self._pause

    async def _checkpoint(self) -> bool:
        """Where a pause takes effect: nothing is exposed, the chip is not being driven.

        Returns
        -------
        bool
            Whether the run has paused here.
        """
        await self._journal.caught_up()
        if not self._pause:
            return False
        await self.stage.check()
        self._machine.to(State.PAUSED)
        self._out.event("info", "engine", "paused at standby")
        self._journal.note(Pause(paused=True))
        await self._resumed.wait()
        self.stage.forget()
        self._machine.to(State.RUNNING)
        self._out.event("info", "engine", "resumed")
        self._journal.note(Pause(paused=False))
        return True

    # --- operations --------------------------------------------------------------------------

    async def run(self, point: ResumePoint | None = None) -> None:
        """Carry out every operation of the plan, or what an interrupted run has left of it.

        Raises
        ------
        DeviceError
            If a device refused or was lost.
        DoseExceeded
            If a stack would pass a limit.
        """
        index, remaining = 0, dict[int, RemainingWork]()
        if point is not None:
            index, remaining = point.index, dict(point.remaining)
            await self._return_to(point)
        while index < len(self._plan.operations):
            await self._checkpoint()
            with self.progress.waiting():
                await self._out.credit()
                if not isinstance(self._plan.operations[index], AcquireStack):
                    # The specimen is about to change: frames lost now could not be acquired again.
                    await self._out.keep()
            _end_if_cancelled()
            rest = remaining.pop(index, NOTHING_DONE)
            self._begin(index, rest)
            following = await self._carry_out(index, rest)
            self._journal.note(Ended(index=index, next=following, held=_finished_before(rest)))
            self._journal.save()
            index = following
        self.progress.finish()

    def _begin(self, index: int, rest: RemainingWork) -> None:
        done_s = rest.done_s
        operation = self._plan.operations[index]
        if isinstance(operation, AcquireStack) and rest.frame_indices is not None:
            done = 1 - len(rest.frame_indices) / operation.stack.frames
            done_s = done * self._plan.durations_s[index]
        self.progress.begin(index, done_s)
        steps = len(self._plan.operations)
        self._out.event("info", "engine", operation.label, step=index + 1, steps=steps)
        self._journal.note(Begun(index=index))
        if isinstance(operation, AcquireStack) and operation.stack.kind == "series":
            self.steering.series_begins(operation.stack.name, self._clock.now_ns())

    def restore(self, history: SteeringHistory) -> None:
        """Restore what was measured and chosen before an interruption."""
        self.steering.restore(history)
        for chosen in history.chosen:
            self._put_in_plan(chosen)

    async def _return_to(self, point: ResumePoint) -> None:
        """Bring the specimen to where it was, and acquire again what was lost there."""
        for held in point.unreported:
            self._heating.report_hold(held.hold, held.timing, held.achieved_s)
        if point.start_c is not None:
            self._out.event("info", "engine", f"back to {point.start_c:g} °C")
            await self._heating.go_back_to(point.start_c, point.rate_c_per_s)
        for index, indices in point.retakes:
            operation = self._plan.operations[index]
            assert isinstance(operation, AcquireStack)
            self.progress.expect(index)
            label = f"{operation.stack.name}: {len(indices)} frames again"
            self._out.event("info", "engine", label)
            await self._acquire(operation, indices)

    async def _carry_out(self, index: int, rest: RemainingWork) -> int:
        """Do what is left of an operation; returns the index of the one that follows."""
        following = index + 1
        match self._plan.operations[index]:
            case HeatTo() as heat:
                await self._heating.heat(heat, rest.done_s)
            case HoldAt() as hold:
                timing = await self._heating.hold(hold, rest)
                self.steering.held(hold.hold, timing)
                if self.follower is not None:
                    rise_k = hold.hold.target_c - hold.hold.standby_c
                    self.follower.held(rise_k, timing.achieved_s)
            case CalibrateHeight() as calibration:
                assert self._tracking is not None
                assert self.follower is not None
                await self._heating.settled(calibration.at_c)
                self.follower.use(self._plan.recipe.track or Track())
                await self._tracking.calibrate_height(calibration)
            case CalibrateShifts() as calibration:
                await self._heating.settled(calibration.at_c)
                await self._shifts.calibrate(calibration, rest.deflectors)
            case CalibratePixel() as calibration:
                await self._heating.settled(calibration.at_c)
                file = self._acquisition.beam.rig.pixel_calibration_file
                assert file is not None
                await self._pixel.calibrate(calibration, file)
            case AcquireStack() as stack:
                await self._acquire(stack, rest.frame_indices)
            case RampTo() as ramp:
                await self._ramp(ramp, rest)
            case Decide() as decision:
                goes_on = rest.goes_on
                if goes_on is None:
                    goes_on = await self.steering.go_on(decision)
                    self._journal.note(Decision(index=index, goes_on=goes_on))
                following += 0 if goes_on else decision.skip
            case ChooseHold() as operation:
                if not self._plan.is_chosen(operation.hold.index):
                    chosen = await self.steering.choose(operation)
                    self._journal.note(chosen)
                    self._put_in_plan(chosen)
        return following

    def _put_in_plan(self, chosen: Chosen) -> None:
        """Give a hold the length and temperature that were chosen."""
        self._plan = self._plan.with_hold(chosen.hold, chosen.hold_s, chosen.temperature_c)
        self.progress.plan = self._plan

    async def _acquire(self, operation: AcquireStack, indices: tuple[int, ...] | None) -> None:
        """Acquire frames of a stack: those named, or all."""
        stack = operation.stack
        if indices is not None and not indices:
            return
        await self._heating.settled(operation.at_c)
        exposure_s, most = self._plan.recipe.beam.exposure_s, self._out.most_at_a_time
        at_a_time = frames_per_trigger(stack.tilt_deg, exposure_s, most, indices)
        tracking, track = None, operation.track
        if self.follower is not None and stack.kind == "series":
            if track is None:
                self.follower.rest(stack.name)
            else:
                tracking = self._tracking
                self.follower.use(track)
        if tracking is not None:
            await tracking.settled(stack.name)
        for_scouts = 0.0 if track is None else track.scouts_e_per_nm2
        async with StackAcquisition(
            self._acquisition, stack, at_a_time, indices, for_scouts
        ) as acquisition:
            if tracking is not None:
                duration_s = self._plan.durations_s[self._plan.operations.index(operation)]
                tilts = [stack.tilt_deg[index] for index in acquisition.indices]
                await tracking.series_begins(stack.name, tilts, duration_s / stack.frames)
            before_deg = math.nan
            for first, tilt_deg in acquisition.triggers():
                await self._observer.between_exposures()
                await self._checkpoint()
                next_deg = tilt_deg
                if tilt_deg != before_deg and operation.until is not None:
                    if self._ends_here(operation, acquisition, first):
                        break
                    chosen_deg = self.steering.next_tilt_deg(stack.name, operation.until)
                    if chosen_deg is not None:
                        next_deg = acquisition.bring_forward(first, chosen_deg)
                before_deg = next_deg
                await self.stage.tilt(next_deg)
                if tracking is not None:
                    await tracking.before_exposure(acquisition, first, next_deg)
                await acquisition.expose(first)
            await self.stage.check()

    def _ends_here(
        self, operation: AcquireStack, acquisition: StackAcquisition, first: int
    ) -> bool:
        """Whether a series ends before an ordinal; then the rest of its frames is given up."""
        until, name = operation.until, operation.stack.name
        if until is None or not first or not self.steering.is_known_well(name, until):
            return False
        index = self._plan.operations.index(operation)
        self._journal.note(Decision(index=index, goes_on=False))
        self._out.left_out(name, acquisition.indices[first:])
        return True

    async def _ramp(self, ramp: RampTo, rest: RemainingWork) -> None:
        duration_s = ramp.duration_s - rest.done_s
        if ramp.stack is None or rest.frame_indices == ():
            await self._heating.start_ramp(ramp.to_c, duration_s)
        else:
            assert ramp.frame_every_s is not None
            acquiring = StackAcquisition(self._acquisition, ramp.stack, indices=rest.frame_indices)
            async with acquiring as acquisition:
                await self.stage.tilt(ramp.stack.tilt_deg[0])
                await self._heating.start_ramp(ramp.to_c, duration_s)
                for ordinal, index in enumerate(acquisition.indices):
                    due_s = index * ramp.frame_every_s - rest.done_s
                    await self._observer.between_exposures()
                    due_ns = self._heating.commanded_ns + int(due_s * 1e9)
                    await self._clock.sleep_until_ns(due_ns)
                    await acquisition.expose(ordinal)
                    await self.stage.check_if_due()
                await self.stage.check()
        await self._heating.settled(ramp.to_c, duration_s)


def _finished_before(rest: RemainingWork) -> FinishedMoments | None:
    """Moments of a hold of which nothing was left to do; None for anything else."""
    if rest.finished is None:
        return None
    return FinishedMoments(**asdict(rest.finished), achieved_s=max(0.0, rest.done_s))


def _end_if_cancelled() -> None:
    """End here after a stop, even if something that was awaited swallowed the cancellation."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
