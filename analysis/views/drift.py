"""Drift of the specimen over the frames of one tilt, by normalised cross-correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter, spline_filter
from scipy.ndimage import shift as shift_image

Floats64 = NDArray[np.float64]

# Frames are smoothed by so many pixels before they are compared: less than an atom at 0.35 A.
_SMOOTHING_PX = 1.0
# The specimen is looked for within this part of the shorter side.
_REACH_PART, _LEAST_REACH_PX = 0.125, 8
# A peak of the correlation must exceed what noise alone gives by so many standard deviations.
_BELIEVED = 6.0
_STEPS = 5
# Frames further apart than this in their order are not compared.
_MOST_APART = 3
# A drift is called steady if its frames lie on a line within so many standard deviations, or
# within so many pixels.
_STEADY_SD, _STEADY_PX = 3.5, 0.05


@dataclass(frozen=True)
class FrameDrift:
    """Where the specimen was in each frame of a tilt.

    Attributes
    ----------
    time : ndarray
        Shape (frames,): middle of each exposure, in the unit in which times were given.
    exposure : float
        Duration of an exposure in that unit.
    places_px : ndarray
        Shape (frames, 2): displacement of the specimen along rows and columns in the middle of
        each exposure, about its mean.
    velocity_px : ndarray
        Shape (2,): mean drift along rows and columns, pixels per unit of time.
    velocity_sd_px : ndarray
        Shape (2,): its standard deviation.
    place_sd_px : ndarray
        Shape (2,): standard deviation of a place.
    steady : bool
        Whether the places lie on a straight line within their errors; then they are those of the
        line.
    believed : bool
        Whether the frames correlate by more than chance. If not, nothing is moved.
    """

    time: Floats64
    exposure: float
    places_px: Floats64
    velocity_px: Floats64
    velocity_sd_px: Floats64
    place_sd_px: Floats64
    steady: bool
    believed: bool

    def slope_px(self, frame: int) -> Floats64:
        """Drift during a frame along rows and columns, pixels per unit of time, shape (2,)."""
        if self.steady or len(self.time) < 3:
            return self.velocity_px
        return np.asarray(np.gradient(self.places_px, self.time, axis=0)[frame], np.float64)


def frame_drift(
    counts: NDArray[Any],
    time: NDArray[Any] | None = None,
    exposure: float | None = None,
) -> FrameDrift:
    """Measure the drift over the frames of one tilt (Zhang et al., Nat. Commun. 2024).

    Each frame is compared with the next ones by normalised cross-correlation, to fractions of a
    pixel. The errors are those of Poisson counts.

    Parameters
    ----------
    counts : ndarray
        Shape (frames, rows, columns), in the order of their exposure.
    time : ndarray, optional
        Shape (frames,): middle of each exposure. By default 0, 1, 2...
    exposure : float, optional
        Duration of an exposure in the same unit; by default the shortest time from one frame to
        the next, which means no pause between them.

    Returns
    -------
    FrameDrift
        Places of the specimen, drift and their errors.

    Raises
    ------
    ValueError
        If there are fewer than two frames, or times do not rise.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> y, x = np.mgrid[:64, :64]
    >>> spots = [(20, 25), (30, 40), (41, 22), (35, 33)]
    >>> def frame(drift):
    ...     mean = sum(np.exp(-((y - a) ** 2 + (x - b - drift) ** 2) / 5) for a, b in spots)
    ...     return rng.poisson(1 + 40 * mean)
    >>> found = frame_drift(np.stack([frame(0.0), frame(0.7), frame(1.4)]))
    >>> found.steady, bool(abs(found.velocity_px[1] - 0.7) < 0.1)
    (True, True)
    """
    frames = len(counts)
    if frames < 2 or counts.ndim != 3:
        raise ValueError(f"frames of the shape {counts.shape}; drift needs two or more")
    moments = np.arange(frames, dtype=np.float64) if time is None else np.array(time, np.float64)
    if moments.shape != (frames,) or not (np.diff(moments) > 0).all():
        raise ValueError("each frame needs its time, and times must rise")
    duration = float(np.diff(moments).min()) if exposure is None else float(exposure)
    pairs = [(j, k) for j in range(frames) for k in range(j + 1, min(frames, j + 1 + _MOST_APART))]
    spectra = [_Spectrum.of(frame) for frame in counts]
    found = [_compared(spectra[j], spectra[k]) for j, k in pairs]
    if not all(one.believed for one in found):
        still, unknown = np.zeros((frames, 2)), np.full(2, np.nan)
        return FrameDrift(moments, duration, still, np.zeros(2), unknown, unknown, True, False)
    places = _places(pairs, found, frames)
    # The error of a step is that of its two frames.
    variance = np.mean([one.variance for one in found], axis=0) / 2
    about = moments - moments.mean()
    velocity = about @ places / (about @ about)
    # What drifts along the rows is recorded later in its frame, where it has drifted further.
    stretch = 1 / (1 + velocity[0] * duration / counts.shape[1])
    places, velocity = places * stretch, velocity * stretch
    velocity_sd = np.sqrt(variance / (about @ about))
    line = about[:, None] * velocity
    off = np.sqrt(((places - line) ** 2).sum(axis=0) / max(1, frames - 2))
    steady = bool(np.all(off <= np.maximum(_STEADY_SD * np.sqrt(variance), _STEADY_PX)))
    place_sd = np.sqrt(variance * (frames - 1) / frames)
    return FrameDrift(
        moments, duration, line if steady else places, velocity, velocity_sd, place_sd, steady, True
    )


@dataclass(frozen=True)
class _Spectrum:
    """A smoothed frame about its mean, and what a comparison needs of it."""

    image: Floats64
    level: Floats64
    mean: float
    padded: NDArray[np.complex128]
    shape: tuple[int, int]

    @classmethod
    def of(cls, frame: NDArray[Any]) -> _Spectrum:
        smooth = gaussian_filter(np.asarray(frame, np.float64), _SMOOTHING_PX, mode="nearest")
        reach = _reach(smooth.shape)
        sides = [fft.next_fast_len(side + reach, real=True) for side in smooth.shape]
        shape = (int(sides[0] or 0), int(sides[1] or 0))
        mean = float(smooth.mean())
        image = smooth - mean
        return cls(image, np.maximum(smooth, 0), mean, np.asarray(fft.rfft2(image, shape)), shape)


@dataclass(frozen=True)
class _Step:
    """How far the specimen moved from one frame to another."""

    shift: Floats64
    variance: Floats64
    believed: bool


def _reach(shape: tuple[int, ...]) -> int:
    return max(_LEAST_REACH_PX, round(_REACH_PART * min(shape)))


def _compared(one: _Spectrum, other: _Spectrum) -> _Step:
    """Shift between two frames by the maximum of their normalised cross-correlation."""
    plain = np.asarray(fft.irfft2(one.padded.conj() * other.padded, one.shape), np.float64)
    reach = min(_reach(one.image.shape), *(side - 1 for side in one.image.shape))
    lags = np.arange(-reach, reach + 1)
    window = plain[np.ix_(lags, lags)]
    energy = _overlap_energy(one.image, lags, 1) * _overlap_energy(other.image, lags, -1)
    scores = window / np.sqrt(np.maximum(energy, 1e-12 * energy.max()))
    best = np.unravel_index(int(scores.argmax()), scores.shape)
    start = np.array([lags[best[0]], lags[best[1]]], np.float64)
    noise = float(np.sum(one.level * other.level))
    chance = math.sqrt(noise / (8 * math.pi * _SMOOTHING_PX**2))
    believed = float(window[best]) > _BELIEVED * chance and not np.any(np.abs(start) == reach)
    found = _refined(one, other, start) if believed else None
    if found is None:
        return _Step(start, np.full(2, np.inf), False)
    shift, bend, spread = found
    inverse = np.linalg.inv(bend)
    spread = spread + np.eye(2) * noise / (32 * math.pi * _SMOOTHING_PX**4)
    return _Step(shift, np.diagonal(inverse @ spread @ inverse).copy(), True)


def _overlap_energy(image: Floats64, lags: NDArray[np.intp], sign: int) -> Floats64:
    """Sum of squares of the part of an image that another, moved by a lag, overlaps."""
    rows, columns = image.shape
    sums = np.zeros((rows + 1, columns + 1))
    sums[1:, 1:] = np.cumsum(np.cumsum(image**2, axis=0), axis=1)
    first_r, first_c = (np.maximum(0, -sign * lags) for _ in range(2))
    last_r, last_c = (n + np.minimum(0, -sign * lags) for n in (rows, columns))
    total = sums[np.ix_(last_r, last_c)] - sums[np.ix_(first_r, last_c)]
    return total - sums[np.ix_(last_r, first_c)] + sums[np.ix_(first_r, first_c)]


def _refined(
    one: _Spectrum, other: _Spectrum, start: Floats64
) -> tuple[Floats64, Floats64, Floats64] | None:
    """Maximum of the normalised correlation between the pixels, by Gauss-Newton steps.

    Returns the shift, the bend of the correlation there, and the covariance of its slope by the
    noise of the counts; None where there is no maximum. The gradients in the latter two come from
    different frames, whose noise is independent: noise is not taken for structure.
    """
    weight = _taper(one.image.shape, start)
    spline = np.asarray(spline_filter(other.image), np.float64)
    first = one.image - float((weight * one.image).sum() / weight.sum())
    here = _gradient(one.image)
    shift = start.copy()
    moved, there = other.image, here
    for _ in range(_STEPS):
        moved = np.asarray(shift_image(spline, -shift, prefilter=False, mode="nearest"))
        there = _gradient(moved)
        second = moved - float((weight * moved).sum() / weight.sum())
        scale = float((weight * first * second).sum() / (weight * second**2).sum())
        rest = weight * (first - scale * second)
        bend = np.array([[float((weight * a * b).sum()) for b in there] for a in there])
        if not scale > 0 or np.linalg.eigvalsh(bend)[0] <= 0:
            return None
        step = np.linalg.solve(bend, [float((rest * a).sum()) for a in there]) / scale
        shift = shift + np.clip(step, -0.5, 0.5)
    if np.any(np.abs(shift - start) > 1.5):
        return None
    level = one.level + np.maximum(moved + other.mean, 0)
    bend = _crossed(weight, here, there)
    wide = [
        [np.asarray(gaussian_filter(part, _SMOOTHING_PX)) for part in parts]
        for parts in (here, there)
    ]
    spread = _crossed(weight**2 * level, wide[0], wide[1])
    values, vectors = np.linalg.eigh(spread)
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return None
    return shift, bend, np.asarray((vectors * np.maximum(values, 0)) @ vectors.T, np.float64)


def _gradient(image: Floats64) -> list[Floats64]:
    return [np.asarray(part, np.float64) for part in np.gradient(image)]


def _crossed(weight: Floats64, one: Sequence[Floats64], other: Sequence[Floats64]) -> Floats64:
    """Weighted sums of products of two gradients, symmetric, shape (2, 2)."""
    sums = np.array([[float((weight * a * b).sum()) for b in other] for a in one])
    return np.asarray((sums + sums.T) / 2, np.float64)


def _taper(shape: tuple[int, ...], shift: Floats64) -> Floats64:
    """Weights that fall to 0 where the other frame, moved by a shift, ends."""
    sides: list[Floats64] = []
    for side, moved in zip(shape, shift, strict=True):
        lost = min(side // 3, math.ceil(abs(float(moved))) + 2)
        width = max(1, side // 8)
        away = np.minimum(np.arange(side), np.arange(side)[::-1]) - lost
        sides.append(np.sin(np.clip(away / width, 0, 1) * (math.pi / 2)) ** 2)
    return np.outer(*sides)


def _places(pairs: list[tuple[int, int]], found: list[_Step], frames: int) -> Floats64:
    """Places of all frames about their mean, from the steps between pairs of them."""
    places = np.empty((frames, 2))
    for axis in range(2):
        rows, values = np.zeros((len(pairs) + 1, frames)), np.zeros(len(pairs) + 1)
        for n, ((j, k), step) in enumerate(zip(pairs, found, strict=True)):
            weight = 1 / math.sqrt(float(step.variance[axis]))
            rows[n, j], rows[n, k] = -weight, weight
            values[n] = weight * step.shift[axis]
        rows[-1] = np.abs(rows[:-1]).max()  # their mean is 0
        places[:, axis] = np.linalg.lstsq(rows, values, rcond=None)[0]
    return places
