"""Two species, told apart by how bright their atoms are."""

import dataclasses

import numpy as np
import pytest

from pyrotome.analysis.atoms import LikelihoodSettings, fit_atoms, match_atoms
from pyrotome.analysis.atoms.refinement.heights import height_classes
from pyrotome.simulators.world.atoms.tilt_series import simulated_series

PIXEL_A = 0.35


@pytest.fixture(scope="module")
def mixed(particle, series):
    """Counts of a particle, every third atom of which is 2.5 times as bright."""
    imaging = series.imaging
    heavy = dataclasses.replace(
        imaging, counts_per_electron_a2=2.5 * imaging.counts_per_electron_a2, pedestal=0.0
    )
    rng = np.random.default_rng(9)
    bright = np.arange(len(particle)) % 3 == 0
    light = simulated_series(particle[~bright], series.tilt_deg, imaging, rng)
    other = simulated_series(particle[bright], series.tilt_deg, heavy, rng)
    return light.counts + other.counts, bright


@pytest.fixture(scope="module")
def fit(mixed, series):
    return fit_atoms(mixed[0], series.tilt_deg, PIXEL_A, settings=LikelihoodSettings(species=2))


def test_each_atom_is_found_with_its_species(fit, particle, mixed):
    match = match_atoms(fit.positions_a, particle)
    assert match.recall == match.precision == 1
    found, true = match.pairs.T
    assert np.array_equal(fit.species_probability[found].argmax(axis=1) == 1, mixed[1][true])
    assert fit.species_probability.sum(axis=1) == pytest.approx(np.ones(len(particle)))
    assert fit.species_probability.max(axis=1).min() > 0.9


def test_heights_of_the_species_are_found_and_nothing_is_in_doubt(fit):
    assert fit.typical_heights[1] / fit.typical_heights[0] == pytest.approx(2.5, rel=0.06)
    assert fit.doubts == ()


def test_heights_fall_into_as_many_classes_as_there_are_species():
    rng = np.random.default_rng(0)
    heights = np.r_[rng.normal(10, 0.8, 300), rng.normal(20, 1.5, 100), rng.normal(40, 3, 50)]
    found = height_classes(heights, 3, 0.08)
    assert found.levels == pytest.approx([10, 20, 40], rel=0.03)
    assert found.parts == pytest.approx(np.array([300, 100, 50]) / 450, abs=0.02)
    shares = found.memberships(np.array([10.0, 41]), 0.08 * found.levels)
    assert shares.argmax(axis=1).tolist() == [0, 2]


def test_one_species_has_the_median_height():
    assert height_classes(np.array([1.0, 2, 9]), 1, 0.1).levels.tolist() == [2.0]
    assert height_classes(np.zeros(0), 2, 0.1).levels.tolist() == [1.0, 1.0]
