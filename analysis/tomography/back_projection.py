"""Weighted back-projection: fast, but with the streaks of a missing wedge."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series, in_threads
from ..core.weights import binned_by_weight, checked_weights, filled
from .iterative import sirt
from .projector import backproject, project

_WEDGE = 5.0
# Missing pixels are taken from a volume of at most so many pixels across, by so many iterations.
_COARSE_SIDE, _COARSE_ITERATIONS = 128, 20
Window = Literal["ramp", "hann", "cosine", "shepp-logan"]


def angle_shares_deg(tilt_deg: NDArray[Any]) -> NDArray[np.float64]:
    """Share of the half circle that each view represents.

    The border between two neighbours lies half way (angles count modulo 180 deg). A gap of more
    than five times the median gap is a missing wedge: a view at its edge reaches as far into it
    as to the other side. Views at the same angle divide their share.

    Parameters
    ----------
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in any order.

    Returns
    -------
    ndarray
        Shares in degrees, shape (views,).

    Examples
    --------
    >>> import numpy as np
    >>> angle_shares_deg(np.array([-2.0, 0.0, 2.0, 5.0]))
    array([2. , 2. , 2.5, 3. ])
    """
    angles = np.asarray(tilt_deg, np.float64) % 180.0
    distinct, which, counts = np.unique(angles, return_inverse=True, return_counts=True)
    if distinct.size == 1:
        return np.full(angles.size, 180.0 / angles.size)
    gaps = np.diff(distinct, append=distinct[0] + 180.0)
    after, before = gaps, np.roll(gaps, 1)
    wedge = _WEDGE * np.median(gaps)
    reach = np.where(after > wedge, before, after) + np.where(before > wedge, after, before)
    return (np.minimum(reach, 2 * wedge) / 2 / counts)[which]


def ramp(length: int, window: Window = "ramp") -> NDArray[np.float64]:
    """Frequency response of the ramp filter.

    It is the Fourier transform of the band-limited kernel in space (Kak and Slaney, Principles of
    Computerized Tomographic Imaging, 1988, eq. 3.61), which preserves the mean.

    Parameters
    ----------
    length : int
        Length to which rows are padded.
    window : str
        Window on the ramp, see :func:`wbp`.

    Returns
    -------
    ndarray
        Float64, shape (length // 2 + 1,), in 1/pixel, for ``rfft``; close to |frequency|.

    Raises
    ------
    ValueError
        If the window is unknown.

    Examples
    --------
    >>> ramp(8).round(3)
    array([0.025, 0.123, 0.25 , 0.377, 0.475])
    """
    position = np.fft.fftfreq(length, 1 / length)
    kernel = np.zeros(length)
    odd = position % 2 == 1
    kernel[odd] = -1 / (np.pi * position[odd]) ** 2
    kernel[0] = 0.25
    response = np.fft.rfft(kernel).real
    frequency = np.fft.rfftfreq(length)
    if window == "hann":
        response *= 0.5 + 0.5 * np.cos(2 * np.pi * frequency)
    elif window == "cosine":
        response *= np.cos(np.pi * frequency)
    elif window == "shepp-logan":
        response *= np.sinc(frequency)
    elif window != "ramp":
        raise ValueError(f"window '{window}' is unknown; use ramp, hann, cosine or shepp-logan")
    return response


def wbp(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    *,
    slice_shape: tuple[int, int] | None = None,
    window: Window = "ramp",
    minimum: float = -np.inf,
    weights: NDArray[Any] | None = None,
) -> Floats:
    """Reconstruct a volume by weighted (filtered) back-projection.

    Radermacher, in: Electron Tomography, ed. J. Frank, Plenum, 1992, p. 91.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x'); the tilt axis runs along y through the centre of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in any order and spacing; each view has the weight of
        :func:`angle_shares_deg`.
    slice_shape : tuple of int, optional
        Voxels along (z, x); by default a square as wide as the images.
    window : str
        Damping of high frequencies: ``hann`` is the strongest, then ``cosine`` and
        ``shepp-logan``; ``ramp`` does not damp.
    minimum : float
        Lower voxels are raised to this value at the end.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 is replaced by the projection of a coarse volume of the others, because
        the filter needs whole rows.

    Returns
    -------
    ndarray
        Float32, shape (y, z, x), in the images' unit per voxel side.

    Raises
    ------
    ValueError
        If images and angles do not belong together or hold NaN, or the window is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((4, 32, 32), np.float32)
    >>> volume[:, 12:20, 10:22] = 1
    >>> tilt_deg = np.arange(-90.0, 90.0, 3.0)
    >>> made = wbp(project(volume, tilt_deg), tilt_deg)
    >>> round(float(made[2, 16, 16]), 1)
    1.0
    """
    images, tilts = checked_series(images, tilt_deg)
    weights = checked_weights(weights, images.shape)
    if weights is not None and (weights <= 0).any():
        images = completed(images, tilts, weights, slice_shape)
    detector = images.shape[2]
    length = 1 << (2 * detector - 1).bit_length()
    response = ramp(length, window)
    filtered = np.empty(images.shape, np.float32)
    for number, share in enumerate(np.deg2rad(angle_shares_deg(tilts))):
        spectrum = np.fft.rfft(images[number].astype(np.float64), length, axis=1) * response
        filtered[number] = share * np.fft.irfft(spectrum, length, axis=1)[:, :detector]
    volume = backproject(filtered, tilts, slice_shape)
    return np.maximum(volume, np.float32(minimum), out=volume)


def completed(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    weights: NDArray[Any],
    slice_shape: tuple[int, int] | None = None,
) -> Floats:
    """Put what the other views show into pixels that a view has not measured.

    The images are binned to at most 128 pixels a side, and a volume is made of the measured ones by
    20 iterations of SIRT. Unmeasured pixels take its projections, and the difference that images
    and projections have beside them, so that there is no step.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x').
    tilt_deg : ndarray
        Angles in degrees, shape (views,).
    weights : ndarray
        Share of each pixel that was measured, shape of the images, 0 to 1.
    slice_shape : tuple of int, optional
        Voxels along (z, x) of the volume that is wanted; by default a square as wide as the images.

    Returns
    -------
    ndarray
        Float32, shape (views, y, x'); measured pixels as they are.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.ones((5, 8, 8), np.float32)
    >>> weights = np.ones_like(images)
    >>> weights[2, :, :2], images[2, :, :2] = 0, 1e6
    >>> made = completed(images, np.arange(-20.0, 21.0, 10.0), weights)
    >>> bool(made[2, :, :2].max() < 2)
    True
    """
    count, tall, wide = images.shape
    height, width = slice_shape or (wide, wide)
    binning = 1
    while wide // binning > _COARSE_SIDE and min(tall, height) // (2 * binning) > 0:
        binning *= 2
    pairs = [binned_by_weight(*pair, binning) for pair in zip(images, weights, strict=True)]
    small, shares = (np.stack(part) for part in zip(*pairs, strict=True))
    shape = (-(-height // binning), -(-width // binning))
    volume = sirt(
        small, tilt_deg, _COARSE_ITERATIONS, slice_shape=shape, minimum=-np.inf, weights=shares
    ).volume
    shown = project(volume, tilt_deg, small.shape[2])
    out = np.empty(images.shape, np.float32)

    def one(n: int) -> None:
        guess = _enlarged(_enlarged(shown[n], tall, 0), wide, 1)
        beyond = guess + filled(images[n] - guess, weights[n])
        out[n] = np.where(weights[n] > 0, images[n], beyond)

    in_threads(one, range(count))
    return out


def _enlarged(image: Floats, side: int, axis: int) -> Floats:
    """Interpolate an image linearly to `side` pixels along an axis, about the same centre."""
    few = image.shape[axis]
    factor = max(1, side // few)
    places = (np.arange(side) - (side - 1) / 2) / factor + (few - 1) / 2
    first = np.clip(np.floor(places).astype(int), 0, max(0, few - 2))
    part = np.clip(places - first, 0, 1).astype(np.float32)
    lines = np.moveaxis(image, axis, 0)
    after = np.minimum(first + 1, few - 1)
    made = lines[first] * (1 - part)[:, None] + lines[after] * part[:, None]
    return np.moveaxis(made, 0, axis)
