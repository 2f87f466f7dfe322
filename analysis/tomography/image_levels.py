"""Figures taken from the images before a volume is made: vacuum level and noise weight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import binned

# The automatic weight: see automatic_weight.
_NOISE_SHARE, _LEAST_SHARE, _COARSE = 0.7, 1e-3, 4
# The densest part of an image's values is not sought among fewer than this.
_FEWEST = 64
_SQUARES = 64  # along the shorter side of an image


def automatic_weight(images: NDArray[Any], tilt_deg: NDArray[Any]) -> float:
    """Weight of the total variation that just outweighs the noise of the images.

    The noise of each view is what sets it apart from the straight line between its neighbours in
    tilt, where the object hardly changes. It is taken from means over 4 x 4 pixels, for a
    denoiser leaves the low frequencies as they were, and in the median over blocks of those,
    weighted with their intensity: noise matters where matter is, and edges are outvoted. The
    weight is 0.7 sigma sqrt(views), with sigma the noise of a pixel were it white; it proved best
    within a factor of 1.5 on the simulated copper particles, raw or denoised.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x').
    tilt_deg : ndarray
        Angles, shape (views,), in any order.

    Returns
    -------
    float
        In the images' unit; at least a thousandth of the sum over views of their mean intensity.
        That is also the answer for fewer than three views.
    """
    order = np.argsort(tilt_deg, kind="stable")
    views, tilts = np.asarray(images, np.float32)[order], np.asarray(tilt_deg, np.float64)[order]
    coarse = np.stack([binned(view, _COARSE) for view in views])
    least = _LEAST_SHARE * float(np.abs(views).mean()) * len(views)
    variances: list[NDArray[np.float64]] = []
    levels: list[NDArray[np.float64]] = []
    for k in range(1, len(views) - 1):
        span = tilts[k + 1] - tilts[k - 1]
        share = (tilts[k] - tilts[k - 1]) / span if span > 0 else 0.5
        off = coarse[k] - (1 - share) * coarse[k - 1] - share * coarse[k + 1]
        power = off**2 / (1 + share**2 + (1 - share) ** 2)
        variances.append(binned(power, _COARSE).ravel().astype(np.float64))
        levels.append(np.maximum(binned(coarse[k], _COARSE), 0).ravel().astype(np.float64))
    if not variances or not np.any(levels):
        return least
    variance, level = np.concatenate(variances), np.concatenate(levels)
    ranked = np.argsort(variance)
    heap = np.cumsum(level[ranked])
    middle = variance[ranked][np.searchsorted(heap, heap[-1] / 2)]
    side = min(_COARSE, *views.shape[1:])
    return max(least, _NOISE_SHARE * math.sqrt(middle * len(views)) * side)


def vacuum_level(image: NDArray[Any]) -> float:
    """Value of the vacuum in an image: where its values lie most densely.

    That is found by halving the values to the densest half again and again (half-sample mode), and
    refined to the mean of the values around it. To be taken off before a volume is made, or the
    vacuum's brightness is smeared over the volume; an image without vacuum has none to find.

    Parameters
    ----------
    image : ndarray
        Shape (y, x').

    Returns
    -------
    float
        In the image's unit.
    """
    # Means over squares, for single counts would leave the values in steps.
    square = max(1, min(image.shape) // _SQUARES)
    values = np.sort(binned(image, square).astype(np.float64), axis=None)
    dense = values
    while dense.size > _FEWEST:
        half = dense.size // 2
        first = int(np.argmin(dense[half:] - dense[:-half]))
        dense = dense[first : first + half + 1]
    mode = float(dense.mean())
    below = values[values < mode]
    reach = 2 * (mode - float(np.median(below))) if below.size else 0.0
    return float(values[np.abs(values - mode) <= reach].mean()) if reach > 0 else mode
