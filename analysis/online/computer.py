"""The computing threads of the online analysis: one for frames, one for series.

They work in code that holds no GIL, so that the thread of the link goes on meanwhile.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread, local
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from ...protocols.messages.credit_link import upstream
from ...protocols.messages.stream import BadMessage, Message, array_of, finite
from ..core.outputs import Notice, Output, Progress, Result, Task
from ..pipeline.pipeline import Pipeline, StackAnalysis
from .offsets import Offsets
from .swmr_frames import GrowingFile, NotThere

# Views that may wait for their turn: as many as fit into this. Frames wait when there are more.
TASK_BYTES = 256 * 1024 * 1024
LEAST_TASKS = 4
_END_POLL_S = 0.05
_FRAMES, _SERIES = "frames", "series"


@dataclass(frozen=True)
class Job:
    """A frame message and when it arrived (wall, `time.monotonic`)."""

    message: Message
    received_s: float

    @property
    def name(self) -> str:
        """Stack and index of the frame, for messages."""
        header = self.message.header
        return f"{header.get('series')} frame {header.get('index')}"


class Outbox:
    """Messages for the daemon, which the thread of the link sends.

    Parameters
    ----------
    wake : callable
        Returns a socket that wakes the thread of the link; called once a thread.
    """

    def __init__(self, wake: Callable[[], zmq.Socket[bytes]]) -> None:
        self._wake = wake
        self._socket = local()  # a socket belongs to the thread that uses it
        self._messages: SimpleQueue[list[Any]] = SimpleQueue()

    def put(self, parts: list[Any]) -> None:
        """Leave a multipart message."""
        self._messages.put(parts)
        self.wake()

    def event(self, level: str, message: str) -> None:
        """Leave an event for the operator."""
        self.put(upstream("event", {"level": level, "message": message}))

    def wake(self) -> None:
        """Wake the thread of the link, which then looks at messages and status."""
        if not hasattr(self._socket, "to_link"):
            self._socket.to_link = self._wake()
        self._socket.to_link.send(b"")

    def take(self) -> list[list[Any]]:
        """Take all messages that are there."""
        found: list[list[Any]] = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found


class Computer:
    """The computing threads.

    A frame is analysed as soon as it is there; what concerns a whole series is done in small
    pieces while no frame is in work.

    Parameters
    ----------
    pipeline : Pipeline
        What to do.
    file : GrowingFile
        Where frames are that came without their pixels.
    outbox : Outbox
        Takes results, events and credit.
    offsets : Offsets
        What the tracker has measured.
    """

    def __init__(
        self, pipeline: Pipeline, file: GrowingFile, outbox: Outbox, offsets: Offsets
    ) -> None:
        self._pipeline, self._file, self._outbox = pipeline, file, outbox
        self._offsets = offsets
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._tasks: SimpleQueue[tuple[Task, float]] = SimpleQueue()
        self._lock = Lock()
        # When the frames arrived that wait, and those whose tasks wait.
        self._waiting: deque[float] = deque()
        self._todo: deque[float] = deque()
        # What the thread for frames and the one for series are at.
        self._doing = {_FRAMES: "starting", _SERIES: ""}
        self._frames = 0
        self._results = 0
        # Set while no frame is in work, and while there is room for more tasks.
        self._no_frame, self._room = Event(), Event()
        self._room.set()
        if pipeline.online is not None:
            pipeline.online.waiting = self._tasks.qsize
        self._most_tasks = max(LEAST_TASKS, TASK_BYTES // max(1, pipeline.view_bytes))

    def start(self) -> None:
        """Begin; the threads end with the process."""
        Thread(target=self._run_frames, name=_FRAMES, daemon=True).start()
        Thread(target=self._run_tasks, name=_SERIES, daemon=True).start()

    def submit(self, job: Job | None) -> None:
        """Queue a frame; None requests the message `done` after all frames before it."""
        if job is not None:
            with self._lock:
                self._waiting.append(job.received_s)
        self._jobs.put(job)

    def status(self) -> dict[str, Any]:
        """Return what waits, what is being done, and the age of the oldest frame in work."""
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
        """Analyse frames, in the thread for frames."""
        self._warm_up()
        while True:
            self._no_frame.set()
            self._set_doing("")
            job = self._jobs.get()
            # Views wait in memory: tasks go first where too many wait.
            self._room.wait()
            if job is None:
                self._end()
                continue
            self._no_frame.clear()
            try:
                self._analyse(job)
            except Exception as error:  # one bad frame must not end the analysis
                self._outbox.event("error", f"{job.name}: unexpected {error!r}")
            finally:
                self._queue_tasks(job)
                with self._lock:
                    self._waiting.popleft()
                    self._frames += 1
                if not job.message.header.get("in_file"):
                    self._outbox.put(upstream("credit", {"frames": 1}))

    def _queue_tasks(self, job: Job) -> None:
        """Queue the tasks that have arisen from a frame."""
        stack = self._stack_of(job)
        for task in stack.take_tasks() if stack is not None else ():
            with self._lock:
                self._todo.append(job.received_s)
                if len(self._todo) >= self._most_tasks:
                    self._room.clear()
            self._tasks.put((task, job.received_s))

    def _run_tasks(self) -> None:
        """Carry out tasks piece by piece while no frame is in work, in the thread for series."""
        while True:
            task, received_s = self._tasks.get()
            try:
                for output in task.outputs:
                    self._send(output, received_s, task.series)
                    if self._room.is_set():
                        self._no_frame.wait()
            except Exception as error:  # one bad series must not end the analysis
                self._outbox.event("error", f"{task.series} cannot be analysed: {error!r}")
            with self._lock:
                self._todo.popleft()
                if len(self._todo) <= self._most_tasks // 2:
                    self._room.set()
            self._set_doing("")

    def _warm_up(self) -> None:
        """Import and compile what will be needed, before the first frame waits for it."""
        try:
            self._pipeline.warm_up()
        except Exception as error:  # each frame brings its own error, and its credit
            self._outbox.event("error", f"the analysis cannot work: {error!r}")

    def _stack_of(self, job: Job) -> StackAnalysis | None:
        return self._pipeline.stacks.get(str(job.message.header.get("series")))

    def _analyse(self, job: Job) -> None:
        """Do with a frame all that can be done with it alone."""
        header = job.message.header
        stack = self._stack_of(job)
        if stack is None:
            return
        self._set_doing(f"{job.name} of {stack.plan.frames}")
        index = header.get("index")
        if type(index) is not int:
            self._outbox.event("error", f"{stack.plan.name}: a frame whose index is {index!r}")
            return
        if header.get("lost"):
            if not header.get("left_out"):
                self._note_offsets(stack, index, wait=False)
            outputs = stack.lost(index, told=not header.get("left_out"))
        else:
            try:
                pixels = self._pixels(job, index)
            except (BadMessage, NotThere) as error:
                self._outbox.event("error", f"{job.name}: {error}")
                outputs = stack.lost(index)
            else:
                self._note_offsets(stack, index, wait=not header.get("in_file"))
                outputs = stack.frame(
                    index,
                    pixels,
                    header.get("tilt_deg"),
                    _seconds(header.get("t_ns"), 1e-9),
                    _seconds(header.get("exposure_s")),
                )
        for output in outputs:
            self._send(output, job.received_s, stack.plan.name)

    def _note_offsets(self, stack: StackAnalysis, index: int, *, wait: bool) -> None:
        """Tell a stack where the specimen was, before it takes the frame in.

        Of a frame that was recorded before this process began, the file tells it.
        """
        name = stack.plan.name
        found = self._offsets.take(name, index, wait=wait)
        if not wait and not any(one.index == index for one in found):
            found += self._file.offset(name, index)
        for one in found:
            if one.offset_nm is not None and one.sd_nm is not None:
                stack.note_offset(one.index, one.offset_nm, one.sd_nm)

    def _pixels(self, job: Job, index: int) -> NDArray[Any]:
        if job.message.header.get("in_file"):
            return self._file.frame(str(job.message.header.get("series")), index)
        return array_of(job.message)

    def _send(self, output: Output, received_s: float, series: str) -> None:
        """Leave an output for the daemon, or for the status."""
        match output:
            case Notice():
                self._outbox.event(output.level, output.message)
            case Progress():
                self._set_doing(f"{series} {output.what} {output.fraction:.0%}")
            case Result():
                with self._lock:
                    self._results += 1
                self._outbox.put(result_message(output, time.monotonic() - received_s))

    def _end(self) -> None:
        """Leave the message `done` when no task is left."""
        while True:
            with self._lock:
                if not self._todo:
                    break
            time.sleep(_END_POLL_S)
        self._file.close()
        for text in self._pipeline.unfinished():
            self._outbox.event("warning", f"{text}; there is no volume")
        self._outbox.put(upstream("done", {"frames": self._frames, "results": self._results}))

    def _set_doing(self, doing: str) -> None:
        """Note for the status what the calling thread is at."""
        with self._lock:
            self._doing[current_thread().name] = doing
        self._outbox.wake()


def _seconds(value: object, unit_s: float = 1.0) -> float | None:
    """A time of a header in seconds; None where it is no number."""
    return value * unit_s if isinstance(value, int | float) and math.isfinite(value) else None


def result_message(result: Result, staleness_s: float) -> list[Any]:
    """Make the multipart message of a result.

    Parameters
    ----------
    result : Result
        What was computed.
    staleness_s : float
        Wall time since the frame that led to it was received.
    """
    data = np.ascontiguousarray(result.data).reshape(result.data.shape)
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
