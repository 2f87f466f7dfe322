"""Frames and sparse scans are found, and what cannot be believed says why."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracked_specimen import DOSE, FIELD_NM, SCOUT_DOSE, frame

from pyrotome.analysis.tracking import Picture, picture_of, register, resampled
from pyrotome.analysis.tracking.pictures import noise_variance, stabilised


def picture(tilt_deg=0.0, offset_nm=(0.0, 0.0), seed=0, **changes):
    return picture_of(
        frame(tilt_deg, offset_nm, seed, **changes), FIELD_NM, tilt_deg, changes.get("dose", DOSE)
    )


def scout(offset_nm, times=1, **changes):
    points = 64 * times
    counts = frame(0.0, offset_nm, 7, points=points, times=times, dose=SCOUT_DOSE, **changes)
    return picture_of(counts, times * FIELD_NM, 0.0, SCOUT_DOSE, side=points)


REFERENCE = picture(seed=1)


@settings(max_examples=15)
@given(st.tuples(st.floats(-300, 300), st.floats(-300, 300)))
def test_a_frame_is_found_within_a_nanometre(offset):
    found = register(REFERENCE, picture(offset_nm=offset, seed=2))
    assert found.believed
    assert np.allclose(found.shift_nm, offset, atol=1.5)
    assert max(found.sd_nm) < 1


@settings(max_examples=15)
@given(st.integers(-12, 12), st.integers(-12, 12))
def test_what_is_moved_by_whole_squares_is_found_moved_by_them(down, along):
    wide = picture_of(frame(seed=3, points=192, times=1.5), 1.5 * FIELD_NM, 0.0, DOSE, side=96)
    cut = [
        Picture(wide.counts[16 - y : 80 - y, 16 - x : 80 - x], wide.pitch_nm, 0.0, wide.electrons)
        for y, x in ((0, 0), (down, along))
    ]
    one, other = (register(REFERENCE, part) for part in cut)
    moved = np.subtract(other.shift_nm, one.shift_nm) / wide.pitch_nm
    assert np.allclose(moved, (down, along), atol=0.08)


@pytest.mark.parametrize(("times", "offset"), [(1, (40.0, -90.0)), (3, (-900.0, 1100.0))])
def test_a_sparse_scan_is_enough(times, offset):
    found = register(REFERENCE, scout(offset, times))
    assert found.believed
    assert np.allclose(found.shift_nm, offset, atol=6)
    assert found.least < found.score < REFERENCE.counts.max()


def test_the_neighbouring_angle_serves_and_is_known_less_well():
    found = register(REFERENCE, picture(2.0, (30.0, -20.0), 2))
    assert found.believed
    assert np.allclose(found.shift_nm, (30.0, -20.0), atol=4)
    assert found.sd_nm[1] > register(REFERENCE, picture(0.0, (30.0, -20.0), 2)).sd_nm[1]


def test_a_wrong_prediction_does_not_hide_what_is_clearly_there():
    found = register(
        REFERENCE, picture(offset_nm=(0.0, 400.0), seed=2), (0.0, -100.0), (30.0, 30.0)
    )
    assert found.believed
    assert found.shift_nm[1] == pytest.approx(400, abs=3)


def lattice():
    rows, columns = np.mgrid[:64, :64]
    level = 40 + 200 * ((rows % 16 < 8) & (columns % 16 < 8))
    return Picture(np.random.default_rng(4).poisson(level).astype(float), 16.6, 0.0, 1600.0)


def film():
    counts = np.random.default_rng(5).poisson(100.0, (64, 64)).astype(float)
    return Picture(counts, 16.6, 0.0, 1600.0)


@pytest.mark.parametrize(
    ("reference", "shown", "reason"),
    [
        (REFERENCE, Picture(np.zeros((64, 64)), 16.6, 0.0, 1600.0), "blank"),
        (REFERENCE, REFERENCE, "same"),
        (REFERENCE, picture(seed=2, specimen=2), "decoy"),
        (REFERENCE, scout((0.0, 0.0), specimen=2), "decoy"),
        (film(), film(), "same"),
        (film(), Picture(film().counts.T, 16.6, 0.0, 1600.0), "featureless"),
        (lattice(), Picture(np.roll(lattice().counts, 1), 16.6, 0.0, 1600.0), "ambiguous"),
    ],
)
def test_what_cannot_be_believed_says_why(reference, shown, reason):
    before = reference if reason == "same" else None
    assert register(reference, shown, before=before).reason == reason


def test_too_few_counts_are_told():
    thin = picture_of(frame(seed=2, points=64, dose=2e-4), FIELD_NM, 0.0, 2e-4)
    assert thin.counts.sum() > 0
    assert register(REFERENCE, thin).reason == "few-counts"


def test_the_threshold_follows_the_counts():
    full = register(REFERENCE, picture(seed=2))
    sparse = register(REFERENCE, scout((0.0, 0.0)))
    assert sparse.least < 0.7 * full.least
    assert abs(sparse.score - sparse.expected) < 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_counts_are_kept_by_binning(dtype):
    counts = np.random.default_rng(0).integers(0, 9, (130, 260)).astype(dtype)
    made = picture_of(counts, 260.0, 0.0, 1.0)
    assert made.counts.shape == (32, 65)
    assert made.counts.sum() == counts[1:129, :].sum()


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((64, 64)), np.zeros(64, int)])
def test_what_is_no_frame_is_refused(bad):
    with pytest.raises(ValueError, match="a frame of shape"):
        picture_of(bad, 100.0, 0.0, 1.0)


def test_stretching_keeps_the_centre():
    counts = np.zeros((9, 9))
    counts[4, 4] = 1.0
    for pitch, tilt in ((1.0, 60.0), (0.5, 0.0), (2.0, 30.0)):
        made = resampled(Picture(counts, 1.0, 0.0, 1.0), pitch, tilt).counts
        rows, columns = made.shape
        assert np.unravel_index(made.argmax(), made.shape) == (rows // 2, columns // 2)
        assert rows % 2 == columns % 2 == 1


def test_the_noise_of_stabilised_counts_is_known_where_they_are_few():
    for mean in (0.1, 1.0, 5.0):
        drawn = stabilised(np.random.default_rng(1).poisson(mean, 40_000).astype(float))
        assert drawn.var() == pytest.approx(float(noise_variance(np.array([mean]))[0]), rel=0.06)
