"""The recorder: a process that writes everything of one run into one file.

``python -m pyrotome.daemon.recording.recorder`` reads a `RecorderConfig`, creates the file (never
over an existing one: exit code 2), says so, and connects to the link as ``recorder``.

With `RecorderConfig.resumed` the file is that of an interrupted run, which is resumed.

A frame is acknowledged by ``durable`` in the message ``status``: so many frames are on the disk,
and killing this or any process cannot take them out. Credit promises nothing of the kind. The topic
``flush`` asks for that without delay.

Credit: every ``frame/...`` message costs one, lost frames included, and gives it back once it is in
the file (or was refused). In all it grants `CREDIT_BYTES` of raw frames, at least 4 and at most
1000. Telemetry, events and results cost nothing and are written within `FLUSH_S`. While the disk
takes nothing, everything stays in memory, no credit goes back, and the write is tried again every
second; ``problem`` in the message ``status`` says why. The run ends with the topic ``end``, or with
the parent's death: then the file is closed with the status ``interrupted``.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray
from pydantic import ValidationError

from ...protocols.core.bitshuffle import Bitshuffle
from ...protocols.messages import credit_link as link
from ...protocols.messages.offsets import OFFSET_TOPIC
from ...protocols.messages.parent_pipe import announce, fail, read_config, watch_parent
from ...protocols.messages.process import RecorderConfig
from ...protocols.messages.scouts import SCOUT_TOPIC
from ...protocols.messages.stream import (
    STEERING_TOPIC,
    BadMessage,
    Message,
    array_of,
    chunk_of,
    parse,
)
from .daemon_link import DaemonLink
from .reopen import CannotResume
from .run_file import LAST_RESERVE_BYTES, BadRecord, RunFile

CREDIT_BYTES = 64 << 20
FLUSH_S = 0.5
RETRY_S = 1.0
# How long, after the parent's death, a full disk is still given a chance.
LAST_CHANCE_S = 30.0
_TICK_MS = 50
_LAST_WORDS_MS = 200
_BATCH = 64
_FINAL = ("complete", "aborted", "failed", "interrupted")


def credit_for(frame_bytes: int) -> int:
    """Frames that may be on their way to the recorder at once."""
    return min(1000, max(4, CREDIT_BYTES // max(1, frame_bytes)))


@dataclass
class _Job:
    """A frame, its measured offset, a scout or a result on its way to the disk."""

    message: Message
    is_frame: bool = False
    chunk: Future[NDArray[np.uint8]] | None = None

    def compressed(self) -> NDArray[np.uint8] | None:
        """Wait for the compressed frame; None where HDF5 must compress it."""
        if self.chunk is None or self.chunk.exception() is not None:
            return None
        return self.chunk.result()


class Recorder:
    """Takes messages from the link and brings them into the file, in order.

    Parameters
    ----------
    socket : zmq.Socket
        Connected DEALER.
    file : RunFile
        Where everything goes.
    """

    def __init__(self, socket: zmq.Socket[bytes], file: RunFile) -> None:
        self.stopped = threading.Event()
        self._link, self._file = DaemonLink(socket, self.stopped.set), file
        self._durable = file.frames
        self._queue: deque[_Job] = deque()
        self._encoder = Bitshuffle()
        self._compressing = ThreadPoolExecutor(1, "compress")
        self._end: Mapping[str, Any] | None = None
        self._owed = self._dealt = self._kept = 0
        self._flush_requested = False
        self._problem: str | None = None
        self._retry_at = self._flush_at = 0.0
        self._blocked = False
        rows, columns = file.manifest.beam.frame
        self._credit = credit_for(rows * columns * 2)

    def run(self) -> int:
        """Record until the end; returns the exit code."""
        with self._compressing:
            return self._run()

    def _run(self) -> int:
        self._link.send("hello", {"credit": self._credit})
        given_up_at = math.inf
        while True:
            self._receive()
            self._write()
            if self._end is not None and not self._queue and self._attempt(self._finish):
                return 0
            if self.stopped.is_set():
                given_up_at = min(given_up_at, time.monotonic() + LAST_CHANCE_S)
                while self._link.poll(_LAST_WORDS_MS) and self._take():
                    pass
                if self._end is None and not self._queue and self._attempt(self._interrupt):
                    return 1
                if time.monotonic() > given_up_at:
                    return 1

    def _receive(self) -> None:
        idle = not self._queue or self._blocked
        if self._link.poll(_TICK_MS if idle else 0):
            for _ in range(_BATCH):
                if not self._take():
                    break

    def _take(self) -> bool:
        parts = self._link.receive()
        if parts is None:
            return False
        self._sort(parts)
        return True

    def _sort(self, parts: Sequence[memoryview]) -> None:
        try:
            message = parse(parts)
        except BadMessage as error:
            self._link.report("error", f"recorder: a message is not readable: {error}")
            return
        kind, _, name = message.topic.partition("/")
        if kind == "frame":
            self._queue.append(_Job(message, is_frame=True, chunk=self._compress(message)))
        elif message.topic in (OFFSET_TOPIC, SCOUT_TOPIC):
            self._queue.append(_Job(message))  # behind its frame, or before it
        elif kind == "result":
            if message.header.get("record", True) is not False:
                self._queue.append(_Job(message))
        elif message.topic == link.END_TOPIC:
            self._end = message.header
            self._file.reserve_bytes = LAST_RESERVE_BYTES
        elif message.topic == link.FLUSH_TOPIC:
            self._flush_requested = True
        else:
            try:
                self._note(kind, name, message)
            except BadRecord as error:
                self._link.report("error", f"recorder: {message.topic}: {error}")

    def _note(self, kind: str, name: str, message: Message) -> None:
        """Take in what is small and written later."""
        header = message.header
        if kind == "telemetry":
            for unknown in self._file.add_telemetry(name, header.get("t_ns"), header.get("values")):
                self._link.report("warning", f"recorder: telemetry '{unknown}' is not in this file")
        elif kind == "state":
            text = f"state: {header.get('state')}"
            self._file.add_event({"level": "info", "source": "engine", "message": text} | header)
        elif kind == "event":
            self._file.add_event(header)
        elif kind == "hold":
            self._file.set_hold(header)
        elif kind == "clock":
            self._file.add_clock(header)
        elif kind == STEERING_TOPIC:
            self._file.add_steering(header)
        elif kind != "preview":
            self._link.report("error", f"recorder: the topic '{message.topic}' is not known")

    def _compress(self, message: Message) -> Future[NDArray[np.uint8]] | None:
        """Begin to compress a frame, beside the writing of those before it."""
        header = message.header
        if not self._encoder.available or header.get("lost") is True or "encoding" in header:
            return None
        try:
            return self._compressing.submit(self._encoder.compress, array_of(message))
        except BadMessage:
            return None  # reported when its turn comes

    def _write(self) -> None:
        now = time.monotonic()
        if self._blocked and now < self._retry_at:
            return
        for _ in range(min(len(self._queue), _BATCH)):
            if not self._attempt(self._write_next):
                return
            if time.monotonic() >= self._flush_at:
                break
        requested = self._flush_requested and not self._queue
        if (requested or time.monotonic() >= self._flush_at) and self._attempt(self._file.flush):
            self._flush_at = time.monotonic() + FLUSH_S
            self._flush_requested = self._flush_requested and not requested
            self._durable, self._kept = self._file.frames, self._dealt
            self._tell_status()
        if not self._queue:
            self._give_credit()

    def _tell_status(self) -> None:
        body: dict[str, Any] = {
            "backlog": len(self._queue),
            "frames": self._file.frames,
            "durable": self._durable,
            "kept": self._kept,
            "dealt": self._dealt,
            "lost": self._file.lost,
            "problem": self._problem,
        }
        self._link.send("status", body)

    def _give_credit(self) -> None:
        if self._owed:
            self._link.send("credit", {"frames": self._owed})
            self._owed = 0

    def _write_next(self) -> None:
        job = self._queue[0]
        header = job.message.header
        try:
            if job.message.topic == OFFSET_TOPIC:
                self._file.set_offset(header)
            elif job.message.topic == SCOUT_TOPIC:
                self._file.write_scout(header, array_of(job.message))
            elif not job.is_frame:
                self._file.write_result(header, array_of(job.message))
            elif header.get("lost") is True:
                self._file.write_frame(header, None)
            else:
                frame = chunk_of(job.message) or array_of(job.message)
                self._file.write_frame(header, frame, job.compressed())
        except (BadRecord, BadMessage) as error:
            self._link.report("error", f"recorder: {job.message.topic} was not recorded: {error}")
        self._queue.popleft()
        chunk = job.compressed()
        if chunk is not None:
            self._encoder.release(chunk)
        if job.is_frame:
            self._dealt += 1
            self._owed += 1
            if self._owed >= self._credit // 4:  # soon enough that the sender need not wait
                self._give_credit()

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Do something on the disk; on failure hold back for a while and say so once."""
        if self._blocked and time.monotonic() < self._retry_at:
            return False
        try:
            action()
        except (OSError, RuntimeError) as error:  # h5py has both for a failed write
            self._retry_at = time.monotonic() + RETRY_S
            before, self._problem = self._problem, f"{self._file.path} cannot be written: {error}"
            if not self._blocked:
                self._blocked = True
                advice = (
                    f"{self._durable} frames are safe on the disk; this file takes no more. End "
                    "the run, then run `pyrotome recover`"
                    if self._file.refused
                    else "Nothing is lost yet: frames wait in memory, and the schedule waits. Make "
                    "room on the disk, or make it writable"
                )
                self._link.report("error", f"recorder: {self._problem}. {advice}", again=True)
            if self._problem != before:
                self._tell_status()
            return False
        if self._blocked:
            self._blocked = False
            self._problem = None
            self._tell_status()
            self._link.report(
                "warning", f"recorder: {self._file.path} can be written again", again=True
            )
        return True

    def _finish(self) -> None:
        end = self._end or {}
        status: Any = end.get("status")
        if status not in _FINAL:
            self._link.report(
                "error", f"recorder: {status!r} is not a status; recorded as 'failed'"
            )
            status = "failed"
        self._file.close(
            status, end.get("ended_ns"), end.get("dose_e_per_nm2"), str(end.get("reason") or "")
        )
        self._give_credit()
        size = self._file.path.stat().st_size
        self._link.send(
            "done", {"frames": self._file.frames, "lost": self._file.lost, "bytes": size}
        )

    def _interrupt(self) -> None:
        self._file.close("interrupted", None, None, "the daemon ended without a message")


