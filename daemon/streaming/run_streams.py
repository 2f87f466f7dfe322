"""What leaves a run, and what takes it: monitors, and the processes of recorder and analysis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import zmq.asyncio
from pydantic import BaseModel

from ...drivers.base import FrameData
from ...protocols.core.chunk import ENCODING, Chunk
from ...protocols.messages.credit_link import ANALYSIS, RECORDER
from ...protocols.messages.manifest import Interruption, RunManifest
from ...protocols.messages.process import AnalysisConfig, RecorderConfig
from ...protocols.messages.stream import BadMessage, Message, array_of, telemetry_topic
from ..runtime.processes import Child, ChildFailed
from .credit_link import Consumer, CreditLink
from .previews import FramePreviews
from .publisher import Publisher

# A wait of the schedule that is told of.
UNTOLD_WAIT_S = 1.0
# Wall seconds that a closing recorder is given before the run is called failed.
CLOSING_TIMEOUT_S = 120.0
# For a run that ends early, while the recorder says that the disk takes nothing.
FULL_DISK_TIMEOUT_S = 10.0
# An analysis that works says so twice a second; one silent for this long is given up at the end.
SILENT_ANALYSIS_S = 10.0


class RunStreams:
    """The streams of one run (see `engine.Outgoing`), from the first message to a closed file.

    Recorder and analysis get the pixels as the detector sent them, monitors get them raw. The
    recorder holds the schedule and ends the run if it dies; the analysis does neither.

    Parameters
    ----------
    publisher : Publisher
        The monitor.
    context : zmq.asyncio.Context
        Of the link to recorder and analysis.
    detector : str
        Name of the frames' topic.
    output : Path
        The run file.
    on_result : callable
        Told of each result's name and header.
    on_recorder_death : callable
        Told, once, that nothing more can be recorded.
    """

    def __init__(
        self,
        publisher: Publisher,
        context: zmq.asyncio.Context,
        detector: str,
        output: Path,
        on_result: Callable[[str, dict[str, Any]], None],
        on_recorder_death: Callable[[], None],
    ) -> None:
        self._publisher, self._context = publisher, context
        self._topic, self._output = f"frame/{detector}", output
        self._told_result, self._recorder_died = on_result, on_recorder_death
        self._outlet: CreditLink | None = None
        self._children: dict[str, Child] = {}
        self._views = FramePreviews(
            publisher, f"preview/{detector}", lambda text: self.event("error", "engine", text)
        )

    # --- what the engine sends ------------------------------------------------------------------

    @property
    def most_at_a_time(self) -> int:
        """Frames for which credit can be had at once."""
        return self._outlet.most_at_a_time if self._outlet is not None else 1

    async def credit(self, frames: int = 1) -> None:
        """Wait until the recorder can take so many frames."""
        if self._outlet is not None:
            await self._wait(self._outlet, frames)

    async def keep(self) -> None:
        """Wait until no death of a process can take away a frame that was sent."""
        outlet = self._outlet
        if outlet is None:
            return
        outlet.ask_to_keep()
        # Milliseconds as a rule, which are not worth an event.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(outlet.credit(0, kept=True), UNTOLD_WAIT_S)
        await self._wait(outlet, 0, kept=True)

    async def _wait(self, outlet: CreditLink, frames: int, kept: bool = False) -> None:
        waiting = outlet.waiting_for(frames, kept)
        if not waiting:
            return
        why = "; ".join(f"{name}: {what}" for name, what in waiting.items())
        self.event("warning", "engine", f"waiting at standby for {why}", waiting_for=waiting)
        await outlet.credit(frames, kept)
        self.event("info", "engine", f"no longer waiting for {', '.join(waiting)}")

    def frame(self, header: dict[str, Any], data: FrameData | None, t_ns: int) -> None:
        """Send a frame, or the notice of a lost one, to everyone."""
        more: dict[str, Any]
        payload: tuple[Any, ...]
        if data is None:
            more, payload = {"lost": True}, ()
        elif isinstance(data, Chunk):
            more = {"shape": list(data.shape), "dtype": data.dtype, "encoding": ENCODING}
            payload = (data.raw,)
        else:
            more, payload = {"shape": list(data.shape), "dtype": data.dtype.name}, (data,)
        message = self._publisher.stamp(self._topic, "frame", header | more, payload, t_ns)
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

    async def tell_recorded(self, headers: Iterable[Message]) -> None:
        """Tell the analysis, if there is one, of frames that were taken before it was started."""
        outlet = self._outlet
        if outlet is None or ANALYSIS not in outlet.consumers:
            return
        for number, message in enumerate(headers):
            outlet.send_recorded(ANALYSIS, message)
            if number % 1000 == 0:
                await asyncio.sleep(0)

    def _all(self, message: Message, frame: bool = False) -> None:
        if self._outlet is not None:
            self._outlet.send(message, frame)

    # --- what comes back ------------------------------------------------------------------------

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
        self._told_result(name, body)
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
            self._recorder_died()

    # --- how they stand -------------------------------------------------------------------------

    def _consumer(self, name: str) -> Consumer | None:
        return self._outlet.consumers.get(name) if self._outlet is not None else None

    def status(self) -> dict[str, Any]:
        """What monitors are told of recorder and analysis, and what is waited for."""
        waiting = self._outlet.waiting_for() if self._outlet is not None else {}
        return {
            "waiting_for": waiting or None,
            "analysis": _state_of(self._consumer(ANALYSIS)),
            "recorder": _state_of(self._consumer(RECORDER)),
        }

    def losses(self) -> dict[str, dict[str, int]]:
        """What analysis and views have gone without, counted since the run began."""
        analysis = self._consumer(ANALYSIS)
        return {
            "analysis": {"headers_only": analysis.headers_only if analysis is not None else 0},
            "views": {"not_shown": self._views.not_shown},
        }

    # --- their begin and end --------------------------------------------------------------------

    async def open(self, manifest: RunManifest, resumed: Interruption | None = None) -> None:
        """Start recorder and analysis and wait until both can take frames.

        An analysis that dies while it starts is gone without, as one that dies later is.

        Parameters
        ----------
        manifest : RunManifest
            What will come.
        resumed : Interruption, optional
            The run of the file goes on, after this time without record.

        Raises
        ------
        ChildFailed
            If the recorder cannot start, or the analysis says why it will not.
        """
        outlet = CreditLink(self._context, self._on_result, self._on_event)
        self._outlet = outlet
        link, file = outlet.endpoint, str(self._output)
        recorder = RecorderConfig(link=link, file=file, manifest=manifest, resumed=resumed)
        starts: dict[str, tuple[str, BaseModel]] = {
            RECORDER: ("pyrotome.daemon.recording.recorder", recorder)
        }
        if manifest.analysis:
            analysis = AnalysisConfig(link=link, file=file, manifest=manifest)
            starts[ANALYSIS] = ("pyrotome.analysis.online.worker", analysis)
        for name in starts:
            outlet.expect(name, essential=name == RECORDER)
        await asyncio.gather(*(self._start(outlet, n, *what) for n, what in starts.items()))
        for consumer in outlet.consumers.values():
            await consumer.hello.wait()

    async def _start(self, outlet: CreditLink, name: str, module: str, config: BaseModel) -> None:
        try:
            child = await Child.start(name, module, config)
        except ChildFailed as error:
            if name == RECORDER or error.refused:
                raise
            outlet.lose(name)
            text = f"{error}; the run goes on without, `pyrotome process` can do its work later"
            self.event("error", name, text)
            return
        child.on_death(self._on_death)
        self._children[name] = child

    async def analysis_catches_up(self, give_up: asyncio.Event) -> None:
        """Wait until the analysis has dealt with every frame, is silent, or is given up."""
        outlet, consumer = self._outlet, self._consumer(ANALYSIS)
        if outlet is None or consumer is None or not consumer.alive:
            return
        outlet.end(ANALYSIS, {})
        done = asyncio.create_task(consumer.done.wait())
        given_up = asyncio.create_task(give_up.wait())
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
            When; by default the last moment that was recorded.
        dose_e_per_nm2 : float, optional
            As the ledger has it.
        patient : callable, optional
            Whether to go on waiting for a disk that takes nothing.

        Returns
        -------
        problem : str or None
            What went wrong.
        """
        outlet, recorder = self._outlet, self._consumer(RECORDER)
        if outlet is None or recorder is None or RECORDER not in self._children:
            return None
        await self._views.close()
        self.event("info", "engine", f"run {status}")
        if not recorder.alive:
            return None
        end = {
            "status": status,
            "reason": reason,
            "ended_ns": ended_ns,
            "dose_e_per_nm2": dose_e_per_nm2,
        }
        outlet.end(RECORDER, end)
        if not await self._closed(recorder, patient):
            why = recorder.problem or "the recorder did not answer in time"
            return f"the file was not closed: {why}. {reason}".strip()
        if not recorder.alive:
            return "the recorder died while closing the file"
        return None

    async def _closed(self, recorder: Consumer, patient: Callable[[], bool]) -> bool:
        """Wait until the file is closed; false if that is given up."""
        limit_s, told = CLOSING_TIMEOUT_S, False
        begun_s = time.monotonic()
        while not recorder.done.is_set():
            if recorder.problem is None:
                limit_s = CLOSING_TIMEOUT_S
            elif patient():
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
        if self._outlet is not None:
            await self._outlet.close()
            self._outlet = None


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
