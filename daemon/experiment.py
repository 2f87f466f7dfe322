"""One run from start to end: recorder and analysis beside it, the engine in it, safety after it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq.asyncio
from pydantic import BaseModel

from .. import __version__
from ..drivers.base import DeviceError, FrameData
from ..protocols.bitshuffle import ENCODING, Chunk
from ..protocols.journal import MadeSafe, Necks, RunLine
from ..protocols.link import ANALYSIS, RECORDER
from ..protocols.loading import BadInput
from ..protocols.manifest import RunManifest
from ..protocols.messages import BadMessage, Message, array_of, telemetry_topic
from ..protocols.process import AnalysisConfig, RecorderConfig
from ..protocols.rig import Rig
from ..protocols.timebase import ExperimentClock, iso_utc
from .children import Child, ChildFailed
from .clock import ClockPair, keep_record
from .devices import Devices, SafingStep
from .dose import DoseExceeded, DoseLedger
from .engine import Engine, ExperimentFailed
from .heating import PROGRESS_TIMEOUT_S, HeaterWatch
from .interrupted import Interrupted
from .journal import NoNotes, RunJournal, journal_path
from .outlet import Consumer, Outlet
from .plan import Plan
from .publisher import Publisher
from .remains import Now
from .resuming import ResumePoint
from .states import State, StateMachine
from .views import FrameViews

DAEMON_CHANNELS = {
    "loop_lag_s": "s",
    "backlog_frames": "",
    "staleness_s": "s",
    "dose_e_per_nm2": "e/nm^2",
}
# Wall seconds that a closing recorder is given before the run is called failed.
CLOSING_TIMEOUT_S = 120.0
# For a run that ends early, while the recorder says that the disk takes nothing.
FULL_DISK_TIMEOUT_S = 10.0
# Wall seconds in which work that was stopped should be over.
LEAVING_TIMEOUT_S = 20.0
# An analysis that works says so twice a second; one silent for this long is given up at the end.
SILENT_ANALYSIS_S = 10.0


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
        self._publisher, self._context = publisher, context
        self._detector = rig.detector.driver
        started_ns = clock.now_ns()
        self._interrupted = interrupted
        self._point: ResumePoint | None = None
        self._journal: RunJournal | None = None
        limits = plan.recipe.limits
        self.ledger = DoseLedger(limits.dose_e_per_nm2, limits.dose_per_series_e_per_nm2)
        self.engine = Engine(plan, devices, watch, self.ledger, machine, clock, self)
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
            detector=self._detector,
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
        self._outlet: Outlet | None = None
        self._children: dict[str, Child] = {}
        self._stop: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._give_up_analysis = asyncio.Event()
        self._views = FrameViews(
            publisher, f"preview/{self._detector}", lambda text: self.event("error", "engine", text)
        )
        self.outcome: Outcome | None = None
        self.safe_confirmed = True
        # Whether nothing is left to do with the devices.
        self.closing = False
        self.on_prepared: Callable[[], None] = _nothing
        self._leaving: asyncio.Future[Any] | None = None

    # --- what the engine sends (see engine.Outgoing) -------------------------------------------

    @property
    def most_at_a_time(self) -> int:
        """Frames for which credit can be had at once."""
        return self._outlet.most_at_a_time if self._outlet is not None else 1

    async def credit(self, frames: int = 1) -> None:
        """Wait until the recorder can take so many frames."""
        outlet = self._outlet
        if outlet is None or not (waiting := outlet.waiting_for(frames)):
            return
        why = "; ".join(f"{name}: {what}" for name, what in waiting.items())
        self.event("warning", "engine", f"waiting at standby for {why}", waiting_for=waiting)
        await outlet.credit(frames)
        self.event("info", "engine", f"no longer waiting for {', '.join(waiting)}")

    def frame(self, header: dict[str, Any], data: FrameData | None, t_ns: int) -> None:
        """Send a frame, or the notice of a lost one, to everyone.

        Recorder and analysis get the pixels as the detector sent them, monitors get them raw.
        """
        topic = f"frame/{self._detector}"
        if data is None:
            message = self._publisher.stamp(topic, "frame", {**header, "lost": True}, (), t_ns)
        elif isinstance(data, Chunk):
            pixels = {"shape": list(data.shape), "dtype": data.dtype, "encoding": ENCODING}
            message = self._publisher.stamp(topic, "frame", header | pixels, (data.raw,), t_ns)
        else:
            pixels = {"shape": list(data.shape), "dtype": data.dtype.name}
            message = self._publisher.stamp(topic, "frame", header | pixels, (data,), t_ns)
        self._all(message, frame=True)
        self._views.show(message, data)

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        """Send a reading to monitors and recorder."""
        body = {"device": device, "values": values}
        message = self._publisher.publish(telemetry_topic(device), "telemetry", body, t_ns=t_ns)
        self.record(message)

    def event(self, level: str, source: str, message: str, **more: Any) -> None:
        """Send an event to everyone."""
        body = {"level": level, "source": source, "message": message, **more}
        self._all(self._publisher.publish("event", "event", body))

    def record(self, message: Message) -> None:
        """Send a message that was published to the recorder."""
        if self._outlet is not None:
            self._outlet.send_only(RECORDER, message)

    def _all(self, message: Message, frame: bool = False) -> None:
        if self._outlet is not None:
            self._outlet.send(message, frame)

    # --- what comes back from recorder and analysis ---------------------------------------------

    def _on_result(
        self, source: str, body: dict[str, Any], payload: Sequence[bytes | memoryview]
    ) -> None:
        name = str(body.get("name", "unnamed"))
        message = Message(f"result/{name}", body, tuple(payload))
        try:
            if payload:
                array_of(message)
        except BadMessage as error:
            self.event("error", source, f"result {name}: {error}")
            return
        if name == "necks":
            ratio = body.get("parameters", {}).get("neck_ratio_median")
            known = ratio if isinstance(ratio, int | float) else None
            self.engine.steering.note(str(body.get("series")), known)
            self.engine.journal.note(Necks(series=str(body.get("series")), ratio=known))
        sent = self._publisher.publish(message.topic, "result", body, message.payload)
        if body.get("record", True):
            self.record(sent)

    def _on_event(self, source: str, body: dict[str, Any]) -> None:
        level = body.get("level")
        more = {k: v for k, v in body.items() if k not in ("level", "message", "source")}
        self.event(
            level if level in ("info", "warning", "error") else "info",
            source,
            str(body.get("message", "")),
            **more,
        )

    def _on_death(self, name: str, status: int) -> None:
        outlet = self._outlet
        if outlet is None or (status == 0 and outlet.consumers[name].ended):
            return
        outlet.lose(name)
        self.event("error", name, f"the {name} died with exit status {status}")
        if name == RECORDER:
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
        outlet = self._outlet
        analysis = outlet.consumers.get(ANALYSIS) if outlet is not None else None
        recorder = outlet.consumers.get(RECORDER) if outlet is not None else None
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
            "waiting_for": outlet.waiting_for() or None if outlet is not None else None,
            "resumed": 0 if interrupted is None else interrupted.history.resumed + 1,
            "analysis": _state_of(analysis),
            "recorder": _state_of(recorder),
        }

    def losses(self) -> dict[str, dict[str, int]]:
        """What each consumer of frames has gone without, counted since the run began."""
        outlet = self._outlet
        analysis = outlet.consumers.get(ANALYSIS) if outlet is not None else None
        return {
            "recorder": {"frames": self.engine.frames_lost},
            "analysis": {"headers_only": analysis.headers_only if analysis is not None else 0},
            "views": {"not_shown": self._views.not_shown},
        }

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
                await self._analysis_catches_up()
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
        outlet = self._outlet
        if outlet is None or ANALYSIS not in outlet.consumers:
            return
        for number, message in enumerate(interrupted.headers(point)):
            outlet.send_recorded(ANALYSIS, message)
            if number % 1000 == 0:
                await asyncio.sleep(0)

    async def open(self) -> None:
        """Start recorder and analysis and wait until both can take frames.

        An analysis that dies while it starts is gone without, as one that dies later is.

        Raises
        ------
        ChildFailed
            If the recorder cannot start, or the analysis says why it will not.
        """
        outlet = Outlet(self._context, self._on_result, self._on_event)
        self._outlet = outlet
        link = outlet.endpoint
        starts: dict[str, tuple[str, BaseModel]] = {
            RECORDER: (
                "pyrotome.daemon.recorder",
                RecorderConfig(
                    link=link,
                    file=str(self.output),
                    manifest=self.manifest,
                    resumed=self._point.interruption if self._point is not None else None,
                ),
            )
        }
        if self.manifest.analysis:
            starts[ANALYSIS] = (
                "pyrotome.analysis.worker",
                AnalysisConfig(link=link, file=str(self.output), manifest=self.manifest),
            )
        for name in starts:
            outlet.expect(name, essential=name == RECORDER)
        await asyncio.gather(*(self._start_child(n, *what) for n, what in starts.items()))
        for consumer in outlet.consumers.values():
            await consumer.hello.wait()

    async def _start_child(self, name: str, module: str, config: BaseModel) -> None:
        try:
            child = await Child.start(name, module, config)
        except ChildFailed as error:
            if name == RECORDER or error.refused:
                raise
            assert self._outlet is not None
            self._outlet.lose(name)
            text = f"{error}; the run goes on without, `pyrotome process` can do its work later"
            self.event("error", name, text)
            return
        child.on_death(self._on_death)
        self._children[name] = child

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
        self.event(
            "info" if step.confirmed else "error",
            "safing",
            f"{step.action} in {step.took_s * 1e3:.0f} ms"
            if step.confirmed
            else f"NOT {step.action}: {step.problem}",
            took_s=step.took_s,
        )
        if step.confirmed:
            self._note_safe(step)

    def _note_safe(self, step: SafingStep) -> None:
        now_ns = self.clock.now_ns()
        begun_ns = now_ns - int(step.took_s * self.clock.speed * 1e9)
        if step.action.startswith("beam"):
            self.engine.journal.note(MadeSafe(beam_blanked_ns=now_ns))
        elif step.action.startswith("heater"):
            sent_ns = max(begun_ns, self.devices.heater.safe_sent_ns or 0)
            note = MadeSafe(heater_commanded_ns=sent_ns, heater_safe_ns=now_ns)
            self.engine.journal.note(note)

    async def _analysis_catches_up(self) -> None:
        outlet = self._outlet
        consumer = outlet.consumers.get(ANALYSIS) if outlet is not None else None
        if outlet is None or consumer is None or not consumer.alive:
            return
        outlet.end(ANALYSIS, {})
        done = asyncio.create_task(consumer.done.wait())
        given_up = asyncio.create_task(self._give_up_analysis.wait())
        consumer.heard_s = time.monotonic()
        try:
            while not (done.done() or given_up.done()):
                await asyncio.wait(
                    {done, given_up}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                )
                if time.monotonic() - consumer.heard_s > SILENT_ANALYSIS_S:
                    self.event(
                        "error", "analysis", f"has not been heard for {SILENT_ANALYSIS_S:g} s"
                    )
                    break
        finally:
            for task in (done, given_up):
                task.cancel()
            await asyncio.gather(done, given_up, return_exceptions=True)
        if not consumer.done.is_set():
            self.event(
                "warning",
                "analysis",
                f"given up {consumer.backlog} frames before it had caught up; "
                "`pyrotome process` can do the work again from the file",
            )

    async def close_file(self, outcome: Outcome) -> Outcome:
        """Let the recorder finish the file; the outcome is a failure if it cannot."""
        outlet = self._outlet
        recorder = outlet.consumers.get(RECORDER) if outlet is not None else None
        if outlet is None or recorder is None or RECORDER not in self._children:
            return outcome
        await self._views.close()
        self.event("info", "engine", f"run {outcome.status}")
        if not recorder.alive:
            return outcome
        outlet.end(
            RECORDER,
            {
                "status": outcome.status,
                "reason": outcome.reason,
                "ended_ns": self.clock.now_ns(),
                "dose_e_per_nm2": self.ledger.charged,
            },
        )
        if not await self._closed(recorder, patient=outcome.status == "complete"):
            why = recorder.problem or "the recorder did not answer in time"
            return Outcome("failed", f"the file was not closed: {why}. {outcome.reason}".strip())
        if not recorder.alive:
            return Outcome("failed", "the recorder died while closing the file")
        return outcome

    async def _closed(self, recorder: Consumer, *, patient: bool) -> bool:
        """Wait until the file is closed; false if that is given up.

        The frames of a whole run are worth waiting for until there is room, or somebody stops it:
        beam and heater are safe. A run that ends early must not wait for a disk.
        """
        limit_s, told = CLOSING_TIMEOUT_S, False
        begun_s = time.monotonic()
        while not recorder.done.is_set():
            if recorder.problem is None:
                limit_s = CLOSING_TIMEOUT_S
            elif patient and not self._stop.done():
                begun_s = time.monotonic()
            else:
                limit_s = FULL_DISK_TIMEOUT_S
            if recorder.problem is not None and not told:
                told = True
                text = f"waiting for the recorder to close the file: {recorder.problem}"
                self.event("warning", "engine", text)
            if time.monotonic() - begun_s > limit_s:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(recorder.done.wait(), 0.5)
        return True

    async def close(self) -> None:
        """End the processes and the link; harmless after a run."""
        await asyncio.gather(*(child.stop() for child in self._children.values()))
        self._children.clear()
        await self._close_journal(remove=False)
        if self._outlet is not None:
            await self._outlet.close()
            self._outlet = None
        self._publisher.run = None
        if not self._stop.done():
            self._stop.cancel()


def _state_of(consumer: Consumer | None) -> dict[str, Any] | None:
    """What monitors are told of a consumer; backlog and staleness as seen from here."""
    if consumer is None:
        return None
    return {
        **consumer.status,
        "alive": consumer.alive,
        "backlog": consumer.backlog,
        "staleness_s": round(consumer.staleness_s(time.monotonic()), 3),
    }


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
