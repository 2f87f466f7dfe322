"""Drift from maps that stay."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from pyrotome.analysis.spectra.drift import DriftFollower


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(5)
    blobs = gaussian_filter(rng.random((2, 80, 80)), (0, 4, 4), mode="wrap")
    return 0.5 + 4.0 * (blobs - blobs.min()) / np.ptp(blobs)


def moved_by(scene, by):
    """Linear between pixels, so that nothing falls below zero."""
    return np.stack([shift(one, by, order=1, mode="grid-wrap") for one in scene])


def test_a_drift_that_goes_on_is_followed_within_its_error(scene):
    rng = np.random.default_rng(6)
    follower, errors, sds = DriftFollower(), [], []
    for frame in range(20):
        true = 0.3 * frame, -0.2 * frame
        moved = moved_by(scene, true)
        found = follower.feed(rng.poisson(moved).astype(np.float32))
        assert found.doubt == ""
        errors.append(np.subtract(found.shift_px, true))
        sds.append(found.sd_px)
    # All are measured against the first frame, whose noise holds back the first steps.
    later = np.array(errors[3:])
    assert np.abs(later - later.mean(axis=0)).max() < 5 * np.median(sds)
    assert np.abs(later.mean(axis=0)).max() < 1.0


def test_gains_that_change_are_no_drift(scene):
    rng = np.random.default_rng(7)
    follower = DriftFollower()
    for gain in (1.0, 1.3, 0.7, 1.5):
        found = follower.feed(rng.poisson(scene * gain).astype(np.float32))
    assert np.abs(found.shift_px).max() < 0.5


def test_a_frame_without_counts_is_told_and_left_out(scene):
    follower = DriftFollower()
    empty = np.zeros(scene.shape, np.float32)
    assert "no counts" in follower.feed(empty).doubt
    follower.feed(np.random.default_rng(8).poisson(scene).astype(np.float32))
    found = follower.feed(empty)
    assert "no counts" in found.doubt
    assert found.shift_px == (0.0, 0.0)


def test_maps_that_move_are_averaged_with_the_same_shift(scene):
    follower = DriftFollower()
    with pytest.raises(ValueError, match="no map was given"):
        _ = follower.mean_of_moving
    rng = np.random.default_rng(9)
    for frame in range(6):
        counts = rng.poisson(5 * moved_by(scene, (frame, 0))).astype(np.float32)
        follower.feed(counts, counts[:1])
    mean = follower.mean_of_moving[0]
    inside = slice(10, -10)
    assert np.corrcoef(mean[inside, inside].ravel(), scene[0, inside, inside].ravel())[0, 1] > 0.95
