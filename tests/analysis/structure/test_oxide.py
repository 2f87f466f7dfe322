"""Oxidation and the parts of a particle."""

import numpy as np
import pytest
from lattices import METAL_EDGE, OXIDE_EDGE, ball, fluorite, inner, oxidised_particle
from scipy.spatial import KDTree

from pyrotome.analysis.structure import (
    bond_order,
    bonds_of,
    concentration_of,
    find_interfaces,
    oxidation_of,
    tetrahedra_of,
)


def oxidation(atoms):
    return oxidation_of(tetrahedra_of(atoms, 4.5), len(atoms))


@pytest.mark.parametrize("sigma", [0.0, 0.04])
@pytest.mark.parametrize(("edge", "degree"), [(METAL_EDGE, 0.0), (OXIDE_EDGE, 1.0)])
def test_metal_holds_no_oxygen_and_oxide_is_full(edge, degree, sigma):
    atoms = ball("fcc", edge, 16.0)
    deep = inner(atoms, 5.0)
    noisy = atoms + np.random.default_rng(0).normal(0, sigma, atoms.shape)
    found = oxidation(noisy)
    assert found.sites[deep] == pytest.approx(8)  # slivers of octahedra do not count
    assert found.degree[deep] == pytest.approx(degree, abs=0.15 if sigma else 1e-12)
    assert np.mean(found.degree[deep]) == pytest.approx(degree, abs=0.01)


def test_each_oxygen_of_zirconia_between_four_metal_atoms_is_counted():
    zr, oxygen = fluorite(14.0)
    near = KDTree(zr).query_ball_point(oxygen, 0.45 * OXIDE_EDGE, return_length=True)
    assert oxidation(zr).oxygens == (near == 4).sum() > 500


def parts_of(atoms):
    bonds = bonds_of(atoms, 4.5)
    density = concentration_of(atoms, bonds).per_a3
    return find_interfaces(atoms, bonds, bond_order(atoms, 4.5).normalised, density)


def test_core_oxide_and_glass_are_told_apart():
    atoms = oxidised_particle()
    parts, radius = parts_of(atoms), np.linalg.norm(atoms, axis=1)
    assert np.mean(parts.phase[radius < 8] == 2) > 0.97
    outside = (radius > 15) & (radius < 21)
    assert np.mean(parts.phase[outside & (atoms[:, 0] > 3)] == 1) > 0.95
    assert np.mean(parts.phase[outside & (atoms[:, 0] < -6)] == 0) > 0.8
    assert not np.any(parts.phase[radius > 14] == 2)


def test_distances_count_from_the_surface_of_the_core():
    atoms = oxidised_particle(thermal=0.0)
    parts, radius = parts_of(atoms), np.linalg.norm(atoms, axis=1)
    off = parts.distance_a - (radius - 12.0)
    assert np.abs(np.median(off)) < 2
    assert np.percentile(np.abs(off - np.median(off)), 95) < 2
    assert (parts.distance_a[parts.phase == 2] < 0).all()
    assert (parts.distance_a[parts.phase != 2] > 0).all()


def test_without_a_core_there_are_no_distances():
    parts = parts_of(ball("fcc", OXIDE_EDGE, 12.0))
    assert not (parts.phase == 2).any()
    assert np.isnan(parts.distance_a).all()
