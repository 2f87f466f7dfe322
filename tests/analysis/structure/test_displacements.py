"""Atoms of two series: motion of the whole, single displacements, atoms that came and went."""

import numpy as np
import pytest
from lattices import METAL_EDGE, ball, oxidised_particle, same_errors
from scipy.spatial.transform import Rotation

from pyrotome.analysis.structure import atom_list, match_series

SIGMA = 0.05


def listed(points, sigma: float | None = SIGMA):
    return atom_list(points, "Zr", None if sigma is None else same_errors(points, sigma))


def series(points, seed, sigma=SIGMA):
    return listed(points + np.random.default_rng(seed).normal(0, sigma, points.shape))


@pytest.mark.parametrize("turn_deg", [0.0, 1.5, 4.0, -5.0])
def test_the_motion_of_the_whole_is_taken_out(turn_deg):
    first = oxidised_particle()
    turn = Rotation.from_rotvec(np.deg2rad(turn_deg) * np.array([0.48, 0.6, -0.64]))
    second = turn.apply(first) + np.array([3.0, -2.0, 0.7])
    found = match_series(series(first, 1), series(second, 2))
    assert np.array_equal(found.before, np.arange(len(first)))
    assert np.array_equal(found.after, np.arange(len(first)))
    assert abs(found.rotation_deg - abs(turn_deg)) < max(4 * found.rotation_sd_deg, 0.02)
    assert 0 < found.rotation_sd_deg < 0.02
    assert found.displacement_a.mean(axis=0) == pytest.approx(0, abs=0.01)
    assert np.sqrt((found.displacement_a**2).mean()) == pytest.approx(SIGMA * np.sqrt(2), rel=0.1)


def test_error_alone_is_no_displacement():
    first = oxidised_particle()
    found = match_series(series(first, 3), series(first, 4))
    assert found.moved.sum() <= 2
    assert np.histogram(found.significance, 4, (0, 1))[0] == pytest.approx(len(first) / 4, rel=0.15)


def test_atoms_that_moved_are_found_and_do_not_pull_at_the_rest():
    first = oxidised_particle()
    rng = np.random.default_rng(6)
    chosen = rng.permutation(len(first))[:150]
    second = first.copy()
    second[chosen] += (0.6, 0.0, 0.0)
    found = match_series(series(first, 7), series(second, 8))
    flagged = found.after[found.moved]
    assert np.isin(chosen, flagged).mean() > 0.95
    assert np.isin(flagged, chosen).mean() > 0.9
    rest = ~np.isin(found.after, chosen)
    assert found.displacement_a[rest].mean(axis=0) == pytest.approx(0, abs=0.01)


def test_atoms_come_and_go():
    first = ball("fcc", METAL_EDGE, 14.0)
    away = np.argsort(np.linalg.norm(first, axis=1))[[3, 200]]
    second = np.vstack([np.delete(first, away, axis=0), [[0, 0, 17.5]]])
    found = match_series(listed(first), listed(second))
    assert sorted(found.went) == sorted(away)
    assert found.came.tolist() == [len(second) - 1]


def test_without_errors_nothing_is_said_to_have_moved():
    first = ball("fcc", METAL_EDGE, 10.0)
    found = match_series(listed(first, None), listed(first + 0.3, None))
    assert not found.moved.any()
    assert np.isnan(found.significance).all()
    assert np.isnan(found.covariance_a2).all()
    assert found.displacement_a == pytest.approx(0, abs=1e-6)


def test_two_other_particles_are_refused():
    rng = np.random.default_rng(0)
    one, two = (rng.uniform(0, 60, (300, 3)) for _ in range(2))
    with pytest.raises(ValueError, match="two series of one particle"):
        match_series(listed(one), listed(two))
