"""Volumes from tilt series: SIRT on many slices at once, binning, and how well a volume fits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series, in_threads, zeros
from .projector import LANES, Geometry, blocks_of
from .reconstruction import Reconstruction

# A ray or a voxel that is met by less than this (in voxel sides) is left alone.
_TOUCH = 1e-6


def sirt(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    iterations: int,
    *,
    slice_shape: tuple[int, int] | None = None,
    initial: NDArray[Any] | None = None,
    minimum: float = 0.0,
) -> Reconstruction:
    """Simultaneous iterative reconstruction, x <- max(minimum, x + C P^T R (b - P x)).

    R and C are the inverse row and column sums of the projector P (Gilbert, J. Theor. Biol. 36,
    105, 1972; van der Sluis and van der Vorst, Linear Algebra Appl. 130, 257, 1990).

    Beyond the images and the volume that is returned it needs, for each thread and two at least,
    128 bytes for a voxel of one slice and 384 for a pixel of its sinogram, whatever the number of
    slices: 12 MB at 256 pixels and 41 angles, 150 MB at 1024. While the images are checked, it
    needs a byte for each of their pixels.

    Parameters
    ----------
    images : ndarray
        Shape (angles, y, x'); the tilt axis runs along y through the middle of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (angles,), in any order and spacing.
    iterations : int
        How many.
    slice_shape : tuple of int, optional
        Voxels along (z, x); a square as wide as the images without it.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); zeros without it.
    minimum : float
        Lowest value that a voxel may take; ``-inf`` for no bound.

    Returns
    -------
    Reconstruction
        The volume and the misfit before each iteration.

    Raises
    ------
    ValueError
        If images, angles and initial volume do not belong together or hold NaN.
    """
    images, tilts = checked_series(images, tilt_deg)
    _, slices, detector = images.shape
    height, width = slice_shape or (detector, detector)
    geometry = Geometry(tilts, detector, height, width)
    if initial is not None and initial.shape != (slices, height, width):
        raise ValueError(
            f"initial volume of shape {initial.shape}; {(slices, height, width)} is needed"
        )
    ray_weights, voxel_gains = _inverse_sums(geometry)
    made = np.empty((slices, height, width), np.float32)
    blocks = -(-slices // LANES)
    squares, norms = np.zeros((blocks, iterations)), np.zeros(blocks)
    weights = ray_weights[:, :, None]

    def solve(block: int) -> None:
        part = slice(block * LANES, min((block + 1) * LANES, slices))
        (measured,) = blocks_of(images[:, part].transpose(1, 0, 2))
        if initial is None:
            volume = zeros((height, width, LANES))
        else:
            (volume,) = blocks_of(initial[part])
        residual, weighted = zeros(measured.shape), zeros(measured.shape)
        np.multiply(measured, weights, out=weighted)
        norms[block] = np.vdot(weighted, measured)
        for iteration in range(iterations):
            residual[:] = measured
            geometry.project(volume, residual, -1.0)
            np.multiply(residual, weights, out=weighted)
            squares[block, iteration] = np.vdot(weighted, residual)
            geometry.backproject(weighted, volume, voxel_gains, minimum)
        made[part] = volume[:, :, : part.stop - part.start].transpose(2, 0, 1)

    in_threads(solve, range(blocks))
    norm = norms.sum()
    misfit = np.sqrt(squares.sum(axis=0) / norm) if norm > 0 else np.zeros(iterations)
    return Reconstruction(made, misfit)


def _inverse_sums(geometry: Geometry) -> tuple[Floats, Floats]:
    """Inverse row sums (angles, detector) and column sums (z, x) of the projector."""
    sinogram = zeros((geometry.angles, geometry.detector, LANES))
    geometry.project(np.ones((geometry.height, geometry.width, LANES), np.float32), sinogram)
    volume = zeros((geometry.height, geometry.width, LANES))
    geometry.backproject(np.ones_like(sinogram), volume)
    return _inverse(sinogram[..., 0]), _inverse(volume[..., 0])


def _inverse(sums: Floats) -> Floats:
    inverse = np.zeros_like(sums)
    np.divide(1.0, sums, out=inverse, where=sums > _TOUCH)
    return inverse
