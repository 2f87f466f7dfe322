"""Alignment of a tilt series: pairwise registration, projection matching, one interpolation.

Neighbours in tilt are registered, and their shifts are summed from the lowest tilt outwards. Sums
drift, so that shifts and tilt axis are then refined together against reprojections
(:mod:`.projection_matching`). :mod:`.resampling` states what shifts, offset and rotation mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..core.arrays import Floats, binned, checked_series, in_threads
from ..core.progress import run_to_end, scaled_progress
from .pairwise import Method, PairShifts, checked_method, iter_register_series, register_series
from .preparation import MATCHING_SIDE, binning_for
from .projection_matching import ProjectionMatch, iter_match_projections
from .resampling import TiltAxis, apply_alignment
from .tilt_axis import axis_through_mass

__all__ = ["Alignment", "align_series", "dark_images", "iter_align_series", "register_series"]

Floats64 = NDArray[np.float64]

# An image with less than this part of the usual contrast is dark.
_DARK = 0.1
_MIN_IMAGES = 3
_ROUNDS = 30
# The offset of the axis differs from a displacement if the cosines of the tilts span this much.
_MIN_COSINE_SPAN = 0.02
# Approximate shares of the time that registration and the final resampling take.
_REGISTRATION_SHARE = {"mutual-information": 0.3, "phase-correlation": 0.1, "centre-of-mass": 0.05}
_RESAMPLING_SHARE = 0.1
# Pixels that are resampled in one piece of work.
_RESAMPLED_PIXELS = 2_000_000


@dataclass(frozen=True)
class Alignment:
    """An aligned tilt series and its alignment; lengths are pixels of the images given.

    Attributes
    ----------
    shifts_px : ndarray
        Float64, shape (n, 2), along rows and columns: displacement of each image against a
        specimen that tilts about the axis. A displacement of the whole specimen is chosen so
        that the image of the lowest tilt stays in place: its shift and the offset cancel.
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
    thickness_px : int
        Thickness of the volume that explains the images best.
    dark : tuple of int
        Indices of images without contrast; their shifts are interpolated over the tilt.
    notes : tuple of str
        Messages for the operator.
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
        Tilt axis to start from, for example that of the previous series. By default an upright
        axis through the centre of the specimen. A wrong start costs rounds, not accuracy.
    progress : callable, optional
        Called with the finished fraction.

    Returns
    -------
    Alignment
        Shifts, axis, aligned images and quality figures.

    Raises
    ------
    ValueError
        If images and angles do not belong together, an image holds NaN, fewer than three images
        have contrast, a known shift or `start_axis` is not finite, or the method is unknown.

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
        images, tilt_deg, method, rounds=rounds, pair_shifts=pair_shifts, start_axis=start_axis
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
) -> Generator[float, None, Alignment]:
    """Align a tilt series as :func:`align_series` does, in small pieces of work.

    Parameters
    ----------
    images, tilt_deg, method, rounds, pair_shifts, start_axis
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
    _check_start(start_axis)
    dark = dark_images(images)
    usable = np.setdiff1d(np.arange(len(images)), dark)
    if len(usable) < _MIN_IMAGES:
        raise ValueError(
            f"{len(dark)} of {len(images)} images are dark, {len(usable)} have contrast; alignment "
            f"needs {_MIN_IMAGES}. Check that the beam is on and that the specimen is in the field"
        )
    lit, lit_tilts = (images[usable], tilts[usable]) if len(dark) else (images, tilts)
    yield 0.0
    known = _among(pair_shifts or {}, usable)
    share = _REGISTRATION_SHARE[method]
    shifts = yield from scaled_progress(
        0.0, share, iter_register_series(lit, lit_tilts, method, known)
    )
    through_mass = axis_through_mass(lit, shifts, binning_for(images.shape[1:], MATCHING_SIDE))
    yield share
    if start_axis is None:
        shifts, start = _lowest_tilt_in_place(shifts, through_mass, lit_tilts)
    else:
        shifts, start = _about(start_axis, shifts, through_mass, lit_tilts), start_axis
    match = yield from scaled_progress(
        share,
        1 - _RESAMPLING_SHARE,
        iter_match_projections(lit, lit_tilts, shifts, start, rounds=rounds),
    )
    shifts, axis = _lowest_tilt_in_place(match.shifts_px, match.axis, lit_tilts)
    every = _interpolated(shifts, tilts, usable)
    aligned = yield from scaled_progress(
        1 - _RESAMPLING_SHARE, 1.0, _iter_resample(images, every, axis)
    )
    return _alignment(match, every, axis, aligned, method, tilts, usable, dark)


def _check_start(axis: TiltAxis | None) -> None:
    if axis is not None and not np.isfinite([axis.offset_px, axis.rotation_deg]).all():
        raise ValueError(
            f"the start axis {axis} is not finite; give finite numbers or leave it out"
        )


def _among(pair_shifts: PairShifts, usable: NDArray[np.intp]) -> PairShifts:
    """Known shifts by the indices among the usable images."""
    index_of = {int(number): index for index, number in enumerate(usable)}
    return {
        (index_of[a], index_of[b]): shift
        for (a, b), shift in pair_shifts.items()
        if a in index_of and b in index_of
    }


def _iter_resample(
    images: NDArray[Any], shifts: Floats64, axis: TiltAxis
) -> Generator[float, None, Floats]:
    """Resample some images at a time."""
    aligned = np.empty(images.shape, np.float32)
    at_once = max(1, _RESAMPLED_PIXELS // images[0].size)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        aligned[part] = apply_alignment(images[part], shifts[part], axis)
        yield min(1.0, (first + at_once) / len(images))
    return aligned


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
        thickness_px=match.thickness_px,
        dark=tuple(int(n) for n in dark),
        notes=tuple(
            f"image {n} at {tilts[n]:g} deg is dark; its shift is interpolated over the tilt"
            for n in dark
        ),
    )


def dark_images(images: NDArray[Any]) -> NDArray[np.intp]:
    """Find images with far less contrast than the others: no beam, or no specimen.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).

    Returns
    -------
    ndarray
        Indices of images whose standard deviation, binned and blurred, is less than a tenth of
        the median of the images with contrast; all indices if no image has contrast.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((4, 16, 16))
    >>> images[2] = 7.0
    >>> dark_images(images)
    array([2])
    """
    binning = binning_for(images.shape[1:], MATCHING_SIDE // 2)
    contrasts = np.empty(len(images))

    def one(n: int) -> None:
        contrasts[n] = gaussian_filter(binned(images[n], binning), 2.0).std()

    in_threads(one, range(len(images)))
    lit = contrasts[contrasts > 0]
    usual = float(np.median(lit)) if lit.size else 0.0
    return np.flatnonzero((contrasts < _DARK * usual) | (contrasts <= 0))


def _about(axis: TiltAxis, shifts: Floats64, through_mass: TiltAxis, tilts: Floats64) -> Floats64:
    """Shifts about a known axis, from shifts about the axis through the mass.

    Pairwise registration keeps the mass in place, which is right for an axis through the mass;
    about another axis the mass moves with the cosine of the tilt.
    """
    rotation_rad = np.deg2rad(axis.rotation_deg)
    lever_px = through_mass.offset_px - axis.offset_px
    across = lever_px * (1 - np.cos(np.deg2rad(tilts)))
    return shifts + across[:, None] * [np.sin(rotation_rad), np.cos(rotation_rad)]


def _lowest_tilt_in_place(
    shifts: Floats64, axis: TiltAxis, tilts: Floats64
) -> tuple[Floats64, TiltAxis]:
    """The same alignment, with the specimen where the image of the lowest tilt shows it.

    A specimen may be displaced as a whole: along the axis all images move alike, across it with
    the cosine of the tilt. Shifts across the axis are fitted by a constant, a cosine and a sine;
    the constant is the offset, which no displacement changes. It is 0 where the tilts are too
    much alike to separate it.
    """
    rotation_rad = np.deg2rad(axis.rotation_deg)
    down = np.array([np.cos(rotation_rad), -np.sin(rotation_rad)])
    across = np.array([np.sin(rotation_rad), np.cos(rotation_rad)])
    moves = np.column_stack([shifts @ down, shifts @ across + axis.offset_px])
    cosines, sines = np.cos(np.deg2rad(tilts)), np.sin(np.deg2rad(tilts))
    lowest = int(np.argmax(cosines))
    moves[:, 0] -= moves[lowest, 0]
    moves[:, 1] -= moves[lowest, 1] / cosines[lowest] * cosines
    offset = 0.0
    if np.ptp(cosines) > _MIN_COSINE_SPAN:
        terms = np.column_stack([np.ones_like(cosines), cosines, sines])
        offset = float(np.linalg.lstsq(terms, moves[:, 1])[0][0])
    moves[:, 1] -= offset
    return moves[:, :1] * down + moves[:, 1:] * across, TiltAxis(offset, axis.rotation_deg)


def _interpolated(shifts: Floats64, tilts: Floats64, usable: NDArray[np.intp]) -> Floats64:
    """Shifts of all images; those of dark images are interpolated linearly over the tilt."""
    order = usable[np.argsort(tilts[usable], kind="stable")]
    known = np.full((len(tilts), 2), np.nan)
    known[usable] = shifts
    every = np.column_stack(
        [np.interp(tilts, tilts[order], known[order, axis]) for axis in range(2)]
    )
    every[usable] = shifts
    return every
