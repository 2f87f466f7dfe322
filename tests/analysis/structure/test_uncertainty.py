"""Bias by extrapolation, and draws."""

import numpy as np
import pytest
from lattices import ball, same_errors

from pyrotome.analysis.structure import atom_list
from pyrotome.analysis.structure.uncertainty import drawn, extrapolated, roots_of


def test_figures_that_grow_with_the_variance_are_corrected_exactly():
    rng = np.random.default_rng(0)
    truth = np.array([2.0, -1.0])
    tables = [
        truth + variance * np.array([1.0, 0.5]) + 0.01 * rng.standard_normal((n, 2))
        for variance, n in ((1, 1), (2, 40), (3, 20))
    ]
    value, error = extrapolated(*tables, tables[0][0])
    assert value == pytest.approx(truth, abs=0.05)
    assert (np.abs(value - truth) < 2 * error).all()


def test_a_figure_that_only_scatters_is_not_moved_by_chance():
    rng = np.random.default_rng(1)
    moved = []
    for _ in range(200):
        tables = [rng.normal(5, 1, (n, 1)) for n in (1, 16, 8)]
        value, _ = extrapolated(*tables, tables[0][0])
        moved.append(value[0] - tables[0][0, 0])
    assert np.std(moved) < 1.6  # twice as much without shrinking


def test_figures_that_most_draws_do_not_have_stay_as_they_are():
    none, once, twice = np.array([[1.0]]), np.full((4, 1), np.nan), np.full((4, 1), np.nan)
    value, error = extrapolated(none, once, twice, none[0])
    assert np.isnan(value[0]) or value[0] == 1.0
    assert np.isnan(error[0])


def test_draws_have_the_covariance_and_the_probability_that_they_are_told():
    places = np.repeat(ball("fcc", 4.6, 8.0), 1, axis=0)
    one = np.array([[0.04, 0.01, 0], [0.01, 0.02, -0.005], [0, -0.005, 0.01]])
    covariance = np.tile(one, (len(places), 1, 1))
    atoms = atom_list(places, "Zr", covariance, np.full(len(places), 0.75))
    rng = np.random.default_rng(2)
    moves, there = [], []
    for _ in range(200):
        found, kept = drawn(atoms, roots_of(covariance), 2.0, rng)
        moves.append(found.positions_a - places[kept])
        there.append(kept.mean())
    assert np.cov(np.concatenate(moves).T) == pytest.approx(2 * one, abs=0.002)
    assert np.mean(there) == pytest.approx(0.75, abs=0.01)


def test_an_atom_without_error_stays():
    places = ball("fcc", 4.6, 8.0)
    atoms = atom_list(places, "Zr", same_errors(places, 0.0))
    found, _ = drawn(atoms, roots_of(same_errors(places, 0.0)), 1.0, np.random.default_rng(0))
    assert np.array_equal(found.positions_a, places)
