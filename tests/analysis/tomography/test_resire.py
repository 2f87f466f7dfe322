"""RESIRE: its formula written out with a dense matrix, convergence, and what is refused."""

import os
import tracemalloc

import numpy as np
import pytest

from pyrotome.analysis.tomography import project, r_factor, resire
from pyrotome.analysis.tomography.projector import LANES

TILTS = np.array([-63.0, -40, -22, -5, 0, 11, 37, 58, 74])
SIDE = 14


def dense_projector():
    """Matrix (angles * detector, z * x) of the projector, column by column."""
    voxels = np.eye(SIDE * SIDE, dtype=np.float32).reshape(-1, SIDE, SIDE)
    return project(voxels, TILTS).transpose(0, 2, 1).reshape(-1, SIDE * SIDE).astype(np.float64)


def images(slices=3, seed=2):
    rng = np.random.default_rng(seed)
    volume = rng.random((slices, SIDE, SIDE)).astype(np.float32)
    return project(volume, TILTS) + rng.normal(0, 0.5, (len(TILTS), slices, SIDE))


@pytest.mark.parametrize("step", [0.5, 1.5])
def test_it_is_the_formula_of_the_paper(step):
    measured, matrix = images(), dense_projector()
    made = resire(measured, TILTS, 60, step=step)
    for row in range(measured.shape[1]):
        b, x = measured[:, row].ravel(), np.zeros(SIDE * SIDE)
        for _ in range(60):
            x = np.maximum(0, x - step / (len(TILTS) * SIDE) * matrix.T @ (matrix @ x - b))
        difference = np.linalg.norm(made.volume[row].ravel() - x) / np.linalg.norm(x)
        assert difference < 1e-3
    assert made.volume.min() == 0


def test_the_misfit_falls_and_a_warm_start_goes_on():
    measured = images()
    whole = resire(measured, TILTS, 40)
    assert whole.residual[0] == pytest.approx(1, rel=1e-5)
    assert np.all(np.diff(whole.residual) < 1e-6)
    first = resire(measured, TILTS, 25)
    second = resire(measured, TILTS, 15, initial=first.volume)
    assert np.allclose(second.volume, whole.volume, atol=1e-4)
    assert r_factor(second.volume, measured, TILTS) < r_factor(first.volume, measured, TILTS)


def test_memory_beside_images_and_volume_does_not_grow_with_the_slices(monkeypatch):
    # One thread: two overlap in one of both runs and not in the other where the computer is busy.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})

    def peak(slices):
        measured = np.ones((len(TILTS), slices, 48), np.float32)
        tracemalloc.start()
        made = resire(measured, TILTS, 1)
        found = tracemalloc.get_traced_memory()[1] - made.volume.nbytes
        tracemalloc.stop()
        return found

    resire(images(), TILTS, 1)  # compiled
    few, many = peak(4 * LANES), peak(16 * LANES)
    assert many < few + 16 * LANES * len(TILTS) * 48 * 2  # the check of the images: bytes a pixel


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="does not converge"):
        resire(images(), TILTS, 1, step=2.5)
    with pytest.raises(ValueError, match="initial volume has the shape"):
        resire(images(), TILTS, 1, initial=np.zeros((3, 4, 4)))
    broken = images()
    broken[4, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 4 holds NaN"):
        resire(broken, TILTS, 1)
