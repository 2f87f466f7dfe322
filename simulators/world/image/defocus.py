"""A frame out of focus: each point is a disc, whose radius is the defocus times the half angle."""
# numba's decorators are untyped.
# pyright: basic

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

# A smaller disc lies within its pixel.
SHARP_PIXELS = 0.3


def is_blurred(defocus_nm: float, convergence_mrad: float, pixel_nm: float) -> bool:
    """Whether a defocus shows: whether its disc is larger than the pixel."""
    return _radius(defocus_nm, convergence_mrad, pixel_nm) >= SHARP_PIXELS


def _radius(defocus_nm: float, convergence_mrad: float, pixel_nm: float) -> float:
    """Radius of the disc in pixels."""
    return abs(defocus_nm) * convergence_mrad * 1e-3 / pixel_nm


def out_of_focus(
    image: NDArray[np.float32], defocus_nm: float, convergence_mrad: float, pixel_nm: float
) -> NDArray[np.float32]:
    """An image as a probe sees it that is focused elsewhere.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        What a sharp probe would see.
    defocus_nm : float
        Distance from the plane in focus.
    convergence_mrad : float
        Half angle of the probe.
    pixel_nm : float
        Distance of neighbouring pixels.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        The means over discs of radius |defocus| times convergence, a quarter of the image at
        most; at the borders over what is inside. The same array where the disc lies within a
        pixel. Diffraction is left out: the disc of geometrical optics.
    """
    radius = _radius(defocus_nm, convergence_mrad, pixel_nm)
    if radius < SHARP_PIXELS:
        return image
    out = np.empty_like(image)
    _spread(image, min(radius, 0.25 * min(image.shape)), out)
    return out


@njit(cache=True, nogil=True)
def _spread(image, radius, out):
    """Means over discs, as sums along rows of chords whose ends count by their share of a pixel."""
    rows, columns = image.shape
    reach = math.ceil(radius - 0.5)
    sums = np.zeros((rows, columns + 1))
    for r in range(rows):
        for c in range(columns):
            sums[r, c + 1] = sums[r, c] + image[r, c]
    chords = np.zeros(reach + 1)
    weights = np.zeros(reach + 1)
    for k in range(reach + 1):
        # The chord in the middle of the part of the row that the disc reaches.
        low, high = max(k - 0.5, 0.0), min(k + 0.5, radius)
        middle = 0.5 * (low + high)
        chords[k] = math.sqrt(max(0.0, radius * radius - middle * middle))
        weights[k] = (high - low) * (2.0 if k == 0 else 1.0)
    for r in range(rows):
        for c in range(columns):
            total = 0.0
            area = 0.0
            for k in range(-reach, reach + 1):
                if r + k < 0 or r + k >= rows:
                    continue
                chord, weight = chords[abs(k)], weights[abs(k)]
                low = max(0.0, c + 0.5 - chord)
                high = min(float(columns), c + 0.5 + chord)
                total += weight * (_upto(sums, r + k, high) - _upto(sums, r + k, low))
                area += weight * (high - low)
            out[r, c] = total / area


@njit(cache=True, nogil=True)
def _upto(sums, row, x):
    """Sum of a row up to a place within a pixel."""
    whole = int(x)
    if whole >= sums.shape[1] - 1:
        return sums[row, whole]
    return sums[row, whole] + (x - whole) * (sums[row, whole + 1] - sums[row, whole])
