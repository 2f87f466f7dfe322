"""RESIRE: gradient descent on the squared misfit of all images, without negative voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import checked_series
from .gradient_steps import checked_initial, iterated
from .projector import Geometry
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
