"""Alignment of a tilt series: shifts between neighbours, tilt axis, and one interpolation.

Neighbouring tilts are registered and their shifts summed up from the lowest tilt outwards. Sums
drift, so that shifts and axis are then refined together against reprojections (`match`). What the
numbers mean is told in `warp`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..core.arrays import Floats, binned, checked_series, in_threads
from ..core.progress import run_to_end
from .pairwise import Method, PairShifts, checked_method, iter_register_series, register_series
from .preparation import MATCHING_SIDE, binning_for
from .projection_matching import iter_match_projections
from .resampling import Axis, apply_alignment
from .tilt_axis import axis_through_mass

__all__ = ["Alignment", "align_series", "dark_images", "iter_align_series", "register_series"]

Floats64 = NDArray[np.float64]
_T = TypeVar("_T")

# An image with less than this part of the usual contrast is dark.
_DARK = 0.1
_FEWEST = 3
_ROUNDS = 30
# Range of the cosines of the tilts from which the axis's offset can be told from a displacement.
_LEAST_COSINES = 0.02
# Share of the time that registration and the last interpolation take, roughly.
_REGISTRATION_SHARE = {"mutual-information": 0.3, "phase-correlation": 0.1, "centre-of-mass": 0.05}
_WARP_SHARE = 0.1
# Pixels that are interpolated in one piece.
_WARP_PIXELS = 2_000_000


@dataclass(frozen=True)
class Alignment:
    """An aligned tilt series and how it was aligned, lengths in pixels of the images given.

    Attributes
    ----------
    shifts_px : ndarray
        Float64, shape (n, 2): displacement along rows and columns of each image against a
        specimen that tilts about the axis. The specimen is taken to lie so that the image of the
        lowest tilt stays in place; shift and offset together are zero there.
    axis_offset_px, rotation_deg : float
        The tilt axis, see `warp`.
    images : ndarray
        Float32, shape (n, rows, columns): the images, interpolated once, the axis upright in the
        middle of the columns.
    method : str
        How neighbours were registered.
    correlation : ndarray
        Shape (n,): correlation coefficient of each image with its reprojection; NaN for a dark one.
    residual_before, residual_after : float
        Misfit of the volume in the first and the last round of the refinement.
    last_move_px : float
        Root mean square of the last correction: how far from settled.
    thickness_px : int
        Thickness of the specimen: that of the volume which explains the images best.
    dark : tuple of int
        Images without contrast; their shifts are interpolated between neighbours in tilt.
    notes : tuple of str
        What the operator should know.
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
    thickness_px: int
    dark: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def axis(self) -> Axis:
        """The tilt axis, as `warp.apply_alignment` takes it."""
        return Axis(self.axis_offset_px, self.rotation_deg)


def align_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method = "mutual-information",
    *,
    rounds: int = _ROUNDS,
    pair_shifts: PairShifts | None = None,
    start_axis: Axis | None = None,
    progress: Callable[[float], None] | None = None,
) -> Alignment:
    """Align a tilt series: register, find the axis, refine both, and interpolate once.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), as recorded or denoised.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing; a missing tilt is no matter.
    method : str
        See :func:`pairwise.register_pair`.
    rounds : int
        Rounds of the refinement against reprojections at most; it ends when they are settled.
    pair_shifts : mapping, optional
        Steps between neighbours in tilt that are known already (`pairwise.OnlineRegistration`), by
        the places of both images in `images`, the lower tilt first. What is missing is computed;
        the outcome is the same bit by bit.
    start_axis : Axis, optional
        Where the axis was in the series before, to start from; an upright one through the middle
        of the specimen without it. A wrong one costs rounds, not accuracy.
    progress : callable, optional
        Called with the finished fraction.

    Returns
    -------
    Alignment
        Shifts, axis, aligned images and quality figures.

    Raises
    ------
    ValueError
        If images and angles do not belong together, an image holds NaN (named), fewer than three
        images show anything, a known step or `start_axis` is not finite, or the method is unknown.
    """
    pieces = iter_align_series(
        images, tilt_deg, method, rounds=rounds, pair_shifts=pair_shifts, start_axis=start_axis
    )
    return run_to_end(pieces, progress)


