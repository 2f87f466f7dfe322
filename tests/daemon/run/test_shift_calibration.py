"""The step `calibrate: shifts`: what is stored, charged and told, and what stays where it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_instruments import BenchBeam, BenchDetector
from tracked import SHIFT
from tracked_specimen import FIELD_NM, frame

from pyrotome.daemon.acquisition.context import AcquisitionContext
from pyrotome.daemon.acquisition.plan_progress import PlanProgress
from pyrotome.daemon.run.shift_calibration import ShiftCalibrator
from pyrotome.daemon.schedule.dose import DoseExceeded, DoseLedger
from pyrotome.daemon.schedule.operations import CalibrateShifts
from pyrotome.daemon.schedule.plan import Plan
from pyrotome.drivers.base import (
    BeamReach,
    Deflection,
    DetectorFrame,
    DeviceRefused,
)
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig
from pyrotome.protocols.config.shift_calibration import load_shift_calibration
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.journal import Deflectors, Exposed, Trigger

SETTINGS = BeamSettings.model_validate(
    {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
     "pixel_size": "1.04 nm"}
)  # fmt: skip
MATRIX = np.array([[-0.19, -0.95], [-1.06, 0.21]])
STEP = CalibrateShifts("shifts_001", 200.0, 6)
SCAN = SETTINGS.dose_per_frame_e_per_nm2 / 256


class Column(BenchBeam):
    """Its deflectors move the image by `MATRIX`, unless they refuse."""

    def __init__(self, clock: ExperimentClock, file: Path) -> None:
        shift = {"calibration_file": str(file), "limit": "1.9 um"}
        rig = BeamRig.model_validate({"driver": "test", "endpoint": "n", "shift": shift})
        super().__init__(clock, rig)
        self.units, self.refuses = np.array([30.0, -20.0]), False
        self.file = file

    async def reach(self) -> BeamReach:
        needed = None if self.file.exists() else "it has not been calibrated"
        return BeamReach(1900.0 if needed is None else None, needed, 1900.0)

    async def deflect_units(self, units: tuple[float, float]) -> int:
        assert self.blanked, "the beam is moved only while it is blanked"
        if self.refuses:
            raise DeviceRefused(self.name, "set the beam deflectors", "they read something else")
        self.units = np.array(units)
        return self.clock.now_ns()

    async def deflection(self) -> Deflection:
        return Deflection(self.clock.now_ns(), (self.units[0], self.units[1]), None)

    async def prepare(self, settings: Any) -> None:
        assert self.blanked


class Scanner(BenchDetector):
    """Shows the copper specimen, or the same picture again and again."""

    def __init__(self, clock: ExperimentClock, column: Column) -> None:
        super().__init__(clock, column)
        self.column, self.repeats, self.taken = column, False, 0

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        assert shape == (64, 64)
        self.armed = self.taken

    async def trigger(self) -> int:
        self.taken += 1
        return await super().trigger()

    async def read_frame(self) -> DetectorFrame:
        off = np.zeros(2) if self.repeats else MATRIX @ (self.column.units - (30.0, -20.0))
        counts = frame(0.0, (float(off[0]), float(off[1])), self.taken, 64, 1, 0.0225)
        return DetectorFrame(self.taken - self.armed, counts, self.clock.now_ns())


class Bench:
    """A run that calibrates; `former` is whether a calibration is there already."""

    def __init__(self, folder: Path, former: bool = True, limit: float | None = None) -> None:
        self.file = folder / "shift.json"
        if former:
            self.file.write_text(json.dumps(SHIFT))
        clock = ExperimentClock(speed=100)
        self.column = Column(clock, self.file)
        self.scanner = Scanner(clock, self.column)
        self.ledger = DoseLedger(limit, None)
        self.events: list[tuple[str, str]] = []
        self.journal: list[Any] = []
        self.followed = self.pauses = 0
        self.context = AcquisitionContext(
            self.column, self.scanner, SETTINGS, self.ledger, self, clock, None, None,
            PlanProgress(Plan(None, (), ()), clock), self,  # type: ignore[arg-type]
        )  # fmt: skip
        self.calibrator = ShiftCalibrator(
            self.context, self, lambda: None, self.paused  # type: ignore[arg-type]
        )  # fmt: skip

    def note(self, entry: Any) -> None:
        self.journal.append(entry)

    async def caught_up(self) -> None: ...
    def save(self) -> None: ...
    def telemetry(self, *_: Any) -> None: ...
    def event(self, level: str, _source: str, message: str, **_: Any) -> None:
        self.events.append((level, message))

    async def recalibrated(self) -> None:
        self.followed += 1

    async def paused(self) -> bool:
        """A person has a look, and brings something into the field."""
        self.pauses += 1
        self.scanner.repeats = self.column.refuses = False
        return True

    @property
    def stays(self) -> bool:
        """Whether the former calibration is still there, and why was said."""
        level, text = self.events[-1]
        same = json.loads(self.file.read_text()) == SHIFT
        return same and level == "error" and text.endswith("stays as it is")


async def test_six_sparse_scans_are_charged_noted_and_stored_with_what_they_hold_for(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    await bench.calibrator.calibrate(STEP)
    found = load_shift_calibration(bench.file)
    np.testing.assert_allclose(found.matrix_nm, MATRIX, atol=0.03)
    assert found.zero == (0.0, 0.0), "that of the former one: no place has changed"
    assert (found.voltage_kv, found.field_nm) == (300.0, pytest.approx(FIELD_NM, rel=1e-3))
    assert bench.followed == 1
    assert bench.column.units.tolist() == [30.0, -20.0], "the deflectors are back"
    parked = SETTINGS.parked_dose_e_per_nm2(bench.context.switching.total_s)
    assert bench.ledger.of("shifts_001") == pytest.approx(6 * SCAN + parked)
    assert bench.ledger.committed == bench.ledger.charged
    first, *rest = bench.journal
    assert first == Deflectors(units=(30.0, -20.0))
    assert [type(entry) for entry in rest] == [Trigger, Exposed] * 6
    assert sum(e.dose_e_per_nm2 for e in rest[1::2]) == pytest.approx(bench.ledger.charged)
    ((level, text),) = bench.events
    assert level == "info"
    assert "% other than before" in text


async def test_beyond_the_budget_nothing_is_exposed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=5 * SCAN)
    await bench.calibrator.calibrate(STEP)
    assert bench.stays
    assert "shifts_001 would bring the specimen to" in bench.events[0][1]
    assert (bench.scanner.taken, bench.ledger.committed, bench.followed) == (0, 0, 0)
    bench = Bench(tmp_path, limit=5 * SCAN)
    bench.file.unlink()
    with pytest.raises(DoseExceeded):
        await bench.calibrator.calibrate(STEP)
    assert not bench.file.exists()


async def test_pictures_that_do_not_follow_leave_the_former_calibration(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.scanner.repeats = True
    await bench.calibrator.calibrate(STEP)
    assert bench.stays
    assert bench.followed == 0
    assert bench.ledger.charged > 6 * SCAN, "they were exposed"


async def test_deflectors_that_refuse_leave_the_former_calibration(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.column.refuses = True
    await bench.calibrator.calibrate(STEP)
    assert bench.stays
    back, why = (text for _, text in bench.events)
    assert "the beam deflectors are not where they were" in back
    assert "they read something else" in why
    assert (bench.scanner.taken, bench.pauses) == (0, 0)


async def test_without_a_calibration_a_person_is_asked_and_it_is_tried_again(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, former=False)
    bench.column.refuses = True
    await bench.calibrator.calibrate(STEP, back_to=None)
    assert bench.pauses == 1
    assert bench.events[1][1].endswith("then resume to try again, or abort")
    found = load_shift_calibration(bench.file)
    assert found.zero == (30.0, -20.0), "where the deflectors stood is no shift"


async def test_after_a_kill_the_deflectors_are_brought_back_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, former=False)
    bench.column.units = np.array([243.0, -20.0])
    await bench.calibrator.calibrate(STEP, back_to=(30.0, -20.0))
    assert load_shift_calibration(bench.file).zero == (30.0, -20.0)
    assert bench.column.units.tolist() == [30.0, -20.0]
