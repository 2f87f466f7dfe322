"""Offsets on their way to the analysis: at once, late, or never."""

from __future__ import annotations

from threading import Timer

import pytest

from pyrotome.analysis.online import offsets
from pyrotome.analysis.online.offsets import Offsets
from pyrotome.protocols.messages.offsets import FrameOffset


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
