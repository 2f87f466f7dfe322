"""The stage between exposures, on a simulated one: a movement is seen with the frames it spoilt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyrotome.daemon.acquisition.stage_check import StageCheck
from pyrotome.drivers.base import StagePosition


class Readings:
    """Takes what is read back."""

    def __init__(self) -> None:
        self.tilt_deg: list[float] = []
        self.seen: list[tuple[float, str]] = []

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        assert device == "stage"
        assert t_ns > 0
        self.tilt_deg.append(values["tilt_deg"])

    def on_seen(self, before: StagePosition, after: StagePosition, frames: str) -> None:
        self.seen.append((abs(after.tilt_deg - before.tilt_deg), frames))


@pytest.fixture
def readings() -> Readings:
    return Readings()


@pytest.fixture
def check(devices: Any, readings: Readings) -> StageCheck:
    return StageCheck(devices.stage, readings, readings.on_seen)  # type: ignore[arg-type]


async def test_a_stage_that_stands_still_is_seen_after_each_exposure(
    check: StageCheck, readings: Readings
) -> None:
    await check.tilt(5.0)
    await check.check()
    assert readings.seen == [], "nothing was exposed"
    check.exposed("series_001", 0, 2)
    check.exposed("series_001", 3, 5)
    await check.tilt(5.0)
    check.exposed("series_001", 6, 6)
    await check.tilt(7.0)
    assert [frames for _, frames in readings.seen] == [
        "frames 0 to 5 of series_001", "frame 6 of series_001",
    ]  # fmt: skip
    assert max(moved for moved, _ in readings.seen) < 0.05
    assert readings.tilt_deg == pytest.approx([5.0, 5.0, 7.0], abs=0.1)
    assert check.position is not None
    assert check.position.tilt_deg == pytest.approx(7.0, abs=0.1)


async def test_a_stage_that_creeps_is_seen_with_its_frames(
    check: StageCheck, readings: Readings, microscope: Any
) -> None:
    await check.tilt(0.0)
    await asyncio.to_thread(microscope.fault, "stage:drift")
    check.exposed("series_001", 4, 4)
    await asyncio.sleep(1.0)
    await check.check()
    ((moved_deg, frames),) = readings.seen
    assert frames == "frame 4 of series_001"
    assert moved_deg > 0.05


async def test_a_stage_moved_in_a_pause_is_taken_where_it_is(
    check: StageCheck, readings: Readings, devices: Any
) -> None:
    await check.tilt(0.0)
    await check.check()
    check.forget()
    await devices.stage.move_to(0.2)
    tolerance_deg = devices.stage.rig.limits.tolerance_deg
    await check.tilt(0.2 + tolerance_deg / 2)
    check.exposed("series_001", 1, 1)
    await check.check()
    ((moved_deg, _),) = readings.seen
    assert moved_deg < 0.05


async def test_a_check_that_is_not_due_is_left_out(check: StageCheck, readings: Readings) -> None:
    await check.tilt(0.0)
    check.exposed("ramp_001", 0, 0)
    await check.check()
    check.exposed("ramp_001", 1, 1)
    await check.check_if_due()
    assert len(readings.seen) == 1
    await asyncio.sleep(0.6)
    await check.check_if_due()
    assert [frames for _, frames in readings.seen] == [
        "frame 0 of ramp_001", "frame 1 of ramp_001",
    ]  # fmt: skip
