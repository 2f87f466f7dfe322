"""Alignment of series with pixels that were not measured: hot ones, hits, gaps between chips."""

import numpy as np
import pytest

from pyrotome.analysis.alignment.align import align_series, dark_images
from pyrotome.analysis.alignment.coarse import CoarseAlignment
from pyrotome.analysis.alignment.pairwise import OnlineRegistration
from pyrotome.analysis.alignment.registration import (
    masked_correlation,
    mutual_information,
    phase_correlation,
)
from pyrotome.analysis.alignment.resampling import TiltAxis, apply_alignment

from .test_align import TILTS, jitter, moved, residual, spheres_series, textured

SHIFTS = jitter(TILTS, 6.0)


def gaps(shape):
    """A cross of 4 pixels between chips, 20 hot pixels in place, and 3 hits in each image."""
    rng = np.random.default_rng(7)
    weights = np.ones(shape, np.float32)
    weights[:, 46:50] = weights[:, :, 46:50] = 0
    rows, columns = rng.integers(0, shape[1], (2, 20))
    weights[:, rows, columns] = 0
    for one in weights:
        rows, columns = rng.integers(0, shape[1], (2, 3))
        one[rows, columns] = 0
    return weights


@pytest.fixture(scope="module")
def series():
    return spheres_series(TILTS, SHIFTS).astype(np.float32)


@pytest.mark.parametrize("method", ["mutual-information", "phase-correlation", "centre-of-mass"])
def test_unmeasured_pixels_do_not_matter(series, method):
    weights = gaps(series.shape)
    found = align_series(np.where(weights > 0, series, 1e6), TILTS, method, weights=weights)
    again = align_series(np.where(weights > 0, series, -50), TILTS, method, weights=weights)
    assert np.array_equal(found.shifts_px, again.shifts_px)
    assert found.axis == again.axis
    assert np.array_equal(found.images, again.images)
    wrong, offset = residual(found, SHIFTS, TILTS)
    assert np.sqrt((wrong**2).sum(axis=1).mean()) < 0.25
    assert abs(offset) < 0.5
    # Fixed gaps pull a registration that does not know of them.
    assert found.weights is not None and 0.8 < found.weights.mean() < 0.95
    assert found.correlation.min() > 0.95


def test_hot_pixels_move_the_alignment_by_less_than_a_tenth(series):
    weights = np.ones(series.shape, np.float32)
    weights[:, 30, 40] = weights[:, 61, 20] = 0
    broken = np.where(weights > 0, series, 65535)
    found = align_series(broken, TILTS, "phase-correlation", weights=weights)
    clean = align_series(series, TILTS, "phase-correlation")
    assert np.abs(found.shifts_px - clean.shifts_px).max() < 0.1
    assert found.rotation_deg == pytest.approx(clean.rotation_deg, abs=0.05)


def test_even_weights_change_nothing(series):
    found = align_series(series, TILTS, "phase-correlation", rounds=3, weights=np.ones_like(series))
    clean = align_series(series, TILTS, "phase-correlation", rounds=3)
    assert np.array_equal(found.images, clean.images)
    assert found.weights is not None and np.array_equal(found.weights, clean.weights)


@pytest.mark.parametrize("shift", [(3.3, -2.2), (-7.6, 5.4)])
def test_gaps_in_place_do_not_hold_the_images_in_place(shift):
    first, second = textured(), moved(textured(), shift)
    measured = np.ones(first.shape, np.bool_)
    measured[40:46] = measured[:, 30:36] = False
    start = masked_correlation(first, second, measured, measured)
    assert start == pytest.approx(shift, abs=0.3)
    found, _ = mutual_information(first, 5 - 2 * second, np.round(start), (measured, measured))
    assert found == pytest.approx(shift, abs=0.3)
    # Nonsense in the gaps, as it is recorded, does.
    broken = [np.where(measured, image, 40.0) for image in (first, second)]
    assert np.abs(phase_correlation(*broken)).max() < 0.3


def test_views_that_arrive_one_by_one_are_aligned_by_weight(series):
    weights = gaps(series.shape)
    made = []
    for nonsense in (1e6, -50.0):
        coarse = CoarseAlignment("phase-correlation")
        broken = np.where(weights > 0, series, np.float32(nonsense))
        made.append(
            [coarse.add_view(n, n, broken[n], TILTS[n], weights[n]) for n in range(TILTS.size)]
        )
    for (image, shares), (other, _) in zip(*made, strict=True):
        assert np.array_equal(image, other)
        assert image.max() < 3 * series.max() and 0 <= shares.min() < shares.max() == 1


def test_pairs_registered_before_give_the_same_alignment(series):
    weights = gaps(series.shape)
    registration = OnlineRegistration("phase-correlation")
    for n in range(len(TILTS)):
        registration.add(n, TILTS[n], series[n], weights[n])
    pairs = registration.pair_shifts(range(TILTS.size))
    one, other = (
        align_series(
            series, TILTS, "phase-correlation", rounds=2, weights=weights, pair_shifts=known
        )
        for known in (pairs, None)
    )
    assert np.array_equal(one.shifts_px, other.shifts_px)


def test_an_image_whose_contrast_is_unmeasured_is_dark(series):
    broken, weights = series.copy(), np.ones(series.shape, np.float32)
    broken[4], weights[4, 10:20, 10:20] = 0, 0
    broken[4, 10:20, 10:20] = 1e5
    assert dark_images(broken).tolist() != [4]
    assert dark_images(broken, weights).tolist() == [4]


def test_weights_move_with_their_pixels():
    images = np.random.default_rng(0).random((1, 20, 24), np.float32)
    weights = np.ones(images.shape, np.float32)
    weights[0, 5, 7] = 0
    made, shares = apply_alignment(images, np.array([[2.0, -3.0]]), TiltAxis(), weights)
    field = shares[0, :18, 3:]
    assert np.argwhere(field < 1).tolist() == [[3, 7]] and field[3, 7] == 0
    # The image ends there, although it is continued.
    assert not shares[0, 18:].any() and not shares[0, :, :3].any()
    assert np.array_equal(made[0, :17, 4:9], images[0, 2:19, 1:6])
    made, shares = apply_alignment(images, np.array([[2.5, 0.0]]), TiltAxis(), weights)
    assert shares[0, 2:4, 7].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="weights have the shape"):
        apply_alignment(images, np.zeros((1, 2)), TiltAxis(), weights[:, 1:])
