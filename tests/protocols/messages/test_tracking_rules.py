"""Decisions that follow from the table and from what was measured."""

import pytest

from pyrotome.protocols.messages.tracking import DriftAt, OffsetMeasured, Row
from pyrotome.protocols.messages.tracking_rules import (
    TrackingLimits,
    after_scout,
    before_exposure,
    beyond_shift_limit,
    correction_fails,
    is_lost,
    needs_focus_series,
    not_found_running,
    settled_ns,
    stage_takes_over,
)

LIMITS = TrackingLimits(keep_within_nm=50, scouts_e_per_nm2=0.1)
FIELD_NM, SCOUT = 1000.0, 0.0225


def measured(offset=(0.0, 0.0), scan="frame", doubt="", slip=0.0, sd=(50.0, 50.0)):
    return OffsetMeasured(
        t_ns=0,
        series="s",
        index=0,
        scan=scan,
        tilt_deg=0,
        offset_nm=offset,
        sd_nm=(1, 1),
        predicted_sd_nm=sd,
        doubt=doubt,
        slip=slip,
    )


def row(shift=(0.0, 0.0), focus_sd=0.0, drift=0.0, tilt=0.0, sd=(20, 20)):
    return Row(
        tilt_deg=tilt,
        t_ns=0,
        shift_nm=shift,
        shift_sd_nm=sd,
        defocus_nm=0,
        defocus_sd_nm=focus_sd,
        drift_nm_per_s=drift,
        drift_sd_nm_per_s=0,
    )


@pytest.mark.parametrize(
    ("sd", "spent", "last", "do"),
    [
        (40, 0.0, None, "expose"),
        (60, 0.0, None, "scout"),
        (60, 0.09, None, "expose"),  # the dose of the scouts is used up
        (40, 0.0, measured(slip=0.9), "scout"),
        (40, 0.09, measured(doubt="decoy"), "wide"),
    ],
)
def test_a_scout_is_taken_where_the_prediction_is_not_good_enough(sd, spent, last, do):
    assert before_exposure((sd, 10), LIMITS, spent, SCOUT, last).do == do


def test_without_scouts_nothing_is_taken_and_zero_means_always():
    none, always = TrackingLimits(scouts_e_per_nm2=0), TrackingLimits(keep_within_nm=0)
    assert before_exposure((500, 500), none, 0, SCOUT, measured(doubt="decoy")).do == "expose"
    assert before_exposure((5, 5), always, 0, SCOUT).do == "scout"


def test_frames_that_follow_at_the_same_angle_get_no_scout_of_their_own():
    always = TrackingLimits(keep_within_nm=0)
    assert before_exposure((5, 5), always, 0, SCOUT, repeats=True).do == "expose"
    slipped, other = measured(slip=0.9), measured(doubt="decoy")
    assert before_exposure((5, 5), always, 0, SCOUT, slipped, repeats=True).do == "scout"
    assert before_exposure((5, 5), always, 0, SCOUT, other, repeats=True).do == "wide"


@pytest.mark.parametrize(
    ("found", "taken", "do"),
    [
        (measured((100, 0), "scout"), 1, "expose"),
        (measured((400, 0), "scout"), 1, "scout"),
        (measured((400, 0), "scout"), 3, "pause"),  # corrections do not bring it nearer
        (measured(None, "scout", "decoy"), 1, "wide"),
        (measured((1200, 0), "wide"), 2, "scout"),
        (measured(None, "wide", "decoy"), 2, "pause"),
        (measured(None, "scout", "same"), 1, "scout"),
        (measured(None, "scout", "same"), 4, "pause"),
    ],
)
def test_a_scout_is_answered_before_anything_is_exposed(found, taken, do):
    assert after_scout(found, FIELD_NM, LIMITS, taken).do == do


def test_a_loss_is_told_in_nm_and_per_cent():
    assert is_lost(measured((0, 320)), FIELD_NM, LIMITS) == (
        "the specimen is 320 nm off, 32 % of the field"
    )
    assert is_lost(measured((0, 250)), FIELD_NM, LIMITS) == ""
    assert "blank" in is_lost(measured(None, doubt="blank"), FIELD_NM, LIMITS)


@pytest.mark.parametrize(
    ("offsets", "fails"),
    [
        ([(0, 60), (0, 140), (0, 300)], True),  # a sign is wrong
        ([(0, 150), (0, 170), (0, 190)], True),  # the shift is forgotten
        ([(0, 20), (0, 400), (0, 30)], False),  # a slip, corrected
        ([(0, 60), (0, -140), (0, 300)], False),
        ([(0, 140), (0, 300)], False),
    ],
)
def test_correcting_stops_where_it_makes_things_worse(offsets, fails):
    assert correction_fails([measured(offset) for offset in offsets]) is fails


def test_offsets_of_a_beam_that_was_not_shifted_yet_are_no_failed_correction():
    offsets = [(0, 60), (0, 140), (0, 300)]
    late = [measured(off).model_copy(update={"predicted_nm": off}) for off in offsets]
    assert not correction_fails(late)


def test_three_frames_without_the_specimen_are_enough():
    lost = measured(None, doubt="decoy")
    assert not_found_running([measured(), lost, lost, lost])
    assert not not_found_running([lost, lost, measured()])
    assert not not_found_running([lost, lost])


def test_the_stage_takes_over_what_the_beam_should_not():
    limits = TrackingLimits(hand_over_nm=1000, shift_limit_nm=1500)
    near, far = [row((0, 900))], [row((0, 1100)), row((0, 700), tilt=2)]
    assert stage_takes_over(near, limits) is None
    assert stage_takes_over(far, limits) == (0, 900)
    # About the middle nothing is gained.
    assert stage_takes_over([row((0, -1100)), row((0, 1100))], limits) is None
    assert beyond_shift_limit([row((0, 1400)), row((0, 1470), tilt=2)], limits) == (2,)


def test_focus_is_compared_with_what_is_asked():
    limits = TrackingLimits(focus_within_nm=100)
    assert needs_focus_series([row(focus_sd=99)], limits) == ""
    assert "150 nm" in needs_focus_series([row(focus_sd=150)], limits)


def test_a_shift_that_is_not_known_is_no_reason_to_warn_of_its_limit():
    limits = TrackingLimits(shift_limit_nm=1500)
    assert beyond_shift_limit([row((0, 1470), sd=(30, 30))], limits)
    assert not beyond_shift_limit([row((0, 0), sd=(1500, 1500))], limits)


def test_the_drift_dies_down_between_two_moments_of_the_table():
    drift = [
        DriftAt(t_ns=0, nm_per_s=8),
        DriftAt(t_ns=10, nm_per_s=4),
        DriftAt(t_ns=30, nm_per_s=1),
    ]
    assert settled_ns(drift, 9) == settled_ns([], 1) == 0
    assert settled_ns(drift, 4) == 10
    assert settled_ns(drift, 2) == 20
    assert settled_ns(drift, 0.5) is None
    ends = [DriftAt(t_ns=0, nm_per_s=8), DriftAt(t_ns=10, nm_per_s=0)]
    assert 0 <= settled_ns(ends, 2) <= 10
