"""Alignment of a tilt series: pairwise registration, projection matching, one interpolation.

Neighbours in tilt are registered, and their shifts are summed from the lowest tilt outwards. Sums
drift, so that shifts and tilt axis are then refined together against reprojections
(:mod:`.projection_matching`). :mod:`.resampling` states what shifts, offset and rotation mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series
from ..core.offsets import Offset
from ..core.progress import run_to_end, scaled_progress
from ..core.weights import checked_weights, every_pixel
from .axis_choice import (
    NEARLY_UPRIGHT_DEG,
    AxisChoice,
    ToldAxis,
    beyond_range,
    check_axes,
    choose_direction,
    doubts,
)
from .axis_search import wrapped_deg
from .displacement import (
    cut_off,
    directions,
    field_in_place,
    interpolated_over_tilt,
    lowest_tilt_in_place,
    shifts_about,
    specimen_in_place,
    unexplained,
)
from .pairwise import (
    Method,
    PairShifts,
    among,
    checked_method,
    iter_register_series,
    register_series,
)
from .preparation import MATCHING_SIDE, binning_for, dark_images
from .projection_matching import ProjectionMatch, iter_match_projections
from .resampling import (
    TiltAxis,
    apply_alignment,
    iter_apply_alignment,
    nearest_quarters_deg,
    quarter_turns,
    turned_shifts,
)
from .tilt_axis import axis_through_mass

__all__ = ["Alignment", "align_series", "dark_images", "iter_align_series", "register_series"]

Floats64 = NDArray[np.float64]

_MIN_IMAGES = 3
_ROUNDS = 30
# Approximate shares of the time that registration and the final resampling take.
_REGISTRATION_SHARE = {"mutual-information": 0.3, "phase-correlation": 0.1, "centre-of-mass": 0.05}
_RESAMPLING_SHARE = 0.1


@dataclass(frozen=True)
class Alignment:
    """An aligned tilt series and its alignment; lengths are pixels of the images given.

    Attributes
    ----------
    shifts_px : ndarray
        Float64, shape (n, 2), along rows and columns: displacement of each image against a
        specimen that tilts about the axis. A displacement of the whole specimen is chosen so
        that the image of the lowest tilt stays in place: its shift and the offset cancel. With
        measured offsets the specimen comes to lie where an offset of zero would show it.
    axis_offset_px, rotation_deg : float
        The tilt axis, see :mod:`.resampling`.
    images : ndarray
        Float32, shape (n, rows, columns): the images, interpolated once. The tilt axis runs
        along the rows' direction (y) through the centre of the columns.
    method : str
        Method of the pairwise registration.
    correlation : ndarray
        Shape (n,): correlation coefficient of each image with its reprojection; NaN for a dark
        image.
    residual_before, residual_after : float
        Relative residual of the matching volume in the first and the last round.
    last_move_px : float
        Root mean square of the last correction of the shifts.
    settled : bool
        Whether the refinement ended because it changed nothing any more.
    thickness_px : int
        Thickness of the volume that explains the images best.
    dark : tuple of int
        Indices of images without contrast; their shifts are interpolated over the tilt.
    notes : tuple of str
        Messages for the operator.
    axis_source : str
        Where the direction of the axis comes from: ``told``, ``before`` or ``found``.
    weights : ndarray or None
        Float32, shape of `images`: the share of each aligned pixel that was measured, 0 beyond the
        border of an image as recorded; None where all are 1.
    """

    shifts_px: Floats64
    axis_offset_px: float
    rotation_deg: float
    images: Floats
    method: str
    correlation: Floats64
    residual_before: float
    residual_after: float
    last_move_px: float
    settled: bool
    thickness_px: int
    dark: tuple[int, ...]
    notes: tuple[str, ...]
    axis_source: str = "found"
    weights: Floats | None = None

    @property
    def axis(self) -> TiltAxis:
        """The tilt axis, as :func:`.resampling.apply_alignment` takes it."""
        return TiltAxis(self.axis_offset_px, self.rotation_deg)


def align_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method = "mutual-information",
    *,
    rounds: int = _ROUNDS,
    pair_shifts: PairShifts | None = None,
    start_axis: TiltAxis | None = None,
    told_axis: ToldAxis | None = None,
    weights: NDArray[Any] | None = None,
    offsets: Sequence[Offset | None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Alignment:
    """Align a tilt series.

    Neighbours in tilt are registered, the tilt axis is placed, shifts and axis are refined by
    projection matching (Guersoy et al., Sci. Rep. 7, 11818, 2017), and every image is resampled
    once.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), as recorded or denoised.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing.
    method : str
        Method of the pairwise registration, see :func:`.pairwise.register_pair`.
    rounds : int
        Most rounds of projection matching; it ends earlier when the alignment has settled.
    pair_shifts : mapping, optional
        Shifts between neighbours in tilt that are known already
        (:meth:`.pairwise.OnlineRegistration.pair_shifts`), in pixels, by the indices of both
        images, the lower tilt first. Missing ones are computed. The result is the same, bit for
        bit, with and without them.
    start_axis : TiltAxis, optional
        Tilt axis to start from, for example that of the previous series. By default its
        direction is searched over the full circle (:mod:`.axis_search`), and it goes through the
        centre of the specimen.
    told_axis : ToldAxis, optional
        Direction of the axis that is known from elsewhere. A doubt about it becomes a note.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.
    offsets : sequence of Offset or None, optional
        Where the specimen was measured to be in each image, in pixels; None where unknown. The
        pairwise registration refines them instead of searching.
    progress : callable, optional
        Called with the finished fraction.

    Returns
    -------
    Alignment
        Shifts, axis, aligned images and quality figures.

    Raises
    ------
    ValueError
        If images, angles and weights do not belong together, an image holds NaN, fewer than three
        images have contrast, a known shift or `start_axis` is not finite, or the method is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((32, 32, 32), np.float32)
    >>> volume[8:20, 12:18, 12:20] = 1
    >>> tilt_deg = np.arange(-40.0, 41.0, 20.0)
    >>> images = project(volume, tilt_deg)
    >>> images[0] = np.roll(images[0], 3, axis=0)
    >>> found = align_series(images, tilt_deg, "phase-correlation", rounds=5)
    >>> [round(float(shift)) for shift in found.shifts_px[:, 0]]
    [3, 0, 0, 0, 0]
    """
    steps = iter_align_series(
        images,
        tilt_deg,
        method,
        rounds=rounds,
        pair_shifts=pair_shifts,
        start_axis=start_axis,
        told_axis=told_axis,
        weights=weights,
        offsets=offsets,
    )
    return run_to_end(steps, progress)


def iter_align_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method = "mutual-information",
    *,
    rounds: int = _ROUNDS,
    pair_shifts: PairShifts | None = None,
    start_axis: TiltAxis | None = None,
    told_axis: ToldAxis | None = None,
    weights: NDArray[Any] | None = None,
    offsets: Sequence[Offset | None] | None = None,
) -> Generator[float, None, Alignment]:
    """Align a tilt series as :func:`align_series` does, in small pieces of work.

    Parameters
    ----------
    images, tilt_deg, method, rounds, pair_shifts, start_axis, told_axis, weights, offsets
        See :func:`align_series`.

    Yields
    ------
    float
        Finished fraction after each piece of work (a few pairs of images, a trial of the volume's
        thickness, a round of projection matching, some images resampled); it never falls.

    Returns
    -------
    Alignment
        As the generator's return value.

    Raises
    ------
    ValueError
        See :func:`align_series`; raised by the first step.

    Examples
    --------
    >>> import numpy as np
    >>> steps = iter_align_series(np.random.default_rng(0).random((3, 16, 16)), np.arange(3.0))
    >>> next(steps)
    0.0
    """
    images, tilts = checked_series(images, tilt_deg)
    checked_method(method)
    check_axes(start_axis, told_axis)
    if offsets is not None and len(offsets) != len(images):
        raise ValueError(f"{len(offsets)} offsets for {len(images)} images; give one for each")
    known_weights = checked_weights(weights, images.shape)
    dark = dark_images(images, known_weights)
    usable = np.setdiff1d(np.arange(len(images)), dark)
    if len(usable) < _MIN_IMAGES:
        raise ValueError(
            f"{len(dark)} of {len(images)} images are dark, {len(usable)} have contrast; alignment "
            f"needs {_MIN_IMAGES}. Check that the beam is on and that the specimen is in the field"
        )
    lit, lit_tilts, lit_weights = images, tilts, known_weights
    if len(dark):
        lit, lit_tilts = images[usable], tilts[usable]
        lit_weights = None if known_weights is None else known_weights[usable]
    yield 0.0
    places = None if offsets is None else [offsets[n] for n in usable]
    known = among(pair_shifts or {}, usable)
    share = _REGISTRATION_SHARE[method]
    shifts, choice = yield from scaled_progress(
        0.0,
        share,
        _iter_register(lit, lit_tilts, lit_weights, method, known, start_axis, told_axis, places),
    )
    yield share
    shifts, axis, match = yield from scaled_progress(
        share,
        1 - _RESAMPLING_SHARE,
        _iter_match(lit, lit_tilts, lit_weights, shifts, choice, start_axis, rounds),
    )
    if places is not None:
        shifts = specimen_in_place(shifts, axis, lit_tilts, places)
    every = interpolated_over_tilt(shifts, tilts, usable)
    aligned, shares = yield from scaled_progress(
        1 - _RESAMPLING_SHARE, 1.0, iter_apply_alignment(images, every, axis, weights)
    )
    made = _alignment(match, every, axis, aligned, method, tilts, usable, dark)
    lowest = int(usable[np.argmin(np.abs(lit_tilts))])
    notes = (
        *made.notes,
        *cut_off(images[lowest], every[lowest], axis),
        *choice.notes,
        *beyond_range(choice, axis.rotation_deg),
        *_doubts_of(made, offsets),
    )
    return replace(made, weights=shares, axis_source=choice.source, notes=notes)


def _iter_register(
    images: NDArray[Any],
    tilts: Floats64,
    weights: Floats | None,
    method: Method,
    known: PairShifts,
    start_axis: TiltAxis | None,
    told_axis: ToldAxis | None,
    places: Sequence[Offset | None] | None,
) -> Generator[float, None, tuple[Floats64, AxisChoice]]:
    """Register neighbours and choose the direction of the axis to start from.

    The centre of mass is registered across the axis, in images that are turned upright.
    """
    by_mass = method == "centre-of-mass"
    choice = None
    if start_axis is not None and told_axis is None:
        choice = AxisChoice(start_axis.rotation_deg, None, "before")
    elif by_mass:
        choice = choose_direction(images, tilts, None, weights, told_axis)
    rotation_deg = choice.rotation_deg if choice is not None and by_mass else 0.0
    if abs(rotation_deg) <= NEARLY_UPRIGHT_DEG:
        shifts = yield from iter_register_series(images, tilts, method, known, weights, places)
    else:
        upright, still = TiltAxis(0.0, rotation_deg), np.zeros((len(images), 2))
        along, across = directions(rotation_deg)
        if places is not None:
            places = [None if place is None else place.along(along, across) for place in places]
        given = every_pixel(images.shape) if weights is None else weights
        turned, shares = apply_alignment(images, still, upright, given)
        shifts = yield from iter_register_series(turned, tilts, method, None, shares, places)
        shifts = shifts[:, :1] * along + shifts[:, 1:] * across
    if choice is None:
        choice = choose_direction(images, tilts, shifts, weights, told_axis)
    return shifts, choice


def _iter_match(
    images: NDArray[Any],
    tilts: Floats64,
    weights: Floats | None,
    shifts: Floats64,
    choice: AxisChoice,
    start_axis: TiltAxis | None,
    rounds: int,
) -> Generator[float, None, tuple[Floats64, TiltAxis, ProjectionMatch]]:
    """Refine shifts and axis by projection matching, in images turned upright by quarters."""
    quarters = quarter_turns(choice.rotation_deg)
    turned_deg = nearest_quarters_deg(choice.rotation_deg)
    if quarters:
        images = np.rot90(images, quarters, axes=(1, 2))
        weights = None if weights is None else np.rot90(weights, quarters, axes=(1, 2))
        shifts = turned_shifts(shifts, -quarters)
    rotation_deg = choice.rotation_deg - turned_deg
    bounds = None
    if choice.range_deg is not None:
        bounds = (choice.range_deg[0] - turned_deg, choice.range_deg[1] - turned_deg)
    binning = binning_for(images.shape[1:], MATCHING_SIDE)
    # Nearly upright, the columns tell the offset.
    slanted_deg = rotation_deg if abs(rotation_deg) > NEARLY_UPRIGHT_DEG else 0.0
    mass = axis_through_mass(images, shifts, binning, slanted_deg, weights)
    mass = TiltAxis(mass.offset_px, rotation_deg)
    if start_axis is None or choice.source == "told":
        shifts, start = lowest_tilt_in_place(shifts, mass, tilts)
    else:
        start = TiltAxis(start_axis.offset_px, rotation_deg)
        shifts = shifts_about(start, shifts, mass, tilts)
    shifts = field_in_place(shifts, start, tilts, max(images.shape[1:]))
    match = yield from iter_match_projections(
        images, tilts, shifts, start, rounds=rounds, weights=weights, range_deg=bounds
    )
    shifts, axis = lowest_tilt_in_place(match.shifts_px, match.axis, tilts)
    offset_px, rotation_deg = axis.offset_px, axis.rotation_deg + turned_deg
    if choice.source == "found" and wrapped_deg(rotation_deg) != rotation_deg:
        # The same line, half a turn on.
        half_turns = round((wrapped_deg(rotation_deg) - rotation_deg) / 180.0)
        rotation_deg, offset_px = wrapped_deg(rotation_deg), offset_px * (-1.0) ** half_turns
    return turned_shifts(shifts, quarters), TiltAxis(offset_px, rotation_deg), match


def _doubts_of(made: Alignment, offsets: Sequence[Offset | None] | None) -> tuple[str, ...]:
    binning = binning_for(made.images.shape[1:], MATCHING_SIDE)
    return doubts(
        made.residual_after,
        float(np.nanmedian(made.correlation)),
        0.0 if made.settled else made.last_move_px,
        binning,
        unexplained(made.shifts_px, offsets) / max(made.images.shape[1:]),
    )


def _alignment(
    match: ProjectionMatch,
    shifts: Floats64,
    axis: TiltAxis,
    aligned: Floats,
    method: str,
    tilts: Floats64,
    usable: NDArray[np.intp],
    dark: NDArray[np.intp],
) -> Alignment:
    correlation = np.full(len(tilts), np.nan)
    correlation[usable] = match.correlation
    return Alignment(
        shifts_px=shifts,
        axis_offset_px=axis.offset_px,
        rotation_deg=axis.rotation_deg,
        images=aligned,
        method=method,
        correlation=correlation,
        residual_before=float(match.residual[0]),
        residual_after=float(match.residual[-1]),
        last_move_px=match.last_move_px,
        settled=match.settled,
        thickness_px=match.thickness_px,
        dark=tuple(int(n) for n in dark),
        notes=tuple(
            f"image {n} at {tilts[n]:g} deg is dark; its shift is interpolated over the tilt"
            for n in dark
        ),
    )
