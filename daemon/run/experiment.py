"""One run from start to end: recorder and analysis beside it, the engine in it, safety after it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq.asyncio

from ... import __version__
from ...drivers.base import DeviceError
from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock, iso_utc
from ...protocols.core.errors import BadInput
from ...protocols.messages.journal import MadeSafe, Necks, RunLine
from ...protocols.messages.manifest import RunManifest
from ..resume.interrupted_run import Interrupted
from ..resume.remaining import Now
from ..resume.resume_point import ResumePoint
from ..resume.run_journal import NoNotes, RunJournal, journal_path
from ..runtime.processes import ChildFailed
from ..safety.devices import Devices, SafingStep
from ..schedule.dose import DoseExceeded, DoseLedger
from ..schedule.plan import Plan
from ..schedule.states import State, StateMachine
from ..streaming.publisher import Publisher
from ..streaming.run_streams import RunStreams
from .clock_record import ClockPair, keep_record
from .engine import Engine, ExperimentFailed
from .heater_watch import PROGRESS_TIMEOUT_S, HeaterWatch

DAEMON_CHANNELS = {
    "loop_lag_s": "s",
    "backlog_frames": "",
    "staleness_s": "s",
    "dose_e_per_nm2": "e/nm^2",
}
# Wall seconds in which work that was stopped should be over.
LEAVING_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `status` is the file's: complete, aborted or failed."""

    status: str
    reason: str = ""
    error: BaseException | None = None


def _nothing() -> None:
    """Nobody wants to know."""


