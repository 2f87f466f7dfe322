"""The online analysis as a process: ``python -m pyrotome.analysis.online.worker``.

The main thread owns the link and never computes; two others do (frames, and what concerns whole
series), in code that holds no GIL, so that status and credit go on while a frame takes half a
minute. Frames wait in memory within the credit that was granted, which bounds it; those beyond come
without their pixels and are read from the run file when their turn comes.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread, local
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray
from pydantic import ValidationError

from ...protocols.messages.credit_link import ANALYSIS, END_TOPIC, upstream
from ...protocols.messages.manifest import RunManifest
from ...protocols.messages.parent_pipe import announce, fail, read_config, watch_parent
from ...protocols.messages.process import AnalysisConfig
from ...protocols.messages.stream import BadMessage, Message, array_of, finite, parse
from ..core.outputs import Task
from ..pipeline.pipeline import Notice, Output, Pipeline, Progress, Result, StackAnalysis
from .swmr_frames import GrowingFile, NotThere

# Frames that may wait here: as many as fit into this, but never fewer than the least.
QUEUE_BYTES = 512 * 1024 * 1024
LEAST_CREDIT = 8
# A status goes out at least this often (wall seconds) while there is work.
STATUS_EVERY_S = 0.5
# Views that may wait to be taken in: as many as fit into this. Frames wait when there are more.
TASK_BYTES = 256 * 1024 * 1024
LEAST_TASKS = 4
_END_POLL_S = 0.05
_FRAMES, _SERIES = "frames", "series"
# The daemon and the instruments come first on a computer that they share.
NICENESS = 10


def credit_of(manifest: RunManifest) -> int:
    """Frames that may wait for the analysis, from the size that they have (at most 4 bytes/px)."""
    rows, columns = manifest.beam.frame
    return max(LEAST_CREDIT, QUEUE_BYTES // (rows * columns * 4))


@dataclass(frozen=True)
class Job:
    """A frame message and when it arrived (wall, `time.monotonic`)."""

    message: Message
    received_s: float


class Computer:
    """The computing threads: one for frames, one for series. They leave messages for the link.

    A frame is denoised as soon as it is there; what concerns a whole series is done piece by piece
    while no frame is in work.

    Parameters
    ----------
    pipeline : Pipeline
        What to do.
    file : GrowingFile
        Where frames are that came without their pixels.
    wake : callable
        Returns a socket on which whoever waits for messages is woken; called once a thread.
    """

    def __init__(
        self, pipeline: Pipeline, file: GrowingFile, wake: Callable[[], zmq.Socket[bytes]]
    ) -> None:
        self._pipeline, self._file, self._bells = pipeline, file, wake
        self._bell = local()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._tasks: SimpleQueue[tuple[Task, float]] = SimpleQueue()
        self._lock = Lock()
        self._waiting: deque[float] = deque()
        self._todo: deque[float] = deque()
        # What the thread for frames and the one for series are at.
        self._doing = {_FRAMES: "starting", _SERIES: ""}
        self._frames = 0
        self._results = 0
        # Set while no frame is in work, and while there is room for more tasks.
        self._no_frame, self._room = Event(), Event()
        self._room.set()
        self._most_tasks = max(LEAST_TASKS, TASK_BYTES // max(1, pipeline.view_bytes))
        self.outbox: SimpleQueue[list[Any]] = SimpleQueue()

    def start(self) -> None:
        """Begin; the threads die with the process."""
        Thread(target=self._run_frames, name=_FRAMES, daemon=True).start()
        Thread(target=self._run_tasks, name=_SERIES, daemon=True).start()

    def take(self, job: Job | None) -> None:
        """Take over a job; None asks for `done` after all that came before."""
        if job is not None:
            with self._lock:
                self._waiting.append(job.received_s)
        self._jobs.put(job)

    def status(self) -> dict[str, Any]:
        """Tell what is waiting, what is being done, and the age of the oldest frame in work."""
        with self._lock:
            since = [*self._waiting, *self._todo]
            staleness_s = time.monotonic() - min(since) if since else 0.0
            pending = [what for what in self._doing.values() if what]
            return {
                "backlog": len(self._waiting),
                "pending": "; ".join(pending),
                "staleness_s": round(staleness_s, 3),
                "frames": self._frames,
                "results": self._results,
            }

    def _run_frames(self) -> None:
        self._warm_up()
        while True:
            self._no_frame.set()
            self._set("")
            job = self._jobs.get()
            # Views wait in memory: what is too far behind is done first.
            self._room.wait()
            if job is None:
                self._end()
                continue
            self._no_frame.clear()
            try:
                self._deal_with(job)
            except Exception as error:  # one bad frame must not end the analysis
                self._say("error", f"{_name_of(job.message.header)}: unexpected {error!r}")
            finally:
                self._hand_on(job)
                with self._lock:
                    self._waiting.popleft()
                    self._frames += 1
                if not job.message.header.get("in_file"):
                    self._leave(upstream("credit", {"frames": 1}))

    def _hand_on(self, job: Job) -> None:
        """Queue the tasks that arose from a frame."""
        stack = self._stack_of(job)
        for task in stack.take_tasks() if stack is not None else ():
            with self._lock:
                self._todo.append(job.received_s)
                if len(self._todo) >= self._most_tasks:
                    self._room.clear()
            self._tasks.put((task, job.received_s))

    def _run_tasks(self) -> None:
        while True:
            task, received_s = self._tasks.get()
            try:
                for output in task.outputs:
                    self._pass_on(output, received_s, task.series)
                    if self._room.is_set():
                        self._no_frame.wait()
            except Exception as error:  # one bad series must not end the analysis
                self._say("error", f"{task.series} cannot be reconstructed: {error!r}")
            with self._lock:
                self._todo.popleft()
                if len(self._todo) <= self._most_tasks // 2:
                    self._room.set()
            self._set("")

    def _warm_up(self) -> None:
        """Import and compile what will be needed, before the first frame waits for it."""
        try:
            self._pipeline.warm_up()
        except Exception as error:  # each frame will tell again, and be credited
            self._say("error", f"the analysis cannot work: {error!r}")

    def _stack_of(self, job: Job) -> StackAnalysis | None:
        return self._pipeline.stacks.get(str(job.message.header.get("series")))

    def _deal_with(self, job: Job) -> None:
        header = job.message.header
        stack = self._stack_of(job)
        if stack is None:
            return
        self._set(f"{_name_of(header)} of {stack.plan.frames}")
        index = header.get("index")
        if type(index) is not int:
            self._say("error", f"{stack.plan.name}: a frame whose index is {index!r}")
            return
        if header.get("lost"):
            outputs = stack.lost(index)
        else:
            try:
                pixels = self._pixels(job, index)
            except (BadMessage, NotThere) as error:
                self._say("error", f"{_name_of(header)}: {error}")
                outputs = stack.lost(index)
            else:
                outputs = stack.frame(index, pixels, header.get("tilt_deg"))
        for output in outputs:
            self._pass_on(output, job.received_s, stack.plan.name)

    def _pixels(self, job: Job, index: int) -> NDArray[Any]:
        if job.message.header.get("in_file"):
            return self._file.frame(str(job.message.header.get("series")), index)
        return array_of(job.message)

    def _pass_on(self, output: Output, received_s: float, series: str) -> None:
        match output:
            case Notice():
                self._say(output.level, output.message)
            case Progress():
                self._set(f"{series} {output.what} {output.fraction:.0%}")
            case Result():
                with self._lock:
                    self._results += 1
                self._leave(result_message(output, time.monotonic() - received_s))

    def _end(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    break
            time.sleep(_END_POLL_S)
        self._file.close()
        for text in self._pipeline.unfinished():
            self._say("warning", f"{text}; there is no volume")
        self._leave(upstream("done", {"frames": self._frames, "results": self._results}))

    def _say(self, level: str, message: str) -> None:
        self._leave(upstream("event", {"level": level, "message": message}))

    def _set(self, doing: str) -> None:
        """Tell what the calling thread is at."""
        with self._lock:
            self._doing[current_thread().name] = doing
        self._ring()

    def _ring(self) -> None:
        # A socket belongs to the thread that uses it.
        if not hasattr(self._bell, "socket"):
            self._bell.socket = self._bells()
        self._bell.socket.send(b"")

    def _leave(self, parts: list[Any]) -> None:
        self.outbox.put(parts)
        self._ring()


def _name_of(header: dict[str, Any]) -> str:
    return f"{header.get('series')} frame {header.get('index')}"


def result_message(result: Result, staleness_s: float) -> list[Any]:
    """Make the multipart message of a result.

    Parameters
    ----------
    result : Result
        What was computed.
    staleness_s : float
        Wall time since the frame that led to it was received.
    """
    data = np.ascontiguousarray(result.data)
    parameters = {
        key: finite(value) if isinstance(value, float) else value
        for key, value in result.parameters.items()
    }
    body: dict[str, Any] = {
        "name": result.name,
        "series": result.series,
        "shape": list(data.shape),
        "dtype": data.dtype.name,
        "elapsed_s": round(result.elapsed_s, 4),
        "staleness_s": round(staleness_s, 4),
        "parameters": parameters,
    }
    if result.index is not None:
        body["index"] = result.index
    if not result.record:
        body["record"] = False
    return upstream("result", body, [data])


class Worker:
    """The link's side of the process: receives frames, sends what the computer leaves."""

    def __init__(self, config: AnalysisConfig) -> None:
        self._pipeline = Pipeline.of(config.manifest)
        self._credit = credit_of(config.manifest)
        context = zmq.Context()
        self._link = context.socket(zmq.DEALER)
        self._link.set(zmq.IDENTITY, ANALYSIS.encode())
        self._link.set(zmq.LINGER, 0)
        # What comes is bounded by credit, and the end must get through.
        self._link.set(zmq.RCVHWM, 0)
        self._link.set(zmq.SNDHWM, 16)
        self._link.connect(config.link)
        self._bell = context.socket(zmq.PULL)
        self._bell.set(zmq.RCVHWM, 0)
        self._bell.bind("inproc://bell")

        def clapper() -> zmq.Socket[bytes]:
            socket = context.socket(zmq.PUSH)
            socket.set(zmq.SNDHWM, 0)
            socket.connect("inproc://bell")
            return socket

        self._computer = Computer(self._pipeline, GrowingFile(Path(config.file)), clapper)
        self._unsent: deque[list[Any]] = deque()

    def run(self) -> None:
        """Serve the link until the process ends."""
        announce()
        self._unsent.append(upstream("hello", {"credit": self._credit}))
        self._computer.start()
        last_status: dict[str, Any] = {}
        last_status_s = 0.0
        while True:
            interest = zmq.POLLIN | (zmq.POLLOUT if self._unsent else 0)
            poller = zmq.Poller()
            poller.register(self._link, interest)
            poller.register(self._bell, zmq.POLLIN)
            poller.poll(int(STATUS_EVERY_S * 1000))
            self._receive()
            while self._bell.poll(0):
                self._bell.recv()
            while not self._computer.outbox.empty():
                self._unsent.append(self._computer.outbox.get())
            self._send()
            status = self._computer.status()
            now_s = time.monotonic()
            changed = _without_age(status) != _without_age(last_status)
            busy = bool(status["backlog"] or status["pending"])
            if not self._unsent and (changed or (busy and now_s - last_status_s >= STATUS_EVERY_S)):
                self._unsent.append(upstream("status", status))
                self._send()
                last_status, last_status_s = status, now_s

    def _receive(self) -> None:
        while self._link.poll(0):
            parts = [part.buffer for part in self._link.recv_multipart(copy=False)]
            try:
                message = parse(parts)
            except BadMessage as error:
                text = f"a message that cannot be read: {error}"
                self._unsent.append(upstream("event", {"level": "error", "message": text}))
                continue
            if message.topic == END_TOPIC:
                self._computer.take(None)
            elif message.header.get("type") == "frame":
                self._computer.take(Job(message, time.monotonic()))

    def _send(self) -> None:
        while self._unsent:
            try:
                self._link.send_multipart(self._unsent[0], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._unsent.popleft()


def _without_age(status: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key != "staleness_s"}


def main() -> None:
    """Read the configuration and work until standard input ends."""
    try:
        config = read_config(AnalysisConfig)
    except ValidationError as error:
        fail(f"the analysis cannot read its configuration: {error}")
        sys.exit(1)
    # Nothing here needs an orderly end, and a computation under way cannot be interrupted.
    watch_parent(lambda: os._exit(0))
    os.nice(NICENESS)
    Worker(config).run()


if __name__ == "__main__":
    main()
