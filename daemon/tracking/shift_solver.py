"""Solve for the matrix of the beam shift in a process of its own: no pixels in the daemon's loop.

``python -m pyrotome.daemon.tracking.shift_solver`` reads a `ShiftSolverConfig`, answers with one
line, and ends.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.parent_pipe import announce, read_config
from ...protocols.messages.process import ShiftSolverConfig
from ..runtime.processes import Child
from .shift_solution import NoMatrix, Pair, ShiftSolution, solve_pictures


async def solved_apart(
    pictures: Sequence[NDArray[Any]],
    units: Sequence[Pair],
    times_s: Sequence[float],
    pixel_nm: float,
) -> ShiftSolution:
    """As `solve_pictures`, in another process.

    Parameters
    ----------
    pictures, units, times_s, pixel_nm
        As for :func:`.shift_solution.solve_pictures`.

    Raises
    ------
    NoMatrix
        If the pictures do not tell the matrix.
    ChildFailed
        If the process does not answer.
    """
    stack = np.ascontiguousarray(np.stack(pictures), "<u4")
    config = ShiftSolverConfig(
        shape=(stack.shape[1], stack.shape[2]),
        counts=base64.b64encode(stack.tobytes()).decode(),
        units=tuple(units),
        times_s=tuple(times_s),
        pixel_nm=pixel_nm,
    )
    child = await Child.start("shift solver", "pyrotome.daemon.tracking.shift_solver", config)
    await child.stop()
    found = child.ready
    if (problem := found.get("problem")) is not None:
        raise NoMatrix(problem)
    y, x = found["drift_nm_per_s"]
    return ShiftSolution(
        np.array(found["matrix_nm"]),
        np.array(found["covariance_nm2"]),
        (y, x),
        found["left_nm"],
        found["largest_nm"],
    )


def answer(config: ShiftSolverConfig) -> dict[str, Any]:
    """What the process answers."""
    counts = np.frombuffer(base64.b64decode(config.counts), "<u4").reshape(-1, *config.shape)
    try:
        found = solve_pictures(list(counts), config.units, config.times_s, config.pixel_nm)
    except NoMatrix as error:
        return {"problem": str(error)}
    return {
        "matrix_nm": found.matrix_nm.tolist(),
        "covariance_nm2": found.covariance_nm2.tolist(),
        "drift_nm_per_s": found.drift_nm_per_s,
        "left_nm": found.left_nm,
        "largest_nm": found.largest_nm,
    }


def main() -> None:
    """Read the configuration, answer, and end."""
    announce(**answer(read_config(ShiftSolverConfig)))


if __name__ == "__main__":
    main()
