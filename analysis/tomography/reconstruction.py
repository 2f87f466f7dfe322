"""A reconstructed volume: what a method returns, how well it fits, and its central slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series
from .projector import project


@dataclass(frozen=True)
class Reconstruction:
    """A volume and how it was reached.

    Attributes
    ----------
    volume : ndarray
        Float32, shape (y, z, x), in the images' unit per voxel side.
    residual : ndarray
        Before each iteration, the norm of (images - projections) over that of the images, rays
        weighted by the inverse of their length in the volume; SIRT never lets it grow.
    """

    volume: Floats
    residual: NDArray[np.float64]


def r_factor(volume: NDArray[Any], images: NDArray[Any], tilt_deg: NDArray[Any]) -> float:
    """Sum of |projections - images| over that of |images|, the mean over all angles.

    Parameters
    ----------
    volume, images, tilt_deg : ndarray
        Shapes (y, z, x), (angles, y, x') and (angles,).

    Returns
    -------
    float
        0 for a perfect fit; images without any intensity are left out.
    """
    images, tilts = checked_series(images, tilt_deg)
    wrong = np.abs(project(volume, tilts, images.shape[2]) - images).sum(axis=(1, 2), dtype=float)
    whole = np.abs(images.astype(np.float32)).sum(axis=(1, 2), dtype=float)
    lit = whole > 0
    return float((wrong[lit] / whole[lit]).mean()) if lit.any() else 0.0


def central_slices(volume: Floats) -> dict[str, Floats]:
    """Cut the three orthogonal planes through the middle of a volume (y, z, x).

    Returns
    -------
    dict
        By the axis across which the volume was cut: ``y`` (z, x), ``z`` (y, x), ``x`` (y, z).
    """
    y, z, x = (side // 2 for side in volume.shape)
    return {
        "y": np.ascontiguousarray(volume[y]),
        "z": np.ascontiguousarray(volume[:, z]),
        "x": np.ascontiguousarray(volume[:, :, x]),
    }
