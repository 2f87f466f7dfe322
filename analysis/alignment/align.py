"""Alignment of a tilt series: pairwise registration, projection matching, one interpolation.

Neighbours in tilt are registered, and their shifts are summed from the lowest tilt outwards. Sums
drift, so that shifts and tilt axis are then refined together against reprojections
(:mod:`.projection_matching`). :mod:`.resampling` states what shifts, offset and rotation mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ..core.arrays import Floats, binned, checked_series, in_threads
from ..core.progress import run_to_end, scaled_progress
from ..core.weights import binned_by_weight, checked_weights
from .displacement import lowest_tilt_in_place, shifts_about
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
    weights : ndarray or None
        Float32, shape of `images`: the share of each aligned pixel that was measured; None
        without weights of the images given.
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
    weights: NDArray[Any] | None = None,
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
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.
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
        weights=weights,
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
    weights: NDArray[Any] | None = None,
) -> Generator[float, None, Alignment]:
    """Align a tilt series as :func:`align_series` does, in small pieces of work.

    Parameters
    ----------
    images, tilt_deg, method, rounds, pair_shifts, start_axis, weights
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
    known = _among(pair_shifts or {}, usable)
    share = _REGISTRATION_SHARE[method]
    shifts = yield from scaled_progress(
        0.0, share, iter_register_series(lit, lit_tilts, method, known, lit_weights)
    )
    binning = binning_for(images.shape[1:], MATCHING_SIDE)
    through_mass = axis_through_mass(lit, shifts, binning, weights=lit_weights)
    yield share
    if start_axis is None:
        shifts, start = lowest_tilt_in_place(shifts, through_mass, lit_tilts)
    else:
        shifts, start = shifts_about(start_axis, shifts, through_mass, lit_tilts), start_axis
    match = yield from scaled_progress(
        share,
        1 - _RESAMPLING_SHARE,
        iter_match_projections(lit, lit_tilts, shifts, start, rounds=rounds, weights=lit_weights),
    )
    shifts, axis = lowest_tilt_in_place(match.shifts_px, match.axis, lit_tilts)
    every = _interpolated(shifts, tilts, usable)
    aligned, shares = yield from scaled_progress(
        1 - _RESAMPLING_SHARE, 1.0, _iter_resample(images, every, axis, weights)
    )
    made = _alignment(match, every, axis, aligned, method, tilts, usable, dark)
    return replace(made, weights=shares)


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
    images: NDArray[Any], shifts: Floats64, axis: TiltAxis, weights: NDArray[Any] | None
) -> Generator[float, None, tuple[Floats, Floats | None]]:
    """Resample some images and their weights at a time."""
    aligned = np.empty(images.shape, np.float32)
    shares = None if weights is None else np.empty(images.shape, np.float32)
    at_once = max(1, _RESAMPLED_PIXELS // images[0].size)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        if weights is None or shares is None:
            aligned[part] = apply_alignment(images[part], shifts[part], axis)
        else:
            aligned[part], shares[part] = apply_alignment(
                images[part], shifts[part], axis, weights[part]
            )
        yield min(1.0, (first + at_once) / len(images))
    return aligned, shares


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


def dark_images(images: NDArray[Any], weights: NDArray[Any] | None = None) -> NDArray[np.intp]:
    """Find images with far less contrast than the others: no beam, or no specimen.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.

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
    known = checked_weights(weights, images.shape)

    def one(n: int) -> None:
        if known is None:
            small = binned(images[n], binning)
        else:
            small, _ = binned_by_weight(images[n], known[n], binning)
        contrasts[n] = gaussian_filter(small, 2.0).std()

    in_threads(one, range(len(images)))
    lit = contrasts[contrasts > 0]
    usual = float(np.median(lit)) if lit.size else 0.0
    return np.flatnonzero((contrasts < _DARK * usual) | (contrasts <= 0))


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
