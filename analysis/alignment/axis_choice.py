"""Direction of the tilt axis to start from: told, of the series before, or found; and doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from .axis_search import DirectionSearch, difference_deg, search_direction, wrapped_deg
from .resampling import TiltAxis

Floats64 = NDArray[np.float64]

# A told direction is refined within this.
TOLD_RANGE_DEG = 5.0
# Images whose axis is turned less are registered as they are, and their axis is refined from
# upright.
NEARLY_UPRIGHT_DEG = 12.0
# Directions differ if they are so far apart, and fit alike if their misfits differ by less.
_APART_DEG = 10.0
_CLEARLY_WORSE, _ALIKE = 1.02, 1.05
# Another direction than upright must fit better by this factor. Few views of a plain body favour
# far directions by up to 1.28.
_NEAR_DEG = 35.0
_BETTER_NEAR, _BETTER_FAR = 1.12, 1.33
# Misfits above this, and within this factor of one another, are those of noise.
_NOISY, _FLAT = 0.2, 1.15
# An alignment is in doubt if its last move is larger (binned pixels), its correlation lower, or
# its misfit higher.
_STILL_MOVING, _LOW_CORRELATION, _HIGH_MISFIT = 0.3, 0.5, 0.6
_LARGEST_SHIFT = 0.5


@dataclass(frozen=True)
class ToldAxis:
    """Direction of the tilt axis that is known from elsewhere.

    Attributes
    ----------
    rotation_deg : float
        Rotation of the axis, see :mod:`.resampling`; that of SerialEM and IMOD.
    refine : bool
        Whether it is refined within 5 deg; else it is taken as it is.
    """

    rotation_deg: float
    refine: bool = True


@dataclass(frozen=True)
class AxisChoice:
    """Where the refinement of the axis starts.

    Attributes
    ----------
    rotation_deg : float
        Rotation to start from.
    range_deg : tuple of float or None
        Lowest and highest rotation of the refinement; None for no bounds.
    source : str
        ``told``, ``before`` (of the series before) or ``found``.
    notes : tuple of str
        Messages for the operator.
    """

    rotation_deg: float
    range_deg: tuple[float, float] | None
    source: str
    notes: tuple[str, ...] = ()


def check_axes(start: TiltAxis | None, told: ToldAxis | None) -> None:
    """Raise a ValueError if the axis to start from, or that told, is not finite."""
    if start is not None and not np.isfinite([start.offset_px, start.rotation_deg]).all():
        raise ValueError(
            f"the start axis {start} is not finite; give finite numbers or leave it out"
        )
    if told is not None and not np.isfinite(told.rotation_deg):
        raise ValueError(
            f"the axis told is {told.rotation_deg} deg; give a finite number or leave it out"
        )


def choose_direction(
    images: NDArray[Any],
    tilts: Floats64,
    shifts_px: Floats64 | None,
    weights: Floats | None,
    told: ToldAxis | None,
) -> AxisChoice:
    """Search the direction of the axis, and hold what was told against it.

    Parameters
    ----------
    images, tilts, shifts_px, weights
        See :func:`.axis_search.search_direction`.
    told : ToldAxis or None
        Direction that is known from elsewhere.

    Returns
    -------
    AxisChoice
        Start, bounds, and doubts in words.
    """
    if told is None:
        return _found(search_direction(images, tilts, shifts_px, weights))
    also = (told.rotation_deg, -told.rotation_deg)
    return _told(told, search_direction(images, tilts, shifts_px, weights, also))


def _found(search: DirectionSearch) -> AxisChoice:
    rotation, lowest = search.best_deg, float(search.misfit.min())
    better = _BETTER_NEAR if abs(rotation) <= _NEAR_DEG else _BETTER_FAR
    upright = search.misfit_at(0.0) <= better * lowest
    if abs(rotation) <= NEARLY_UPRIGHT_DEG or upright:
        rotation = 0.0
    rival, misfit = search.rival(rotation)
    here = search.misfit_at(rotation)
    # Where noise is what the volumes do not explain, they cannot tell directions apart.
    noisy = lowest > _NOISY and search.misfit.max() < _FLAT * lowest
    if misfit > _ALIKE * here or noisy:
        return AxisChoice(rotation, None, "found")
    return AxisChoice(
        rotation,
        None,
        "found",
        (
            f"the direction of the tilt axis is uncertain: {rotation:.0f} deg (misfit {here:.3f}) "
            f"and {wrapped_deg(rival):.0f} deg (misfit {misfit:.3f}) fit about equally well; tell "
            "it, for example align: {axis: 90 deg}",
        ),
    )


def _told(told: ToldAxis, search: DirectionSearch) -> AxisChoice:
    rotation = told.rotation_deg
    here, mirrored = search.misfit_at(rotation), search.misfit_at(-rotation)
    best, lowest = search.best_deg, float(search.misfit.min())
    away, away_mirrored = (abs(difference_deg(best, sign * rotation)) for sign in (1, -1))
    notes: tuple[str, ...] = ()
    if told.refine and away > away_mirrored + TOLD_RANGE_DEG and here > mirrored:
        notes = (
            f"the tilt axis told, {rotation:g} deg, fits only when counted the other way (misfit "
            f"{here:.3f}, and {mirrored:.3f} at {-rotation:g} deg): {-rotation:g} deg is used. "
            "Angles count counter-clockwise with the first row at the bottom, as in 3dmod",
        )
        rotation, here = -rotation, mirrored
    if abs(difference_deg(best, rotation)) > _APART_DEG and here > _CLEARLY_WORSE * lowest:
        notes += (
            f"the tilt axis told, {rotation:g} deg, fits worse (misfit {here:.3f}) than "
            f"{best:.0f} deg (misfit {lowest:.3f}); check it, or leave it out to have it found",
        )
    reach = TOLD_RANGE_DEG if told.refine else 0.0
    return AxisChoice(rotation, (rotation - reach, rotation + reach), "told", notes)


def beyond_range(choice: AxisChoice, rotation_deg: float) -> tuple[str, ...]:
    """A doubt if the refinement of a told axis ended at its bound."""
    if choice.range_deg is None or choice.range_deg[0] == choice.range_deg[1]:
        return ()
    lowest, highest = choice.range_deg
    if lowest < rotation_deg < highest:
        return ()
    return (
        f"the images want a tilt axis more than {TOLD_RANGE_DEG:g} deg from the "
        f"{choice.rotation_deg:g} deg told; {rotation_deg:.1f} deg is used. Check it, or leave it "
        "out to have it found",
    )


def doubts(
    misfit: float, correlation: float, move_px: float, binning: int, shift_part: float = 0.0
) -> tuple[str, ...]:
    """What suggests that an alignment is wrong, in words.

    Parameters
    ----------
    misfit : float
        Relative residual of the matching volume.
    correlation : float
        Median correlation coefficient of images and reprojections.
    move_px : float
        Last move of the shifts in pixels (rms); 0 if they have settled.
    binning : int
        Binning at which projections were matched.
    shift_part : float
        Largest shift, as a part of the longer side of the images.
    """
    figures = f"misfit {misfit:.3f}, median correlation with the reprojections {correlation:.2f}"
    if move_px > _STILL_MOVING * binning:
        return (f"the alignment has not settled, its shifts still move by {move_px:.2g} px "
                f"({figures}); check tilts and axis",)  # fmt: skip
    if shift_part > _LARGEST_SHIFT:
        return (
            f"a shift is {shift_part:.0%} of the width of the images ({figures}); they do not seem "
            "to show the same specimen",
        )
    if correlation < _LOW_CORRELATION or misfit > _HIGH_MISFIT:
        return (f"images and reprojections agree poorly ({figures}); check tilts and axis",)
    return ()
