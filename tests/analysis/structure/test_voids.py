"""Voids and the surface: what is inside, what is a vacancy, a pore, or the outside."""

import numpy as np
import pytest
from lattices import METAL_EDGE, OXIDE_EDGE, ball

from pyrotome.analysis.structure import find_voids, tetrahedra_of

NEIGHBOUR = METAL_EDGE / np.sqrt(2)


def voids_of(atoms):
    return find_voids(atoms, tetrahedra_of(atoms, 4.5))


def without(atoms, *places):
    distances = np.linalg.norm(atoms[:, None] - np.array(places, float)[None], axis=2)
    return np.delete(atoms, distances.argmin(axis=0), axis=0)


@pytest.mark.parametrize("edge", [METAL_EDGE, OXIDE_EDGE])
@pytest.mark.parametrize("radius", [15.0, 25.0])
def test_a_perfect_crystal_has_no_voids_whatever_its_surface_is_like(edge, radius):
    assert not len(voids_of(ball("fcc", edge, radius)).kinds)


def test_a_vacancy_is_the_cuboctahedron_of_its_neighbours():
    found = voids_of(without(ball("fcc", METAL_EDGE, 15.0), (0, 0, 0)))
    assert found.count("vacancy") == len(found.kinds) == 1
    assert found.volumes_a3[0] == pytest.approx(5 * np.sqrt(2) / 3 * NEIGHBOUR**3, rel=1e-6)
    assert found.centres_a[0] == pytest.approx([0, 0, 0], abs=1e-6)
    assert found.porosity == pytest.approx(found.volumes_a3[0] / found.particle_a3)


def test_vacancies_beside_each_other_are_one_void_and_those_apart_are_two():
    atoms = ball("fcc", METAL_EDGE, 16.0)
    beside = voids_of(without(atoms, (0, 0, 0), (METAL_EDGE / 2, METAL_EDGE / 2, 0)))
    assert (beside.count("vacancy"), beside.count("nano-pore")) == (0, 1)
    apart = voids_of(without(atoms, (0, 0, 0), (1.5 * METAL_EDGE, 1.5 * METAL_EDGE, 0)))
    assert (apart.count("vacancy"), apart.count("nano-pore")) == (2, 0)


def test_a_pore_that_is_wider_than_the_ball_is_inside_and_a_crater_is_not():
    atoms = ball("fcc", METAL_EDGE, 24.0)
    radius = np.linalg.norm(atoms, axis=1)
    holed = atoms[radius > 8]
    found = voids_of(holed)
    assert found.count("nano-pore") == 1
    volume = 4 / 3 * np.pi * 8**3
    assert volume < found.volumes_a3[0] < 2 * volume  # out to the middles of the wall's atoms
    crater = voids_of(atoms[np.linalg.norm(atoms - (0, 0, 24), axis=1) > 9])
    assert crater.porosity < 0.005
    assert crater.particle_a3 < found.particle_a3 - volume / 4


def test_noise_of_a_good_fit_makes_and_hides_no_vacancy():
    atoms = without(ball("fcc", OXIDE_EDGE, 18.0), (0, 0, 0), (OXIDE_EDGE, OXIDE_EDGE, OXIDE_EDGE))
    noisy = atoms + np.random.default_rng(3).normal(0, 0.05, atoms.shape)
    assert voids_of(noisy).count("vacancy") == len(voids_of(noisy).kinds) == 2
