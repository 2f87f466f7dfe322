"""Figures taken from the images before a volume is made: vacuum level and noise weight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import binned
from ..core.weights import binned_by_weight, checked_weights, field_of

# See automatic_weight.
_NOISE_SHARE, _MIN_SHARE, _COARSE = 0.7, 1e-3, 4
# The search for the densest values ends at this number of values.
_MIN_VALUES = 64
# Squares of which less was measured do not count where others do.
_MIN_MEASURED = 0.5
_SQUARES = 64  # averaged squares along the shorter side of an image
# Vacuum is dark if no more than this share lies clearly below it: this many times its own spread.
_DARKER_SHARE, _CLEARLY = 0.05, 3.0


def automatic_weight(
    images: NDArray[Any], tilt_deg: NDArray[Any], weights: NDArray[Any] | None = None
) -> float:
    """Weight of the total variation that just outweighs the noise of the images.

    The noise of a view is its difference from the linear interpolation between its neighbours in
    tilt, where the object hardly changes. It is measured on means over 4 x 4 pixels, because a
    denoiser leaves low frequencies as they are, and as the median over blocks of these, weighted
    by intensity: noise counts where matter is, and edges do not count. The weight is 0.7 sigma
    sqrt(views), where sigma is the standard deviation of a pixel if the noise were white. On the
    simulated copper particles, raw or denoised, it is the best weight within a factor of 1.5.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x').
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in any order.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. Pixels
        that the field of a view or of its neighbours in tilt did not reach do not count.

    Returns
    -------
    float
        In the unit of the images; at least a thousandth of the sum over views of their mean
        intensity, which is also the result for fewer than three views.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(0, 2.0, (9, 64, 64))
    >>> weight = automatic_weight(10 + noise, np.arange(9.0))
    >>> round(weight / (0.7 * 2.0 * 9**0.5), 1)
    1.0
    """
    order = np.argsort(tilt_deg, kind="stable")
    views, tilts = np.asarray(images, np.float32)[order], np.asarray(tilt_deg, np.float64)[order]
    fields = None if weights is None else np.stack([field_of(weights[n]) for n in order])
    coarse = np.stack([binned(view, _COARSE) for view in views])
    minimum = _MIN_SHARE * float(np.abs(views).mean()) * len(views)
    variances: list[NDArray[np.float64]] = []
    levels: list[NDArray[np.float64]] = []
    for k in range(1, len(views) - 1):
        span = tilts[k + 1] - tilts[k - 1]
        share = (tilts[k] - tilts[k - 1]) / span if span > 0 else 0.5
        difference = coarse[k] - (1 - share) * coarse[k - 1] - share * coarse[k + 1]
        power = difference**2 / (1 + share**2 + (1 - share) ** 2)
        variances.append(binned(power, _COARSE).ravel().astype(np.float64))
        level = np.maximum(binned(coarse[k], _COARSE), 0)
        if fields is not None:
            reached = fields[k - 1] & fields[k] & fields[k + 1]
            level[binned(binned(reached, _COARSE), _COARSE) < 1] = 0
        levels.append(level.ravel().astype(np.float64))
    if not variances or not np.any(levels):
        return minimum
    variance, level = np.concatenate(variances), np.concatenate(levels)
    ranked = np.argsort(variance)
    cumulative = np.cumsum(level[ranked])
    median = variance[ranked][np.searchsorted(cumulative, cumulative[-1] / 2)]
    side = min(_COARSE, *views.shape[1:])
    return max(minimum, _NOISE_SHARE * math.sqrt(median * len(views)) * side)


def vacuum_level(image: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
    """Value of the vacuum in an image: the mode of its values.

    The half-sample mode (Bickel and Fruehwirth, Comput. Stat. Data Anal. 50, 3500, 2006) keeps
    the densest half of the values again and again; the result is the mean of the values around
    it. Subtract the vacuum before a reconstruction, or its brightness is smeared over the volume.
    In an image without vacuum the result is the most frequent value.

    Parameters
    ----------
    image : ndarray
        Shape (y, x').
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the image, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.

    Returns
    -------
    float
        In the unit of the image; 0 if no pixel was measured.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((32, 32), 5.0)
    >>> image[10:20, 12:18] = 40.0
    >>> vacuum_level(image)
    5.0
    """
    values, mode, reach = _mode(image, weights)
    return float(values[np.abs(values - mode) <= reach].mean()) if reach > 0 else mode


def has_dark_vacuum(image: NDArray[Any], weights: NDArray[Any] | None = None) -> bool:
    """Whether the most frequent value of an image is its dark end: vacuum in a dark-field image.

    Parameters
    ----------
    image : ndarray
        Shape (y, x').
    weights : ndarray, optional
        As for :func:`vacuum_level`.

    Returns
    -------
    bool
        False for a specimen that fills the image, or a bright field: more than a twentieth of the
        image is clearly darker than the level of :func:`vacuum_level`.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((32, 32), 5.0)
    >>> image[10:20, 12:18] = 40.0
    >>> has_dark_vacuum(image), has_dark_vacuum(-image)
    (True, False)
    """
    values, mode, reach = _mode(image, weights)
    # The mode's own spread shows on that side of it where less lies.
    above = values[values > mode]
    other = 2 * (float(np.median(above)) - mode) if above.size else 0.0
    darker = np.count_nonzero(values < mode - _CLEARLY * min(reach, other))
    return bool(darker <= _DARKER_SHARE * values.size)


def without_vacuum(
    images: NDArray[Any], weights: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Take the vacuum level of each image away, as far as there is vacuum.

    Its brightness would be smeared over the volume by any method of reconstruction.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x').
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1.

    Returns
    -------
    ndarray
        Float32. If most of the images have no dark vacuum (:func:`has_dark_vacuum`), the images as
        they are: their most frequent value is the specimen.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((32, 32), 5.0)
    >>> image[10:20, 12:18] = 40.0
    >>> without_vacuum(image[None]).max()
    np.float32(35.0)
    """
    given = np.asarray(images, np.float32)
    shares = [None] * len(given) if weights is None else list(weights)
    pairs = list(zip(given, shares, strict=True))
    if 2 * sum(has_dark_vacuum(*pair) for pair in pairs) <= len(pairs):
        return given
    levels = np.array([vacuum_level(*pair) for pair in pairs], np.float32)
    return given - levels[:, None, None]


def _mode(
    image: NDArray[Any], weights: NDArray[Any] | None
) -> tuple[NDArray[np.float64], float, float]:
    """Sorted means over squares, their half-sample mode, and how far it reaches."""
    # Means over squares, because the values of single counts are discrete.
    square = max(1, min(image.shape) // _SQUARES)
    weights = checked_weights(weights, image.shape)
    if weights is None:
        means = binned(image, square)
    else:
        means, shares = binned_by_weight(image, weights, square)
        means = means[shares >= min(_MIN_MEASURED, float(shares.max()))]
    values = np.sort(means.astype(np.float64), axis=None)
    dense = values
    while dense.size > _MIN_VALUES:
        half = dense.size // 2
        first = int(np.argmin(dense[half:] - dense[:-half]))
        dense = dense[first : first + half + 1]
    mode = float(dense.mean())
    below = values[values < mode]
    reach = 2 * (mode - float(np.median(below))) if below.size else 0.0
    return values, mode, reach
