"""Weighted back-projection: right values, uneven angles, windows."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pyrotome.analysis.tomography.back_projection import angle_shares_deg, ramp, wbp
from pyrotome.analysis.tomography.projector import project


def disc(side=64, radius=16.0):
    """A disc of 2 beside the middle, in two slices."""
    z, x = np.mgrid[:side, :side] - (side - 1) / 2
    plane = 2.0 * gaussian_filter(((x - 6) ** 2 + (z + 4) ** 2 < radius**2).astype(float), 0.7)
    return np.stack([plane, 0.5 * plane]).astype(np.float32)


def inner(volume):
    z, x = np.mgrid[:64, :64] - 31.5
    return volume[0][(x - 6) ** 2 + (z + 4) ** 2 < 10**2]


def test_a_disc_comes_back_with_its_value():
    tilts = np.arange(0.0, 180, 2)
    made = wbp(project(disc(), tilts), tilts)
    assert made.dtype == np.float32
    assert inner(made).mean() == pytest.approx(2.0, rel=0.02)
    assert inner(made).std() < 0.1
    assert np.allclose(made[1], 0.5 * made[0], atol=1e-4)
    assert abs(made[0, 24:40, 57:61].mean()) < 0.05


def test_uneven_angles_are_weighted():
    even = np.arange(0.0, 180, 2)
    uneven = np.concatenate([np.arange(0.0, 60, 1), np.arange(60.0, 180, 3)])
    truth = disc()
    made = wbp(project(truth, uneven), uneven)
    reference = wbp(project(truth, even), even)
    assert inner(made).mean() == pytest.approx(2.0, rel=0.02)
    worst = np.linalg.norm(wbp(project(truth, uneven)[::-1], uneven) - truth)
    assert np.linalg.norm(made - truth) < 1.5 * np.linalg.norm(reference - truth) < worst


def test_the_missing_wedge_is_nobodys_share():
    assert angle_shares_deg(np.arange(-40.0, 41, 2)) == pytest.approx(2.0)
    assert angle_shares_deg(np.arange(0.0, 180, 4)).sum() == pytest.approx(180)
    assert angle_shares_deg(np.array([10.0, 0, 10, 20])).tolist() == [5, 10, 5, 10]
    assert angle_shares_deg(np.array([3.0])).tolist() == [180]
    assert angle_shares_deg(np.array([-90.0, 90.0, 0.0])).tolist() == [45, 45, 90]


def test_windows_temper_the_noise():
    tilts = np.arange(-40.0, 41, 2)
    noise = np.random.default_rng(0).normal(size=(tilts.size, 2, 64))
    spread = [wbp(noise, tilts, window=w).std() for w in ("ramp", "shepp-logan", "cosine", "hann")]
    assert spread == sorted(spread, reverse=True)
    assert spread[3] < 0.6 * spread[0]
    frequency = np.fft.rfftfreq(256)
    assert np.abs(ramp(256) - frequency).max() < 0.01
    assert 0 < ramp(256)[0] < 0.001


def test_shape_bound_and_refusals():
    tilts = np.arange(-40.0, 41, 10)
    images = project(disc(), tilts)
    made = wbp(images, tilts, slice_shape=(20, 64), minimum=0.0)
    assert made.shape == (2, 20, 64)
    assert made.min() == 0
    with pytest.raises(ValueError, match="window 'box'"):
        wbp(images, tilts, window="box")
    with pytest.raises(ValueError, match="tilt angles"):
        wbp(images[1:], tilts)
