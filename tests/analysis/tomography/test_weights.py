"""Reconstruction with pixels that were not measured: they have no influence."""

import numpy as np
import pytest

from pyrotome.analysis.tomography.image_levels import vacuum_level
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.live_reconstruction import LiveReconstruction
from pyrotome.analysis.tomography.projector import project
from pyrotome.analysis.tomography.reconstruction import r_factor
from pyrotome.analysis.tomography.total_variation import TvSolver, tv

from .test_live_reconstruction import SIDE, TILTS, ball

TRUTH = ball((2.0, -1.0, 3.0)) + 0.5 * ball((-5.0, 4.0, -6.0))
IMAGES = project(TRUTH, TILTS)


def weights_of(kind):
    weights = np.ones(IMAGES.shape, np.float32)
    if kind == "gap":
        weights[:, :, 17:20] = 0
        weights[:, 9:11] = 0
    elif kind == "hits":
        weights[np.random.default_rng(1).random(weights.shape) < 0.1] = 0
    else:
        weights[:, 12, 20] = 0.25
        weights[3] = 0
    return weights


def live(images, weights, iterations=0):
    volume = LiveReconstruction((SIDE, SIDE, SIDE), len(TILTS), iterations)
    for n, tilt in enumerate(TILTS):
        list(volume.add_view(images[n], float(tilt), weights[n]))
    return volume


def finished(images, weights):
    volume = live(images, weights, 52)
    list(volume.finish(images, TILTS, 60, weights=weights))
    return volume.volume


METHODS = {
    "sirt": lambda images, weights: sirt(images, TILTS, 40, weights=weights).volume,
    "tv": lambda images, weights: tv(images, TILTS, 60, weights=weights).volume,
    "live": lambda images, weights: live(images, weights).volume,
    "live-tv": finished,
}


@pytest.mark.parametrize("kind", ["gap", "hits", "shares"])
@pytest.mark.parametrize("method", METHODS)
def test_unmeasured_pixels_have_no_influence(method, kind):
    weights = weights_of(kind)
    made, again = (
        METHODS[method](np.where(weights > 0, IMAGES, np.float32(nonsense)), weights)
        for nonsense in (1e6, -1e4)
    )
    assert np.array_equal(made, again)
    clean = METHODS[method](IMAGES, np.ones(IMAGES.shape, np.float32))
    correlation = np.corrcoef(made.ravel(), clean.ravel())[0, 1]
    # Two of 32 rows and the surroundings of the axis are measured in no view.
    assert correlation > (0.98 if kind != "gap" else 0.95)


@pytest.mark.parametrize("method", ["sirt", "tv", "live"])
def test_even_weights_change_nothing(method):
    even = METHODS[method](IMAGES, np.ones(IMAGES.shape, np.float32))
    none = [None] * len(IMAGES) if method == "live" else None
    assert np.array_equal(even, METHODS[method](IMAGES, none))


def test_a_gap_leaves_no_hole_in_the_volume():
    weights = weights_of("gap")
    made = sirt(np.where(weights > 0, IMAGES, 0), TILTS, 40, weights=weights).volume
    clean = sirt(IMAGES, TILTS, 40).volume
    for hole in (np.s_[9:11], np.s_[:, 15:17, 17:19]):
        assert made[hole].sum() == pytest.approx(clean[hole].sum(), rel=0.25)


def test_residuals_and_r_factor_leave_them_out():
    weights = weights_of("hits")
    broken = np.where(weights > 0, IMAGES, 1e6)
    assert r_factor(TRUTH, broken, TILTS, weights) == pytest.approx(0.0, abs=1e-6)
    assert sirt(broken, TILTS, 40, weights=weights).residual[-1] < 0.2
    assert tv(broken, TILTS, 40, weights=weights).residual[-1] < 0.2


def test_weights_may_come_late_and_the_memory_grows():
    solver, other = TvSolver(SIDE, SIDE), TvSolver(SIDE, SIDE)
    weights = weights_of("hits")
    for n, tilt in enumerate(TILTS):
        share = weights[n] if n > 2 else None
        for one, nonsense in ((solver, 1e6), (other, 0.0)):
            image = IMAGES[n] if share is None else np.where(share > 0, IMAGES[n], nonsense)
            one.add_view(image, float(tilt), share)
            one.step(2)
    assert np.array_equal(solver.volume, other.volume)
    assert np.corrcoef(solver.volume.ravel(), TRUTH.ravel())[0, 1] > 0.85


def test_vacuum_is_seen_in_measured_pixels():
    image = np.full((64, 64), 5.0)
    image[20:40, 24:36] = 40.0
    weights = np.ones(image.shape)
    weights[:, 50:] = weights[:10] = 0
    assert vacuum_level(np.where(weights > 0, image, -3.0), weights) == pytest.approx(5.0)
    assert vacuum_level(np.where(weights > 0, image, -3.0)) < 4.0
    assert vacuum_level(image, np.zeros(image.shape)) == 0.0


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="weights have the shape"):
        sirt(IMAGES, TILTS, 1, weights=np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="weight is not a number from 0"):
        tv(IMAGES, TILTS, 1, weights=np.full(IMAGES.shape, 2.0))
