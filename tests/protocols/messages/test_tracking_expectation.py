"""What is to be expected of tracking, against the model of the tracker and the study."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from pyrotome.analysis.motion.assumptions import Assumptions
from pyrotome.analysis.tracking.tracker import Tracker
from pyrotome.protocols.messages.tracking_expectation import (
    START_COURSE_NM,
    START_JITTER_NM,
    StageFigures,
    expected_series,
    stage_of,
)
from pyrotome.protocols.messages.tracking_rules import TrackingLimits

TILTS = tuple(float(angle) for angle in range(-40, 41, 2))
FIRST = tuple(sorted(TILTS, key=abs))


def rms(values: tuple[float, ...]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def test_the_start_is_that_of_the_tracker() -> None:
    given = Assumptions()
    assert rms(given.jitter_nm) == pytest.approx(START_JITTER_NM, abs=0.1)
    assert rms(given.course_nm) == pytest.approx(START_COURSE_NM, abs=0.1)


def test_a_stage_of_the_study_gives_its_figures() -> None:
    # 60 nm rms, of whose variance half comes back; 1,008 series of the study's table (c).
    stage = StageFigures(42.4, 42.4)
    limits = TrackingLimits(shift_limit_nm=1000.0)
    first = expected_series(FIRST, limits, stage)
    assert first.frame_sd_nm[0] == 0, "it defines the place"
    assert 60 < first.rms_nm < 75
    later = [expected_series(TILTS, limits, stage, n, after_hold=True) for n in range(1, 18)]
    assert 140 < later[0].frame_sd_nm[0] < 190
    assert 48 < rms(later[-1].frame_sd_nm[1:]) < 60
    assert all(b.rms_nm <= a.rms_nm for a, b in pairwise(later))
    assert 100 < later[5].focus_sd_nm < 170
    assert later[0].beyond_shift_limit
    assert later[0].shift_nm == pytest.approx(2000 * np.sin(np.radians(40)) + 164, abs=1)


def test_frames_at_one_angle_are_where_the_first_was_found() -> None:
    stage, limits = StageFigures(42.4, 42.4), TrackingLimits()
    once = expected_series(FIRST, limits, stage)
    thrice = expected_series([angle for angle in FIRST for _ in range(3)], limits, stage)
    assert thrice.frame_sd_nm[::3] == once.frame_sd_nm
    assert max(thrice.frame_sd_nm[1::3] + thrice.frame_sd_nm[2::3]) < 30


def test_a_goniometer_file_tells_what_was_learned() -> None:
    tracker = Tracker()
    motion = tracker.motion
    motion.expect(list(TILTS))
    noise = np.random.default_rng(1)
    for _ in range(4):
        for angle in TILTS:
            motion.tilt_to(angle)
            y, x = noise.normal(0, 12, 2).tolist()
            motion.measure((y, x), (0.5, 0.5), (0.0, 0.0))
    stage = stage_of(tracker.state_for_next_run().model_dump_json().encode())
    assert 8 < stage.jitter_nm < 18
    assert {angle for angle, _ in stage.learned_nm} == set(TILTS)
    assert stage.course_sd_nm(10.0, 0) < 10.0 + 0.5 * stage.course_nm
    limits = TrackingLimits()
    learned, unknown = (expected_series(TILTS, limits, s, 1) for s in (stage, StageFigures()))
    assert learned.rms_nm < 0.8 * unknown.rms_nm


@pytest.mark.parametrize("change", [{"covariance": "!"}, {"covariance": "AAAA"}, {"jitter_nm": []}])
def test_a_damaged_goniometer_file_is_refused(change: dict[str, object]) -> None:
    state = json.loads(Tracker().state_for_next_run().model_dump_json())
    state["motion"] |= change
    with pytest.raises(ValueError, match=r"."):
        stage_of(json.dumps(state).encode())
