"""Messages and frames in, measurements and tables out."""

import numpy as np
import pytest
from tracked_specimen import DOSE, FIELD_NM, SCOUT_DOSE, Stage, frame

from pyrotome.analysis.tracking import Tracker, TrackerState
from pyrotome.protocols.messages.tracking import (
    Focused,
    FocusPicture,
    FrameTaken,
    HoldDone,
    PlaceTold,
    SeriesBegun,
    ShiftCalibrated,
    ShiftSet,
    StageMoved,
    TemperatureRead,
    Visit,
)

TILTS = [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]
STEP_NS = 2 * 10**9


def begin(tracker, name="series_001", start_ns=0, tilts=TILTS):
    visits = tuple(
        Visit(tilt_deg=tilt, t_ns=start_ns + k * STEP_NS) for k, tilt in enumerate(tilts)
    )
    return tracker.tell(SeriesBegun(series=name, visits=visits))


def header(index, tilt_deg, shift=(0.0, 0.0), name="series_001", start_ns=0, **changes):
    given = {
        "t_ns": start_ns + index * STEP_NS, "series": name, "index": index, "tilt_deg": tilt_deg,
        "field_nm": FIELD_NM, "dose_e_per_nm2": DOSE, "shift_nm": tuple(shift),
    }  # fmt: skip
    return FrameTaken(**(given | changes))


