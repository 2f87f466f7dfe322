"""The engine's side of tracking: what is done by a table, and what a person is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tracked import SHIFT

from pyrotome.daemon.tracking.follower import Follower
from pyrotome.drivers.base import Beam, DeviceRefused, Identity, OutOfRange
from pyrotome.drivers.readings import BeamReach, Deflection, Reach
from pyrotome.protocols.config.rig import BeamRig
from pyrotome.protocols.config.tracking import Focus, Track
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.tracking import (
    OffsetMeasured,
    PlaceTold,
    Row,
    SeriesBegun,
    ShiftCalibrated,
    ShiftSet,
    StageMoved,
    Table,
    Told,
)

TILTS = [0.0, 8.0, 16.0, 24.0, 32.0, 40.0]


class Column(Beam):
    """Takes every shift up to 1500 nm, or refuses."""

    def __init__(self, clock: ExperimentClock) -> None:
        super().__init__("beam (test)", BeamRig(driver="test", endpoint="n"), clock)
        self.shifts: list[tuple[float, float]] = []
        self.foci: list[float] = []
        self.refuses = False
        self.found_nm: tuple[float, float] | None = None
        self.limits = BeamReach(shift_nm=1500.0, defocus_nm=Reach(-20_000, 20_000))

    async def reach(self) -> BeamReach:
        return self.limits

    async def deflect(self, shift_nm: tuple[float, float]) -> int:
        if self.refuses:
            raise DeviceRefused(self.name, "shift the beam", "it reads back something else")
        if math.hypot(*shift_nm) > 1500:
            raise OutOfRange(self.name, "shift the beam", "the rig's limit is 1500 nm")
        self.shifts.append(shift_nm)
        return self.clock.now_ns()

    async def deflection(self) -> Deflection:
        return Deflection(self.clock.now_ns(), (3.0, 4.0), self.found_nm)

    async def focus(self, defocus_nm: float) -> int:
        self.foci.append(defocus_nm)
        return self.clock.now_ns()

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "column")

    async def disconnect(self) -> None: ...
    async def make_safe(self) -> None: ...
    async def prepare(self, settings: Any) -> None: ...
    async def blank(self) -> int:
        return 0

    async def unblank(self) -> int:
        return 0

    async def is_blanked(self) -> bool:
        return True


class Bench:
    """A follower, and what it says and does."""

    def __init__(self, **track: Any) -> None:
        self.clock = ExperimentClock()
        self.column = Column(self.clock)
        self.told: list[Told] = []
        self.events: list[tuple[str, str]] = []
        self.readings: list[tuple[str, dict[str, float]]] = []
        self.pauses = 0
        self.follower = Follower(
            Track(**track), Focus(), self.column, self.clock, 1065.0, self.told.append,
            lambda device, values, _: self.readings.append((device, values)),
            lambda level, _, message: self.events.append((level, message)),
            self._pause,
        )  # fmt: skip

    def _pause(self) -> None:
        self.pauses += 1

    async def begin(self) -> None:
        await self.follower.prepare()
        self.follower.series_begins("series_001", TILTS, 2.0, 200.0)

    def table(
        self,
        height_nm: float,
        sd_nm: float = 30.0,
        place_nm: tuple[float, float] = (5.0, 0.0),
        **more: Any,
    ) -> None:
        rows = [
            Row(
                tilt_deg=tilt, t_ns=1,
                shift_nm=(place_nm[0], place_nm[1] - height_nm * math.sin(math.radians(tilt))),
                shift_sd_nm=(sd_nm, sd_nm), defocus_nm=100.0, defocus_sd_nm=50.0,
                drift_nm_per_s=0.1, drift_sd_nm_per_s=0.1,
            )
            for tilt in TILTS
        ]  # fmt: skip
        table = Table(
            height=(height_nm, sd_nm),
            t_ns=self.clock.now_ns(), number=1, series="series_001", index=0,
            rows=tuple(rows), **more,
        )  # fmt: skip
        self.follower.note({"table": table.model_dump(mode="json")})

    def measured(self, index: int = 0, **more: Any) -> None:
        given = {"offset_nm": (3.0, -4.0), "sd_nm": (1.0, 1.0), "score": 0.9, **more}
        found = OffsetMeasured(
            t_ns=5, series="series_001", index=index, scan="frame", tilt_deg=8.0, **given
        )
        self.follower.note({"measured": found.model_dump(mode="json")})


async def test_beam_and_focus_follow_the_newest_table() -> None:
    bench = Bench()
    await bench.begin()
    begun = next(told for told in bench.told if isinstance(told, SeriesBegun))
    assert [visit.tilt_deg for visit in begun.visits] == TILTS
    await bench.follower.follow(16.0)
    assert bench.column.shifts == [(0.0, 0.0)], "nothing is known yet"
    bench.table(height_nm=1000.0)
    await bench.follower.follow(16.0)
    assert bench.column.shifts[-1] == pytest.approx((5.0, -1000 * math.sin(math.radians(16))))
    assert bench.column.foci == [100.0]
    assert isinstance(bench.told[-1], ShiftSet), "the tracker learns what was set"
    assert bench.told[-1].shift_nm == bench.column.shifts[-1]
    header = bench.follower.header()
    assert header["shift_nm"] == list(bench.column.shifts[-1])
    assert header["shift_sd_nm"] == [30.0, 30.0]
    assert header["shift_predicted_nm"] == header["shift_nm"]
    assert (header["defocus_sd_nm"], header["drift_nm_per_s"]) == (50.0, 0.1)


async def test_a_table_that_is_not_trusted_is_not_applied_and_pauses() -> None:
    bench = Bench()
    await bench.begin()
    bench.table(1000.0, trusted=False, notes=("the correction makes it worse",))
    bench.table(1000.0, trusted=False, notes=("the correction makes it worse",))
    await bench.follower.follow(16.0)
    assert bench.column.shifts == [(0.0, 0.0)]
    assert bench.pauses == 1
    assert [text for _, text in bench.events] == ["the correction makes it worse"]


@pytest.mark.parametrize(("when_lost", "pauses"), [("pause", 1), ("go on", 0)])
async def test_a_shift_that_is_not_taken_is_told(when_lost: str, pauses: int) -> None:
    bench = Bench(when_lost=when_lost)
    await bench.begin()
    bench.table(1000.0)
    bench.column.refuses = True
    await bench.follower.follow(16.0)
    assert bench.pauses == pauses
    assert "it reads back something else" in bench.events[-1][1]


async def test_three_frames_in_a_row_that_show_nothing_are_a_loss() -> None:
    bench = Bench()
    await bench.begin()
    bench.measured(0)
    assert bench.readings[-1] == (
        "tracker",
        {
            "offset_y_nm": 3.0, "offset_x_nm": -4.0, "offset_sd_y_nm": 1.0,
            "offset_sd_x_nm": 1.0, "score": 0.9,
        },
    )  # fmt: skip
    bench.measured(1, doubt="blank", offset_nm=None, sd_nm=None)
    assert bench.pauses == 0
    bench.measured(2)
    bench.measured(3, doubt="decoy", offset_nm=None, sd_nm=None)
    assert bench.pauses == 0, "the one before was good"
    bench.measured(4, doubt="decoy", offset_nm=None, sd_nm=None)
    assert bench.pauses == 0
    bench.measured(5, doubt="blank", offset_nm=None, sd_nm=None)
    assert bench.pauses == 1
    assert "3 frames in a row do not show the specimen" in bench.events[-1][1]


async def test_far_off_is_told_and_corrected_by_the_next_table() -> None:
    bench = Bench()
    await bench.begin()
    bench.measured(3, offset_nm=(0.0, 400.0))
    assert bench.events == [
        (
            "warning",
            "series_001 frame 3 at 8 deg: the specimen is 400 nm off, 38 % of the field",
        )
    ]
    assert bench.pauses == 0


async def test_the_stage_takes_out_a_height_once_it_is_known() -> None:
    bench = Bench()
    await bench.begin()
    bench.table(2500.0)
    assert bench.follower.lift_nm(8.0) is None, "too few frames have been seen"
    for index in range(4):
        bench.measured(index)
    assert bench.follower.lift_nm(32.0) is None, "a move that errs would move the image"
    assert bench.follower.lift_nm(40.0) is not None, "the beam shift is at its end"
    lift_nm = bench.follower.lift_nm(8.0)
    assert lift_nm == pytest.approx(-2500, abs=50)
    bench.follower.moved(0.0, 0.0, lift_nm, bench.clock.now_ns())
    assert isinstance(bench.told[-1], StageMoved)
    assert bench.told[-1].moved_nm[2] == pytest.approx(lift_nm)
    bench.table(300.0)
    assert bench.follower.lift_nm(8.0) is None
    assert any("probably pass its limit" in text for _, text in bench.events)


async def test_the_stage_takes_over_what_the_beam_has_gathered() -> None:
    bench = Bench()
    await bench.begin()
    bench.table(0.0, place_nm=(-300.0, 1100.0))
    assert bench.follower.hand_over_nm() == pytest.approx((-300.0, 1100.0))
    bench.follower.moved(1100.0, -300.0, 0.0, bench.clock.now_ns())
    told = bench.told[-1]
    assert isinstance(told, StageMoved)
    assert told.moved_nm == (1100.0, -300.0, 0.0)
    assert told.error_nm[2] == 0
    assert bench.follower.hand_over_nm() is None, "until there is a new table"


async def test_nonsense_of_the_tracker_is_an_event() -> None:
    bench = Bench()
    await bench.begin()
    bench.follower.note({"table": {"kind": "table", "rows": 3}})
    assert bench.events[0][0] == "error"


async def test_a_beam_without_a_calibrated_shift_is_refused() -> None:
    bench = Bench()
    bench.column.limits = BeamReach(needs_calibration="the deflectors are not calibrated")
    with pytest.raises(DeviceRefused, match=r"not calibrated.*leave track out"):
        await bench.follower.prepare()


async def test_a_calibration_that_comes_later_is_waited_for_and_taken_over(tmp_path: Path) -> None:
    bench = Bench()
    bench.column.limits = BeamReach(needs_calibration="it has not been calibrated", units=1500.0)
    with pytest.raises(DeviceRefused, match="not been calibrated"):
        await bench.follower.prepare()
    await bench.follower.prepare(calibrated_later=True)
    assert bench.column.shifts == [], "nothing can be set yet"
    (tmp_path / "shift.json").write_text(json.dumps(SHIFT))
    rig = {"calibration_file": str(tmp_path / "shift.json"), "limit": "1.5 um"}
    bench.column.rig = BeamRig(driver="test", endpoint="n", shift=rig)
    bench.column.limits = BeamReach(shift_nm=1500.0, units=1500.0)
    bench.column.found_nm = (30.0, -40.0)
    await bench.follower.recalibrated()
    told, applied = bench.told
    assert isinstance(told, ShiftCalibrated)
    assert [list(row) for row in told.matrix_nm] == SHIFT["matrix_nm"]
    assert isinstance(applied, ShiftSet)
    assert applied.shift_nm == (30.0, -40.0), "the deflectors stay, their shift is told anew"
    assert bench.follower.limits.shift_limit_nm == 1500.0


async def test_a_series_may_have_settings_of_its_own_or_none() -> None:
    bench = Bench(when_lost="pause")
    await bench.begin()
    bench.follower.use(Track.model_validate({"keep_within": "always", "when_lost": "go on"}))
    assert bench.follower.limits.keep_within_nm == 0
    assert bench.follower.limits.shift_limit_nm == 1500.0
    bench.follower.alarms.lost("frame 3")
    assert bench.pauses == 0
    bench.table(1000.0)
    bench.follower.rest("series_001")
    await bench.follower.follow(16.0)
    assert bench.column.shifts == [(0.0, 0.0)], "the beam stays where it is"
    said = len(bench.events)
    for index in range(4):
        bench.measured(index, doubt="blank", offset_nm=None, sd_nm=None)
    assert (len(bench.events), bench.pauses) == (said, 0)


async def test_where_a_person_says_that_it_stands_goes_to_the_tracker() -> None:
    bench = Bench()
    await bench.begin()
    bench.table(1000.0)
    bench.follower.point_out((120.0, -340.0), 50.0)
    told = bench.told[-1]
    assert isinstance(told, PlaceTold)
    assert (told.offset_nm, told.sd_nm) == ((120.0, -340.0), (50.0, 50.0))
    assert bench.follower.pointed_out
    await bench.follower.follow(16.0)
    assert bench.column.shifts == [(0.0, 0.0)], "until there is a table of it"


async def test_those_who_watch_see_what_is_expected_applied_and_found() -> None:
    bench = Bench()
    follower = bench.follower
    assert follower.status["state"] == "no table"
    await bench.begin()
    bench.table(height_nm=1000.0)
    await follower.follow(16.0)
    bench.measured(index=2)
    told = follower.status
    assert told["series"] == "series_001"
    assert (told["state"], told["frame"]) == ("trusted", 2)
    assert told["shift_nm"] == pytest.approx(bench.column.shifts[-1], abs=0.01)
    assert (told["shift_limit_nm"], told["expected_nm"]) == (1500, [0, 0])
    assert (told["expected_sd_nm"], told["offset_nm"]) == ([30, 30], [3, -4])
    assert (told["defocus_nm"], told["defocus_sd_nm"]) == (100, 50)
    for index in range(3, 6):
        bench.measured(index=index, offset_nm=None, sd_nm=None, doubt="decoy")
    told = follower.status
    assert (told["state"], told["offset_nm"]) == ("not found", None)
    assert "frames in a row do not show the specimen" in told["why"]
    bench.measured(index=6)
    assert follower.status["state"] == "trusted"
    json.dumps(told, allow_nan=False)


async def test_after_a_hold_the_drift_of_before_no_longer_counts() -> None:
    bench = Bench()
    await bench.begin()
    drift = [{"t_ns": 1, "nm_per_s": 0.2}]
    bench.table(1000.0, drift=drift)
    assert bench.follower.drift[0].nm_per_s == 0.2
    bench.follower.held(150.0, 60.0)
    assert bench.follower.drift == ()
    bench.table(1000.0, drift=[{"t_ns": 1, "nm_per_s": 4.0}])
    await bench.follower.table_comes()
    assert bench.follower.drift[0].nm_per_s == 4.0
