"""Offsets on their way to the analysis: at once, late, or never."""

from __future__ import annotations

from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import zmq
from recorder_link import SHAPE, T0, a_manifest, picture

from pyrotome.analysis.online import offsets
from pyrotome.analysis.online.computer import Computer, Job, Outbox
from pyrotome.analysis.online.offsets import Offsets
from pyrotome.analysis.online.swmr_frames import GrowingFile
from pyrotome.analysis.pipeline.pipeline import Pipeline
from pyrotome.daemon.recording.run_file import RunFile
from pyrotome.protocols.messages.manifest import StackPlan, TrackingPlan
from pyrotome.protocols.messages.offsets import FrameOffset
from pyrotome.protocols.messages.stream import Message


def found(index: int, series: str = "series_001") -> FrameOffset:
    return FrameOffset(series, index, (1.0, 2.0), (0.5, 0.5))


def test_a_frame_waits_for_its_offset_and_takes_the_late_ones_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offsets, "WAIT_S", 30.0)
    there = Offsets(["series_001"])
    there.put(found(0))
    there.put(found(7, "series_002"))  # not tracked
    timer = Timer(0.02, there.put, [found(1)])
    timer.start()
    assert there.take("series_001", 1) == [found(0), found(1)]
    timer.join()
    assert there.take("series_002", 7) == []


def test_nothing_waits_twice_for_a_tracker_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "WAIT_S", 0.01)
    there = Offsets(["series_001"])
    assert there.take("series_001", 0) == []
    monkeypatch.setattr(offsets, "WAIT_S", 1e6)  # a second wait would not end
    assert there.take("series_001", 1) == []
    there.put(found(1))
    assert there.take("series_001", 2, wait=False) == [found(1)]


class Told:
    """In the place of a stack: notes in which order it is told things."""

    def __init__(self, plan: StackPlan) -> None:
        self.plan = plan
        self.heard: list[Any] = []

    def note_offset(self, index: int, offset_nm: Any, sd_nm: Any) -> None:
        self.heard.append((index, offset_nm, sd_nm))

    def frame(self, index: int, *_: Any) -> list[Any]:
        self.heard.append(index)
        return []


def test_a_stack_hears_the_offset_before_it_takes_the_frame(tmp_path: Path) -> None:
    manifest = a_manifest(tracking=TrackingPlan(settings={}, lost_beyond_nm=10.0))
    path = tmp_path / "run.nxs"
    file = RunFile(path, manifest)
    header = {"series": "series_001", "index": 0, "t_ns": T0}
    file.write_frame(header, picture("series_001", 0))
    file.set_offset(header | {"offset_nm": [3.0, -4.0], "sd_nm": [0.5, 0.25], "score": 0.9})
    file.flush()
    there, stack = Offsets(["series_001"]), Told(manifest.stacks[1])
    pipeline = Pipeline([], [])
    with zmq.Context() as context, context.socket(zmq.PULL) as end, context.socket(zmq.PUSH) as to:
        end.bind("inproc://wake")
        to.connect("inproc://wake")
        growing = GrowingFile(path)
        computer = Computer(pipeline, growing, Outbox(lambda: to), there)
        pipeline.stacks["series_001"] = stack  # type: ignore[assignment]
        in_file = {"series": "series_001", "index": 0, "in_file": True}
        computer._analyse(Job(Message("frame/test", in_file), 0.0))
        there.put(FrameOffset("series_001", 1, None, None))  # looked for, and not found
        there.put(found(2))
        with_pixels = {"series": "series_001", "index": 1, "shape": list(SHAPE), "dtype": "uint16"}
        pixels = picture("series_001", 1)
        computer._analyse(Job(Message("frame/test", with_pixels, (pixels,)), 0.0))
        growing.close()
    file.close("complete", None, 1.0, "")
    assert stack.heard == [
        (0, (3.0, -4.0), (0.5, 0.25)), 0, (2, (1.0, 2.0), (0.5, 0.5)), 1,
    ]  # fmt: skip