def iter_align_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method = "mutual-information",
    *,
    rounds: int = _ROUNDS,
    pair_shifts: PairShifts | None = None,
    start_axis: Axis | None = None,
) -> Generator[float, None, Alignment]:
    """:func:`align_series` in small pieces, so that something urgent may be done in between.

    Parameters
    ----------
    images, tilt_deg, method, rounds, pair_shifts, start_axis
        See :func:`align_series`.

    Yields
    ------
    float
        Finished fraction, never falling, after each piece: a few pairs of neighbours, a trial of
        the volume's thickness, a round of the refinement, some images interpolated.

    Returns
    -------
    Alignment
        As the generator's value.

    Raises
    ------
    ValueError
        See :func:`align_series`; with the first piece.
    """
    images, tilts = checked_series(images, tilt_deg)
    checked_method(method)
    if (
        start_axis is not None
        and not np.isfinite([start_axis.offset_px, start_axis.rotation_deg]).all()
    ):
        raise ValueError(f"{start_axis} is no place to start from: not finite")
    dark = dark_images(images)
    usable = np.setdiff1d(np.arange(len(images)), dark)
    if len(usable) < _FEWEST:
        raise ValueError(
            f"{len(dark)} of {len(images)} images are dark and {len(usable)} show something; "
            f"alignment needs {_FEWEST}: is the beam blanked or the specimen out of the field?"
        )
    lit, lit_tilts = (images[usable], tilts[usable]) if len(dark) else (images, tilts)
    yield 0.0
    places = {int(n): place for place, n in enumerate(usable)}
    known = {
        (places[a], places[b]): step
        for (a, b), step in (pair_shifts or {}).items()
        if a in places and b in places
    }
    share = _REGISTRATION_SHARE[method]
    shifts = yield from _part(iter_register_series(lit, lit_tilts, method, known), 0.0, share)
    through_mass = axis_through_mass(lit, shifts, binning_for(images.shape[1:], MATCHING_SIDE))
    yield share
    if start_axis is None:
        shifts, start = _kept_in_field(shifts, through_mass, lit_tilts)
    else:
        shifts, start = _about(start_axis, shifts, through_mass, lit_tilts), start_axis
    match = yield from _part(
        iter_match_projections(lit, lit_tilts, shifts, start, rounds=rounds),
        share,
        1 - share - _WARP_SHARE,
    )
    shifts, axis = _kept_in_field(match.shifts_px, match.axis, lit_tilts)
    every, correlation = _filled(shifts, tilts, usable), np.full(len(images), np.nan)
    correlation[usable] = match.correlation
    aligned = np.empty(images.shape, np.float32)
    at_once = max(1, _WARP_PIXELS // images[0].size)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        aligned[part] = apply_alignment(images[part], every[part], axis)
        done = min(1.0, (first + at_once) / len(images))
        yield 1.0 - _WARP_SHARE * (1.0 - done)
    return Alignment(
        shifts_px=every,
        axis_offset_px=axis.offset_px,
        rotation_deg=axis.rotation_deg,
        images=aligned,
        method=method,
        correlation=correlation,
        residual_before=float(match.residual[0]),
        residual_after=float(match.residual[-1]),
        last_move_px=match.last_move_px,
        thickness_px=match.thickness_px,
        dark=tuple(int(n) for n in dark),
        notes=tuple(
            f"image {n} at {tilts[n]:g} deg is dark; its shift is interpolated from its neighbours"
            for n in dark
        ),
    )


def _part(
    pieces: Generator[float, None, _T], begin: float, share: float
) -> Generator[float, None, _T]:
    """Pieces that are a part of the whole: their fractions within it."""
    highest = 0.0
    while True:
        try:
            highest = max(highest, next(pieces))
        except StopIteration as end:
            return end.value
        yield begin + share * highest


def dark_images(images: NDArray[Any]) -> NDArray[np.intp]:
    """Positions of images with far less contrast than the rest: no beam, or no specimen.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).

    Returns
    -------
    ndarray
        Images whose standard deviation, binned and blurred, is under a tenth of the median of
        those that have any; all of them if none has.
    """
    binning = binning_for(images.shape[1:], MATCHING_SIDE // 2)
    contrasts = np.empty(len(images))

    def one(n: int) -> None:
        contrasts[n] = gaussian_filter(binned(images[n], binning), 2.0).std()

    in_threads(one, range(len(images)))
    lit = contrasts[contrasts > 0]
    usual = float(np.median(lit)) if lit.size else 0.0
    return np.flatnonzero((contrasts < _DARK * usual) | (contrasts <= 0))


def _about(axis: Axis, shifts: Floats64, through_mass: Axis, tilts: Floats64) -> Floats64:
    """Shifts for an axis that is known: mass beside the axis moves as the specimen tilts.

    Registered with one another, images keep the mass in place, which is right for an axis through
    it; about another one it moves with the cosine of the tilt.
    """
    turn_rad = np.deg2rad(axis.rotation_deg)
    lever_px = through_mass.offset_px - axis.offset_px
    across = lever_px * (1 - np.cos(np.deg2rad(tilts)))
    return shifts + across[:, None] * [np.sin(turn_rad), np.cos(turn_rad)]


def _kept_in_field(shifts: Floats64, axis: Axis, tilts: Floats64) -> tuple[Floats64, Axis]:
    """The same alignment with the specimen where the image of the lowest tilt shows it.

    A specimen may be displaced as a whole: along the axis all images move alike, across it with
    the cosine of the tilt. The offset that is told apart from the shifts is the constant beside
    the cosine and the sine, which no displacement changes; it is 0 where tilts are too alike.
    """
    turn_rad = np.deg2rad(axis.rotation_deg)
    down = np.array([np.cos(turn_rad), -np.sin(turn_rad)])
    across = np.array([np.sin(turn_rad), np.cos(turn_rad)])
    moves = np.column_stack([shifts @ down, shifts @ across + axis.offset_px])
    cosines, sines = np.cos(np.deg2rad(tilts)), np.sin(np.deg2rad(tilts))
    lowest = int(np.argmax(cosines))
    moves[:, 0] -= moves[lowest, 0]
    moves[:, 1] -= moves[lowest, 1] / cosines[lowest] * cosines
    offset = 0.0
    if np.ptp(cosines) > _LEAST_COSINES:
        terms = np.column_stack([np.ones_like(cosines), cosines, sines])
        offset = float(np.linalg.lstsq(terms, moves[:, 1])[0][0])
    moves[:, 1] -= offset
    return moves[:, :1] * down + moves[:, 1:] * across, Axis(offset, axis.rotation_deg)


def _filled(shifts: Floats64, tilts: Floats64, usable: NDArray[np.intp]) -> Floats64:
    """Shifts of all images, those that have none interpolated linearly over the tilt."""
    order = usable[np.argsort(tilts[usable], kind="stable")]
    known = np.full((len(tilts), 2), np.nan)
    known[usable] = shifts
    every = np.column_stack(
        [np.interp(tilts, tilts[order], known[order, axis]) for axis in range(2)]
    )
    every[usable] = shifts
    return every
