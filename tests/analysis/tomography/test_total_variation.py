"""Total variation: beats SIRT where views are few, can be warm-started and resumed."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pyrotome.analysis.tomography.image_levels import automatic_weight, vacuum_level
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import LANES, project
from pyrotome.analysis.tomography.total_variation import TvSolver, tv

TILTS = np.arange(-40.0, 41, 4)


def spheres(slices=LANES + 8, side=40):
    """Two spheres of different value across the border of two blocks; axes (y, z, x)."""
    y, z, x = np.meshgrid(
        np.arange(slices) - (slices - 1) / 2,
        np.arange(side) - (side - 1) / 2,
        np.arange(side) - (side - 1) / 2,
        indexing="ij",
    )
    volume = ((x + 8) ** 2 + (y - 10) ** 2 + z**2 < 8**2) + 0.8 * (
        (x - 9) ** 2 + (y - 4) ** 2 + (z - 3) ** 2 < 7**2
    )
    return gaussian_filter(volume, 0.5).astype(np.float32)


TRUTH = spheres()
CLEAN = project(TRUTH, TILTS)
NOISY = CLEAN + np.random.default_rng(0).normal(0, 1.0, CLEAN.shape).astype(np.float32)


def error(volume):
    return float(np.linalg.norm(volume - TRUTH) / np.linalg.norm(TRUTH))


def total_variation(volume):
    parts = [np.diff(volume, axis=a, append=np.take(volume, [-1], a)) for a in range(3)]
    return float(np.sqrt(sum(p.astype(float) ** 2 for p in parts)).sum())


def objective(volume, weight):
    misfit = (project(volume, TILTS) - NOISY).astype(float)
    return 0.5 * float((misfit**2).sum()) + weight * total_variation(volume)


def test_limited_angle_and_noise_harm_it_less_than_sirt():
    ours = tv(NOISY, TILTS, 100)
    best_sirt = min(error(sirt(NOISY, TILTS, n).volume) for n in (10, 30, 100))
    assert error(ours.volume) < 0.6 * best_sirt
    assert ours.volume.dtype == np.float32
    assert ours.volume.min() >= 0
    assert ours.residual[0] == pytest.approx(1.0, rel=1e-5)
    assert ours.residual[-1] < 0.5
    assert ours.residual[:10].tolist() == sorted(ours.residual[:10], reverse=True)


def test_the_minimum_is_reached_from_anywhere():
    """Convexity: runs from zeros and from a poor volume meet, and no neighbour is lower."""
    weight = 4.0
    one = tv(NOISY, TILTS, 300, weight).volume
    start = np.random.default_rng(1).random(TRUTH.shape).astype(np.float32)
    other = tv(NOISY, TILTS, 300, weight, initial=start).volume
    lowest = objective(one, weight)
    assert objective(other, weight) == pytest.approx(lowest, rel=5e-3)
    for volume in (TRUTH, 0.98 * one, 1.02 * one, gaussian_filter(one, 0.5), one.clip(0, 0.9)):
        assert objective(volume, weight) > lowest


def test_differences_reach_across_blocks():
    """The same object a few slices on, so that another slice begins a block: same answer."""
    rolled = np.roll(NOISY, 5, axis=1)
    one = tv(NOISY, TILTS, 40, 3.0).volume
    other = tv(rolled, TILTS, 40, 3.0).volume
    inside = slice(6, TRUTH.shape[0] - 11)
    moved = np.roll(other, -5, axis=0)
    assert np.abs(moved[inside] - one[inside]).max() < 0.02


def test_a_warm_start_saves_iterations():
    cold = tv(NOISY, TILTS, 8, 3.0)
    warm = tv(NOISY, TILTS, 8, 3.0, initial=tv(NOISY, TILTS, 40, 3.0).volume)
    assert warm.residual[0] < 0.5
    assert objective(warm.volume, 3.0) < objective(cold.volume, 3.0)
    assert error(warm.volume) < error(cold.volume)


def test_resumed_is_the_same_as_at_once():
    calls = []
    whole = tv(NOISY, TILTS, 12, 2.0, progress=calls.append)
    solver = TvSolver(*NOISY.shape[1:], weight=2.0)
    for image, tilt in zip(NOISY, TILTS, strict=True):
        solver.add_view(image, tilt)
    solver.step(5)
    solver.step(7)
    assert calls == list(range(1, 13))
    assert np.array_equal(solver.volume, whole.volume)
    assert np.array_equal(solver.residual, whole.residual)


def test_views_may_come_between_iterations():
    solver = TvSolver(*NOISY.shape[1:])
    for image, tilt in zip(NOISY, TILTS, strict=True):
        solver.add_view(image, tilt)
        solver.step(3)
    assert solver.views == TILTS.size
    during = error(solver.volume)
    assert during < error(tv(NOISY, TILTS, 3).volume)
    solver.step(20)
    assert error(solver.volume) < error(tv(NOISY, TILTS, 20).volume)
    assert solver.weight == pytest.approx(automatic_weight(NOISY, TILTS))


def test_slices_need_not_be_square_nor_views_sorted():
    truth = TRUTH[:, 8:32]
    tilts = np.array([3.0, -40, 17, 38, -22, 8, -10, 27, -33])
    images = project(truth, tilts)
    made = tv(images, tilts, 100, 0.3, slice_shape=(24, 40))
    assert made.volume.shape == truth.shape
    assert np.linalg.norm(made.volume - truth) < 0.25 * np.linalg.norm(truth)


def test_the_automatic_weight_follows_noise_and_unit():
    rng = np.random.default_rng(2)
    quiet = CLEAN + rng.normal(0, 0.5, CLEAN.shape)
    loud = CLEAN + rng.normal(0, 2.0, CLEAN.shape)
    expected = 0.7 * 2.0 * np.sqrt(TILTS.size)
    assert automatic_weight(loud, TILTS) == pytest.approx(expected, rel=0.3)
    assert automatic_weight(quiet, TILTS) < 0.5 * automatic_weight(loud, TILTS)
    assert automatic_weight(7 * loud, TILTS) == pytest.approx(7 * automatic_weight(loud, TILTS))
    order = rng.permutation(TILTS.size)
    assert automatic_weight(loud[order], TILTS[order]) == automatic_weight(loud, TILTS)
    # A smoothing filter takes away little of what matters at low frequencies.
    smooth = gaussian_filter(loud, (0, 0.7, 0.7))
    assert automatic_weight(smooth, TILTS) > 0.7 * automatic_weight(loud, TILTS)
    assert automatic_weight(np.zeros((3, 8, 8)), TILTS[:3]) == 0
    assert automatic_weight(CLEAN[:2], TILTS[:2]) > 0


def test_the_vacuum_is_found_under_noise():
    rng = np.random.default_rng(3)
    image = 5.0 + 0.1 * CLEAN[4].repeat(4, axis=0) + rng.normal(0, 0.2, (160, 40))
    assert np.mean(image) > 5.2
    assert vacuum_level(image) == pytest.approx(5.0, abs=0.06)
    assert vacuum_level(rng.permutation(image)) == pytest.approx(vacuum_level(image))
    assert vacuum_level(np.full((3, 4), 2.5)) == 2.5
    assert vacuum_level(np.where(CLEAN[4] > 0.1, 9.0, 0.0)) == 0.0


def test_nothing_measured_gives_an_empty_volume():
    made = tv(np.zeros((3, 2, 8)), np.array([-1.0, 0, 1]), 4)
    assert not made.volume.any()
    assert not made.residual.any()


def test_bad_input_is_refused():
    images, tilts = np.ones((3, 2, 8)), np.array([-10.0, 0, 10])
    with pytest.raises(ValueError, match="3 images but 2 tilt angles"):
        tv(images, tilts[:2], 1)
    with pytest.raises(ValueError, match="the weight is -1"):
        tv(images, tilts, 1, -1.0)
    with pytest.raises(ValueError, match=r"initial volume has the shape \(1, 1, 1\)"):
        tv(images, tilts, 1, initial=np.zeros((1, 1, 1)))
    with pytest.raises(ValueError, match="initial volume holds NaN"):
        tv(images, tilts, 1, initial=np.full((2, 8, 8), np.nan))
    solver = TvSolver(2, 8)
    with pytest.raises(ValueError, match="no image"):
        solver.step()
    with pytest.raises(ValueError, match=r"image has the shape \(8, 2\)"):
        solver.add_view(np.ones((8, 2)), 0.0)
    with pytest.raises(ValueError, match="holds NaN"):
        solver.add_view(np.full((2, 8), np.nan), 0.0)
    with pytest.raises(ValueError, match="tilt angle is not a finite"):
        solver.add_view(np.ones((2, 8)), np.nan)
    with pytest.raises(ValueError, match="each number must be at least 1"):
        TvSolver(0, 8)
