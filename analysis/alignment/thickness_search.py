"""Thickness search: the volume that explains the images best, by short reconstructions."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..tomography.iterative import sirt
from ..tomography.projector import LANES
from .resampling import Splines, TiltAxis

Floats64 = NDArray[np.float64]

# The centre of the specimen along z is searched within this part of its thickness.
_CENTRES = (-0.3, -0.15, 0.0, 0.15, 0.3)
_TRIAL_ITERATIONS = 8


class ThicknessTrials:
    """Short reconstructions of a few slices that compare thicknesses of the volume."""

    def __init__(self, splines: Splines, tilts: Floats64) -> None:
        tall, self.wide = splines.shape
        rows = np.unique(np.linspace(0, tall - 1, min(tall, 2 * LANES)).astype(int))
        self._splines, self._tilts, self._rows = splines, tilts, rows

    def residuals(
        self, shifts: Floats64, axis: TiltAxis, thicknesses: Sequence[int], height: float
    ) -> Iterator[float]:
        """Yield the relative residual for each thickness of a volume at one height."""
        lower = shifted_in_z(shifts, axis, self._tilts, height)
        aligned = self._splines.sampled(lower, axis, self._rows)
        weights = self._splines.sampled_weights(lower, axis, self._rows)
        for thickness in thicknesses:
            shape = (thickness, self.wide)
            made = sirt(aligned, self._tilts, _TRIAL_ITERATIONS, slice_shape=shape, weights=weights)
            yield float(made.residual[-1])


def iter_find_thickness(
    trials: ThicknessTrials,
    shifts: Floats64,
    axis: TiltAxis,
    thicknesses: Sequence[float],
    done: float,
) -> Generator[float, None, tuple[float, float]]:
    """Thickness of the volume that explains the images best, and height of its centre along z.

    Shifted in z by that height, the specimen lies in the centre of the volume. Yields `done`.
    """
    tried = sorted({min(trials.wide, max(4, round(t))) for t in thicknesses}, reverse=True)
    found: list[float] = []
    for residual in trials.residuals(shifts, axis, tried, 0.0):
        found.append(residual)
        yield done
    best = float(tried[int(np.argmin(found))])
    if best >= trials.wide:
        return best, 0.0
    if len(tried) == len(thicknesses):
        # Their ratios are about the same.
        best = math.exp(_parabola_minimum(np.log(tried), np.array(found)))
    found = []
    for part in _CENTRES:
        found.extend(trials.residuals(shifts, axis, [round(best)], part * best))
        yield done
    return best, _parabola_minimum(best * np.array(_CENTRES), np.array(found))


def _parabola_minimum(positions: Floats64, values: Floats64) -> float:
    """Position of the lowest value, interpolated by a parabola."""
    k = min(max(int(np.argmin(values)), 1), len(values) - 2)
    before, here, after = values[k - 1 : k + 2]
    curvature = before - 2 * here + after
    step = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return float(positions[k] + min(max(step, -1.0), 1.0) * (positions[1] - positions[0]))


def shifted_in_z(shifts: Floats64, axis: TiltAxis, tilts: Floats64, height: float) -> Floats64:
    """Shifts with which the reconstructed specimen lies lower by `height` along z."""
    rotation_rad = math.radians(axis.rotation_deg)
    across = height * np.sin(np.deg2rad(tilts))
    return shifts + across[:, None] * [math.sin(rotation_rad), math.cos(rotation_rad)]
