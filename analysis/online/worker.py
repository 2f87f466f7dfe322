"""The online analysis as a process: ``python -m pyrotome.analysis.online.worker``.

The main thread owns the link and never computes; two others do (`computer.py`), so that status and
credit go on while a frame takes half a minute. Frames wait in memory within the credit that was
granted, which bounds it; those beyond come without their pixels and are read from the run file when
their turn comes.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import zmq
from pydantic import ValidationError

from ...protocols.messages.credit_link import ANALYSIS, END_TOPIC, upstream
from ...protocols.messages.manifest import RunManifest
from ...protocols.messages.parent_pipe import announce, fail, read_config, watch_parent
from ...protocols.messages.process import AnalysisConfig
from ...protocols.messages.stream import BadMessage, parse
from ..pipeline.pipeline import Pipeline
from .computer import Computer, Job, Outbox
from .swmr_frames import GrowingFile

# Frames that may wait here: as many as fit into this, but never fewer than the least.
QUEUE_BYTES = 512 * 1024 * 1024
LEAST_CREDIT = 8
# A status goes out at least this often (wall seconds) while there is work.
STATUS_EVERY_S = 0.5
# The daemon and the instruments come first on a computer that they share.
NICENESS = 10
_WAKE = "inproc://wake"


def credit_of(manifest: RunManifest) -> int:
    """Frames that may wait for the analysis, from the size that they have (at most 4 bytes/px)."""
    rows, columns = manifest.beam.frame
    return max(LEAST_CREDIT, QUEUE_BYTES // (rows * columns * 4))


class Worker:
    """The link's side of the process: receives frames, sends what the computer leaves.

    Parameters
    ----------
    config : AnalysisConfig
        Link, file and run.

    Raises
    ------
    ValidationError
        If a step of the run is not installed.
    """

    def __init__(self, config: AnalysisConfig) -> None:
        pipeline = Pipeline.of(config.manifest)
        self._credit = credit_of(config.manifest)
        self._context = zmq.Context()
        self._link = self._context.socket(zmq.DEALER)
        self._link.set(zmq.IDENTITY, ANALYSIS.encode())
        self._link.set(zmq.LINGER, 0)
        # What comes is bounded by credit, and the end must get through.
        self._link.set(zmq.RCVHWM, 0)
        self._link.set(zmq.SNDHWM, 16)
        self._link.connect(config.link)
        self._wake = self._context.socket(zmq.PULL)
        self._wake.set(zmq.RCVHWM, 0)
        self._wake.bind(_WAKE)
        self._outbox = Outbox(self._socket_that_wakes)
        self._computer = Computer(pipeline, GrowingFile(Path(config.file)), self._outbox)
        self._unsent: deque[list[Any]] = deque()

    def _socket_that_wakes(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, 0)
        socket.connect(_WAKE)
        return socket

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
            poller.register(self._wake, zmq.POLLIN)
            poller.poll(int(STATUS_EVERY_S * 1000))
            self._receive()
            while self._wake.poll(0):
                self._wake.recv()
            self._unsent.extend(self._outbox.take())
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
                self._computer.submit(None)
            elif message.header.get("type") == "frame":
                self._computer.submit(Job(message, time.monotonic()))
            elif message.header.get("type") == "offset":
                self._computer.note_offset(message.header)

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
        worker = Worker(read_config(AnalysisConfig))
    except ValidationError as error:
        problems = "; ".join(problem["msg"] for problem in error.errors())
        fail(f"the analysis cannot use its configuration: {problems}")
        sys.exit(1)
    # Nothing here needs an orderly end, and a computation under way cannot be interrupted.
    watch_parent(lambda: os._exit(0))
    os.nice(NICENESS)
    worker.run()


if __name__ == "__main__":
    main()
