"""Power of a frame in rings of its spectrum, without that of the counting noise."""
# scipy.fft and scipy.special declare their results as dispatchables and ufuncs.
# pyright: basic, reportMissingTypeStubs=false, reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft2
from scipy.special import j1

from . import kernels

Floats64 = NDArray[np.float64]

# Longest side of the counts that are transformed; a larger frame is binned first.
FINE_SIDE = 256
# The smallest side with waves in every ring.
LEAST_SIDE = 64
RINGS = 24
# Part of each side over which the window falls to zero, both ends together.
_TAPER = 0.25
# The innermost ring holds the extent of the field, not its sharpness.
_FIRST = 1


@dataclass(frozen=True)
class Spectrum:
    """Power of a frame in rings of equal width, from the second one up to Nyquist's frequency.

    Attributes
    ----------
    power : ndarray
        Shape (rings,): power a pixel in counts^2, without that of the noise; it may be negative.
    noise : float
        Power of the counting noise: the mean count, for counts of a Poisson distribution.
    modes : ndarray
        Shape (rings,): how many independent waves each ring holds.
    per_nm : ndarray
        Shape (rings,): spatial frequency of each ring, in 1/nm.
    pitch_nm : float
        Distance of neighbouring pixels.
    """

    power: Floats64
    noise: float
    modes: Floats64
    per_nm: Floats64
    pitch_nm: float

    @property
    def variance(self) -> Floats64:
        """Of the power, by the counting noise."""
        signal = np.maximum(self.power, 0.0)
        return (self.noise**2 + 2.0 * self.noise * signal) / self.modes

    def is_like(self, other: Spectrum) -> bool:
        """Whether both have the same rings."""
        return self.power.shape == other.power.shape and math.isclose(
            self.pitch_nm, other.pitch_nm, rel_tol=1e-3
        )


