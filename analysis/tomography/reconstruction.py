"""A reconstructed volume: what a method returns, how well it fits, what was seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series
from ..core.weights import checked_weights, field_of
from .projector import backproject, project

# Voxels with a smaller sum of rays (in voxel sides) are reached by no image.
_MIN_SUM = 1e-6
# A field that has moved by no more than this part of its width stood still.
_STILL_PART = 16
# What fewer views have seen is not shown.
_LEAST_SEEN = 0.5


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


def seen_share(
    weights: NDArray[Any], tilt_deg: NDArray[Any], slice_shape: tuple[int, int] | None = None
) -> Floats:
    """Share of the views that have measured each voxel.

    Parameters
    ----------
    weights : ndarray
        Share of each pixel that was measured, shape (angles, y, x'), 0 to 1.
    tilt_deg : ndarray
        Angles in degrees, shape (angles,).
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.

    Returns
    -------
    ndarray
        Float32, shape (y, z, x): 1 for a voxel that every view has measured whose image reaches
        it, 0 for one that no view has.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.ones((4, 1, 8), np.float32)
    >>> weights[0] = 0
    >>> seen_share(weights, np.zeros(4))[0, 4, 4]
    np.float32(0.75)
    """
    measured = backproject(weights, tilt_deg, slice_shape)
    every = backproject(np.ones((len(weights), 1, weights.shape[2])), tilt_deg, slice_shape)
    return np.divide(measured, every, out=np.zeros_like(measured), where=every > _MIN_SUM)


def without_unseen(
    volume: Floats, weights: NDArray[Any], tilt_deg: NDArray[Any]
) -> tuple[Floats, float]:
    """Empty the parts of a volume that lay in the field of fewer than half of the views.

    With half of the views missing, a voxel is an extrapolation of the others.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).
    weights, tilt_deg
        As for :func:`seen_share`.

    Returns
    -------
    volume : ndarray
        Float32, zero in these parts.
    share : float
        Share of the volume that some views have measured, but fewer than half: what wandering has
        cost. Corners that no view has measured, because the images are turned, do not count.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.ones((5, 4, 8), np.float32)
    >>> weights[1:, 0] = 0
    >>> made, share = without_unseen(np.ones((4, 8, 8), np.float32), weights, np.zeros(5))
    >>> share, made[:, 4, 4].tolist()
    (0.25, [0.0, 1.0, 1.0, 1.0])
    """
    # What lies in a gap of the detector is filled; no view's field ends there.
    fields = np.stack([field_of(shares) for shares in weights]).astype(np.float32)
    seen = seen_share(fields, tilt_deg, (volume.shape[1], volume.shape[2]))
    hidden = seen < _LEAST_SEEN
    share = float(np.count_nonzero(hidden & (seen > 0)) / max(1, np.count_nonzero(seen)))
    return np.where(hidden, np.float32(0), volume), share


def margin_px(weights: NDArray[Any] | None) -> int:
    """Voxels by which a volume must be wider on each side than the images of a field that wandered.

    What lies beside the volume enters the images at high tilt; if the volume has no place for it,
    it is smeared over its edges. As far as the field of one view has not reached on one side, the
    others' have shown matter on the other.

    Parameters
    ----------
    weights : ndarray or None
        Share of each pixel that was measured, shape (angles, y, x'); None where all are 1.

    Returns
    -------
    int
        At most a quarter of the width; 0 where the field stood still but for 1/16 of the width.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.ones((3, 2, 64), np.float32)
    >>> weights[1, :, :9] = 0
    >>> margin_px(weights), margin_px(None)
    (9, 0)
    """
    if weights is None:
        return 0
    reached = np.asarray(weights, np.float32).max(axis=1) > 0
    reached = reached[np.any(reached, axis=1)]
    wide = weights.shape[2]
    if not reached.size:
        return 0
    missing = int(max(reached.argmax(axis=1).max(), reached[:, ::-1].argmax(axis=1).max()))
    return 0 if missing <= wide // _STILL_PART else min(missing, wide // 4)


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
