"""A reconstructed volume: what a method returns, how well it fits, and its central slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series
from ..core.weights import checked_weights
from .projector import project


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed volume and its convergence.

    Attributes
    ----------
    volume : ndarray
        Float32, shape (y, z, x), in the unit of the images per voxel side.
    residual : ndarray
        Relative residual before each iteration: norm of (images - projections) over the norm of
        the images. SIRT weights rays by the inverse of their length in the volume; with these
        weights its residual never grows.
    """

    volume: Floats
    residual: NDArray[np.float64]


def r_factor(
    volume: NDArray[Any],
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    weights: NDArray[Any] | None = None,
) -> float:
    """R-factor: sum of |projections - images| over the sum of |images|, averaged over angles.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).
    images : ndarray
        Shape (angles, y, x').
    tilt_deg : ndarray
        Angles in degrees, shape (angles,).
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.

    Returns
    -------
    float
        0 for a perfect fit. Images without intensity are left out.

    Raises
    ------
    ValueError
        If images and angles do not belong together or hold NaN.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((4, 16, 16), np.float32)
    >>> volume[:, 5:11, 6:10] = 1
    >>> tilt_deg = np.array([-30.0, 0.0, 30.0])
    >>> r_factor(volume, project(volume, tilt_deg), tilt_deg)
    0.0
    """
    images, tilts = checked_series(images, tilt_deg)
    weights = checked_weights(weights, images.shape)
    differences = np.abs(project(volume, tilts, images.shape[2]) - images)
    levels = np.abs(images.astype(np.float32))
    if weights is not None:
        differences, levels = differences * weights, levels * weights
    wrong = differences.sum(axis=(1, 2), dtype=float)
    whole = levels.sum(axis=(1, 2), dtype=float)
    lit = whole > 0
    return float((wrong[lit] / whole[lit]).mean()) if lit.any() else 0.0


def central_slices(volume: Floats) -> dict[str, Floats]:
    """Cut the three orthogonal planes through the centre of a volume.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).

    Returns
    -------
    dict
        Contiguous planes by the axis that is normal to them: ``y`` (z, x), ``z`` (y, x), ``x``
        (y, z).

    Examples
    --------
    >>> import numpy as np
    >>> planes = central_slices(np.zeros((4, 6, 8), np.float32))
    >>> planes["z"].shape
    (4, 8)
    """
    y, z, x = (side // 2 for side in volume.shape)
    return {
        "y": np.ascontiguousarray(volume[y]),
        "z": np.ascontiguousarray(volume[:, z]),
        "x": np.ascontiguousarray(volume[:, :, x]),
    }
