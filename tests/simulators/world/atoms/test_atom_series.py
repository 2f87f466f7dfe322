"""Particles of single atoms: distances, and series whose moments are those asked for."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series


def test_atoms_keep_their_distance_and_density():
    atoms = amorphous_particle(400, np.random.default_rng(1))
    distances, _ = cKDTree(atoms).query(atoms, k=2)
    assert len(atoms) == 400
    assert distances[:, 1].min() > 2.25
    radius = np.linalg.norm(atoms, axis=1).max()
    assert 400 / (4 / 3 * np.pi * radius**3) == pytest.approx(0.05, rel=0.1)


def test_a_particle_that_is_too_dense_is_refused():
    with pytest.raises(ValueError, match="atoms fill"):
        amorphous_particle(100, np.random.default_rng(1), nearest_a=2.6)


def test_a_view_shows_an_atom_where_axis_and_tilt_put_it():
    imaging = Imaging(
        pixel_a=0.5, shape=(41, 41), dose_e_per_a2=1e6, pedestal=0.0,
        axis_offset_px=1.5, rotation_deg=10.0,
    )  # fmt: skip
    series = simulated_series(
        np.array([[2.0, 1.0, 3.0]]), np.array([0.0, 30]), imaging, np.random.default_rng(0)
    )
    turn = np.deg2rad(10)
    grid = np.arange(41) - 20.0
    for view, tilt in zip(series.counts.astype(float), np.deg2rad([0, 30]), strict=True):
        across = (2 * np.cos(tilt) + 3 * np.sin(tilt)) / 0.5 + 1.5
        row = (view.sum(axis=1) @ grid) / view.sum()
        column = (view.sum(axis=0) @ grid) / view.sum()
        assert row == pytest.approx(2 * np.cos(turn) + across * np.sin(turn), abs=0.05)
        assert column == pytest.approx(across * np.cos(turn) - 2 * np.sin(turn), abs=0.05)
        assert view.sum() == pytest.approx(1e6 / 2 * imaging.counts_per_electron_a2, rel=0.01)


def test_counts_are_poisson_and_errors_are_told():
    imaging = Imaging(shape=(64, 64), pedestal=3.0, shift_sd_px=2.0, tilt_sd_deg=0.5)
    tilts = np.arange(0.0, 180, 3)
    series = simulated_series(np.zeros((1, 3)), tilts, imaging, np.random.default_rng(0))
    corner = series.counts[:, :10, :10]
    assert corner.mean() == pytest.approx(3, rel=0.02)
    assert corner.var() == pytest.approx(3, rel=0.05)
    assert series.shifts_px.std() == pytest.approx(2, rel=0.2)
    assert np.std(series.true_tilt_deg - tilts) == pytest.approx(0.5, rel=0.3)
