"""The matrix of the beam shift: found within a per cent, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import shift as shifted

from pyrotome.daemon.schedule.scout_scans import SHIFT_PATTERN as PATTERN
from pyrotome.daemon.tracking.shift_solution import NoMatrix, displacements_px, solve_shifts

UNITS = [(100.0 * a, 100.0 * b) for a, b in PATTERN]
TIMES_S = [0.5 * k for k in range(len(PATTERN))]


@given(
    angle=st.floats(-3.1, 3.1), scale=st.floats(0.3, 3.0),
    drift=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)  # fmt: skip
def test_any_matrix_is_found_beside_a_steady_drift(
    angle: float, scale: float, drift: tuple[float, float]
) -> None:
    matrix = scale * np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    moved_nm = np.array(UNITS) @ matrix.T + np.outer(TIMES_S, drift)
    found = solve_shifts(UNITS, TIMES_S, moved_nm / 4.0, 4.0)
    np.testing.assert_allclose(found.matrix_nm, matrix, atol=1e-6)
    np.testing.assert_allclose(found.drift_nm_per_s, drift, atol=1e-6)
    assert np.linalg.eigvalsh(found.covariance_nm2).min() > 0


def test_pictures_are_registered_to_a_fifth_of_a_pixel() -> None:
    random = np.random.default_rng(5)
    rows, columns = np.indices((128, 128))
    scene = sum(
        60.0 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50.0)
        for y, x in random.uniform(20, 108, (25, 2))
    )
    moves = [(0.0, 0.0), (6.3, -4.6), (-9.1, 2.2)]
    pictures = [random.poisson(np.maximum(shifted(scene, move), 0)) for move in moves]
    np.testing.assert_allclose(displacements_px(pictures), moves, atol=0.2)
    with pytest.raises(NoMatrix, match="picture 2 of 2 is blank"):
        displacements_px([pictures[0], np.zeros((128, 128))])


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (np.random.default_rng(1).uniform(-20, 20, (7, 2)), "do not follow the deflectors"),
        (np.outer([a + b for a, b in PATTERN], (10.0, 5.0)), "along one line"),
    ],
)
def test_nonsense_is_refused(moved: np.ndarray, words: str) -> None:
    with pytest.raises(NoMatrix, match=words):
        solve_shifts(UNITS, TIMES_S, moved, 4.0)
