"""Where the search for atoms starts: background, and the peaks of a smoothed RESIRE volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ...alignment.resampling import TiltAxis, apply_alignment
from ...tomography.projected_gradient import resire
from .peaks import local_maxima, spaced, two_classes

Floats64 = NDArray[np.float64]

_ITERATIONS = 30


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