def _keep_freed_memory() -> None:
    """Let the C library use the memory of one frame for the next.

    Left alone it gives every large block back to the system, which then clears the next one: a
    third of this process's time in the kernel. Harmless where there is no glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        set_option(trim_threshold, 1 << 30)
        set_option(mmap_threshold, 1 << 30)


def main() -> int:
    """Run the process; returns its exit code."""
    try:
        config = read_config(RecorderConfig)
    except ValidationError as error:
        fail(f"recorder: its configuration is not readable: {error.errors()[0]['msg']}")
        return 2
    _keep_freed_memory()
    path = Path(config.file)
    try:
        file = RunFile(path, config.manifest, config.resumed)
    except FileExistsError:
        fail(f"{path} exists already; name another file: no file is overwritten")
        return 2
    except CannotResume as error:
        fail(str(error))
        return 2
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and not config.resumed else error
        fail(f"{path} cannot be {'reopened' if config.resumed else 'created'}: {why}")
        return 2
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, link.RECORDER.encode())
    socket.setsockopt(zmq.RCVHWM, 0)  # frames are bounded by credit, the rest is small
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.LINGER, 5000)
    recorder = Recorder(socket, file)

    def stop(_signal: int, _frame: object) -> None:
        recorder.stopped.set()

    signal.signal(signal.SIGTERM, stop)
    watch_parent(recorder.stopped.set)
    socket.connect(config.link)
    announce(file=str(path))
    try:
        return recorder.run()
    finally:
        if recorder.stopped.is_set():
            socket.setsockopt(zmq.LINGER, 0)
        socket.close()
        context.term()


if __name__ == "__main__":
    sys.exit(main())
