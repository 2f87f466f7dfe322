"""One run from start to end: recorder and analysis beside it, the engine in it, safety after it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...drivers.base import DeviceError
from ...protocols.core.errors import BadInput
from ...protocols.messages.journal import Necks, RunLine
from ..resume.interrupted_run import Interrupted
from ..resume.remaining import Now
from ..resume.resume_point import ResumePoint
from ..resume.run_journal import journal_path
from ..runtime.event_bus import Event
from ..runtime.processes import ChildFailed
from ..safety.topics import RunPrepared
from ..schedule.dose import DoseExceeded, DoseLedger
from ..schedule.plan import Plan
from ..schedule.states import State
from ..streaming.run_processes import RunProcesses
from ..streaming.run_streams import RunStreams
from .clock_record import ClockPair, keep_record
from .context import RunContext
from .engine import Engine, ExperimentFailed
from .heater_watch import PROGRESS_TIMEOUT_S
from .run_file_plan import new_manifest
from .run_notes import RunNotes
from .run_safing import RunSafing


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `status` is that of the file: complete, aborted or failed."""

    status: str
    reason: str = ""
    error: BaseException | None = None


class Experiment:
    """One run.

    Parameters
    ----------
    plan : Plan
        What to do.
    recipe_text : str
        The recipe as it was written, for the file.
    output : Path
        The run file; must not exist, unless a run is resumed.
    context : RunContext
        Rig, devices, clock and streams of the daemon; its state machine is idle.
    resume : Interrupted or None
        The interrupted run to resume, whose file is `output`; None for a new run.

    Attributes
    ----------
    outcome : Outcome or None
        How the run ended; None before.
    closing : bool
        Whether nothing is left to do with the devices.
    safe_confirmed : bool
        Whether beam and heater confirmed that they are safe, if they had to be made so.
    """

    def __init__(
        self,
        plan: Plan,
        recipe_text: str,
        output: Path,
        context: RunContext,
        resume: Interrupted | None = None,
    ) -> None:
        self.plan, self.output, self._context, self._resume = plan, output, context, resume
        bus, clock, devices = context.bus, context.clock, context.devices
        self._processes = RunProcesses(
            context.hub, context.zmq_context, output, self._on_result, self._on_recorder_death
        )
        self.streams = RunStreams(context.hub, self._processes.link, context.rig.detector.driver)
        limits = plan.recipe.limits
        self.ledger = DoseLedger(limits.dose_e_per_nm2, limits.dose_per_series_e_per_nm2)
        self._journal = RunNotes(
            output, clock, lambda level, text: bus.event(level, "journal", text)
        )
        self._safing = RunSafing(devices, clock, bus, self._journal)
        self.engine = Engine(
            plan, devices, context.watch, self.ledger, context.machine, clock, self.streams,
            self._journal, context.observer,
        )  # fmt: skip
        if resume is None:
            self.manifest = new_manifest(plan, recipe_text, context)
        else:
            self.manifest = resume.manifest
            self.engine.progress.frames_done = resume.frames
            self.ledger.restore(resume.history.charged)
        self.run_id = self.manifest.run
        self._point: ResumePoint | None = None
        self._stop: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._give_up_analysis = asyncio.Event()
        self.outcome: Outcome | None = None
        self.safe_confirmed = True
        self.closing = False

    def _on_result(self, name: str, body: dict[str, Any]) -> None:
        if name == "necks":
            ratio = body.get("parameters", {}).get("neck_ratio_median")
            known = ratio if isinstance(ratio, int | float) else None
            self.engine.steering.note(str(body.get("series")), known)
            self._journal.note(Necks(series=str(body.get("series")), ratio=known))

    def _on_recorder_death(self) -> None:
        self.stop("failed", "the recorder died, nothing more can be recorded")

    # --- control --------------------------------------------------------------------------------

    def stop(self, status: str, reason: str, error: BaseException | None = None) -> None:
        """End the run early, safely; the first reason given is the one that counts."""
        self._give_up_analysis.set()
        if not self._stop.done():
            self._stop.set_result(Outcome(status, reason, error))

    @property
    def pause_requested(self) -> bool:
        """Whether a pause has been requested."""
        return self.engine.pause_requested

    def pause(self) -> None:
        """Pause at the next standby."""
        self.engine.pause()

    def status(self) -> dict[str, Any]:
        """The run's part of the daemon's status, as JSON."""
        progress, latest = self.engine.progress, self._context.watch.latest
        position, resume = self.engine.stage.position, self._resume
        return {
            "run": self.run_id,
            "title": self.plan.recipe.title,
            "file": str(self.output),
            "state": str(self._context.machine.state),
            "pause_requested": self.engine.pause_requested,
            "step": progress.operation.label if progress.operation else None,
            "step_index": progress.step_number,
            "steps": len(self.plan.operations),
            "temperature_c": latest.temperature_c if latest else None,
            "setpoint_c": latest.setpoint_c if latest else None,
            "tilt_deg": position.tilt_deg if position else None,
            "frames_done": progress.frames_done,
            "frames_lost": progress.frames_lost,
            "frames": self.plan.frames,
            "dose_e_per_nm2": self.ledger.charged,
            "dose_limit_e_per_nm2": self.plan.recipe.limits.dose_e_per_nm2,
            "eta_s": round(progress.remaining_s, 1),
            "waiting_for_credit": progress.waiting_for_credit,
            "resumed": 0 if resume is None else resume.history.resumed + 1,
            **self._processes.status(),
        }

    def losses(self) -> dict[str, dict[str, int]]:
        """What each consumer of frames has missed since the run began."""
        return {"recorder": {"frames": self.engine.progress.frames_lost}, **self.streams.losses()}

    # --- the run --------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Prepare, carry out the plan, finish; or make everything safe and say why.

        Returns
        -------
        Outcome
            Never raises for what can go wrong in an experiment: the outcome holds the error.
        """
        machine = self._context.machine
        machine.to(State.PREPARING)
        self._context.hub.stamper.run = self.run_id
        clock_record: asyncio.Task[None] | None = None
        try:
            outcome = await self._unless_stopped(self._prepare())
            if outcome is None:
                record = keep_record(self._context.clock, self._record_clock)
                clock_record = asyncio.create_task(record, name="clock record")
                machine.to(State.RUNNING)
                outcome = await self._unless_stopped(self.engine.run(self._point))
            outcome = await self._finish(outcome)
            self.closing = True
            outcome = await self.close_file(outcome)
            await self._journal.close(remove=outcome.status == "complete")
            self.outcome = outcome
            if machine.state in (State.FINISHING, State.SAFING):
                machine.to(State.IDLE if self.safe_confirmed else State.PANICKED)
            return outcome
        except BaseException:
            if not self.closing:
                # Whatever went wrong here: the heater must not stay hot.
                self.safe_confirmed = await self._safing.make_safe_silently()
            raise
        finally:
            if clock_record is not None:
                clock_record.cancel()
                await asyncio.gather(clock_record, return_exceptions=True)
            await self.close()

    async def _finish(self, outcome: Outcome | None) -> Outcome:
        """Bring the devices to rest and let the analysis catch up; or make everything safe."""
        if outcome is None:
            self._context.machine.to(State.FINISHING)
            outcome = await self._unless_stopped(self._rest_devices())
        if outcome is not None:
            await self._make_safe(outcome)
            return outcome
        await self._processes.analysis_catches_up(self._give_up_analysis)
        if not self._stop.done():
            return Outcome("complete")
        # Everything is acquired; but a stop now is a request to see it safe.
        stopped = self._stop.result()
        await self._make_safe(stopped)
        return stopped if stopped.status == "failed" else Outcome("complete")

    async def _make_safe(self, outcome: Outcome) -> None:
        self._context.machine.to(State.SAFING)
        self.safe_confirmed = await self._safing.make_safe(outcome.reason)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> Outcome | None:
        """Do some work until it is done or the run is to stop; the outcome if it must end."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.stop("aborted", "the daemon is stopping")
        if self._stop.done():
            task.cancel()
            self._safing.leave(task)
            return self._stop.result()
        error = task.exception()
        if error is None:
            return None
        known = DoseExceeded | ExperimentFailed | DeviceError | ChildFailed | BadInput
        if isinstance(error, known):
            return Outcome("failed", str(error), error)
        return Outcome("failed", f"unexpected: {error!r}", error)

    async def _rest_devices(self) -> None:
        devices = self._context.devices
        await devices.beam.make_safe()
        await devices.heater.make_safe()
        text = "acquisition complete, beam blanked, heater at its safe level"
        self._context.bus.event("info", "engine", text)

    def _record_clock(self, pair: ClockPair) -> None:
        readings = asdict(pair)
        self.streams.clock_pair(readings)
        details = {"clock": readings}
        self._context.bus.publish(Event("info", "clock", "clock reading", details, recorded=False))

    # --- preparation ----------------------------------------------------------------------------

    async def _prepare(self) -> None:
        devices = self._context.devices
        low, high = await devices.stage.tilt_limits_deg()
        for stack in self.plan.stacks:
            for angle in (min(stack.tilt_deg), max(stack.tilt_deg)):
                if not low <= angle <= high:
                    raise BadInput(
                        f"recipe: {stack.name}",
                        f"an angle of {angle:g} deg is beyond what the stage itself allows, "
                        f"{low:g} to {high:g} deg",
                    )
        # Before anything else: a beam that was left on is charged up to here.
        await devices.beam.blank()
        if self._resume is not None:
            self._point = await self._find_resume_point(self._resume)
        await self.open()
        self._open_journal(self._point)
        if self._resume is not None and self._point is not None:
            await self._restore(self._resume, self._point)
        self._context.bus.publish(RunPrepared(self.output))
        await devices.beam.prepare(self.plan.recipe.beam)

    async def _find_resume_point(self, interrupted: Interrupted) -> ResumePoint:
        """Where the run continues, from its journal, its file and the present temperature."""
        context, dtype = self._context, self._context.devices.detector.dtype
        if dtype != self.manifest.frame_dtype:
            raise BadInput(
                str(self.output),
                f"has frames of {self.manifest.frame_dtype}, the detector now sends {dtype}",
            )
        now_ns, limits = context.clock.now_ns(), context.rig.heater.limits
        deadline_ns = now_ns + int(PROGRESS_TIMEOUT_S * 1e9)
        sample = await context.watch.next_sample(now_ns, "its first reading", deadline_ns)
        return interrupted.point(
            self.plan,
            Now(sample.t_ns, sample.temperature_c, limits.tolerance_c, limits.rate_c_per_s),
        )

    def _open_journal(self, resumed: ResumePoint | None) -> None:
        journal = self._journal
        try:
            journal.open(resumed is not None)
        except OSError as error:
            raise ExperimentFailed(
                f"{journal_path(self.output)} cannot be written: {error.strerror}; without it "
                "the run could not be resumed"
            ) from None
        if resumed is None:
            journal.note(RunLine(run=self.run_id))
            return
        if resumed.cut_off is not None:
            journal.note(resumed.cut_off)
        journal.note(RunLine(run=self.run_id, resumed=resumed.resumed, carried=resumed.carried))

    async def _restore(self, interrupted: Interrupted, point: ResumePoint) -> None:
        """Restore dose, measurements and progress, and say where the run continues."""
        engine, event = self.engine, self._context.bus.event
        self.ledger.restore(point.charged)
        engine.steering.restore(point.necks)
        engine.progress.expect(point.index)
        engine.progress.frames_lost = sum(map(len, point.missing.values()))
        operation, gap = engine.progress.operation, point.interruption
        event(
            "warning",
            "engine",
            f"resumed after {(gap.until_ns - gap.from_ns) * 1e-9:.1f} s ({gap.reason}); "
            f"{interrupted.frames} of {self.plan.frames} frames are recorded, continues with "
            f"{operation.label if operation is not None else 'the end'}",
            resumed=point.resumed,
            interruption=gap.model_dump(),
        )
        for problem in (*interrupted.problems, *point.problems):
            event("warning", "engine", problem)
        await self.streams.send_recorded(interrupted.headers(point))

    async def open(self) -> None:
        """Start recorder and analysis; see `RunProcesses.open`."""
        point = self._point
        await self._processes.open(self.manifest, None if point is None else point.interruption)

    # --- end ------------------------------------------------------------------------------------

    async def close_file(self, outcome: Outcome) -> Outcome:
        """Let the recorder finish the file; the outcome is a failure if it cannot.

        A complete run waits for a full disk until there is room or the run is stopped: beam and
        heater are safe. A run that ends early does not wait for a disk.
        """
        await self.streams.close()
        problem = await self._processes.close_file(
            outcome.status,
            outcome.reason,
            self._context.clock.now_ns(),
            self.ledger.charged,
            patient=lambda: outcome.status == "complete" and not self._stop.done(),
        )
        return outcome if problem is None else Outcome("failed", problem)

    async def close(self) -> None:
        """End the processes and the link; harmless when called again."""
        await self._processes.close()
        await self._journal.close(remove=False)
        self._context.hub.stamper.run = None
        if not self._stop.done():
            self._stop.cancel()