def fine_counts(frame: NDArray[Any], side: int = FINE_SIDE) -> tuple[NDArray[np.uint32], int]:
    """Bin a frame, so that its longer side has at most `side` pixels.

    Parameters
    ----------
    frame : ndarray
        Counts as integers, shape (rows, columns).
    side : int
        Most pixels along the longer side.

    Returns
    -------
    counts : ndarray of uint32
        Sums over squares; pixels that do not fill one are cut off evenly at both ends.
    binning : int
        Side of a square in pixels.

    Raises
    ------
    ValueError
        If the frame is not two-dimensional or holds no integers.

    Examples
    --------
    >>> import numpy as np
    >>> counts, binning = fine_counts(np.ones((512, 512), np.uint16))
    >>> counts.shape, binning, int(counts[0, 0])
    ((256, 256), 2, 4)
    """
    if frame.ndim != 2 or frame.dtype.kind not in "ui" or not frame.size:
        raise ValueError(
            f"a frame of shape {frame.shape} and type {frame.dtype}; counts as integers in rows "
            "and columns are needed"
        )
    binning = max(1, -(-max(frame.shape) // side))
    if binning == 1:
        return np.ascontiguousarray(frame).astype(np.uint32), 1
    rows, columns = frame.shape
    counts = np.empty((rows // binning, columns // binning), np.uint32)
    top, left = (rows % binning) // 2, (columns % binning) // 2
    kernels.sum_squares(np.ascontiguousarray(frame), binning, top, left, counts)
    return counts, binning


def spectrum_of(counts: NDArray[Any], pitch_nm: float) -> Spectrum | None:
    """Power of counts in rings of their spectrum.

    Parameters
    ----------
    counts : ndarray
        Shape (rows, columns): single electrons that were counted.
    pitch_nm : float
        Distance of neighbouring pixels.

    Returns
    -------
    Spectrum or None
        None for what has no counts, or too few pixels.

    Notes
    -----
    The window (Tukey) lets no border look like an edge. Of a Poisson distribution, the power of
    the noise is the mean count; it is the same at every frequency.

    Examples
    --------
    >>> import numpy as np
    >>> flat = np.random.default_rng(1).poisson(5.0, (128, 128))
    >>> found = spectrum_of(flat, 1.0)
    >>> bool(abs(found.noise - 5.0) < 0.1), bool(abs(found.power).max() < 2.0)
    (True, True)
    """
    if min(counts.shape) < LEAST_SIDE:
        return None
    rings = _rings(counts.shape)
    shown = np.empty(counts.shape, np.float32)
    total, squares = kernels.windowed(counts, *rings.windows, shown)
    noise = squares / rings.weight
    if noise <= 0.0:
        return None
    kernels.less_mean(shown, *rings.windows, total / rings.area)
    power = np.empty(RINGS)
    kernels.power_in_rings(rfft2(shown, overwrite_x=True), rings.ring, power)
    power = power / (rings.waves * rings.weight) - noise
    inner = slice(_FIRST, None)
    return Spectrum(
        power[inner], noise, rings.modes[inner], rings.per_pitch[inner] / pitch_nm, pitch_nm
    )


def mean_of(spectra: Sequence[Spectrum]) -> Spectrum:
    """The mean of spectra with the same rings, each scaled to the power of the first.

    Parameters
    ----------
    spectra : sequence of Spectrum
        At least one.

    Examples
    --------
    >>> import numpy as np
    >>> one = Spectrum(np.ones(3), 1.0, np.full(3, 10.0), np.arange(1.0, 4.0), 1.0)
    >>> mean_of([one, one]).modes.tolist()
    [20.0, 20.0, 20.0]
    """
    first = spectra[0]
    scales = [_strength(first) / max(_strength(one), 1e-12) for one in spectra]
    power = np.mean([s * one.power for s, one in zip(scales, spectra, strict=True)], axis=0)
    noise = float(np.mean([s * one.noise for s, one in zip(scales, spectra, strict=True)]))
    modes = np.sum([one.modes for one in spectra], axis=0)
    return Spectrum(power, noise, modes, first.per_nm, first.pitch_nm)


def disc_contrast(argument: NDArray[Any]) -> Floats64:
    """What is left of a wave after a disc of radius r: 2 J1(x) / x at x = 2 pi r times frequency.

    Examples
    --------
    >>> import numpy as np
    >>> disc_contrast(np.array([0.0, 2.0])).round(3).tolist()
    [1.0, 0.577]
    """
    x = np.maximum(np.asarray(argument, np.float64), 1e-6)
    return 2.0 * j1(x) / x


def _strength(spectrum: Spectrum) -> float:
    """Power of the lower half of the rings, where the noise does not matter."""
    return float((spectrum.power * spectrum.modes)[: len(spectrum.power) // 2].sum())


@dataclass(frozen=True)
class _Rings:
    """Of pictures of one shape: windows along rows and columns, the ring of each wave, and sums."""

    windows: tuple[NDArray[np.float32], NDArray[np.float32]]
    area: float
    weight: float
    ring: NDArray[np.int16]
    waves: Floats64
    modes: Floats64
    per_pitch: Floats64


@lru_cache(maxsize=8)
def _rings(shape: tuple[int, int]) -> _Rings:
    along = [_tukey(size) for size in shape]
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    ring = np.floor(frequency * 2 * RINGS).astype(np.int16)
    ring[ring >= RINGS] = -1
    ring[0, 0] = -1
    twice = np.full(ring.shape, 2.0)
    twice[:, 0] = 1.0
    used = ring >= 0
    waves = np.bincount(ring[used], twice[used], RINGS)
    # Neighbouring waves share what the window spreads; half of all waves repeat the others.
    shared = math.prod(
        size * float((w**4).sum()) / float((w**2).sum()) ** 2
        for w, size in zip(along, shape, strict=True)
    )
    return _Rings(
        (along[0].astype(np.float32), along[1].astype(np.float32)),
        math.prod(float(w.sum()) for w in along),
        math.prod(float((w**2).sum()) for w in along),
        ring,
        waves,
        waves / (2.0 * shared),
        (np.arange(RINGS) + 0.5) / (2 * RINGS),
    )


def _tukey(size: int) -> Floats64:
    edge = _TAPER * size / 2
    from_end = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size))
    return 0.5 - 0.5 * np.cos(np.pi * np.minimum(from_end / edge, 1.0))
