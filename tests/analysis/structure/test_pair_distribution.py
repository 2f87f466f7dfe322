"""Pair distributions: places of peaks, shape of the particle, partial functions."""

import numpy as np
import pytest
from lattices import METAL_EDGE, OXIDE_EDGE, ball, fluorite

from pyrotome.analysis.structure import pair_distribution, shape_function, tetrahedra_of

RNG_SEED = 0


def shape_of(atoms, **options):
    rng = np.random.default_rng(RNG_SEED)
    return shape_function(atoms, tetrahedra_of(atoms, 4.5), 12.0, rng, **options)


def test_peaks_of_fcc_zirconium():
    atoms = ball("fcc", METAL_EDGE, 25.0)
    found = pair_distribution(atoms, None, shape_of(atoms))
    assert found.peaks_a(6) == pytest.approx(
        METAL_EDGE * np.sqrt([0.5, 1, 1.5, 2, 2.5, 3]), abs=1e-5
    )
    assert 3.5 < found.first_valley_a() < 4.5


def test_peaks_of_cubic_zirconia():
    zr, oxygen = fluorite(20.0)
    shape = shape_of(zr)
    metal = pair_distribution(zr, None, shape).peaks_a(2)
    mixed = pair_distribution(zr, oxygen, shape).peaks_a(2)
    oxygens = pair_distribution(oxygen, None, shape).peaks_a(3)
    assert metal == pytest.approx(OXIDE_EDGE * np.sqrt([1 / 2, 1]), abs=1e-5)
    assert mixed == pytest.approx(OXIDE_EDGE * np.sqrt([3 / 16, 11 / 16]), abs=1e-5)
    assert oxygens == pytest.approx(OXIDE_EDGE * np.sqrt([1 / 4, 1 / 2, 3 / 4]), abs=1e-5)


def test_the_shape_of_a_ball_is_that_of_its_formula():
    atoms = ball("fcc", METAL_EDGE, 25.0)
    tetrahedra = tetrahedra_of(atoms, 4.5)
    volume = tetrahedra.volumes_a3[tetrahedra.inside].sum()
    shape = shape_of(atoms)
    ratio = shape.r_a[shape.r_a <= 12] / np.cbrt(3 * volume / (4 * np.pi))
    expected = 1 - 3 / 4 * ratio + ratio**3 / 16
    assert shape.per_pair[: len(ratio)] * volume == pytest.approx(expected, abs=0.02)


def test_random_atoms_have_no_structure():
    rng = np.random.default_rng(1)
    atoms = rng.uniform(-20, 20, (6000, 3))
    atoms = atoms[np.linalg.norm(atoms, axis=1) < 20]
    shape = shape_function(atoms, tetrahedra_of(atoms, 8.0), 12.0, rng)
    found = pair_distribution(atoms, None, shape)
    assert found.g[(found.r_a > 2)] == pytest.approx(1, abs=0.15)
    assert found.g[found.r_a >= 8].mean() == pytest.approx(1, abs=1e-6)


def test_a_part_of_a_particle_is_normalised_for_its_own_shape():
    atoms = ball("fcc", METAL_EDGE, 25.0)
    half = atoms[:, 0] > 0
    found = pair_distribution(atoms[half], None, shape_of(atoms, members=half))
    whole = pair_distribution(atoms, None, shape_of(atoms))
    assert found.peaks_a(3) == pytest.approx(whole.peaks_a(3), abs=1e-4)
    assert found.g.max() == pytest.approx(whole.g.max(), rel=0.1)


def test_no_pairs_give_zeros():
    atoms = ball("fcc", METAL_EDGE, 8.0)
    found = pair_distribution(atoms, np.zeros((0, 3)), shape_of(atoms))
    assert not found.g.any()
    assert not len(found.peaks_a())
    assert np.isnan(found.peak_near(3.3))
    assert np.isnan(found.first_valley_a())