class Experiment:
    """One run.

    Parameters
    ----------
    plan, rig
        What to do, with what.
    texts : tuple of str
        The recipe and the rig as they were written, for the file.
    output : Path
        The run file; must not exist.
    devices : Devices
        Connected.
    identities : dict
        What they say they are.
    watch : HeaterWatch
        Following the heater.
    publisher : Publisher
        The monitor.
    machine : StateMachine
        In state idle.
    clock : ExperimentClock
        The one clock.
    simulated : bool
        Whether no real hardware is behind the devices.
    context : zmq.asyncio.Context
        Of the link to recorder and analysis.
    rig_file : str or None
        Where the rig was read.
    interrupted : Interrupted or None
        The run that goes on, whose file is `output`; None for a new one.
    """

    def __init__(
        self,
        plan: Plan,
        rig: Rig,
        texts: tuple[str, str],
        output: Path,
        devices: Devices,
        identities: dict[str, str],
        watch: HeaterWatch,
        publisher: Publisher,
        machine: StateMachine,
        clock: ExperimentClock,
        simulated: bool,
        context: zmq.asyncio.Context,
        rig_file: str | None = None,
        interrupted: Interrupted | None = None,
    ) -> None:
        self.plan, self.rig, self.output = plan, rig, output
        self.devices, self.watch = devices, watch
        self.machine, self.clock = machine, clock
        self._publisher = publisher
        self.streams = RunStreams(
            publisher,
            context,
            rig.detector.driver,
            output,
            self._on_result,
            self._on_recorder_death,
        )
        # Whoever has something to say of this run says it to everyone.
        self.event = self.streams.event
        started_ns = clock.now_ns()
        self._interrupted = interrupted
        self._point: ResumePoint | None = None
        self._journal: RunJournal | None = None
        limits = plan.recipe.limits
        self.ledger = DoseLedger(limits.dose_e_per_nm2, limits.dose_per_series_e_per_nm2)
        self.engine = Engine(plan, devices, watch, self.ledger, machine, clock, self.streams)
        self.manifest = RunManifest(
            run=f"{iso_utc(started_ns)[:19].replace(':', '')}-{secrets.token_hex(3)}",
            title=plan.recipe.title,
            software=f"pyrotome {__version__}",
            started_ns=started_ns,
            speed=clock.speed,
            simulated=simulated,
            recipe_text=texts[0],
            rig_text=texts[1],
            rig_name=rig.name,
            rig_file=rig_file,
            sample=plan.recipe.sample,
            beam=plan.recipe.beam,
            detector=rig.detector.driver,
            instruments=identities,
            value_offset=rig.detector.value_offset,
            frame_dtype=devices.detector.dtype,
            stacks=plan.stacks,
            holds=plan.holds,
            holds_before=plan.holds_before,
            telemetry={**devices.channels(), "daemon": DAEMON_CHANNELS},
            analysis=tuple(plan.recipe.analysis),
        )
        if interrupted is not None:
            self.manifest = interrupted.manifest
            self.engine.frames_done = interrupted.frames
            self.ledger.restore(interrupted.history.charged)
        self.run_id = self.manifest.run
        self._stop: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._give_up_analysis = asyncio.Event()
        self.outcome: Outcome | None = None
        self.safe_confirmed = True
        # Whether nothing is left to do with the devices.
        self.closing = False
        self.on_prepared: Callable[[], None] = _nothing
        self._leaving: asyncio.Future[Any] | None = None

    def _on_result(self, name: str, body: dict[str, Any]) -> None:
        if name == "necks":
            ratio = body.get("parameters", {}).get("neck_ratio_median")
            known = ratio if isinstance(ratio, int | float) else None
            self.engine.steering.note(str(body.get("series")), known)
            self.engine.journal.note(Necks(series=str(body.get("series")), ratio=known))

    def _on_recorder_death(self) -> None:
        self.stop("failed", "the recorder died, nothing more can be recorded")

    # --- control --------------------------------------------------------------------------------

    def stop(self, status: str, reason: str, error: BaseException | None = None) -> None:
        """End the run early, safely; the first reason given is the one that counts."""
        self._give_up_analysis.set()
        if not self._stop.done():
            self._stop.set_result(Outcome(status, reason, error))

    def status(self) -> dict[str, Any]:
        """What a person wants to know, as JSON."""
        engine, latest = self.engine, self.watch.latest
        position, interrupted = engine.position, self._interrupted
        return {
            "run": self.run_id,
            "title": self.plan.recipe.title,
            "file": str(self.output),
            "state": str(self.machine.state),
            "pause_requested": engine.pause_requested,
            "step": engine.operation.label if engine.operation else None,
            "step_index": engine.step_number,
            "steps": len(self.plan.operations),
            "temperature_c": latest.temperature_c if latest else None,
            "setpoint_c": latest.setpoint_c if latest else None,
            "tilt_deg": position.tilt_deg if position else None,
            "frames_done": engine.frames_done,
            "frames_lost": engine.frames_lost,
            "frames": self.plan.frames,
            "dose_e_per_nm2": self.ledger.charged,
            "dose_limit_e_per_nm2": self.plan.recipe.limits.dose_e_per_nm2,
            "eta_s": round(engine.remaining_s(), 1),
            "waiting_for_credit": engine.waiting_for_credit,
            "resumed": 0 if interrupted is None else interrupted.history.resumed + 1,
            **self.streams.status(),
        }

    def losses(self) -> dict[str, dict[str, int]]:
        """What each consumer of frames has gone without, counted since the run began."""
        return {"recorder": {"frames": self.engine.frames_lost}, **self.streams.losses()}

    # --- the run --------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        """Prepare, carry out the plan, finish; or make everything safe and say why.

        Returns
        -------
        Outcome
            Never raises for what can go wrong in an experiment: the outcome holds the error.
        """
        self.machine.to(State.PREPARING)
        self._publisher.run = self.run_id
        clock_record: asyncio.Task[None] | None = None
        try:
            outcome = await self._guarded(self._prepare())
            if outcome is None:
                clock_record = asyncio.create_task(keep_record(self.clock, self._record_clock))
                self.machine.to(State.RUNNING)
                outcome = await self._guarded(self.engine.run(self._point))
            if outcome is None:
                self.machine.to(State.FINISHING)
                outcome = await self._guarded(self._rest_devices())
            if outcome is not None:
                await self._make_safe(outcome)
            else:
                outcome = Outcome("complete")
                await self.streams.analysis_catches_up(self._give_up_analysis)
                if self._stop.done():
                    # Everything is taken; but whoever stops now wants to see it safe.
                    stopped = self._stop.result()
                    await self._make_safe(stopped)
                    outcome = stopped if stopped.status == "failed" else outcome
            self.closing = True
            outcome = await self.close_file(outcome)
            await self._close_journal(remove=outcome.status == "complete")
            self.outcome = outcome
            if self.machine.state in (State.FINISHING, State.SAFING):
                self.machine.to(State.IDLE if self.safe_confirmed else State.PANICKED)
            return outcome
        except BaseException:
            if not self.closing:
                # Whatever this is: nobody else will look after the heater.
                self.safe_confirmed = await self.devices.make_safe(lambda _: None, self._left)
            raise
        finally:
            if clock_record is not None:
                clock_record.cancel()
                await asyncio.gather(clock_record, return_exceptions=True)
            await self.close()

    async def _guarded(self, work: Any) -> Outcome | None:
        """Do some work until it is done or the run is to stop; the outcome if it must end."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.stop("aborted", "the daemon is stopping")
        if self._stop.done():
            # Not waited for: what it still has to do must not keep the heater from safety.
            task.cancel()
            self._leaving = task
            return self._stop.result()
        error = task.exception()
        if error is None:
            return None
        known = DoseExceeded | ExperimentFailed | DeviceError | ChildFailed | BadInput
        if isinstance(error, known):
            return Outcome("failed", str(error), error)
        return Outcome("failed", f"unexpected: {error!r}", error)

    async def _prepare(self) -> None:
        low, high = await self.devices.stage.tilt_limits_deg()
        for stack in self.plan.stacks:
            for angle in (min(stack.tilt_deg), max(stack.tilt_deg)):
                if not low <= angle <= high:
                    raise BadInput(
                        f"recipe: {stack.name}",
                        f"an angle of {angle:g} deg is beyond what the stage itself allows, "
                        f"{low:g} to {high:g} deg",
                    )
        # Before anything else: a beam that was left on is charged up to here.
        await self.devices.beam.blank()
        if self._interrupted is not None:
            self._point = await self._where_to_go_on(self._interrupted)
        await self.open()
        self._open_journal()
        if self._interrupted is not None and self._point is not None:
            await self._take_up(self._interrupted, self._point)
        self.on_prepared()
        await self.devices.beam.prepare(self.plan.recipe.beam)

    async def _where_to_go_on(self, interrupted: Interrupted) -> ResumePoint:
        if self.devices.detector.dtype != self.manifest.frame_dtype:
            raise BadInput(
                str(self.output),
                f"has frames of {self.manifest.frame_dtype}, the detector now sends "
                f"{self.devices.detector.dtype}",
            )
        now_ns, limits = self.clock.now_ns(), self.rig.heater.limits
        deadline_ns = now_ns + int(PROGRESS_TIMEOUT_S * 1e9)
        sample = await self.watch.next_sample(now_ns, "its first reading", deadline_ns)
        return interrupted.point(
            self.plan,
            Now(sample.t_ns, sample.temperature_c, limits.tolerance_c, limits.rate_c_per_s),
        )

    def _open_journal(self) -> None:
        resumed = self._point
        try:
            journal = RunJournal(
                self.output,
                self.clock,
                lambda level, text: self.event(level, "journal", text),
                resumed is not None,
            )
        except OSError as error:
            raise ExperimentFailed(
                f"{journal_path(self.output)} cannot be written: {error.strerror}; without it "
                "the run could not be resumed"
            ) from None
        self._journal = self.engine.journal = journal
        if resumed is None:
            journal.note(RunLine(run=self.run_id))
            return
        if resumed.cut_off is not None:
            journal.note(resumed.cut_off)
        journal.note(RunLine(run=self.run_id, resumed=resumed.resumed, carried=resumed.carried))

    async def _close_journal(self, remove: bool) -> None:
        journal, self._journal = self._journal, None
        self.engine.journal = NoNotes()
        if journal is not None:
            await journal.close(remove)

    async def _take_up(self, interrupted: Interrupted, point: ResumePoint) -> None:
        """Tell everyone how the run goes on, and the analysis what there is already."""
        engine, gap = self.engine, point.interruption
        self.ledger.restore(point.charged)
        engine.steering.restore(point.necks)
        engine.expect(point.index)
        engine.frames_lost = sum(map(len, point.missing.values()))
        operations = self.plan.operations
        rest = operations[point.index].label if point.index < len(operations) else "the end"
        self.event(
            "warning",
            "engine",
            f"resumed after {(gap.until_ns - gap.from_ns) * 1e-9:.1f} s ({gap.reason}); "
            f"{interrupted.frames} of {self.plan.frames} frames are there, goes on with {rest}",
            resumed=point.resumed,
            interruption=gap.model_dump(),
        )
        for problem in (*interrupted.problems, *point.problems):
            self.event("warning", "engine", problem)
        await self.streams.tell_recorded(interrupted.headers(point))

    async def open(self) -> None:
        """Start recorder and analysis; see `RunStreams.open`."""
        point = self._point
        await self.streams.open(self.manifest, point.interruption if point is not None else None)

    async def close_file(self, outcome: Outcome) -> Outcome:
        """Let the recorder finish the file; the outcome is a failure if it cannot.

        The frames of a whole run are worth waiting for until there is room, or somebody stops it:
        beam and heater are safe. A run that ends early must not wait for a disk.
        """
        problem = await self.streams.close_file(
            outcome.status,
            outcome.reason,
            self.clock.now_ns(),
            self.ledger.charged,
            patient=lambda: outcome.status == "complete" and not self._stop.done(),
        )
        return outcome if problem is None else Outcome("failed", problem)

    def _record_clock(self, pair: ClockPair) -> None:
        self.event(
            "info",
            "clock",
            "clock reading",
            clock={
                "monotonic_ns": pair.monotonic_ns,
                "utc_ns": pair.utc_ns,
                "uncertainty_ns": pair.uncertainty_ns,
                "experiment_ns": pair.experiment_ns,
            },
        )

    async def _rest_devices(self) -> None:
        await self.devices.beam.make_safe()
        await self.devices.heater.make_safe()
        self.event("info", "engine", "acquisition complete, beam blanked, heater at its safe level")

    async def _make_safe(self, outcome: Outcome) -> None:
        self.machine.to(State.SAFING)
        self.event("warning", "engine", f"making safe: {outcome.reason}")
        self.safe_confirmed = await self.devices.make_safe(self._safing_step, self._left)
        if not self.safe_confirmed:
            self.event("error", "engine", "beam or heater not confirmed safe: look at them now")

    async def _left(self) -> None:
        """Wait until the work that was stopped is over."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            await asyncio.wait([leaving], timeout=LEAVING_TIMEOUT_S)
            if leaving.done() and not leaving.cancelled():
                leaving.exception()  # whatever it still met is not why the run ends

    def _safing_step(self, step: SafingStep) -> None:
        self.event(step.level, "safing", step.text, took_s=step.took_s)
        if step.confirmed:
            self._note_safe(step)

    def _note_safe(self, step: SafingStep) -> None:
        now_ns = self.clock.now_ns()
        begun_ns = now_ns - int(step.took_s * self.clock.speed * 1e9)
        if step.role == "beam":
            self.engine.journal.note(MadeSafe(beam_blanked_ns=now_ns))
        elif step.role == "heater":
            sent_ns = max(begun_ns, self.devices.heater.safe_sent_ns or 0)
            note = MadeSafe(heater_commanded_ns=sent_ns, heater_safe_ns=now_ns)
            self.engine.journal.note(note)

    async def close(self) -> None:
        """End the processes and the link; harmless after a run."""
        await self.streams.close()
        await self._close_journal(remove=False)
        self._publisher.run = None
        if not self._stop.done():
            self._stop.cancel()


def new_output(path: Path | None, title: str, folder: Callable[[], Path] = Path.cwd) -> Path:
    """Where the run file goes: the path asked for, or a name made of the title.

    Raises
    ------
    BadInput
        If it exists or cannot be created there. Nothing is ever overwritten.
    """
    if path is None:
        stem = "".join(c if c.isalnum() else "_" for c in title.lower()).strip("_")[:60] or "run"
        path = folder() / f"{stem}.nxs"
        number = 1
        while path.exists() or journal_path(path).exists():
            number += 1
            path = folder() / f"{stem}-{number}.nxs"
    path = path.absolute()
    if path.exists():
        raise BadInput(str(path), "exists already; nothing is overwritten, name another file")
    if journal_path(path).exists():
        raise BadInput(
            str(journal_path(path)),
            "exists already: the journal of an interrupted run whose file is gone; move it away, "
            "or name another file",
        )
    if not path.parent.is_dir():
        raise BadInput(str(path), "its folder does not exist; make it first")
    return path
