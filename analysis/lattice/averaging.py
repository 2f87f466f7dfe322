"""Fast frames of a crystal, registered to each other and averaged; the drift that they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Of the Gaussian that keeps noise out of a correlation, in pixels.
_SMOOTH_PX = 0.8


@dataclass(frozen=True)
class Averaged:
    """The mean of registered frames.

    Attributes
    ----------
    picture : ndarray
        Shape (rows, columns): mean of the frames where the first one lay.
    shifts_px : ndarray
        Shape (n, 2): (y, x) of each frame against the first; NaN for one that was left out.
    used : int
        Frames that are in it.
    drift_px_per_s, drift_sd_px_per_s : ndarray
        Shape (2,): steady part of the drift (y, x), and its standard deviation.
    """

    picture: Floats
    shifts_px: Floats
    used: int
    drift_px_per_s: Floats
    drift_sd_px_per_s: Floats


def average_frames(
    frames: Sequence[NDArray[Any]], times_s: Sequence[float], reach_px: float
) -> Averaged:
    """Register frames one after the other to the sum of those before, and average them.

    A lattice looks alike when it has moved by one of its vectors: the specimen must move by less
    than half of that between two frames.

    Parameters
    ----------
    frames : sequence of ndarray
        Counts, all of one shape.
    times_s : sequence of float
        When each was begun.
    reach_px : float
        How far it may move from one frame to the next, below half a vector of the lattice.

    Returns
    -------
    Averaged
        A frame whose displacement lies at the end of the reach is left out.

    Raises
    ------
    ValueError
        Without frames, or if their shapes or numbers differ.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> frames = [10 + np.cos(2 * np.pi * (y - 0.3 * k) / 9) + np.cos(x) for k in range(4)]
    >>> found = average_frames(frames, [0.0, 1.0, 2.0, 3.0], 3.0)
    >>> found.used, np.abs(found.drift_px_per_s.round(2)).tolist()
    (4, [0.3, 0.0])
    """
    if not len(frames) or len(frames) != len(times_s):
        raise ValueError(f"{len(frames)} frames and {len(times_s)} times")
    images = [np.asarray(frame, np.float64) for frame in frames]
    shape = images[0].shape
    if any(image.shape != shape for image in images):
        raise ValueError("the frames differ in shape")
    rows, columns = shape
    window = np.outer(np.hanning(rows + 1)[:-1], np.hanning(columns + 1)[:-1])
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]
    smooth = np.exp(-2 * (math.pi * _SMOOTH_PX) ** 2 * (fy**2 + fx**2))
    whole = np.fft.rfft2(images[0])
    shifts = np.zeros((len(images), 2))
    around, used = np.zeros(2), 1
    for number, image in enumerate(images[1:], 1):
        reference = np.fft.irfft2(whole, shape)
        found = _shift(reference / used, image, window, smooth, around, reach_px)
        shifts[number] = np.nan if found is None else found
        if found is None:
            continue
        around = found
        ramp = np.exp(2j * math.pi * (fy * found[0] + fx * found[1]))
        whole = whole + np.fft.rfft2(image) * ramp
        used += 1
    drift, sd = _drift(shifts, np.asarray(times_s, np.float64))
    return Averaged(np.fft.irfft2(whole, shape) / used, shifts, used, drift, sd)


def _shift(
    reference: Floats, image: Floats, window: Floats, smooth: Floats, around: Floats, reach: float
) -> Floats | None:
    """Displacement of an image near an expected one; None where it may lie beyond the reach."""
    one, other = ((part - part.mean()) * window for part in (reference, image))
    product = np.conj(np.fft.rfft2(one)) * np.fft.rfft2(other) * smooth
    alike = np.fft.irfft2(product, reference.shape)
    steps = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    y, x = (np.rint(around[k]).astype(int) + steps for k in (0, 1))
    near = alike[np.ix_(y % alike.shape[0], x % alike.shape[1])]
    place = np.unravel_index(int(near.argmax()), near.shape)
    if any(k in (0, len(steps) - 1) for k in place):
        return None
    at = np.array([y[place[0]], x[place[1]]], np.float64)
    for axis in (0, 1):
        line = near[:, place[1]] if axis == 0 else near[place[0]]
        before, here, after = line[place[axis] - 1 : place[axis] + 2]
        bend = before - 2 * here + after
        if bend < 0:
            at[axis] += 0.5 * (before - after) / bend
    return at


def _drift(shifts: Floats, times_s: Floats) -> tuple[Floats, Floats]:
    """Slope of the displacements over time, and its standard deviation."""
    there = np.isfinite(shifts[:, 0])
    t = times_s[there] - times_s[there].mean()
    spread = float((t**2).sum())
    if there.sum() < 3 or spread <= 0:
        return np.zeros(2), np.full(2, np.inf if there.sum() > 1 else 0.0)
    seen = shifts[there] - shifts[there].mean(axis=0)
    slope = t @ seen / spread
    left = seen - np.outer(t, slope)
    variance = (left**2).sum(axis=0) / max(1, there.sum() - 2)
    return slope, np.sqrt(variance / spread)
