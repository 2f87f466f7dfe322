"""Levels of a detector, from a frame: pedestal, gain of a count, noise in the vacuum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tomography.image_levels import has_dark_vacuum, vacuum_level

# Squares of 3 x 3 pixels, sorted by level, are treated in so many groups.
_GROUPS, _FEWEST = 32, 8
# Groups of specimen lie so many standard deviations, and this part of the range, above vacuum.
_ABOVE_SIGMAS, _ABOVE_RANGE = 3.0, 0.05
# Of the gains of the groups; edges raise many of them.
_LOWER = 0.25
# The highest differences are left out of a mean: edges and bad pixels.
_TRIMMED = 0.02
# Median of chi-square with one degree of freedom.
_CHI2_MEDIAN = 0.4549
# So many squares, and values for the smallest step between them, are enough.
_SAMPLE = 1 << 16
# A positive level is the detector's if counts do not explain this part of it ...
_PEDESTAL_SHARE = 0.8
# ... and it is more than so many standard deviations of the vacuum, and this part of the range.
_SIGMAS, _RANGE_SHARE = 1.0, 0.01
# For a frame without vacuum: part of the pixels that is darker than its dark level.
_DARKEST = 0.005


@dataclass(frozen=True)
class Levels:
    """Figures of a frame; value = pedestal + gain * electrons.

    Attributes
    ----------
    pedestal : float
        Value of a pixel that no electron hits; 0 where none is found.
    vacuum : float
        Value of the vacuum, with the pedestal.
    gain : float
        Value of one counted electron: variance over mean of the counts. At least the smallest step
        between the values of the frame.
    noise : float
        Variance in the vacuum.
    """

    pedestal: float
    vacuum: float
    gain: float
    noise: float

    def with_pedestal(self, pedestal: float) -> Levels:
        """The same with a pedestal that is known."""
        return replace(self, pedestal=pedestal)

    def without_pedestal(self) -> Levels:
        """Levels of the frame once its pedestal is taken away."""
        return replace(self, pedestal=0.0, vacuum=self.vacuum - self.pedestal)


def measure_levels(frame: NDArray[Any]) -> Levels:
    """Estimate pedestal, gain and noise from one frame.

    The variance of counts grows in proportion to their mean (photon transfer; Janesick, Scientific
    Charge-Coupled Devices, SPIE 2001): the slope between vacuum and specimen is the gain, whatever
    the pedestal is, and the pedestal is the level at which the variance would be zero. Noise of the
    readout counts as electrons thereby, which is what a variance-stabilising transform needs. A
    positive level of which a fifth or more can be counts has no pedestal: frames of a counting
    detector stay as they are. Variances come from differences of second order in squares of 3 x 3
    pixels, in which slopes and curvature cancel (Immerkaer, Comput. Vis. Image Underst. 64, 300,
    1996), and are medians, which few bad pixels do not move; edges raise some of them, so the gain
    is the lower quartile.

    Parameters
    ----------
    frame : ndarray
        Finite, shape (rows, columns), at least 3 x 3.

    Returns
    -------
    Levels
        In the unit of the frame. In a frame without dark vacuum (specimen everywhere, or bright
        field) there is no pedestal unless values are below zero; it is then the darkest half
        percent.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.full((64, 64), 20.0)
    >>> counts[16:48, 24:40] = 400.0
    >>> counts = np.random.default_rng(0).poisson(counts)
    >>> measure_levels(counts).pedestal
    0.0
    >>> -520 < measure_levels(counts - 500.0).pedestal < -480
    True
    """
    values = np.asarray(frame, np.float64)
    level, power = _squares(values)
    vacuum, dark = vacuum_level(values), has_dark_vacuum(values)
    low, high = (float(v) for v in np.quantile(level, (_DARKEST, 1 - _DARKEST)))
    base = vacuum if dark else low
    noise, gain = _transfer(level, power, base, high)
    pedestal = base - (noise / gain if gain > 0 else 0.0)
    reach = max(_SIGMAS * math.sqrt(noise), _RANGE_SHARE * (high - base))
    if (base >= 0 and (not dark or pedestal < _PEDESTAL_SHARE * base)) or abs(base) <= reach:
        pedestal = 0.0
    steps = np.diff(np.unique(values.ravel()[:: max(1, values.size // _SAMPLE)]))
    return Levels(pedestal, vacuum, max(gain, float(steps.min()) if steps.size else 0.0), noise)


def _squares(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of squares of 3 x 3 pixels, and their squared difference from curved surfaces."""
    down = values[:-2] - 2 * values[1:-1] + values[2:]
    curved = down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]
    total = values[:-2] + values[1:-1] + values[2:]
    level = (total[:, :-2] + total[:, 1:-1] + total[:, 2:]) / 9
    step = max(2, math.isqrt(level.size // _SAMPLE))
    chosen = (slice(None, None, step), slice(None, None, step))
    return level[chosen].ravel(), (curved[chosen] ** 2 / 36).ravel()


def _transfer(
    level: NDArray[np.float64], power: NDArray[np.float64], base: float, high: float
) -> tuple[float, float]:
    """Variance at the level `base`, and by how much variance grows with the level."""
    order = np.argsort(level, kind="stable")
    level, power = level[order], power[order]
    darkest = max(_FEWEST, int(np.searchsorted(level, base, "right")))
    noise = _variance(power[:darkest])
    groups = max(1, min(_GROUPS, level.size // _FEWEST))
    above = max(_ABOVE_SIGMAS * math.sqrt(noise), _ABOVE_RANGE * (high - base))
    slopes: list[float] = []
    for levels, powers in zip(
        np.array_split(level, groups), np.array_split(power, groups), strict=True
    ):
        rise = float(np.median(levels)) - base
        if rise > above:
            slopes.append((_variance(powers) - noise) / rise)
    if slopes:
        return noise, max(0.0, float(np.quantile(slopes, _LOWER)))
    return noise, noise / base if base > 0 else 0.0


def _variance(power: NDArray[np.float64]) -> float:
    """Variance of which these are squared differences of noise, a few of them wrong."""
    median = float(np.median(power))
    if median > 0:
        return median / _CHI2_MEDIAN
    kept = np.sort(power)[: max(1, math.ceil(power.size * (1 - _TRIMMED)))]
    return float(kept.mean())
