"""Recorder and analysis of a run: a real recorder is started, closes its file, dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq.asyncio
from consumer import linked
from recorder_link import SHAPE, a_manifest, picture

from pyrotome.daemon.runtime.processes import ChildFailed
from pyrotome.daemon.streaming import run_processes
from pyrotome.daemon.streaming.run_processes import RunProcesses
from pyrotome.daemon.streaming.run_streams import RunStreams
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent
from pyrotome.protocols.runfile.summary import inspect_file

RECORDER = "pyrotome.daemon.recording.recorder"


class Run:
    """Processes and streams of one run, and what was said of them."""

    def __init__(self, here: Any, context: zmq.asyncio.Context, file: Path) -> None:
        self.said: list[str] = []
        here.bus.subscribe(PublishedEvent, lambda event: self.said.append(event.header["message"]))
        self.died = asyncio.Event()
        self.processes = RunProcesses(here.hub, context, file, lambda *_: None, self.died.set)
        self.streams = RunStreams(here.hub, self.processes.link, "merlin")

    def send(self, index: int) -> None:
        header = {
            "series": "series_001", "index": index, "tilt_deg": 0.0, "nominal_tilt_deg": 0.0,
            "exposure_s": 0.5, "temperature_c": 200.0, "dose_e_per_nm2": 1.0,
            "dose_total_e_per_nm2": 1.0, "frame_number": index + 1,
        }  # fmt: skip
        self.streams.frame(header, picture("series_001", index), a_manifest().started_ns + 1)


@asynccontextmanager
async def a_run(file: Path) -> AsyncIterator[Run]:
    async with linked() as here:
        context = zmq.asyncio.Context()
        run = Run(here, context, file)
        try:
            yield run
        finally:
            await run.streams.close()
            await run.processes.close()
            context.destroy(linger=0)


async def test_a_recorder_takes_frames_and_closes_its_file(tmp_path: Path) -> None:
    file = tmp_path / "run.nxs"
    async with a_run(file) as run:
        assert run.processes.status() == {"waiting_for": None, "analysis": None, "recorder": None}
        await run.processes.open(a_manifest())
        assert run.streams.most_at_a_time > 1
        for index in range(5):
            run.send(index)
        assert run.processes.status()["recorder"]["alive"]
        assert await run.processes.close_file("complete") is None
        assert run.said[-1] == "run complete"
    found = inspect_file(file)
    assert (found["status"], found["frames"]) == ("complete", 5)
    assert found["series"][0]["shape"] == list(SHAPE)


async def test_a_recorder_that_cannot_start_says_why(tmp_path: Path) -> None:
    file = tmp_path / "run.nxs"
    file.write_text("somebody's notes")
    async with a_run(file) as run:
        with pytest.raises(ChildFailed, match="exists already"):
            await run.processes.open(a_manifest())
    assert file.read_text() == "somebody's notes"


async def test_a_recorder_that_dies_is_told_once_and_holds_nothing_up(tmp_path: Path) -> None:
    async with a_run(tmp_path / "run.nxs") as run:
        await run.processes.open(a_manifest())
        for child in psutil.Process().children():
            if RECORDER in child.cmdline():
                child.send_signal(signal.SIGKILL)
        await asyncio.wait_for(run.died.wait(), 20)
        assert "the recorder died with exit status -9" in run.said
        await asyncio.wait_for(run.streams.credit(100), 10)
        assert await run.processes.close_file("failed") is None
        assert not run.processes.status()["recorder"]["alive"]


async def test_a_recorder_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_processes, "CLOSING_TIMEOUT_S", 0.3)
    async with a_run(tmp_path / "run.nxs") as run:
        await run.processes.open(a_manifest())
        (child,) = [p for p in psutil.Process().children() if RECORDER in p.cmdline()]
        child.suspend()
        problem = await run.processes.close_file("complete")
        child.resume()
        assert problem == "the file was not closed: the recorder did not answer in time."
