"""The processes of one run: start recorder and analysis, receive what they send, end them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq.asyncio
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ...protocols.messages.credit_link import ANALYSIS, RECORDER, TRACKER
from ...protocols.messages.manifest import Interruption, RunManifest
from ...protocols.messages.offsets import offset_message
from ...protocols.messages.process import AnalysisConfig, RecorderConfig, TrackerConfig
from ...protocols.messages.stream import BadMessage, Message, array_of
from ...protocols.messages.tracking import OffsetMeasured
from ..runtime.event_bus import Event
from ..runtime.processes import Child, ChildFailed
from .credit_link import Consumer, CreditLink
from .telemetry_hub import TelemetryHub

Floats = NDArray[np.float64]

# Results up to this size are handed to the steering.
SMALL_TABLE_BYTES = 1_000_000
# Wall seconds that a closing recorder is given before the run is called failed.
CLOSING_TIMEOUT_S = 120.0
# For a run that ends early, while the recorder says that the disk takes nothing.
FULL_DISK_TIMEOUT_S = 10.0
# An analysis that works says so twice a second; one silent for this long is given up at the end.
SILENT_ANALYSIS_S = 10.0

# Wall seconds that the tracker has at the end.
TRACKER_TIMEOUT_S = 5.0

_LEVELS = ("info", "warning", "error")


@dataclass(frozen=True)
class TrackerFiles:
    """Where the tracker keeps what it knows.

    Attributes
    ----------
    state : Path
        Of this run; it is there while the run is not complete.
    goniometer : str or None
        Of the column, from run to run.
    convergence_mrad : float or None
        Half angle of the probe, where the rig tells it.
    """

    state: Path
    goniometer: str | None = None
    convergence_mrad: float | None = None


class RunProcesses:
    """Recorder, analysis and tracker of one run, and the link to them.

    The recorder holds the schedule and ends the run if it dies; the others do neither.

    Parameters
    ----------
    hub : TelemetryHub
        Takes events and results; is attached to the link while the run lasts.
    context : zmq.asyncio.Context
        Of the link.
    output : Path
        The run file.
    on_result : callable
        Called with name and header of each result, and with its values where they are a small
        table or scalar of floats.
    on_recorder_death : callable
        Called, once, when nothing more can be recorded.
    """

    def __init__(
        self,
        hub: TelemetryHub,
        context: zmq.asyncio.Context,
        output: Path,
        on_result: Callable[[str, dict[str, Any], Floats | None], None],
        on_recorder_death: Callable[[], None],
    ) -> None:
        self.link = CreditLink(context, self._result_received, self._event_received)
        self._hub, self._bus, self._output = hub, hub.bus, output
        self._on_result, self._on_recorder_death = on_result, on_recorder_death
        self._children: dict[str, Child] = {}
        self._records_tracking = False

    # --- start ----------------------------------------------------------------------------------

    async def open(
        self,
        manifest: RunManifest,
        resumed: Interruption | None = None,
        tracker: TrackerFiles | None = None,
    ) -> None:
        """Start recorder, analysis and tracker and wait until all can take frames.

        The run continues without an analysis that dies while it starts.

        Parameters
        ----------
        manifest : RunManifest
            What the run will record.
        resumed : Interruption, optional
            The time without record, if the run of the file is resumed.
        tracker : TrackerFiles, optional
            Where the tracker keeps what it knows; None for a run that does not track.

        Raises
        ------
        ChildFailed
            If the recorder cannot start, or another refuses its configuration.
        """
        endpoint, file = self.link.open(), str(self._output)
        self._records_tracking = manifest.tracking is not None
        self._hub.attach(self.link)
        recorder = RecorderConfig(link=endpoint, file=file, manifest=manifest, resumed=resumed)
        starts: dict[str, tuple[str, BaseModel]] = {
            RECORDER: ("pyrotome.daemon.recording.recorder", recorder)
        }
        if manifest.analysis:
            analysis = AnalysisConfig(link=endpoint, file=file, manifest=manifest)
            starts[ANALYSIS] = ("pyrotome.analysis.online.worker", analysis)
        if tracker is not None:
            config = TrackerConfig(
                link=endpoint, manifest=manifest, state=str(tracker.state),
                goniometer=tracker.goniometer, resumed=resumed is not None,
                convergence_mrad=tracker.convergence_mrad,
            )  # fmt: skip
            starts[TRACKER] = ("pyrotome.analysis.tracking.process", config)
        for name in starts:
            self.link.expect(name, essential=name == RECORDER)
        await asyncio.gather(*(self._start(name, *what) for name, what in starts.items()))
        for consumer in self.link.consumers.values():
            await consumer.hello.wait()

    async def _start(self, name: str, module: str, config: BaseModel) -> None:
        try:
            child = await Child.start(name, module, config)
        except ChildFailed as error:
            if name == RECORDER or error.refused:
                raise
            self.link.lose(name)
            later = "" if name == TRACKER else ". `pyrotome process` can do its work later"
            text = f"{error}; the run continues without it{later}"
            self._bus.event("error", name, text)
            return
        child.on_death(self._died)
        self._children[name] = child

    # --- what comes back ------------------------------------------------------------------------

    def _result_received(
        self, source: str, body: dict[str, Any], payload: Sequence[bytes | memoryview]
    ) -> None:
        if source == TRACKER and self._records_tracking:
            self._pass_offset_on(body.get("measured"))
        name = str(body.get("name", "unnamed"))
        topic, parts = f"result/{name}", tuple(payload)
        array = None
        try:
            if parts:
                array = array_of(Message(topic, body, parts))
        except BadMessage as error:
            self._bus.event("error", source, f"result {name}: {error}")
            return
        small = array is not None and array.dtype == "<f8" and array.nbytes <= SMALL_TABLE_BYTES
        self._on_result(name, body, array if small else None)
        sent = self._hub.publish(topic, "result", body, parts)
        if body.get("record", True):
            self._hub.record(sent)

    def _pass_offset_on(self, measured: object) -> None:
        """Tell recorder and analysis where the specimen was in a frame."""
        try:
            found = None if measured is None else OffsetMeasured.model_validate(measured)
        except ValidationError:
            return  # told by the follower
        if found is not None and found.scan == "frame":
            for name in (RECORDER, ANALYSIS):
                self.link.send_only(name, offset_message(found))

    def _event_received(self, source: str, body: dict[str, Any]) -> None:
        level = body.get("level")
        details = {k: v for k, v in body.items() if k not in ("level", "message", "source")}
        self._bus.publish(
            Event(
                level if level in _LEVELS else "info",
                source,
                str(body.get("message", "")),
                details,
            )
        )

    def _died(self, name: str, status: int) -> None:
        consumer = self.link.consumers.get(name)
        if consumer is None or (status == 0 and consumer.ended):
            return
        self.link.lose(name)
        self._bus.event("error", name, f"the {name} died with exit status {status}")
        if name == RECORDER:
            self._on_recorder_death()

    def _consumer(self, name: str) -> Consumer | None:
        return self.link.consumers.get(name)

    def status(self) -> dict[str, Any]:
        """State of the processes, and what the schedule waits for."""
        tracker = self._consumer(TRACKER)
        return {
            "waiting_for": self.link.waiting_for() or None,
            "analysis": _state_of(self._consumer(ANALYSIS)),
            "recorder": _state_of(self._consumer(RECORDER)),
            **({} if tracker is None else {"tracker": _state_of(tracker)}),
        }

    # --- end ------------------------------------------------------------------------------------

    async def analysis_catches_up(self, give_up: asyncio.Event) -> None:
        """Wait until the analysis has processed every frame, is silent, or `give_up` is set."""
        consumer = self._consumer(ANALYSIS)
        if consumer is None or not consumer.alive:
            return
        self.link.end(ANALYSIS, {})
        done = asyncio.create_task(consumer.done.wait())
        given_up = asyncio.create_task(give_up.wait())
        consumer.heard_s = time.monotonic()
        try:
            while not (done.done() or given_up.done()):
                await asyncio.wait(
                    {done, given_up}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                )
                if time.monotonic() - consumer.heard_s > SILENT_ANALYSIS_S:
                    text = f"no message from the analysis for {SILENT_ANALYSIS_S:g} s"
                    self._bus.event("error", "analysis", text)
                    break
        finally:
            for task in (done, given_up):
                task.cancel()
            await asyncio.gather(done, given_up, return_exceptions=True)
        if not consumer.done.is_set():
            self._bus.event(
                "warning",
                "analysis",
                f"stopped with {consumer.backlog} frames not yet processed; `pyrotome process` can "
                "process the file again",
            )

    async def tracker_ends(self) -> None:
        """Let the tracker write what it has learned of the column."""
        consumer = self._consumer(TRACKER)
        if consumer is None or not consumer.alive:
            return
        self.link.end(TRACKER, {})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRACKER_TIMEOUT_S):
                await consumer.done.wait()

    async def close_file(
        self,
        status: str,
        reason: str = "",
        ended_ns: int | None = None,
        dose_e_per_nm2: float | None = None,
        patient: Callable[[], bool] = lambda: False,
    ) -> str | None:
        """Let the recorder finish the file.

        Parameters
        ----------
        status, reason : str
            How the run ended, and why.
        ended_ns : int, optional
            When it ended, on the experiment clock; by default at the last recorded moment.
        dose_e_per_nm2 : float, optional
            Fluence of the whole run, from the dose ledger.
        patient : callable, optional
            Whether to continue to wait while the disk is full.

        Returns
        -------
        problem : str or None
            Why the file was not closed; None if it was.
        """
        recorder = self._consumer(RECORDER)
        if recorder is None or RECORDER not in self._children:
            return None
        self._bus.event("info", "engine", f"run {status}")
        if not recorder.alive:
            return None
        end = {
            "status": status,
            "reason": reason,
            "ended_ns": ended_ns,
            "dose_e_per_nm2": dose_e_per_nm2,
        }
        self.link.end(RECORDER, end)
        if not await self._closed(recorder, patient):
            why = recorder.problem or "the recorder did not answer in time"
            return f"the file was not closed: {why}. {reason}".strip()
        if not recorder.alive:
            return "the recorder died while closing the file"
        return None

    async def _closed(self, recorder: Consumer, patient: Callable[[], bool]) -> bool:
        """Wait until the file is closed; false after the time limit."""
        limit_s, reported = CLOSING_TIMEOUT_S, False
        begun_s = time.monotonic()
        while not recorder.done.is_set():
            if recorder.problem is None:
                limit_s = CLOSING_TIMEOUT_S
            elif patient():
                begun_s = time.monotonic()
            else:
                limit_s = FULL_DISK_TIMEOUT_S
            if recorder.problem is not None and not reported:
                reported = True
                text = f"waiting for the recorder to close the file: {recorder.problem}"
                self._bus.event("warning", "engine", text)
            if time.monotonic() - begun_s > limit_s:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await recorder.done.wait()
        return True

    async def close(self) -> None:
        """End the processes and the link; harmless when called again."""
        await asyncio.gather(*(child.stop() for child in self._children.values()))
        self._children.clear()
        self._hub.detach()
        await self.link.close()


def _state_of(consumer: Consumer | None) -> dict[str, Any] | None:
    """State of a consumer as it reports it, with backlog and staleness as seen from here."""
    if consumer is None:
        return None
    return {
        **consumer.status,
        "alive": consumer.alive,
        "backlog": consumer.backlog,
        "staleness_s": round(consumer.staleness_s(time.monotonic()), 3),
    }
