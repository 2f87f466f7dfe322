"""RESIRE: gradient descent on the squared misfit of all images, without negative voxels."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import checked_series
from .gradient_steps import checked_initial, iterated
from .projector import LANES, Geometry
from .reconstruction import Reconstruction


def resire(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    iterations: int,
    *,
    step: float = 1.0,
    slice_shape: tuple[int, int] | None = None,
    initial: NDArray[Any] | None = None,
) -> Reconstruction:
    """Reconstruct a volume by RESIRE: x <- max(0, x - step / (N n) sum_k P_k^T (P_k x - b_k)).

    N is the number of images and n the number of their columns (Pham et al., Sci. Rep. 13, 5624,
    2023; Zhang et al., Nat. Commun. 2024, 10.1038/s41467-024-52026-w). N n is about the largest
    eigenvalue of P^T P, so that steps below 2 converge.

    Memory beside the images and the volume, per thread and for any number of slices: 128 bytes
    for each voxel of one slice and 256 bytes for each pixel of its sinogram.

    Parameters
    ----------
    images : ndarray
        Shape (angles, y, x'), the background subtracted; the tilt axis runs along y through the
        centre of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (angles,), in any order and spacing.
    iterations : int
        Number of iterations.
    step : float
        Length of a step, between 0 and 2.
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.
    initial : ndarray, optional
        Volume to start from, shape (y, z, x); by default zeros.

    Returns
    -------
    Reconstruction
        The volume and the relative residual before each iteration.

    Raises
    ------
    ValueError
        If images, angles and initial volume do not belong together or hold NaN, or the step is
        not between 0 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((4, 16, 16), np.float32)
    >>> volume[:, 5:11, 6:10] = 1
    >>> tilt_deg = np.arange(-60.0, 61.0, 10.0)
    >>> made = resire(project(volume, tilt_deg), tilt_deg, 50)
    >>> made.volume.shape, bool(made.residual[-1] < 0.1 * made.residual[0])
    ((4, 16, 16), True)
    """
    images, tilts = checked_series(images, tilt_deg)
    if not 0 < step < 2:
        raise ValueError(f"a step of {step:g} does not converge; use one between 0 and 2")
    count, slices, detector = images.shape
    height, width = slice_shape or (detector, detector)
    geometry = Geometry(tilts, detector, height, width)
    checked_initial(initial, (slices, height, width))
    gains = np.full((height, width), step / (count * detector), np.float32)
    return iterated(images, geometry, iterations, gains, initial=initial)


# Slices that are solved in one piece: a few blocks for each core.
_SLICES_AT_ONCE = 4 * LANES


def iter_resire(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    iterations: int,
    *,
    step: float = 1.0,
    slice_shape: tuple[int, int] | None = None,
) -> Generator[float, None, Reconstruction]:
    """Reconstruct as :func:`resire`, some slices at a time; yields the finished fraction.

    Slices across the tilt axis do not depend on one another: the volume is the same.
    """
    images, tilts = checked_series(images, tilt_deg)
    _, slices, detector = images.shape
    volume = np.empty((slices, *(slice_shape or (detector, detector))), np.float32)
    squares, norm = np.zeros(iterations), 0.0
    for first in range(0, slices, _SLICES_AT_ONCE):
        part = images[:, first : first + _SLICES_AT_ONCE]
        made = resire(part, tilts, iterations, step=step, slice_shape=slice_shape)
        volume[first : first + _SLICES_AT_ONCE] = made.volume
        size = float(np.vdot(part, part))
        squares += size * made.residual**2
        norm += size
        yield min(1.0, (first + _SLICES_AT_ONCE) / slices)
    return Reconstruction(volume, np.sqrt(squares / norm) if norm > 0 else squares)
