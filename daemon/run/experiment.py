"""One run from start to end: recorder and analysis beside it, the engine in it, safety after it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...drivers.base import DeviceError, HeaterSample
from ...protocols.core.errors import BadInput
from ..resume.interrupted_run import InterruptedRun
from ..resume.resume_point import ResumePoint
from ..runtime.clock_record import keep_record
from ..runtime.processes import ChildFailed
from ..safety.topics import RunPrepared
from ..schedule.dose import DoseExceeded, DoseLedger
from ..schedule.plan import Plan
from ..schedule.states import State
from ..streaming.run_processes import Floats, RunProcesses, TrackerFiles
from ..streaming.run_streams import RunStreams
from .context import RunContext
from .engine import Engine
from .resumption import find_resume_point, restore
from .run_file_plan import new_manifest, tracking_path
from .run_notes import JournalFailed, RunNotes
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
    resume : InterruptedRun or None
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
        resume: InterruptedRun | None = None,
    ) -> None:
        self.plan, self.output, self._context, self._resume = plan, output, context, resume
        bus, clock, devices = context.bus, context.clock, context.devices
        self._processes = RunProcesses(
            context.hub,
            context.zmq_context,
            output,
            self._on_result,
            lambda: self.stop("failed", "the recorder died, nothing more can be recorded"),
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
        self._unsubscribe = bus.subscribe(HeaterSample, self._on_heater_sample)

    def _on_result(self, name: str, body: dict[str, Any], table: Floats | None) -> None:
        if name == "tracking" and self.engine.follower is not None:
            self.engine.follower.note(body)
            return
        steering, series = self.engine.steering, str(body.get("series"))
        steering.note_live(name, series, body.get("parameters"))
        for measured in steering.note_result(name, series, table):
            self._journal.note(measured)

    def _on_heater_sample(self, sample: HeaterSample) -> None:
        self.engine.steering.heated(sample.t_ns, sample.temperature_c)

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
            "frames_extra": progress.frames_extra,
            "frames": self.plan.frames,
            "dose_e_per_nm2": self.ledger.charged,
            "dose_limit_e_per_nm2": self.plan.recipe.limits.dose_e_per_nm2,
            "eta_s": round(progress.remaining_s, 1),
            "waiting_for_credit": progress.waiting_for_credit,
            "resumed": 0 if resume is None else resume.history.resumed + 1,
            "losses": {"recorder": {"frames": progress.frames_lost}, **self.streams.losses()},
            "tracking": self.engine.tracking_status,
            **self._processes.status(),
        }

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
                record = keep_record(
                    self._context.clock, lambda pair: self.streams.clock_pair(asdict(pair))
                )
                clock_record = asyncio.create_task(record, name="clock record")
                machine.to(State.RUNNING)
                outcome = await self._unless_stopped(self.engine.run(self._point))
            outcome = await self._finish(outcome)
            self.closing = True
            outcome = await self.close_file(outcome)
            await self._journal.close(remove=outcome.status == "complete")
            if outcome.status == "complete":
                tracking_path(self.output).unlink(missing_ok=True)
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
            outcome = await self._unless_stopped(self._safing.rest())
        if outcome is not None:
            await self._make_safe(outcome)
            return outcome
        await self._processes.tracker_ends()
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
        task = asyncio.create_task(work, name="work of a run")
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
        known = DoseExceeded | JournalFailed | DeviceError | ChildFailed | BadInput
        if isinstance(error, known):
            return Outcome("failed", str(error), error)
        return Outcome("failed", f"unexpected: {error!r}", error)

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
        for text in self.plan.warnings(self._context.rig):
            self._context.bus.event("warning", "engine", text)
        # Before anything else: a beam that was left on is charged up to here.
        await devices.beam.blank()
        context, resume, point = self._context, self._resume, self._point
        if resume is not None:
            point = self._point = await find_resume_point(resume, self.plan, context)
        await self.open()
        self._journal.open(self.run_id, point)
        if resume is not None and point is not None:
            restore(resume, point, self.plan, context, self.engine, self.ledger)
            await self.streams.send_recorded(resume.headers(point))
        self._context.bus.publish(RunPrepared(self.output))
        await devices.beam.prepare(self.plan.recipe.beam)
        if self.engine.follower is not None:
            later = self.plan.calibrates_shifts_first
            await self.engine.follower.prepare(calibrated_later=later)

    async def open(self) -> None:
        """Start recorder and analysis; see `RunProcesses.open`."""
        point = self._point
        tracker = None
        if self.engine.follower is not None:
            rig = self._context.rig
            cone = None if rig.beam.focus is None else rig.beam.focus.convergence_mrad
            tracker = TrackerFiles(tracking_path(self.output), rig.goniometer_file, cone)
        interruption = None if point is None else point.interruption
        await self._processes.open(self.manifest, interruption, tracker)

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
        self._unsubscribe()
        await self._processes.close()
        await self._journal.close(remove=False)
        self._context.hub.stamper.run = None
        if not self._stop.done():
            self._stop.cancel()
