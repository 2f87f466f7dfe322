"""Prepare images for registration: bin, blur, subtract the background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..core.arrays import Floats, binned, in_threads

# Longer side in pixels at which projections are matched.
MATCHING_SIDE = 128
_BLUR_PX = 0.9
_BACKGROUND_PERCENTILE = 10.0


def prepared_image(image: NDArray[Any], binning: int, blur_px: float = _BLUR_PX) -> Floats:
    """Bin and blur one image and subtract its background, the tenth percentile.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns).
    binning : int
        Side of the squares that are averaged.
    blur_px : float
        Standard deviation of the Gaussian, in binned pixels.

    Returns
    -------
    ndarray
        Float32, shape (rows // binning, columns // binning), in the image's unit.
    """
    small = binned(image, binning) if binning > 1 else image.astype(np.float32)
    if blur_px > 0:
        small = gaussian_filter(small, blur_px, mode="nearest")
    return small - np.float32(np.percentile(small, _BACKGROUND_PERCENTILE))


def prepared(images: NDArray[Any], binning: int, blur_px: float = _BLUR_PX) -> Floats:
    """Prepare all images of a series and scale them together to a mean of 1.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    binning, blur_px
        See :func:`prepared_image`.

    Returns
    -------
    ndarray
        Float32, shape (n, rows // binning, columns // binning).
    """
    out = np.empty((len(images), *binned(images[0], binning).shape), np.float32)

    def one(n: int) -> None:
        out[n] = prepared_image(images[n], binning, blur_px)

    in_threads(one, range(len(images)))
    mean = float(out.mean())
    return out / np.float32(mean) if mean > 0 else out


def binning_for(shape: tuple[int, ...], side: int) -> int:
    """Smallest power of two that, as a binning, brings the longer side of an image to `side`."""
    binning = 1
    while max(shape) // binning > side:
        binning *= 2
    return binning
