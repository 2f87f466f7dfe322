"""Scouts: when one is taken, what it costs, and what happens where it finds nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from bench_instruments import BenchBeam, BenchDetector, BenchRun
from tracked_specimen import FIELD_NM, frame

from pyrotome.analysis.tracking.tracker import Tracker
from pyrotome.daemon.acquisition.scouts import Scouts
from pyrotome.daemon.schedule.dose import DoseLedger
from pyrotome.daemon.tracking import scout_answers
from pyrotome.daemon.tracking.follower import Follower
from pyrotome.drivers.base import DetectorFrame, DeviceLost
from pyrotome.drivers.readings import BeamReach
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.tracking import Focus, Track
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.journal import Exposed, Trigger
from pyrotome.protocols.messages.tracking import FrameTaken

SETTINGS = BeamSettings.model_validate(
    {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
     "pixel_size": "1.04 nm"}
)  # fmt: skip
SERIES = "series_001"


class Column(BenchBeam):
    """Shifts the image as it is told, unless its deflectors are turned."""

    def __init__(self, clock: ExperimentClock) -> None:
        super().__init__(clock)
        self.shift_nm = np.zeros(2)
        self.field_nm, self.sign = FIELD_NM, 1.0

    async def reach(self) -> BeamReach:
        return BeamReach(shift_nm=1900.0)

    async def deflect(self, shift_nm: tuple[float, float]) -> int:
        self.shift_nm = self.sign * np.array(shift_nm)
        return self.clock.now_ns()

    async def prepare(self, settings: Any) -> None:
        assert self.blanked
        self.field_nm = settings.field_nm


class Scanner(BenchDetector):
    """Shows the copper specimen where it stands, which is `off_nm` from its place."""

    def __init__(self, clock: ExperimentClock, column: Column) -> None:
        super().__init__(clock, column)
        self.column, self.off_nm, self.tilt_deg = column, np.zeros(2), 0.0
        self.shapes: list[tuple[int, int]] = []
        self.lost = self.dark = 0

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        self.shapes.append(shape)

    async def read_frame(self) -> DetectorFrame:
        if self.lost:
            self.lost -= 1
            raise DeviceLost(self.name, "read a frame", "none came")
        counts = self.picture(self.shapes[-1][1])
        if self.dark:
            self.dark -= 1
            counts[:] = 0
        return DetectorFrame(1, counts, self.clock.now_ns())

    def picture(self, points: int) -> Any:
        offset = self.off_nm + self.column.shift_nm
        times = round(self.column.field_nm / FIELD_NM)
        dose = 0.0225 if points < 1024 else 5.77
        return frame(
            self.tilt_deg, (float(offset[0]), float(offset[1])), len(self.shapes),
            min(points, 192), times, dose,
        )  # fmt: skip


class Bench(BenchRun):
    """The scouts of a run, whose tracker lives in this process and answers at once."""

    def __init__(self, limit: float | None = None, speed: float = 100, **track: Any) -> None:
        super().__init__()
        clock = ExperimentClock(speed=speed)
        self.column = Column(clock)
        self.scanner = Scanner(clock, self.column)
        self.ledger = DoseLedger(limit, None)
        self.ledger.reserve(SERIES, 1.0, is_series=True)
        self.told: list[FrameTaken] = []
        self.pauses, self.dead = 0, False
        self.tracker = Tracker()
        self.follower = Follower(
            Track.model_validate(track), Focus(by="none"), self.column, clock, FIELD_NM,
            self.tracking, lambda *_: None, self.event, self._pause,
        )  # fmt: skip
        self.context = self.acquisition_context(self.column, self.scanner, SETTINGS, self.ledger)
        self.scouts = Scouts(self.context, self.follower)

    def _pause(self) -> None:
        self.pauses += 1

    def tracking(self, told: Any, pixels: Any = None) -> None:
        if self.dead:
            return
        if isinstance(told, FrameTaken):
            self.told.append(told)
            measured, table = self.tracker.feed(told, pixels)
            answers = {"measured": measured, "table": table}
        else:
            answers = {"table": self.tracker.tell(told)}
        self.answer(answers)

    async def begin(self, tilts: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0)) -> None:
        """Begin a series, whose first frame defines where the specimen belongs."""
        await self.follower.prepare()
        self.follower.series_begins(SERIES, tilts, 2.0, 200.0)
        self.scouts.begin(SERIES)
        self.expose(0, tilts[0])

    def expose(self, index: int, tilt_deg: float) -> None:
        """A frame goes to the tracker."""
        self.scanner.tilt_deg = tilt_deg
        taken = FrameTaken(
            t_ns=self.context.clock.now_ns(), series=SERIES, index=index, tilt_deg=tilt_deg,
            field_nm=FIELD_NM, dose_e_per_nm2=5.77, shift_nm=tuple(self.column.shift_nm),
        )  # fmt: skip
        self.tracking(taken, self.scanner.picture(1024))

    async def before(self, tilt_deg: float = 2.0, **more: Any) -> int:
        self.scanner.tilt_deg = tilt_deg
        await self.follower.follow(tilt_deg)
        return await self.scouts.before(1, tilt_deg, **more)

    @property
    def off_nm(self) -> float:
        """How far the next frame would be off."""
        return float(np.hypot(*(self.scanner.off_nm + self.column.shift_nm)))


async def test_a_scout_brings_the_specimen_to_within_nanometres() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.scanner.off_nm = np.array([70.0, -110.0])
    assert await bench.before() == 1
    assert bench.off_nm < 6
    header = bench.follower.header()
    assert header["scouts"] == 1
    assert header["scout_t_ns"] == bench.told[-1].t_ns
    assert bench.scouts.detector_taken
    assert bench.scanner.shapes == [(64, 64)]
    assert bench.column.blanked


async def test_what_a_scout_costs_is_charged_to_the_series_and_noted_without_a_frame() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    await bench.before()
    scan = SETTINGS.dose_per_frame_e_per_nm2 / 256
    parked = SETTINGS.parked_dose_e_per_nm2(bench.context.switching.total_s)
    assert bench.ledger.of(SERIES) == pytest.approx(scan + parked)
    trigger, exposed = bench.journal
    assert trigger == Trigger(stack=SERIES, first=1, count=0, dose_e_per_nm2=trigger.dose_e_per_nm2)
    assert exposed == Exposed(stack=SERIES, dose_e_per_nm2=exposed.dose_e_per_nm2)
    assert trigger.dose_e_per_nm2 == pytest.approx(scan)
    assert exposed.dose_e_per_nm2 == pytest.approx(bench.ledger.of(SERIES))


@pytest.mark.parametrize("speed", [1, 100])
async def test_where_every_frame_gets_a_scout_the_beam_is_on_no_longer_than_it_must(
    speed: float,
) -> None:
    bench = Bench(speed=speed, keep_within="always")
    await bench.begin()
    bench.scouts.spread(41)
    bench.scanner.off_nm = np.array([40.0, -30.0])
    assert await bench.before() == 1
    points = bench.scanner.shapes[-1][1]
    assert points == (64 if speed == 1 else 32)
    assert [told.cut_short for told in bench.told] == [False, True]
    on_s = bench.context.least_on.total_s
    scan = SETTINGS.dose_per_frame_e_per_nm2 * (points / 1024) ** 2
    scan_s = SETTINGS.exposure_s * (points / 1024) ** 2
    # In real time, scanned or not, a second with the beam on is as any other.
    expected = SETTINGS.parked_dose_e_per_nm2(on_s)
    if speed > 1:
        expected = scan + SETTINGS.parked_dose_e_per_nm2(on_s - scan_s / speed)
    assert bench.ledger.of(SERIES) == pytest.approx(expected, rel=1e-3)
    assert bench.off_nm < 8


async def test_a_detector_that_begins_late_is_waited_for_after_one_dark_scout() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.scouts.spread(41)
    bench.scanner.dark = 1
    await bench.before()
    await bench.before(4.0)
    short = [told.cut_short for told in bench.told if told.scan == "scout"]
    assert short[0]
    assert not any(short[1:])
    assert any("is waited for from now on" in text for text in bench.events)
    assert bench.off_nm < 8


async def test_without_need_or_without_dose_there_is_none() -> None:
    bench = Bench(keep_within="5 um")
    await bench.begin()
    assert await bench.before() == 0
    assert "scout_t_ns" not in bench.follower.header()
    assert not bench.scouts.detector_taken
    bench = Bench(scouts="none", keep_within="always")
    await bench.begin()
    assert await bench.before() == 0
    bench = Bench(keep_within="always", scouts="0.05 e/nm^2")
    await bench.begin()
    taken = [await bench.before(tilt) for tilt in (2.0, 4.0, 6.0)]
    assert taken[-1] == 0, "the dose of the scouts is used up"


async def test_frames_at_one_angle_share_a_scout() -> None:
    bench = Bench(keep_within="always", scouts="5 e/nm^2")
    await bench.begin()
    taken = [await bench.before(2.0, repeats=number > 0) for number in range(3)]
    assert taken == [1, 0, 0]
    assert len(bench.told) == 2, "the frame that defines the place, and one scout"


async def test_before_the_first_frame_of_all_there_is_nothing_to_look_for() -> None:
    bench = Bench(keep_within="always")
    await bench.follower.prepare()
    bench.follower.series_begins(SERIES, (0.0, 2.0), 2.0, 200.0)
    bench.scouts.begin(SERIES)
    assert await bench.before(0.0) == 0


async def test_a_specimen_out_of_the_field_is_searched_and_found() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.scanner.off_nm = np.array([0.0, 1150.0])
    taken = await bench.before()
    assert bench.off_nm < 6
    assert (192, 192) in bench.scanner.shapes
    assert taken == len(bench.scanner.shapes) >= 3, "scout, search, and one that checks"
    assert bench.column.field_nm == pytest.approx(FIELD_NM, rel=1e-3)
    assert bench.pauses == 0
    assert any("did not show the specimen" in text and "search 2" in text for text in bench.events)


async def test_a_specimen_that_is_not_found_pauses_the_run() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.scanner.off_nm = np.array([0.0, 4000.0])
    assert await bench.before() == 2
    assert bench.pauses == 1
    assert any("the wide search did not find the specimen" in text for text in bench.events)
    assert any("resume or abort" in text for text in bench.events)
    bench = Bench(keep_within="always", when_lost="go on")
    await bench.begin()
    bench.scanner.off_nm = np.array([0.0, 4000.0])
    await bench.before()
    assert bench.pauses == 0
    assert any("goes on, as the recipe says" in text for text in bench.events)


async def test_deflectors_that_do_the_contrary_are_found_out_before_a_frame() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.column.sign = -1.0
    bench.scanner.off_nm = np.array([0.0, 350.0])
    await bench.before()
    assert len(bench.scanner.shapes) <= 4
    assert bench.pauses == 1 or bench.off_nm < 30, "no frame is exposed off its place"
    assert any("the correction is checked" in text for text in bench.events)


async def test_a_dead_tracker_costs_two_scouts_and_then_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scout_answers, "ANSWER_S", 0.02)
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.dead = True
    assert [await bench.before(tilt) for tilt in (2.0, 4.0, 6.0)] == [1, 1, 0]
    assert sum("scouts had no answer" in text for text in bench.events) == 1
    assert bench.pauses == 0


async def test_a_scout_that_the_detector_loses_is_told() -> None:
    bench = Bench(keep_within="always")
    await bench.begin()
    bench.scanner.lost = 1
    assert await bench.before() == 1
    assert any("a scout did not come" in text for text in bench.events)
    assert bench.column.blanked
    assert await bench.before() == 1


async def test_a_scout_never_passes_a_limit_of_the_dose() -> None:
    bench = Bench(limit=1.0, keep_within="always")
    await bench.begin()
    bench.ledger.charge(SERIES, 0.99)
    assert await bench.before() == 1
    assert any("its dose would pass a limit" in text for text in bench.events)
    assert bench.scanner.shapes == []
    assert math.isclose(bench.ledger.charged, 0.99)
