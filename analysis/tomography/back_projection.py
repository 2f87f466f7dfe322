"""Volumes by weighted back-projection: at once, but with the streaks of a missing wedge."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series
from .projector import backproject

_WEDGE = 5.0
Window = Literal["ramp", "hann", "cosine", "shepp-logan"]


def angle_shares_deg(tilt_deg: NDArray[Any]) -> NDArray[np.float64]:
    """How much of the half turn each view stands for.

    Between neighbours the border is half way (angles count modulo 180 deg). A gap of more than
    five times the median one is a missing wedge, for which no view stands: those at its edge
    reach as far into it as to the other side. Views at the same angle share.

    Parameters
    ----------
    tilt_deg : ndarray
        Angles, shape (views,), in any order.

    Returns
    -------
    ndarray
        Degrees, shape (views,).
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
    """Frequency response of the ramp filter for rows padded to `length` (for ``rfft``).

    It is the transform of the band-limited kernel in space (Kak and Slaney, Principles of
    Computerized Tomographic Imaging, 1988, eq. 3.61), which keeps the mean right, in units of
    1/pixel: close to |frequency|.

    Raises
    ------
    ValueError
        If the window is unknown.
    """
    place = np.fft.fftfreq(length, 1 / length)
    kernel = np.zeros(length)
    odd = place % 2 == 1
    kernel[odd] = -1 / (np.pi * place[odd]) ** 2
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
        raise ValueError(f"window '{window}'; ramp, hann, cosine or shepp-logan is needed")
    return response


def wbp(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    *,
    slice_shape: tuple[int, int] | None = None,
    window: Window = "ramp",
    minimum: float = -np.inf,
) -> Floats:
    """Weighted (filtered) back-projection.

    Parameters
    ----------
    images : ndarray
        Shape (views, y, x'); the tilt axis runs along y through the middle of x'.
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in any order and spacing; uneven ones are weighted by
        :func:`angle_shares_deg`.
    slice_shape : tuple of int, optional
        Voxels along (z, x); a square as wide as the images without it.
    window : str
        What tempers the ramp at high frequencies: ``hann`` most, then ``cosine``,
        ``shepp-logan``, and ``ramp`` not at all.
    minimum : float
        Voxels are raised to this at the end.

    Returns
    -------
    ndarray
        Float32, shape (y, z, x), in the images' unit per voxel side.

    Raises
    ------
    ValueError
        If images and angles do not belong together or hold NaN, or the window is unknown.
    """
    images, tilts = checked_series(images, tilt_deg)
    detector = images.shape[2]
    length = 1 << (2 * detector - 1).bit_length()
    response = ramp(length, window)
    filtered = np.empty(images.shape, np.float32)
    for number, share in enumerate(np.deg2rad(angle_shares_deg(tilts))):
        spectrum = np.fft.rfft(images[number].astype(np.float64), length, axis=1) * response
        filtered[number] = share * np.fft.irfft(spectrum, length, axis=1)[:, :detector]
    volume = backproject(filtered, tilts, slice_shape)
    return np.maximum(volume, np.float32(minimum), out=volume)
