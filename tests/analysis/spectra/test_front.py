"""Interface and front lengths of pictures with a known front."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.special import erfc

from pyrotome.analysis.spectra.front import FrontFollower, Interface, find_interface

ROWS, COLUMNS, BLUR = 120, 64, 3.0
ROW = 50.0 + 2.0 * np.sin(np.arange(COLUMNS) / 9.0)


def picture(length, counts=4.0, seed=1, above=True):
    depth = np.arange(ROWS)[:, None] - ROW[None, :]
    beyond = np.zeros_like(depth) if length == 0 else erfc(np.maximum(depth, 0) / (1.4142 * length))
    mean = gaussian_filter1d(np.where(depth < 0, 1.0, beyond), BLUR, axis=0, mode="nearest")
    drawn = np.random.default_rng(seed).poisson(counts * mean).astype(float)
    return drawn if above else drawn[::-1]


@pytest.mark.parametrize("above", [True, False])
def test_the_interface_is_found_from_either_side(above):
    found = find_interface(picture(0, counts=100.0, above=above))
    assert found.from_above is above
    assert np.abs(found.row_px - ROW).max() < 0.6
    assert abs((found.row_px - ROW).mean()) < 0.2
    assert found.blur_px == pytest.approx(BLUR, rel=0.15)


@pytest.mark.parametrize("flat", [np.zeros((60, 30)), np.full((60, 30), 5.0)])
def test_without_an_edge_there_is_no_interface(flat):
    with pytest.raises(ValueError, match="no interface was found"):
        find_interface(flat)


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("length", [2.0, 6.0, 15.0])
def test_a_length_comes_back_within_its_error(length, above):
    follower = FrontFollower(Interface(ROW, BLUR, above), 2, 16, 60)
    z = []
    for seed in range(12):
        image = picture(length, seed=seed, above=above)
        found = follower.lengths(*follower.profile(image, (0.0, 0.0)))
        z.append((found.length_px - length) / found.sd_px)
    assert np.abs(z).max() < 4.5
    assert abs(np.mean(z)) < 0.7
    assert 0.6 < np.std(z) < 1.5


def test_a_drift_is_taken_out():
    follower = FrontFollower(Interface(ROW, BLUR), 2, 16, 40)
    image = np.roll(picture(6.0, counts=30.0), 7, axis=0)
    found = follower.lengths(*follower.profile(image, (7.0, 0.0)))
    assert np.allclose(found.length_px, 6.0, atol=5 * found.sd_px.max())
    wrong = follower.lengths(*follower.profile(image, (0.0, 0.0)))
    assert (wrong.length_px > 9.0).all()


def test_too_few_counts_have_no_length():
    follower = FrontFollower(Interface(ROW, BLUR), 2, 16, 40)
    found = follower.lengths(*follower.profile(np.zeros((ROWS, COLUMNS)), (0.0, 0.0)))
    assert np.isnan(found.length_px).all()


def test_boxes_must_fit():
    with pytest.raises(ValueError, match="65 boxes in 64 columns"):
        FrontFollower(Interface(ROW, BLUR), 65)