def run(tracker, stage, tilts=TILTS, name="series_001", start_ns=0, first=0):
    """Expose a series as the engine does, by the newest table; all measurements."""
    table, found = begin(tracker, name, start_ns, tilts), []
    for index, tilt in enumerate(tilts):
        shift = table.row_at(tilt).shift_nm
        offset = stage.offset(tilt, shift) if first or index else np.zeros(2)
        pixels = frame(tilt, tuple(offset), seed=start_ns // 10**9 + index)
        measured, table = tracker.feed(
            header(index, tilt, shift, name, start_ns, defocus_nm=0.0), pixels
        )
        found.append((measured, offset))
    return found, table


def test_a_series_is_followed_and_the_table_covers_what_is_to_come():
    tracker, stage = Tracker(), Stage(1, jitter_nm=10.0)
    found, table = run(tracker, stage)
    for measured, offset in found:
        assert measured.doubt == ""
        assert np.allclose(measured.offset_nm, offset, atol=12)  # parallax adds up
    assert table.rows == ()
    table = begin(tracker, "series_002", 100 * 10**9)
    assert [row.tilt_deg for row in table.rows] == TILTS
    assert [row.t_ns for row in table.rows][:2] == [100 * 10**9, 102 * 10**9]


def test_a_resumed_tracker_goes_on_as_if_nothing_had_happened():
    tracker, stage = Tracker(), Stage(2)
    run(tracker, stage)
    begin(tracker, "series_002", 10**11)
    text = tracker.state().model_dump_json()
    again = Tracker(TrackerState.model_validate_json(text))
    seen = header(0, 0.0, name="series_002", start_ns=10**11)
    (one, one_table), (other, other_table) = (
        t.feed(seen, frame(0.0, (25.0, -30.0), seed=9)) for t in (tracker, again)
    )
    assert one == other
    assert one_table.number == other_table.number
    for row, resumed in zip(one_table.rows, other_table.rows, strict=True):
        assert row.shift_nm == pytest.approx(resumed.shift_nm)
        assert row.defocus_sd_nm == pytest.approx(resumed.defocus_sd_nm)


def test_the_next_run_knows_the_column_but_not_the_specimen():
    tracker = Tracker()
    run(tracker, Stage(3))
    state = tracker.state_for_next_run()
    assert state.references == ()
    assert state.epoch_ns is None
    assert state.motion.angles_deg == tracker.state().motion.angles_deg


def test_events_between_frames_widen_or_move_what_is_expected():
    tracker = Tracker()
    run(tracker, Stage(4))
    now = 20 * 10**9
    table = begin(tracker, "series_002", now)
    before = table.row_at(20.0)
    held = tracker.tell(HoldDone(t_ns=now, rise_k=150)).row_at(20.0)
    assert min(np.subtract(held.shift_sd_nm, before.shift_sd_nm)) > 0
    assert held.drift_nm_per_s >= 0
    moved = tracker.tell(StageMoved(t_ns=now, moved_nm=(0, 500, 0), error_nm=(10, 10, 0))).row_at(
        20.0
    )
    assert moved.shift_nm[0] == pytest.approx(held.shift_nm[0] - 500, abs=20)
    focused = tracker.tell(Focused(t_ns=now, defocus_nm=40.0, sd_nm=5.0)).row_at(20.0)
    assert focused.defocus_sd_nm < moved.defocus_sd_nm
    assert tracker.tell(ShiftSet(t_ns=now, shift_nm=(1, 2))) is None
    assert tracker.tell(TemperatureRead(t_ns=now, temperature_c=200)) is None
    with pytest.raises(TypeError, match="pixels"):
        tracker.tell(header(0, 0.0))


def calibrated(matrix):
    vague = tuple(tuple(float(i == k) for i in range(4)) for k in range(4))
    return ShiftCalibrated(t_ns=0, matrix_nm=tuple(map(tuple, matrix)), covariance_nm2=vague)


def test_a_new_calibration_is_converted_once_and_kept_from_run_to_run():
    tracker = Tracker()
    tracker.tell(calibrated(np.eye(2)))
    run(tracker, Stage(4))
    before = begin(tracker, "series_002", 10**11).row_at(20.0)
    # What a deflection does is said to be 10 % more: by that, a shift does 10 % less than it says.
    other = calibrated(np.diag([1.1, 1.1]))
    after = tracker.tell(other).row_at(20.0)
    again = tracker.tell(other).row_at(20.0)
    assert np.allclose(after.shift_nm, 1.1 * np.array(before.shift_nm), rtol=0.02, atol=1)
    assert again.shift_nm == after.shift_nm
    resumed = Tracker(TrackerState.model_validate_json(tracker.state().model_dump_json()))
    assert np.allclose(resumed.tell(other).row_at(20.0).shift_nm, after.shift_nm)
    assert tracker.state_for_next_run().matrix_nm == ((1.1, 0.0), (0.0, 1.1))


def test_where_a_person_says_that_it_stands_counts_from_the_shift_that_is_applied():
    tracker = Tracker()
    run(tracker, Stage(4, jitter_nm=10.0))
    row = begin(tracker, "series_002", 10**11, [20.0, 16.0]).row_at(20.0)
    tracker.tell(ShiftSet(t_ns=10**11, shift_nm=row.shift_nm))
    told = PlaceTold(t_ns=10**11, offset_nm=(300.0, -900.0), sd_nm=(50.0, 50.0))
    moved = tracker.tell(told).row_at(20.0)
    assert np.allclose(np.subtract(moved.shift_nm, row.shift_nm), (-300, 900), rtol=0.05)
    assert min(moved.shift_sd_nm) > 50


def test_doubtful_frames_teach_nothing_and_say_why():
    tracker = Tracker()
    run(tracker, Stage(5, jitter_nm=10.0), TILTS[:3])
    known = tracker.motion.measurements
    shown = frame(12.0, (0.0, 0.0), seed=77)
    measured, _ = tracker.feed(header(3, 12.0), np.zeros_like(shown))
    assert measured.doubt == "blank"
    measured, table = tracker.feed(header(3, 12.0), frame(12.0, seed=8, specimen=2))
    assert measured.doubt == "decoy"
    assert "something else" in table.notes[0]
    assert tracker.motion.measurements == known
    with pytest.raises(ValueError, match="integers"):
        tracker.feed(header(3, 12.0), shown.astype(float))


def test_a_frame_that_comes_twice_is_recognised():
    tracker = Tracker()
    shown = frame(seed=3)
    tracker.feed(header(0, 0.0), shown)
    measured, _ = tracker.feed(header(1, 4.0), shown)
    assert measured.doubt == "same"


def test_scouts_make_the_next_exposure_good():
    tracker = Tracker()
    run(tracker, Stage(6, jitter_nm=10.0), TILTS[:3])
    place = (120.0, -160.0)
    shown = frame(12.0, place, seed=5, points=64, dose=SCOUT_DOSE)
    sent = header(3, 12.0, scan="scout", dose_e_per_nm2=SCOUT_DOSE)
    begin(tracker, tilts=[12.0], start_ns=8 * 10**9)
    measured, table = tracker.feed(sent, shown)
    assert np.allclose(measured.offset_nm, place, atol=15)
    row = table.row_at(12.0)
    assert np.allclose(row.shift_nm, np.negative(place), atol=15)
    assert max(row.shift_sd_nm) < 10


def test_a_wide_scout_finds_what_has_left_the_field():
    tracker = Tracker()
    run(tracker, Stage(7, jitter_nm=10.0), TILTS[:3])
    place = (900.0, -1100.0)
    shown = frame(12.0, place, seed=5, points=192, times=3, dose=SCOUT_DOSE)
    sent = header(3, 12.0, scan="wide", field_nm=3 * FIELD_NM, dose_e_per_nm2=SCOUT_DOSE)
    measured, _ = tracker.feed(sent, shown)
    assert np.allclose(measured.offset_nm, place, atol=15)
    assert measured.slip > 0.5


def test_an_inverted_shift_is_no_longer_trusted():
    tracker, stage = Tracker(), Stage(8, height_nm=1200.0, jitter_nm=5.0)
    run(tracker, stage)
    stage.matrix = -np.eye(2)
    tilts = [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    found, table = run(tracker, stage, tilts, "series_002", 10**11, first=1)
    assert not table.trusted
    assert "makes it worse" in table.notes[0]
    off = [np.abs(offset).max() > 100 for _, offset in found]
    assert sum(off[: next(k for k, bad in enumerate(off) if bad) + 3]) <= 3


@pytest.mark.parametrize("rows", [48, 40, 30, 20])
def test_a_scout_whose_beam_was_blanked_early_shows_where_the_specimen_is(rows):
    errors = []
    for seed in range(6):
        tracker = Tracker()
        begin(tracker)
        tracker.feed(header(0, 0.0), frame(0.0))
        tracker.tell(HoldDone(t_ns=10**11, rise_k=150, hold_s=60))
        begin(tracker, "series_002", 10**11)
        offset = np.random.default_rng(seed).normal(0.0, 40.0, 2)
        scan = frame(0.0, tuple(offset), seed, points=48, dose=0.0126)
        scan[rows:] = 0
        kind = {"scan": "scout", "dose_e_per_nm2": 0.0126, "cut_short": True}
        found, _ = tracker.feed(header(1, 0.0, name="series_002", start_ns=10**11, **kind), scan)
        assert found.doubt == ""
        errors.append((np.array(found.offset_nm) - offset) / found.sd_nm)
    assert np.abs(errors).max() < 4.5
    assert np.sqrt(np.mean(np.square(errors))) < 2.0


@pytest.mark.parametrize("rows", [0, 5])
def test_a_scout_that_had_no_beam_to_speak_of_is_blank(rows):
    tracker = Tracker()
    begin(tracker)
    tracker.feed(header(0, 0.0), frame(0.0))
    scan = frame(0.0, points=48, dose=0.0126)
    scan[rows:] = 0
    found, _ = tracker.feed(
        header(1, 0.0, scan="scout", dose_e_per_nm2=0.0126, cut_short=True), scan
    )
    assert found.doubt == "blank"
    assert found.offset_nm is None


def test_a_picture_of_a_focus_series_that_is_missing_is_told():
    tracker = Tracker(convergence_mrad=5.0, depth_nm=39.0)
    begin(tracker)
    shown = {"t_ns": 1, "series": "series_001", "index": 0, "of": 3, "tilt_deg": 0.0,
             "field_nm": FIELD_NM / 2}  # fmt: skip
    first = FocusPicture(number=0, defocus_nm=-900.0, **shown)
    assert tracker.focus(first, frame()) is None
    with pytest.raises(ValueError, match="missing"):
        tracker.focus(FocusPicture(number=2, defocus_nm=900.0, **shown), frame())
    with pytest.raises(TypeError, match="pixels"):
        tracker.tell(first)


def test_a_tiny_picture_tells_no_focus():
    tracker = Tracker(convergence_mrad=5.0, depth_nm=39.0)
    begin(tracker)
    for number, at_nm in enumerate((-900.0, 0.0, 900.0)):
        picture = FocusPicture(
            t_ns=1, series="series_001", index=0, number=number, of=3, tilt_deg=0.0,
            field_nm=FIELD_NM / 2, defocus_nm=at_nm,
        )  # fmt: skip
        answer = tracker.focus(picture, frame(points=32))
    found, table = answer
    assert found.doubt == "no-contrast"
    assert table.row_at(0.0).defocus_nm == 0.0
