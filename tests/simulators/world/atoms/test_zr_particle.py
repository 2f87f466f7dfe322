"""The oxidised particle: numbers, distances, regions, and how its atoms move when it is hot."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from pyrotome.simulators.world.atoms.motion import AtomMotion
from pyrotome.simulators.world.atoms.zr_particle import (
    AMORPHOUS,
    CRYSTALLINE,
    METAL,
    NEAREST_A,
    OXYGEN_APART_A,
    OXYGEN_OF_ZR_A,
    oxidised_particle,
)


@pytest.fixture(scope="module")
def particle():
    return oxidised_particle(1500, 4)


def nearest(places):
    return KDTree(places).query(places, k=2)[0][:, 1]


def test_it_has_the_atoms_that_were_asked_for(particle):
    assert len(particle.zr_a) == len(particle.region) == 1500
    assert np.allclose(particle.zr_a.mean(axis=0), 0)
    assert len(oxidised_particle(20, 0).zr_a) == 20


def test_a_seed_gives_one_particle(particle):
    again, other = oxidised_particle(1500, 4), oxidised_particle(1500, 5)
    np.testing.assert_array_equal(again.zr_a, particle.zr_a)
    np.testing.assert_array_equal(again.oxygen_a, particle.oxygen_a)
    assert not np.allclose(other.zr_a, particle.zr_a)


def test_no_two_atoms_are_too_near(particle):
    assert nearest(particle.zr_a).min() >= NEAREST_A - 1e-9
    assert nearest(particle.oxygen_a).min() >= OXYGEN_APART_A - 1e-9
    assert KDTree(particle.zr_a).query(particle.oxygen_a)[0].min() >= OXYGEN_OF_ZR_A - 1e-9


def test_metal_inside_crystal_around_it_glass_outside(particle):
    away = np.linalg.norm(particle.zr_a, axis=1)
    means = [away[particle.region == r].mean() for r in (METAL, CRYSTALLINE, AMORPHOUS)]
    assert means == sorted(means)
    distances = nearest(particle.zr_a)
    assert np.median(distances[particle.region == METAL]) == pytest.approx(3.32, abs=0.01)
    assert np.median(distances[particle.region == CRYSTALLINE]) == pytest.approx(3.64, abs=0.15)


def test_oxygen_lies_in_the_oxides_alone(particle):
    metal = particle.zr_a[particle.region == METAL]
    deep = metal[np.linalg.norm(metal, axis=1) < 6]
    assert KDTree(particle.oxygen_a).query(deep)[0].min() > 3
    # A zirconium of the crystal has eight, but at its borders.
    crystal = particle.zr_a[particle.region == CRYSTALLINE]
    near = KDTree(particle.oxygen_a).query_ball_point(crystal, 2.4, return_length=True)
    assert (near == 8).mean() > 0.2


def test_pores_and_vacancies_are_empty(particle):
    zr = KDTree(particle.zr_a)
    assert len(particle.vacancies_a) > 0
    assert zr.query(particle.vacancies_a)[0].min() >= NEAREST_A - 1e-9
    oxides = particle.zr_a[particle.region != METAL]
    for x, y, z, radius in particle.pores_a:
        assert np.linalg.norm(oxides - [x, y, z], axis=1).min() >= radius - 1e-9


def test_atoms_move_with_equivalent_time(particle):
    motion = AtomMotion(particle, 4)
    np.testing.assert_array_equal(motion.positions_a(0.0), particle.zr_a)
    moved = [
        np.linalg.norm(motion.positions_a(s) - particle.zr_a, axis=1) > 0.5 for s in (5, 20, 3600)
    ]
    assert 5 < moved[0].sum() < moved[1].sum() < moved[2].sum() < 750
    assert nearest(motion.positions_a(3600.0)).min() >= NEAREST_A - 1e-9


def test_the_course_does_not_depend_on_when_it_is_asked(particle):
    straight, step = AtomMotion(particle, 4), AtomMotion(particle, 4)
    far = straight.positions_a(30.0).copy()
    early = straight.positions_a(3.0).copy()
    np.testing.assert_array_equal(step.positions_a(3.0), early)
    np.testing.assert_array_equal(step.positions_a(30.0), far)
    assert not np.array_equal(early, far)
    assert np.isfinite(straight.positions_a(1e4)).all()
