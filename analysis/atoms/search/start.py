"""Where the search for atoms starts: background, and the peaks of a smoothed RESIRE volume."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ...alignment.resampling import TiltAxis, apply_alignment
from ...tomography.projected_gradient import resire
from .peaks import local_maxima, spaced, two_classes

Floats64 = NDArray[np.float64]

_ITERATIONS = 30
# The background is the mean of a frame of this part of the shorter side.
_FRAME_PART = 0.06


def border_level(counts: NDArray[Any], known: NDArray[np.bool_] | None = None) -> Floats64:
    """Mean counts of the pixels at the border of each view.

    Parameters
    ----------
    counts : ndarray
        Shape (views, rows, columns).
    known : ndarray, optional
        Bool, shape of `counts` or with one view for all: pixels that were measured.

    Returns
    -------
    ndarray
        Shape (views,).

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.full((2, 32, 32), 3)
    >>> counts[:, 8:24, 8:24] = 9
    >>> border_level(counts).tolist()
    [3.0, 3.0]
    """
    frame = max(2, math.ceil(_FRAME_PART * min(counts.shape[1:])))
    border = np.ones((1, *counts.shape[1:]), np.bool_)
    border[:, frame:-frame, frame:-frame] = False
    border = np.broadcast_to(border if known is None else border & known, counts.shape)
    return np.array([
        view[at].mean() if at.any() else view.min() for view, at in zip(counts, border, strict=True)
    ])  # fmt: skip


def volume_of(
    counts: NDArray[Any],
    background: Floats64,
    tilt_deg: Floats64,
    shifts_px: Floats64,
    rotation_deg: float,
    iterations: int = _ITERATIONS,
) -> NDArray[np.float32]:
    """Make a volume by RESIRE of counts less their background; shape (y, z, x)."""
    images = counts.astype(np.float32) - background[:, None, None].astype(np.float32)
    if rotation_deg or np.any(shifts_px):
        images = apply_alignment(images, shifts_px, TiltAxis(0.0, rotation_deg))
    return resire(images, tilt_deg, iterations).volume


def smoothed_peaks(volume: NDArray[np.float32], smoothing_px: float, nearest_px: float) -> Floats64:
    """Peaks of a volume after a Gaussian: the stronger of two classes; x, y, z in voxels."""
    smooth = gaussian_filter(volume, smoothing_px, truncate=3.0)
    indices, positions = local_maxima(smooth, 0.0)
    strength = smooth[tuple(indices.T)]
    kept = spaced(positions, strength, nearest_px)
    strong = strength[kept] >= two_classes(strength[kept])
    return positions[kept[strong]]
