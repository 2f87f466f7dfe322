"""Prepare images for registration: bin, blur, subtract the background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..core.arrays import Floats, binned, in_threads
from ..core.weights import binned_by_weight, checked_weights
from .resampling import MIN_MEASURED

# Longer side in pixels at which projections are matched.
MATCHING_SIDE = 128
_BLUR_PX = 0.9
_BACKGROUND_PERCENTILE = 10.0
# An image with less than this part of the usual contrast is dark.
_DARK = 0.1


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


def prepared_by_weight(
    image: NDArray[Any], weights: NDArray[Any], binning: int, blur_px: float = _BLUR_PX
) -> tuple[Floats, Floats]:
    """Do what :func:`prepared_image` does; pixels that were not measured are filled before.

    Parameters
    ----------
    image, binning, blur_px
        See :func:`prepared_image`.
    weights : ndarray
        Share of each pixel that was measured, shape (rows, columns).

    Returns
    -------
    image, weights : ndarray
        Float32, binned and blurred; the weight is the measured share of what makes up a pixel.
    """
    small, shares = binned_by_weight(image, weights, binning)
    if blur_px > 0:
        # A mean of the measured pixels alone would be one of pixels that lie to one side.
        small = np.asarray(gaussian_filter(small, blur_px, mode="nearest"), np.float32)
        shares = np.asarray(gaussian_filter(shares, blur_px, mode="nearest"), np.float32)
    measured = small[shares >= MIN_MEASURED]
    if measured.size:
        small -= np.float32(np.percentile(measured, _BACKGROUND_PERCENTILE))
    return small, shares


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
    return prepared_series(images, None, binning, blur_px)[0]


def prepared_series(
    images: NDArray[Any], weights: Floats | None, binning: int, blur_px: float = _BLUR_PX
) -> tuple[Floats, Floats | None]:
    """Prepare all images of a series by weight and scale them together to a mean of 1.

    Parameters
    ----------
    images, binning, blur_px
        See :func:`prepared`.
    weights : ndarray or None
        Share of each pixel that was measured, shape of the images; None where all are 1.

    Returns
    -------
    images : ndarray
        Float32, shape (n, rows // binning, columns // binning).
    weights : ndarray or None
        Weights of these pixels.
    """
    out = np.empty((len(images), *binned(images[0], binning).shape), np.float32)
    shares = None if weights is None else np.empty_like(out)

    def one(n: int) -> None:
        if weights is None or shares is None:
            out[n] = prepared_image(images[n], binning, blur_px)
        else:
            out[n], shares[n] = prepared_by_weight(images[n], weights[n], binning, blur_px)

    in_threads(one, range(len(images)))
    if shares is None:
        mean = float(out.mean())
    else:
        total = float(shares.sum(dtype=np.float64))
        mean = float((out * shares).sum(dtype=np.float64)) / total if total > 0 else 0.0
    return (out / np.float32(mean) if mean > 0 else out), shares


def binning_for(shape: tuple[int, ...], side: int) -> int:
    """Smallest power of two that, as a binning, brings the longer side of an image to `side`."""
    binning = 1
    while max(shape) // binning > side:
        binning *= 2
    return binning


def dark_images(images: NDArray[Any], weights: NDArray[Any] | None = None) -> NDArray[np.intp]:
    """Find images with far less contrast than the others: no beam, or no specimen.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.

    Returns
    -------
    ndarray
        Indices of images whose standard deviation, binned and blurred, is less than a tenth of
        the median of the images with contrast; all indices if no image has contrast.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((4, 16, 16))
    >>> images[2] = 7.0
    >>> dark_images(images)
    array([2])
    """
    binning = binning_for(images.shape[1:], MATCHING_SIDE // 2)
    contrasts = np.empty(len(images))
    known = checked_weights(weights, images.shape)

    def one(n: int) -> None:
        if known is None:
            small = binned(images[n], binning)
        else:
            small, _ = binned_by_weight(images[n], known[n], binning)
        contrasts[n] = gaussian_filter(small, 2.0).std()

    in_threads(one, range(len(images)))
    lit = contrasts[contrasts > 0]
    usual = float(np.median(lit)) if lit.size else 0.0
    return np.flatnonzero((contrasts < _DARK * usual) | (contrasts <= 0))
