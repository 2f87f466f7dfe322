"""SIRT: phantoms, real data, warm starts, and what is refused."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import LANES, project
from pyrotome.analysis.tomography.reconstruction import central_slices, r_factor

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def ball(side=40, slices=LANES + 3):
    """A ball and a smaller one beside it, smooth enough for the grid; axes (y, z, x)."""
    y, z, x = np.meshgrid(
        np.arange(slices) - (slices - 1) / 2,
        np.arange(side) - (side - 1) / 2,
        np.arange(side) - (side - 1) / 2,
        indexing="ij",
    )
    volume = (x**2 + y**2 + z**2 < 10**2) + 2.0 * ((x - 12) ** 2 + y**2 + (z - 5) ** 2 < 4**2)
    return gaussian_filter(volume, 0.8).astype(np.float32)


def test_a_phantom_is_recovered_from_a_full_turn():
    truth = ball()
    tilts = np.arange(0.0, 180, 4)
    made = sirt(project(truth, tilts), tilts, 60)
    error = np.linalg.norm(made.volume - truth) / np.linalg.norm(truth)
    assert made.volume.shape == truth.shape
    assert made.volume.dtype == np.float32
    assert error < 0.1
    assert r_factor(made.volume, project(truth, tilts), tilts) < 0.02


def test_the_misfit_never_grows_and_no_voxel_is_negative():
    tilts = np.array([-40.0, -37, -29, -10, 0, 0.5, 20, 38])  # neither even nor complete
    rng = np.random.default_rng(5)
    images = rng.poisson(project(ball(), tilts) * 3).astype(np.float32)
    made = sirt(images, tilts, 40)
    assert made.residual[0] == pytest.approx(1.0, rel=1e-5)
    assert np.all(np.diff(made.residual) <= 1e-6)
    assert made.residual[-1] < 0.3
    assert made.volume.min() >= 0


def test_without_a_bound_voxels_may_be_negative():
    tilts = np.arange(-40.0, 41, 10)
    made = sirt(project(ball(slices=3), tilts), tilts, 20, minimum=-np.inf)
    assert made.volume.min() < -0.01


def test_a_warm_start_goes_on_where_the_first_run_ended():
    tilts = np.arange(-60.0, 61, 5)
    images = project(ball(slices=5), tilts)
    first = sirt(images, tilts, 10)
    second = sirt(images, tilts, 10, initial=first.volume)
    whole = sirt(images, tilts, 20)
    assert second.residual[0] < first.residual[-1]
    assert np.allclose(second.volume, whole.volume, atol=1e-4)


def test_slices_do_not_know_of_each_other():
    tilts = np.arange(-40.0, 41, 8)
    truth = ball(side=33, slices=2 * LANES + 5)
    images = project(truth, tilts)
    start = np.random.default_rng(8).random(truth.shape, np.float32)
    together = sirt(images, tilts, 5, initial=start)
    for y in (0, LANES - 1, LANES, 2 * LANES, 2 * LANES + 4):
        alone = sirt(images[:, y : y + 1], tilts, 5, initial=start[y : y + 1])
        assert np.allclose(together.volume[y], alone.volume[0], atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_slices():
    """What is held beyond input and output is what the docstring says of the threads' blocks.

    How many threads happen to be at work at once is chance, so the bound reckons with all of them.
    """
    tilts = np.arange(-40.0, 41, 10)
    threads = max(2, len(os.sched_getaffinity(0)))
    stated = threads * (128 * 64 * 64 + 384 * tilts.size * 64)

    def extra_bytes(blocks):
        images = np.ones((tilts.size, blocks * LANES, 64), np.float32)
        tracemalloc.start()
        made = sirt(images, tilts, 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - made.volume.nbytes

    sirt(np.ones((2, 1, 8)), np.array([0.0, 80.0]), 1)
    # Geometry and thread pool, as they are with a single block.
    fixed = extra_bytes(1)
    for blocks in (12, 48):
        assert extra_bytes(blocks) < stated + fixed


def test_slices_need_not_be_square():
    tilts = np.arange(-40.0, 41, 4)
    truth = ball(slices=4)[:, 8:32]
    made = sirt(project(truth, tilts), tilts, 30, slice_shape=(24, 40))
    assert made.volume.shape == (4, 24, 40)
    assert made.residual[-1] < 0.1


def test_nothing_measured_gives_an_empty_volume():
    made = sirt(np.zeros((3, 2, 8)), np.array([-1.0, 0, 1]), 4)
    assert not made.volume.any()
    assert not made.residual.any()


def test_bad_series_are_refused():
    images, tilts = np.ones((3, 2, 8)), np.array([-10.0, 0, 10])
    with pytest.raises(ValueError, match="3 images but 2 tilt angles"):
        sirt(images, tilts[:2], 1)
    with pytest.raises(ValueError, match="tilt angle is not a finite"):
        sirt(images, np.array([0, np.nan, 1]), 1)
    images[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 1 holds NaN"):
        sirt(images, tilts, 1)
    with pytest.raises(ValueError, match=r"initial volume has the shape \(1, 1, 1\)"):
        sirt(np.ones((3, 2, 8)), tilts, 1, initial=np.zeros((1, 1, 1)))


def test_binning_keeps_the_middle_in_the_middle():
    frame = np.arange(7 * 9, dtype=np.uint16).reshape(7, 9)
    small = binned(frame, 2)
    assert small.shape == (3, 4)
    assert small.dtype == np.float32
    assert small[0, 0] == frame[0:2, 0:2].mean()
    even = binned(np.pad(np.ones((1, 3)), ((0, 0), (3, 3))), 4)
    assert even.tolist() == [[0.25, 0.5]]  # of 9 columns the last is cut
    assert binned(np.pad(np.ones((1, 1)), ((0, 0), (5, 5))), 3).tolist() == [
        [0, pytest.approx(1 / 3), 0]
    ]
    assert binned(frame, 100).shape == (1, 1)
    assert binned(frame, 100)[0, 0] == pytest.approx(frame.mean())


def test_central_slices():
    volume = np.random.default_rng(0).random((5, 7, 9), np.float32)
    planes = central_slices(volume)
    assert np.array_equal(planes["y"], volume[2])
    assert np.array_equal(planes["z"], volume[:, 3])
    assert np.array_equal(planes["x"], volume[:, :, 4])


def test_multislice_series_of_a_known_particle():
    folder = DATA / "asi_multislice"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the simulated silicon particle is not on this computer")
    with np.load(folder / "asi_2nm_dose_1p6e5.npz") as stored:
        counts, tilts = stored["counts"], stored["tilt_deg"]
    # A pedestal of 1 count; the tilt axis is image axis 1; x' = x cos(tilt) - z sin(tilt).
    images = np.ascontiguousarray((counts.astype(np.float32) - 1).transpose(0, 2, 1))
    made = sirt(images, -tilts, 30)
    noise_floor = np.sqrt(2 / np.pi) * np.sqrt(images.clip(0) + 1).sum() / np.abs(images).sum()
    fit = r_factor(made.volume, images, -tilts)
    assert fit < 1.2 * noise_floor
    shuffled = np.random.default_rng(0).permutation(tilts)
    wrong = sirt(images, shuffled, 30)
    assert r_factor(wrong.volume, images, shuffled) > 1.25 * fit

    atoms = np.loadtxt(folder / "asi_2nm_truth.xyz", skiprows=1)[:, [1, 0, 2]]
    x, y, z = np.rint((atoms - atoms.mean(axis=0)) / 0.195 + 63.5).astype(int).T
    assert made.volume[y, z, x].mean() > 5 * made.volume[32:96, 32:96, 32:96].mean()
