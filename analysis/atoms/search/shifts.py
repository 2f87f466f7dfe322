"""Shifts in which a fit may start: those that are told, and those of common lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...alignment.common_lines import common_lines_shifts
from ...alignment.resampling import TiltAxis
from ..refinement.common_motion import displacement_shifts
from ..refinement.model import Floats64

# Common lines are tried where they differ from what is told by so many standard deviations.
_DIFFER = 2.0


@dataclass(frozen=True)
class ShiftsStart:
    """Shifts of the views, the offset of the axis within them, and how well they are known.

    Attributes
    ----------
    shifts : ndarray
        Shape (views, 2), along rows and columns in pixels.
    sd : ndarray
        Shape (views, 2): standard deviations; 0 holds a shift.
    """

    shifts: Floats64
    sd: Floats64


def shift_starts(
    counts: NDArray[Any],
    tilt_deg: Floats64,
    told: ShiftsStart,
    rotation_rad: float,
    known: NDArray[np.bool_] | None = None,
) -> list[ShiftsStart]:
    """Alignments that are worth a try: the one that is told, and common lines if they disagree.

    Where the particle leaves the field common lines are wrong; which of two is right is told by
    the likelihood that a fit reaches from each.

    Parameters
    ----------
    counts : ndarray
        Shape (views, rows, columns), the axis upright but for `rotation_rad`.
    tilt_deg : ndarray
        Angles in degrees, shape (views,).
    told : ShiftsStart
        Shifts as told.
    rotation_rad : float
        Rotation of the axis.
    known : ndarray of bool, optional
        Pixels that were measured.

    Returns
    -------
    list of ShiftsStart
        One or two.
    """
    if not told.sd.any():
        return [told]
    axis = TiltAxis(0.0, math.degrees(rotation_rad))
    try:
        lines, lines_sd = common_lines_shifts(counts, tilt_deg, axis, known=known)
    except ValueError:
        return [told]
    # Where the particle lies in the volume is free: it stays where it is told to be.
    off = lines - told.shifts
    off -= displacement_shifts(off, np.deg2rad(tilt_deg), rotation_rad)
    pulls = off**2 / (lines_sd**2 + told.sd**2)
    if math.sqrt(float(pulls.mean())) < _DIFFER:
        return [told]
    return [told, ShiftsStart(told.shifts + off, np.hypot(lines_sd, told.sd))]
