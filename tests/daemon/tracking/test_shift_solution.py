"""The matrix of the beam shift: found within a per cent, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import shift as shifted
from tracked_specimen import FIELD_NM, frame

from pyrotome.daemon.schedule.scout_scans import SHIFT_PATTERN
from pyrotome.daemon.tracking.shift_solution import (
    NoMatrix,
    displacements_px,
    solve_pictures,
    solve_shifts,
)
from pyrotome.daemon.tracking.shift_solver import solved_apart

UNITS = [(100.0 * a, 100.0 * b) for a, b in SHIFT_PATTERN]
TIMES_S = [0.5 * k for k in range(len(SHIFT_PATTERN))]
# Turned, scaled, and not at right angles; a step of a fifth of the field.
MATRIX = np.array([[-0.19, -0.95], [-1.06, 0.21]])
STEP, DRIFT = 213.0, np.array([0.5, -0.3])
SPARSE = FIELD_NM / 64


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
        (np.random.default_rng(1).uniform(-20, 20, (6, 2)), "do not follow the deflectors"),
        (np.outer([a + b for a, b in SHIFT_PATTERN], (10.0, 5.0)), "along one line"),
        (np.array(UNITS) / 320.0, "an element is known to"),  # 1 nm
    ],
)
def test_nonsense_is_refused(moved: np.ndarray, words: str) -> None:
    with pytest.raises(NoMatrix, match=words):
        solve_shifts(UNITS, TIMES_S, moved, 4.0)


def scans(dose: float, seed: int = 0) -> list[np.ndarray]:
    """Scans of 64 x 64 positions of the copper specimen, at the deflections of a calibration."""
    return [
        frame(0.0, tuple(MATRIX @ (STEP * a, STEP * b) + DRIFT * k), 10 * seed + k, 64, 1, dose)
        for k, (a, b) in enumerate(SHIFT_PATTERN)
    ]


@pytest.mark.parametrize(("dose", "part"), [(5.0, 0.003), (0.0225, 0.02)])
def test_sparse_scans_tell_it_within_two_per_cent_and_say_how_well(
    dose: float, part: float
) -> None:
    units = [(STEP * a, STEP * b) for a, b in SHIFT_PATTERN]
    found = solve_pictures(scans(dose), units, range(6), SPARSE)
    wrong = np.abs(found.matrix_nm - MATRIX)
    assert wrong.max() < part
    assert (wrong < 4 * np.sqrt(np.diag(found.covariance_nm2)).reshape(2, 2)).all()


def test_a_picture_of_something_else_is_refused() -> None:
    pictures = scans(0.0225)
    pictures[3] = np.random.default_rng(1).poisson(pictures[3].mean(), pictures[3].shape)
    with pytest.raises(NoMatrix, match="picture 4 of 6 does not show what the first one does"):
        displacements_px(pictures)


async def test_another_process_solves_it_alike() -> None:
    pictures, units = scans(5.0), [(STEP * a, STEP * b) for a, b in SHIFT_PATTERN]
    here = solve_pictures(pictures, units, range(6), SPARSE)
    there = await solved_apart(pictures, units, range(6), SPARSE)
    np.testing.assert_array_equal(there.matrix_nm, here.matrix_nm)
    np.testing.assert_array_equal(there.covariance_nm2, here.covariance_nm2)
    with pytest.raises(NoMatrix, match="picture 2 of 6 is blank"):
        await solved_apart(
            [pictures[0], np.zeros((64, 64)), *pictures[2:]], units, range(6), SPARSE
        )
