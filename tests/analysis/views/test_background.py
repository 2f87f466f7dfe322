"""Laplace's equation inside a mask: solved, and the same by either way of solving it."""

import numpy as np
import pytest
from scipy.ndimage import laplace

from pyrotome.analysis.views import background, laplace_background

Y, X = np.mgrid[:60, :70]
BALL = np.hypot(Y - 30, X - 33) < 14
# Harmonic, so that it is its own continuation.
LEVEL = 20 + 0.1 * X - 0.05 * Y + 0.002 * (X - 35.0) ** 2 - 0.002 * (Y - 30.0) ** 2


def test_a_harmonic_background_is_found_under_the_particle():
    found = laplace_background(LEVEL + 40 * BALL)
    assert found.mask[BALL].all()
    assert found.mask.mean() < 0.4
    assert found.threshold > LEVEL.max()
    assert found.image[BALL] == pytest.approx(40, abs=0.3)
    assert (found.image[~found.mask] == 0).all()
    assert np.isnan(found.level[~found.mask]).all()


def test_the_equation_is_solved():
    found = laplace_background(LEVEL + 40 * BALL, BALL)
    inner = np.hypot(Y - 30, X - 33) < 12
    assert np.abs(laplace(np.nan_to_num(found.level))[inner]).max() < 1e-4
    assert np.isnan(found.threshold)


def test_both_ways_of_solving_agree(monkeypatch):
    direct = laplace_background(LEVEL + 40 * BALL, BALL)
    monkeypatch.setattr(background, "_DIRECT", 100)
    iterated = laplace_background(LEVEL + 40 * BALL, BALL)
    assert iterated.level[BALL] == pytest.approx(direct.level[BALL], abs=1e-3)


def test_a_particle_at_the_border_of_the_view():
    mask = np.roll(BALL, 25, axis=1)
    found = laplace_background(np.full(BALL.shape, 7.0) + 3 * mask, mask)
    assert found.level[mask] == pytest.approx(7, abs=1e-3)


def test_masks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="is empty"):
        laplace_background(LEVEL, np.zeros_like(BALL))
    with pytest.raises(ValueError, match="covers the whole view"):
        laplace_background(LEVEL, np.ones_like(BALL))
    with pytest.raises(ValueError, match="the same everywhere"):
        laplace_background(np.ones((20, 20)))
    with pytest.raises(ValueError, match="has the shape"):
        laplace_background(LEVEL, BALL[:10])
