"""Steps along the gradient on blocks of slices: what SIRT and RESIRE share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, in_threads, zeros
from .projector import LANES, Geometry, blocks_of
from .reconstruction import Reconstruction


def checked_initial(initial: NDArray[Any] | None, shape: tuple[int, int, int]) -> None:
    """Refuse a volume to start from that has another shape; ValueError tells both."""
    if initial is not None and initial.shape != shape:
        raise ValueError(f"the initial volume has the shape {initial.shape}; {shape} is needed")


def iterated(
    images: NDArray[Any],
    geometry: Geometry,
    iterations: int,
    gains: Floats,
    *,
    minimum: float = 0.0,
    initial: NDArray[Any] | None = None,
    rays: Floats | None = None,
    weights: Floats | None = None,
) -> Reconstruction:
    """Repeat x <- max(minimum, x + C P^T W R (b - P x)).

    Parameters
    ----------
    images : ndarray
        b, shape (angles, y, x').
    geometry : Geometry
        Of the projector P.
    iterations : int
        Number of iterations.
    gains : ndarray
        C, shape (z, x).
    minimum : float
        Lowest value that a voxel may take.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); by default zeros.
    rays : ndarray, optional
        R, shape (angles, x'); by default all 1.
    weights : ndarray, optional
        W, shape of `images`; by default all 1. Needs `rays`.

    Returns
    -------
    Reconstruction
        The volume and the relative residual before each iteration.
    """
    slices, height, width = images.shape[1], geometry.height, geometry.width
    made = np.empty((slices, height, width), np.float32)
    blocks = -(-slices // LANES)
    squares, norms = np.zeros((blocks, iterations)), np.zeros(blocks)

    def solve(block: int) -> None:
        part = slice(block * LANES, min((block + 1) * LANES, slices))
        (measured,) = blocks_of(images[:, part].transpose(1, 0, 2))
        if initial is None:
            volume = zeros((height, width, LANES))
        else:
            (volume,) = blocks_of(initial[part])
        shares = None if rays is None else rays[:, :, None]
        if shares is not None and weights is not None:
            shares = shares * blocks_of(weights[:, part].transpose(1, 0, 2))[0]
        norms[block] = _solve_block(
            geometry, measured, volume, shares, gains, minimum, squares[block]
        )
        made[part] = volume[:, :, : part.stop - part.start].transpose(2, 0, 1)

    in_threads(solve, range(blocks))
    norm = norms.sum()
    relative = np.sqrt(squares.sum(axis=0) / norm) if norm > 0 else np.zeros(iterations)
    return Reconstruction(made, relative)


def _solve_block(
    geometry: Geometry,
    measured: Floats,
    volume: Floats,
    weights: Floats | None,
    gains: Floats,
    minimum: float,
    squares: NDArray[np.float64],
) -> float:
    """Iterate on one block of slices; `volume` and `squares` are filled, the norm is returned."""
    residual = zeros(measured.shape)
    # Without weights one array serves as both.
    weighted = residual if weights is None else zeros(measured.shape)
    norm = float(np.vdot(measured, measured))
    if weights is not None:
        np.multiply(measured, weights, out=weighted)
        norm = float(np.vdot(weighted, measured))
    for iteration in range(squares.size):
        residual[:] = measured
        geometry.project(volume, residual, -1.0)
        if weights is not None:
            np.multiply(residual, weights, out=weighted)
        squares[iteration] = np.vdot(weighted, residual)
        geometry.backproject(weighted, volume, gains, minimum)
    return norm
