"""The model learns a stage from frames alone, and says how well it knows it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracked_specimen import Stage, follow

from pyrotome.analysis.motion import (
    Assumptions,
    Motion,
    for_next_specimen,
    motion_from,
    predict,
    state_of,
    what_was_learned,
)
from pyrotome.analysis.motion.assumptions import DRIFT

OUTWARDS = [*range(0, 41, 4), *range(-4, -41, -4)]
ASCENDING = list(range(-40, 41, 4))


def tracked(seed=1, series=1, **stage_is):
    motion, stage = Motion(), Stage(seed, **stage_is)
    motion.expect(ASCENDING)
    motion.tilt_to(0.0)
    motion.measure((0.0, 0.0), (0.5, 0.5), (0.0, 0.0))
    motion.focus_here()
    rows = follow(motion, stage, OUTWARDS[1:])
    for _ in range(series - 1):
        rows = follow(motion, stage, ASCENDING)
    return motion, stage, rows


def test_a_focus_in_doubt_is_measured_anew_and_the_place_stays():
    motion, _, _ = tracked()
    tilt = [motion.tilt_deg]
    before = predict(motion, tilt, [motion.time_s])
    motion.doubt_focus(3000.0)
    doubted = predict(motion, tilt, [motion.time_s])
    assert doubted.defocus_sd_nm[0] > 2900
    motion.measure_focus(float(before.defocus_nm[0]) + 3000.0, 500.0)
    found = predict(motion, tilt, [motion.time_s])
    assert found.defocus_nm[0] == pytest.approx(before.defocus_nm[0] + 3000.0, abs=150)
    assert 400 < found.defocus_sd_nm[0] < 501
    assert np.allclose(found.shift_nm, before.shift_nm, atol=1.0)


def test_height_and_focus_follow_from_the_frames():
    motion, stage, _ = tracked()
    learned = what_was_learned(motion)
    assert abs(learned.height_nm - stage.height_nm) < 3 * learned.height_sd_nm < 300
    found = predict(motion, [40.0], [motion.time_s])
    angle = np.radians(40.0)
    rise = stage.height_nm * (np.cos(angle) - 1) - stage.axis_nm * np.sin(angle)
    assert abs(found.defocus_nm[0] - rise) < 3 * found.defocus_sd_nm[0] < 800


@pytest.mark.parametrize("jitter_nm", [10.0, 60.0])
def test_nobody_types_the_jitter(jitter_nm):
    motion, _, rows = tracked(series=3, jitter_nm=jitter_nm)
    assert jitter_nm / 1.6 < what_was_learned(motion).jitter_nm < 1.6 * jitter_nm
    assert np.sqrt(np.mean(rows[:, :2] ** 2)) < 1.6 * jitter_nm


def test_the_uncertainty_is_honest():
    ratios = []
    for seed in range(4):
        _, _, rows = tracked(seed, series=3, jitter_nm=40.0)
        ratios.append(np.abs(rows[:, :2] / rows[:, 2:]).ravel())
    share = float(np.mean(np.concatenate(ratios) < 2))
    assert share > 0.9


def test_a_slip_is_told_and_the_next_frame_is_near_again():
    motion, stage, _ = tracked(series=3, jitter_nm=10.0)
    stage.place = np.array([0.0, 400.0])
    slipped, after = follow(motion, stage, [38.0, 36.0])
    assert abs(slipped[1]) > 300
    assert abs(after[1]) < 60
    motion.tilt_to(34.0)
    assert motion.measure((0.0, 500.0), (0.5, 0.5), (0.0, 0.0)) > 0.5


def test_drift_after_a_hold_is_learned_over_the_holds():
    motion, stage, _ = tracked(jitter_nm=10.0)
    for _ in range(5):
        motion.hold(150.0)
        follow(motion, stage, [-40.0])
        start = stage.place.copy()
        for number, tilt in enumerate(ASCENDING):
            way = 200.0 * (1 - np.exp(-2.0 * (number + 1) / 60.0))
            stage.place = start + np.array([0.0, way])
            follow(motion, stage, [tilt])
    motion.hold(150.0)
    soon = predict(motion, [-40.0], [motion.time_s])
    assert soon.drift_nm_per_s[0, 1] == pytest.approx(200.0 / 60.0, rel=0.5)
    late = predict(motion, [-40.0], [motion.time_s + 600.0])
    assert abs(late.drift_nm_per_s[0, 1]) < 0.1


def test_errors_of_the_shift_matrix_are_learned_from_frames():
    motion, _, _ = tracked(series=4, jitter_nm=5.0, matrix=[[1.0, 0.05], [0.0, 1.0]])
    learned = what_was_learned(motion)
    assert learned.shift_error[0, 1] == pytest.approx(0.05, abs=0.03)


def recalibrated(motion, former, new, spread=1e-4):
    """Tell that shifts are given by another matrix of the deflectors; what it turns shifts by."""
    change = np.array(former) @ np.linalg.inv(new)
    motion.recalibrate(change, np.stack([np.eye(2) * spread**2] * 2), np.zeros(2))
    return change


def test_what_was_learned_of_the_shift_holds_after_a_calibration():
    """The column is wrong by 5 %; what is learned of it must agree with a right calibration."""
    truth = np.array([[1.0, 0.05], [0.0, 1.0]])
    motion, stage, _ = tracked(series=4, jitter_nm=5.0, matrix=truth)
    before = predict(motion, [20.0], [motion.time_s])
    recalibrated(motion, np.eye(2), truth, spread=1.0)
    after = predict(motion, [20.0], [motion.time_s])
    # The same deflection, told in other nanometres; a calibration known to 100 % adds nothing.
    assert np.allclose(after.shift_nm[0], truth @ before.shift_nm[0], atol=1.0)
    assert np.allclose(after.sd_nm, before.sd_nm, rtol=0.02)
    learned = what_was_learned(motion).shift_error
    assert np.abs(learned).max() < 0.03
    stage.matrix = np.eye(2)  # shifts are right now
    rows = follow(motion, stage, ASCENDING)
    assert np.abs(rows[1:, :2]).max() < 40


def test_a_calibration_narrows_what_is_known_of_the_shift():
    motion, _, _ = tracked(jitter_nm=5.0)
    recalibrated(motion, np.eye(2), np.array([[1.0, 0.02], [0.0, 1.0]]))
    assert np.abs(what_was_learned(motion).shift_error).max() < 1e-3


def test_a_column_that_was_inverted_is_believed_after_a_calibration():
    motion, stage, _ = tracked(jitter_nm=5.0)
    stage.matrix = -np.eye(2)
    recalibrated(motion, np.eye(2), -np.eye(2))
    assert np.abs(what_was_learned(motion).shift_error).max() < 1e-3
    stage.matrix = np.eye(2)  # by the new calibration
    rows = follow(motion, stage, ASCENDING)
    assert np.abs(rows[1:, :2]).max() < 60
    low = np.linalg.eigvalsh(motion.covariance).min()
    assert low > -1e-6 * np.abs(motion.covariance).max()


def test_where_a_person_says_that_it_stands_is_where_it_is_looked_for():
    motion, stage, _ = tracked(jitter_nm=10.0)
    stage.place += np.array([-700.0, 1200.0])
    motion.displace(np.array([-680.0, 1220.0]), (50.0, 50.0))
    rows = follow(motion, stage, [-36.0, -32.0])
    assert np.abs(rows[0, :2]).max() < 4 * rows[0, 2:].max() < 400
    assert np.abs(rows[1, :2]).max() < 60


def test_a_move_of_the_stage_enters_as_known():
    motion, stage, _ = tracked(series=2, jitter_nm=10.0)
    moved = -stage.height_nm
    motion.move_stage((0.0, 0.0, moved), (0.0, 0.0, 100.0))
    stage.height_nm += moved + 80.0
    rows = follow(motion, stage, ASCENDING)
    assert np.abs(rows[:, 1]).max() < 200
    assert abs(what_was_learned(motion).height_nm - 80.0) < 100


def test_a_move_across_the_tilt_axis_changes_the_distance_from_it():
    motion, stage, _ = tracked(series=2, jitter_nm=10.0)
    motion.move_stage((900.0, 0.0, 0.0), (20.0, 0.0, 0.0))
    stage.axis_nm += 900.0
    stage.place += np.array([0.0, 900.0])
    rows = follow(motion, stage, ASCENDING)
    # Without it the first frame, at -40 deg, is 210 nm off.
    assert np.abs(rows[:, 1]).max() < 80


def test_what_belongs_to_the_column_goes_to_the_next_specimen():
    motion, _, _ = tracked(series=2)
    given_on = motion_from(for_next_specimen(state_of(motion)))
    before, after = what_was_learned(motion), what_was_learned(given_on)
    assert after.height_nm == 0
    assert after.height_sd_nm == pytest.approx(2500)
    assert after.jitter_nm == pytest.approx(before.jitter_nm)
    assert np.allclose(after.course_nm, before.course_nm)


def test_a_damaged_state_is_refused():
    state = state_of(Motion())
    for change in ({"mean": "!"}, {"mean": state.mean[:-8]}, {"log_weight": (0.0,)}):
        with pytest.raises(ValueError, match="state"):
            motion_from(state.model_copy(update=change))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("tilt"), st.floats(-60, 60)),
        st.tuples(st.just("measure"), st.floats(-500, 500)),
        st.tuples(st.just("hold"), st.floats(0, 600)),
        st.tuples(st.just("wait"), st.floats(0, 1000)),
        st.tuples(st.just("move"), st.floats(-2000, 2000)),
        st.tuples(st.just("focus"), st.floats(-2000, 2000)),
    ),
    max_size=12,
)


def walked(course):
    motion = Motion(Assumptions(jitter_nm=(10.0, 40.0), course_nm=(30.0,)))
    for what, value in course:
        match what:
            case "tilt":
                motion.tilt_to(value)
            case "measure":
                motion.measure((value, -value), (1.0, 1.0), (0.5 * value, 10.0))
            case "hold":
                motion.hold(value)
            case "wait":
                motion.advance(motion.time_s + value)
            case "move":
                motion.move_stage((0.0, value, value), (10.0, 10.0, 100.0))
            case _:
                motion.measure_focus(value, 100.0)
    return motion


@settings(max_examples=30)
@given(steps)
def test_covariances_stay_covariances_and_the_state_survives(course):
    motion = walked(course)
    values = np.linalg.eigvalsh(motion.covariance)
    assert values.min() > -1e-6 * values.max()
    text = state_of(motion).model_dump_json()
    again = motion_from(type(state_of(motion)).model_validate_json(text))
    ahead = motion.time_s + 10
    one, other = (predict(m, [-7.0, 7.0], [ahead, ahead]) for m in (motion, again))
    assert np.allclose(one.shift_nm, other.shift_nm)
    assert np.allclose(one.sd_nm, other.sd_nm)


@settings(max_examples=30)
@given(steps, st.floats(-60, 60), st.floats(0, 500), st.floats(1, 500))
def test_what_lies_further_ahead_is_known_no_better(course, tilt, ahead_s, more_s):
    motion = walked([*course, ("tilt", 0.0)])
    times = [motion.time_s + ahead_s, motion.time_s + ahead_s + more_s]
    # A drift that is under way and unknown can cancel against the constant; without it nothing can.
    motion.covariance[..., DRIFT, :] = motion.covariance[..., :, DRIFT] = 0.0
    motion.mean[..., DRIFT] = 0.0
    sd = predict(motion, [tilt, tilt], times, assumed_shift_nm=(0.0, 0.0)).sd_nm
    assert (sd[1] >= sd[0] - 1e-6).all()


def test_the_probability_of_a_slip_is_one_at_most_however_the_weights_are_rounded():
    for seed in range(8):
        motion, _, _ = tracked(seed)
        for number in range(6):
            motion.tilt_to(38.0 - 2.0 * number)
            place = 5000.0 * (-1) ** number
            slip = motion.measure((0.0, place), (0.5, 0.5), (0.0, 0.0))
            assert 0.9 < slip <= 1.0
