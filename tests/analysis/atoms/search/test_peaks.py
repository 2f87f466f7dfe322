"""Peaks of a volume: maxima, classes, distances, the paper's way of tracing."""

import numpy as np
import pytest

from pyrotome.analysis.atoms.search.peaks import local_maxima, spaced, trace_volume, two_classes

PIXEL_A = 0.35


def volume_of(positions_a, heights, side=40, width=1.4):
    axis = np.arange(side) - (side - 1) / 2
    y, z, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.zeros((side, side, side))
    for (a, b, c), height in zip(np.asarray(positions_a) / PIXEL_A, heights, strict=True):
        squares = (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2
        volume += height * np.exp(-squares / (2 * width**2))
    return volume


def test_atoms_are_traced_and_what_is_weak_is_not():
    rng = np.random.default_rng(1)
    places = rng.permutation(np.stack(np.mgrid[-2:3, -2:3, -2:3], -1).reshape(-1, 3))[:20] * 2.6
    places = places + rng.normal(0, 0.1, places.shape)
    heights = np.r_[np.full(15, 1.0), np.full(5, 0.15)] * rng.uniform(0.95, 1.05, 20)
    found = trace_volume(volume_of(places, heights), PIXEL_A, above=0.02)
    assert len(found.positions) == 15
    for place in places[:15]:
        nearest = np.linalg.norm(found.positions * PIXEL_A - place, axis=1).min()
        assert nearest < 0.03


def test_of_two_maxima_that_are_too_near_the_stronger_stays():
    places = [[0, 0, 0], [1.6, 0, 0], [5, 0, 0], [-5, 0, 0], [0, 5, 0]]
    found = trace_volume(volume_of(places, [1, 0.8, 0.9, 0.1, 0.1]), PIXEL_A)
    across = np.sort(found.positions[:, 0] * PIXEL_A)
    assert across == pytest.approx([0, 5], abs=0.1)


def test_equal_neighbours_give_one_maximum():
    volume = np.zeros((5, 5, 6))
    volume[2, 2, 2:4] = 1
    indices, _ = local_maxima(volume, 0.1)
    assert indices.tolist() == [[2, 2, 2]]


def test_classes_and_distances_of_few_values():
    assert two_classes([4.0]) == -np.inf
    assert two_classes([2.0, 2.0, 2.0]) == 2.0
    assert spaced(np.zeros((0, 3)), np.zeros(0), 1.0).size == 0
    line = np.arange(5.0)[:, None] * [1, 0, 0]
    assert spaced(line, np.array([5.0, 4, 3, 2, 1]), 1.5).tolist() == [0, 2, 4]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="without NaN"):
        trace_volume(np.full((4, 4, 4), np.nan), PIXEL_A)
    with pytest.raises(ValueError, match="pixel size of 0 A"):
        trace_volume(np.zeros((4, 4, 4)), 0.0)
