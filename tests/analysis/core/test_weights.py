"""Weights of pixels: what is refused, and what unmeasured pixels are filled with."""

import numpy as np
import pytest

from pyrotome.analysis.core.weights import binned_by_weight, checked_weights, filled

ROWS, COLUMNS = np.mgrid[:37, :50].astype(np.float32)


def test_even_weights_are_none():
    assert checked_weights(None, (2, 3)) is None
    assert checked_weights(np.ones((2, 3)), (2, 3)) is None
    found = checked_weights(np.array([[0.0, 1.0]]), (1, 2))
    assert found is not None and found.dtype == np.float32


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_a_weight_that_is_no_share_is_refused(bad):
    with pytest.raises(ValueError, match="is not a number from 0"):
        checked_weights(np.array([[bad]]), (1, 1))
    with pytest.raises(ValueError, match=r"weights have the shape \(1, 1\), the images \(2, 2\)"):
        checked_weights(np.array([[bad]]), (2, 2))


@pytest.mark.parametrize("gap", [np.s_[10], np.s_[:, 20:24], np.s_[5:9, 30:33], np.s_[:2, :2]])
def test_gaps_in_a_slope_are_filled_by_the_slope(gap):
    slope = 3.0 * ROWS - 2.0 * COLUMNS
    weights = np.ones(slope.shape)
    weights[gap] = 0.0
    broken = np.where(weights > 0, slope, 1e6)
    made = filled(broken, weights)
    assert np.array_equal(made[weights > 0], slope[weights > 0])
    # A slope of 3.6 a pixel: never wrong by more than some pixels' worth.
    assert np.abs(made - slope).max() < 16
    assert np.array_equal(made, filled(np.where(weights > 0, slope, -7.0), weights))


def test_a_hole_far_wider_than_its_banks_see_is_filled_all_the_same():
    image, weights = np.full((120, 120), 7.0), np.ones((120, 120))
    weights[10:110, 10:110] = 0
    assert filled(image * weights, weights) == pytest.approx(7.0, abs=1e-3)


def test_nothing_measured_gives_zeros():
    assert not filled(np.full((5, 7), 9.0), np.zeros((5, 7))).any()


def test_squares_are_averaged_by_weight():
    image, weights = np.arange(16.0).reshape(4, 4), np.ones((4, 4))
    image[0, 0], weights[0, 0] = 1e6, 0.0
    made, shares = binned_by_weight(image, weights, 2)
    assert made[0, 0] == pytest.approx((1 + 4 + 5) / 3)
    assert shares[0, 0] == 0.75 and (np.delete(shares.ravel(), 0) == 1).all()
    assert made[1, 1] == pytest.approx((10 + 11 + 14 + 15) / 4)
