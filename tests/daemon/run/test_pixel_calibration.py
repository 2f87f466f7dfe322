"""The step `calibrate: pixel`: what is stored, charged and told, and what a failure does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_instruments import BenchBeam, BenchDetector
from silicon_pictures import COILS, PIXEL_A, map_at, picture

from pyrotome.daemon.acquisition.context import AcquisitionContext
from pyrotome.daemon.acquisition.plan_progress import PlanProgress
from pyrotome.daemon.run.pixel_calibration import PixelCalibrator
from pyrotome.daemon.schedule.dose import DoseExceeded, DoseLedger
from pyrotome.daemon.schedule.operations import CalibratePixel
from pyrotome.daemon.schedule.plan import Plan
from pyrotome.drivers.base import DetectorFrame, DeviceRefused
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig
from pyrotome.protocols.config.scanning.pixel_calibration import load_pixel_calibration
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.journal import Exposed, Trigger

SIDE, HOME_DEG = 160, 10.0
SETTINGS = BeamSettings.model_validate(
    {"voltage": "300 kV", "current": "20 pA", "dwell": "3 us", "frame": [SIDE, SIDE],
     "pixel_size": f"{PIXEL_A} A"}
)  # fmt: skip
STEP = CalibratePixel("pixel_001", 25.0, 32, 4)
# Half a microsecond a pixel in place of three.
FAST = SETTINGS.dose_per_frame_e_per_nm2 / 6


class Column(BenchBeam):
    """Its scan can be turned, unless it refuses."""

    def __init__(self, clock: ExperimentClock) -> None:
        rig = BeamRig.model_validate(
            {"driver": "test", "endpoint": "n", "scan_rotation": f"{HOME_DEG} deg"}
        )
        super().__init__(clock, rig)
        self.turns: list[float] = []
        self.refuses = False

    async def turn_scan(self, rotation_deg: float) -> None:
        assert self.blanked
        if self.refuses and rotation_deg != HOME_DEG:
            raise DeviceRefused(self.name, "turn the scan", "it reads something else")
        self.turns.append(rotation_deg)

    async def prepare(self, settings: Any) -> None:
        assert self.blanked


class Scanner(BenchDetector):
    """Shows silicon as the scan is turned, or nothing."""

    def __init__(self, clock: ExperimentClock, column: Column) -> None:
        super().__init__(clock, column)
        self.column, self.taken, self.empty = column, 0, False
        self.shown: dict[float, Any] = {}
        self.rng = np.random.default_rng(1)

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        assert (frames, shape) == (32, (SIDE, SIDE))
        assert exposure_s == pytest.approx(500e-9 * SIDE**2)
        self.armed = self.taken

    async def read_frame(self) -> DetectorFrame:
        self.taken += 1
        turn = self.column.turns[-1]
        if turn not in self.shown:
            self.shown[turn] = picture(map_at(turn), SIDE, 3.0)
        level = np.full((SIDE, SIDE), 3.0) if self.empty else self.shown[turn]
        counts = self.rng.poisson(level).astype(np.uint16)
        return DetectorFrame(self.taken - self.armed, counts, self.clock.now_ns())


class Bench:
    """A run that calibrates."""

    def __init__(self, folder: Path, limit: float | None = None) -> None:
        self.file = folder / "pixel.json"
        clock = ExperimentClock(speed=1000)
        self.column = Column(clock)
        self.scanner = Scanner(clock, self.column)
        self.ledger = DoseLedger(limit, None)
        self.events: list[tuple[str, str]] = []
        self.journal: list[Any] = []
        self.pauses = 0
        self.context = AcquisitionContext(
            self.column, self.scanner, SETTINGS, self.ledger, self, clock, None, None,
            PlanProgress(Plan(None, (), ()), clock), self,  # type: ignore[arg-type]
        )  # fmt: skip
        self.calibrator = PixelCalibrator(self.context, lambda: None, self.paused)

    async def calibrate(self) -> None:
        await self.calibrator.calibrate(STEP, str(self.file))

    def note(self, entry: Any) -> None:
        self.journal.append(entry)

    async def caught_up(self) -> None: ...
    def save(self) -> None: ...
    def telemetry(self, *_: Any) -> None: ...
    def event(self, level: str, _source: str, message: str, **_: Any) -> None:
        self.events.append((level, message))

    async def paused(self) -> bool:
        """A person brings silicon into the field."""
        self.pauses += 1
        self.scanner.empty = self.column.refuses = False
        return True


async def test_fast_frames_at_four_rotations_are_charged_and_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.calibrate()
    found = load_pixel_calibration(bench.file)
    np.testing.assert_allclose(found.matrix_nm, 0.1 * PIXEL_A * COILS, rtol=0, atol=3e-5)
    assert found.scan_rotations_deg == (10.0, 55.0, 100.0, 145.0)
    assert (found.voltage_kv, found.frames) == (300.0, 32)
    assert found.field_nm == pytest.approx(SETTINGS.field_nm)
    assert bench.column.turns == [10.0, 55.0, 100.0, 145.0, HOME_DEG], "the scan is turned back"
    parked = SETTINGS.parked_dose_e_per_nm2(bench.context.switching.total_s)
    assert bench.ledger.of("pixel_001") == pytest.approx(32 * FAST + parked)
    assert bench.ledger.committed == bench.ledger.charged
    assert [type(entry) for entry in bench.journal] == [Trigger, Exposed] * 32
    (level, text), *doubts = bench.events
    assert level == "info"
    assert "pixel_001: a pixel is 0.358" in text
    assert any("the scan is distorted" in told for _, told in doubts)


async def test_without_a_crystal_a_person_is_asked_and_it_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.scanner.empty = True
    await bench.calibrate()
    level, text = bench.events[0]
    assert level == "error"
    assert "bring a crystal of silicon along [110] into the field" in text
    assert text.endswith("then resume to try again, or abort")
    assert (bench.pauses, bench.file.exists()) == (1, True)


async def test_a_scan_that_does_not_turn_is_told_and_beyond_the_budget_nothing_is_exposed(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, limit=31 * FAST)
    with pytest.raises(DoseExceeded):
        await bench.calibrate()
    assert (bench.scanner.taken, bench.ledger.committed, bench.file.exists()) == (0, 0, False)
    bench = Bench(tmp_path)
    bench.column.refuses = True
    await bench.calibrate()
    assert "it reads something else" in bench.events[0][1]
    assert bench.pauses == 1
