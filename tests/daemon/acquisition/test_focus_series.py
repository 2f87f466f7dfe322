"""Focus series: when one is taken, what it costs, and what is done with its result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bench_instruments import BenchBeam, BenchDetector, BenchRun
from blurred_specimen import CONVERGENCE_MRAD, blurred

from pyrotome.analysis.tracking.tracker import Tracker
from pyrotome.daemon.acquisition import focus_series
from pyrotome.daemon.acquisition.focus_series import FocusSeries
from pyrotome.daemon.schedule.dose import DoseLedger
from pyrotome.daemon.schedule.focus_scans import focus_series_e_per_nm2
from pyrotome.daemon.tracking.follower import Follower
from pyrotome.drivers.base import DetectorFrame, DeviceLost
from pyrotome.drivers.readings import BeamReach, Reach
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig
from pyrotome.protocols.config.tracking import Focus, Track
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.tracking import FocusPicture, FrameTaken

SETTINGS = BeamSettings.model_validate(
    {"voltage": "300 kV", "current": "20 pA", "dwell": "3.3 us", "frame": [256, 256],
     "pixel_size": "4.16 nm"}
)  # fmt: skip
SERIES, TILTS = "series_001", (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
DEPTH_NM = 39.0


class Column(BenchBeam):
    """Focuses where it is told to."""

    def __init__(self, clock: ExperimentClock) -> None:
        rig = BeamRig.model_validate(
            {"driver": "test", "endpoint": "n",
             "focus": {"by": "probe_defocus", "convergence": f"{CONVERGENCE_MRAD} mrad"}}
        )  # fmt: skip
        super().__init__(clock, rig)
        self.shift_nm, self.defocus_nm = (0.0, 0.0), 0.0
        self.foci: list[float] = []
        self.field_nm = SETTINGS.field_nm

    async def reach(self) -> BeamReach:
        return BeamReach(shift_nm=1900.0, defocus_nm=Reach(-20_000, 20_000))

    async def deflect(self, shift_nm: tuple[float, float]) -> int:
        assert self.field_nm == pytest.approx(SETTINGS.field_nm), "calibrated for that field"
        self.shift_nm = shift_nm
        return self.clock.now_ns()

    async def focus(self, defocus_nm: float) -> int:
        self.foci.append(defocus_nm)
        self.defocus_nm = defocus_nm
        return self.clock.now_ns()

    async def prepare(self, settings: Any) -> None:
        assert self.blanked
        self.field_nm = settings.field_nm


class Scanner(BenchDetector):
    """Shows the specimen, which is in focus at `height_nm`."""

    def __init__(self, clock: ExperimentClock, column: Column) -> None:
        super().__init__(clock, column)
        self.column, self.height_nm, self.tilt_deg = column, 0.0, 0.0
        self.shapes: list[tuple[int, int]] = []
        self.lost, self.empty = False, False

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        self.shapes.append(shape)

    async def read_frame(self) -> DetectorFrame:
        if self.lost:
            raise DeviceLost(self.name, "read a frame", "none came")
        return DetectorFrame(1, self.picture(self.shapes[-1][1], 6.0), self.clock.now_ns())

    def picture(self, points: int, dose: float) -> Any:
        self.seed = getattr(self, "seed", 0) + 1
        if self.empty:
            return np.random.default_rng(self.seed).poisson(3.0, (points, points)).astype("u2")
        return blurred(
            self.height_nm - self.column.defocus_nm, self.tilt_deg, self.column.shift_nm,
            self.seed, points, self.column.field_nm, dose,
        )  # fmt: skip


class Bench(BenchRun):
    """The focus series of a run, whose tracker lives in this process and answers at once."""

    def __init__(self, limit: float | None = None, **focus: Any) -> None:
        super().__init__()
        clock = ExperimentClock(speed=100)
        self.column = Column(clock)
        self.scanner = Scanner(clock, self.column)
        self.ledger = DoseLedger(limit, None)
        self.ledger.reserve(SERIES, 0.0, is_series=True)
        self.index, self.dead = 0, False
        self.tracker = Tracker(convergence_mrad=CONVERGENCE_MRAD, depth_nm=DEPTH_NM)
        self.follower = Follower(
            Track(), Focus.model_validate({"dose": "20 e/nm^2", **focus}), self.column, clock,
            SETTINGS.field_nm, self.tracking, lambda *_: None, self.event, lambda: None,
        )  # fmt: skip
        self.context = self.acquisition_context(self.column, self.scanner, SETTINGS, self.ledger)
        self.series = FocusSeries(self.context, self.follower)

    def tracking(self, told: Any, pixels: Any = None) -> None:
        answers: dict[str, Any] = {}
        if isinstance(told, FrameTaken):
            answers["measured"], answers["table"] = self.tracker.feed(told, pixels)
        elif isinstance(told, FocusPicture):
            if (found := self.tracker.focus(told, pixels)) is not None and not self.dead:
                answers["focused"], answers["table"] = found
        else:
            answers["table"] = self.tracker.tell(told)
        self.answer(answers)

    async def begin(self) -> None:
        await self.follower.prepare()
        self.follower.series_begins(SERIES, TILTS, 2.0, 200.0)
        self.series.begin(SERIES)

    async def frame(self, *, true_nm: float = 0.0) -> bool:
        """What comes before the next frame, and the frame; whether a focus series was taken."""
        self.scanner.tilt_deg, self.scanner.height_nm = TILTS[self.index], true_nm
        await self.follower.follow(self.scanner.tilt_deg)
        taken = await self.series.before(self.index, self.scanner.tilt_deg)
        header = FrameTaken(
            t_ns=self.context.clock.now_ns(), series=SERIES, index=self.index,
            tilt_deg=self.scanner.tilt_deg, field_nm=SETTINGS.field_nm, dose_e_per_nm2=24.0,
            shift_nm=self.column.shift_nm, defocus_nm=self.column.defocus_nm,
        )  # fmt: skip
        self.tracking(header, self.scanner.picture(256, 24.0))
        self.index += 1
        return taken

    def said(self, words: str) -> int:
        return sum(words in text for text in self.events)


async def test_frames_in_focus_call_for_none() -> None:
    bench = Bench()
    await bench.begin()
    assert [await bench.frame() for _ in TILTS] == [False] * len(TILTS)
    assert bench.ledger.charged == 0
    assert not bench.said("blurred")


async def test_a_jump_is_told_and_taken_out() -> None:
    bench = Bench()
    await bench.begin()
    for _ in range(3):
        await bench.frame()
    taken = [await bench.frame(true_nm=3000.0) for _ in range(3)]
    assert taken.count(True) == 1
    assert bench.said("um out of focus: the focus has jumped") == 1
    assert bench.said("in focus at +") == 1
    assert bench.column.defocus_nm == pytest.approx(3000.0, abs=600.0)
    assert bench.scanner.shapes == [(128, 128)] * 3
    assert bench.column.blanked
    assert bench.series.detector_taken
    assert bench.column.field_nm == pytest.approx(SETTINGS.field_nm)
    assert abs(bench.column.shift_nm[0]) < 100, "back in the middle"


async def test_its_dose_is_reserved_charged_and_noted() -> None:
    bench = Bench(by="series")
    await bench.begin()
    assert await bench.frame(true_nm=400.0)
    exposed = focus_series_e_per_nm2(SETTINGS, 0.0)
    parked = SETTINGS.parked_dose_e_per_nm2(bench.context.switching.total_s)
    assert bench.ledger.of(SERIES) == pytest.approx(exposed + parked)
    assert len(bench.journal) == 6
    assert bench.column.defocus_nm == pytest.approx(400.0, abs=400.0)
    assert not await bench.frame(true_nm=400.0), "one before the first frame"


async def test_beyond_the_dose_there_is_none_and_it_is_told() -> None:
    for bench in (Bench(within="200 nm", dose="1 e/nm^2"), Bench(limit=5.0, by="series")):
        await bench.begin()
        bench.follower.focus_needs.out_of_focus_nm = 2000.0
        assert not await bench.frame()
        assert bench.ledger.charged == 0
        assert bench.said("no focus series: it takes") == 1
        assert not await bench.frame()


@pytest.mark.parametrize(("focus", "why"), [("none", "focus: none"), ({"dose": "none"}, "no dose")])
async def test_where_none_may_be_taken_a_jump_is_told_all_the_same(focus: Any, why: str) -> None:
    bench = Bench(**(focus if isinstance(focus, dict) else {"by": focus}))
    await bench.begin()
    for _ in range(2):
        await bench.frame()
    assert [await bench.frame(true_nm=3000.0) for _ in range(3)] == [False] * 3
    assert bench.said("blurred by") == 1
    assert bench.said("focus at the microscope") == 1
    assert bench.said(why) >= 1


async def test_a_series_without_contrast_is_told_and_not_used() -> None:
    bench = Bench(by="series")
    await bench.begin()
    bench.scanner.empty = True
    assert await bench.frame()
    assert bench.said("is not used: its pictures do not differ") == 1
    assert bench.column.defocus_nm == 0.0


async def test_a_lost_picture_and_a_silent_tracker_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(focus_series, "ANSWER_S", 0.02)
    bench = Bench(by="series")
    await bench.begin()
    bench.scanner.lost = True
    assert await bench.frame()
    assert bench.said("the focus series has failed") == 1
    assert bench.column.blanked
    assert bench.column.defocus_nm == 0.0
    bench = Bench(by="series")
    await bench.begin()
    bench.dead = True
    assert await bench.frame()
    assert bench.said("had no answer") == 1


async def test_one_that_tells_less_than_is_known_is_not_taken_again() -> None:
    bench = Bench(by="series", within="20 nm", dose="100 e/nm^2")
    await bench.begin()
    taken = [await bench.frame() for _ in TILTS]
    assert taken[0]
    assert not all(taken), "a focus series cannot tell 20 nm"
    bench = Bench(within="200 nm", dose="100 e/nm^2")
    await bench.begin()
    await bench.frame()
    bench.scanner.empty = True
    bench.tracker.motion.doubt_focus(800.0)
    bench.follower.series_begins(SERIES, TILTS, 2.0, 200.0)
    assert [await bench.frame() for _ in range(3)] == [True, False, False]
