"""Series that are wrong: each is told, and a right one is not."""

import dataclasses

import numpy as np
import pytest

from pyrotome.analysis.atoms import LikelihoodSettings, bond_scale, fit_atoms
from pyrotome.simulators.world.atoms.tilt_series import simulated_series

PIXEL_A = 0.35
QUICK = LikelihoodSettings(rounds=3, final_steps=3)


def doubts(counts, tilts, settings=QUICK, pixel_a=PIXEL_A):
    return "\n".join(fit_atoms(counts, tilts, pixel_a, settings=settings).doubts)


def test_the_same_frame_twice_is_told(series):
    counts = series.counts.copy()
    counts[12] = counts[11]
    told = doubts(counts, series.tilt_deg)
    assert "views 11 and 12 are the same picture" in told
    assert "view 12, told to be at 72.0 deg, fits best at 66" in told


def test_a_stage_that_stood_still_is_told(particle, series):
    tilts = series.tilt_deg.copy()
    tilts[20] = tilts[19]
    made = simulated_series(particle, tilts, series.imaging, np.random.default_rng(9))
    assert "view 20, told to be at 120.0 deg, fits best at 114" in doubts(
        made.counts, series.tilt_deg
    )


def test_a_missing_tilt_is_told(series):
    stay = np.arange(len(series.tilt_deg)) != 7
    told = doubts(series.counts[stay], series.tilt_deg[stay])
    assert told.startswith("no view between 36.0 and 48.0 deg")


def test_a_particle_that_leaves_the_field_is_told(particle, series):
    beside = particle + np.array([0.0, 6.5, 0.0])
    made = simulated_series(beside, series.tilt_deg, series.imaging, np.random.default_rng(9))
    assert "reaches the edge of the field in 30 views" in doubts(made.counts, made.tilt_deg)


def test_an_amorphous_film_behind_the_particle_is_told(particle, series):
    tilts = np.arange(-66.0, 67.0, 6.0)
    rng = np.random.default_rng(7)
    # Three angstrom of a light film, wider than the field even where it is seen at a slant.
    film = rng.uniform((-55, -16, -11), (55, 16, -8), (1000, 3))
    light = dataclasses.replace(
        series.imaging, pedestal=0.0,
        counts_per_electron_a2=0.15 * series.imaging.counts_per_electron_a2,
    )  # fmt: skip
    behind = simulated_series(film, tilts, light, rng).counts
    front = simulated_series(particle, tilts, series.imaging, rng).counts
    told = doubts(front + behind, tilts)
    assert "like those of a film of even thickness" in told
    assert "errors of the atoms about" in told
    assert "film" not in doubts(front, tilts)


def test_saturated_pixels_are_told(series):
    top = int(np.percentile(series.counts, 99))
    assert "the detector seems to saturate" in doubts(
        np.minimum(series.counts, top), series.tilt_deg
    )


def test_two_species_are_told(particle, series):
    heavy = dataclasses.replace(
        series.imaging,
        counts_per_electron_a2=2.5 * series.imaging.counts_per_electron_a2, pedestal=0.0,
    )  # fmt: skip
    rng = np.random.default_rng(9)
    light = simulated_series(particle[::2], series.tilt_deg, series.imaging, rng)
    other = simulated_series(particle[1::2], series.tilt_deg, heavy, rng)
    assert "another species" in doubts(light.counts + other.counts, series.tilt_deg)


@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_wrong_pixel_size_is_told_by_the_bonds(series, wrong):
    grid = np.stack(np.mgrid[-2:3, -2:3, -2:3], -1).reshape(-1, 3)
    fcc = grid[grid.sum(axis=1) % 2 == 0] * 2.0
    made = simulated_series(fcc, series.tilt_deg, series.imaging, np.random.default_rng(9))
    settings = dataclasses.replace(QUICK, bond_a=2.0 * np.sqrt(2))
    fit = fit_atoms(made.counts, made.tilt_deg, wrong * PIXEL_A, settings=settings)
    assert "the pixel size seems to be wrong" in "\n".join(fit.doubts)
    assert bond_scale(fit.positions_a, settings.bond_a).ratio == pytest.approx(wrong, abs=5e-3)
    right = fit_atoms(made.counts, made.tilt_deg, PIXEL_A, settings=settings)
    assert right.doubts == ()
