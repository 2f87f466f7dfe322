"""Alignment of a tilt series: shifts between neighbours, tilt axis, and one interpolation.

Neighbouring tilts are registered and their shifts summed up from the lowest tilt outwards. Sums
drift, so that shifts and axis are then refined together against reprojections (`match`). What the
numbers mean is told in `warp`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import sched_getaffinity
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .axis import axis_through_mass
from .match import MATCHING_SIDE, binning_for, match_projections, prepared
from .project import Floats
from .reconstruct import binned, checked_series
from .register import (
    centre_of_mass,
    common_line,
    line_shift,
    mutual_information,
    phase_correlation,
)
from .warp import Axis, apply_alignment

Method = Literal["mutual-information", "phase-correlation", "centre-of-mass"]
Floats64 = NDArray[np.float64]
Progress = Callable[[float, str], None]

# Longer side of the images that are registered with one another, and their blur in such pixels.
_REGISTRATION_SIDE = 256
_REGISTRATION_BLUR_PX = 1.0
# An image with less than this part of the usual contrast is dark.
_DARK = 0.1
_FEWEST = 3
_ROUNDS = 50
# Range of the cosines of the tilts from which the axis's offset can be told from a displacement.
_LEAST_COSINES = 0.02
# Share of the time that registration takes, roughly.
_REGISTRATION_SHARE = {"mutual-information": 0.5, "phase-correlation": 0.1, "centre-of-mass": 0.1}


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
    misfit_before, misfit_after : float
        Misfit of the volume in the first and the last round of the refinement.
    last_move_px : float
        Root mean square of the last correction: how far from settled.
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
    misfit_before: float
    misfit_after: float
    last_move_px: float
    dark: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def axis(self) -> Axis:
        """The tilt axis, as `warp.apply_alignment` takes it."""
        return Axis(self.axis_offset_px, self.rotation_deg)


def register_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method,
    *,
    progress: Progress | None = None,
) -> Floats64:
    """Shifts of a tilt series by registering neighbours in tilt, nothing else.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns); none of them dark.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing.
    method : str
        ``mutual-information``: (1+1) evolution strategy on Mattes mutual information, begun at the
        result of phase correlation. ``phase-correlation``. ``centre-of-mass``: along x' the centre
        of mass, which asks for a specimen with nothing beside it; along y, the tilt axis, the
        cross correlation of the intensity summed across the axis (common line).
    progress : callable, optional
        Called with the finished fraction and a word.

    Returns
    -------
    ndarray
        Float64, shape (n, 2) along (rows, columns): where the specimen has moved to against the
        image of the lowest tilt.

    Raises
    ------
    ValueError
        If images and angles do not belong together, hold NaN, or the method is unknown.
    """
    images, tilts = checked_series(images, tilt_deg)
    if method not in _REGISTRATION_SHARE:
        raise ValueError(
            f"alignment by '{method}'; one of {', '.join(_REGISTRATION_SHARE)} is known"
        )
    binning = binning_for(images.shape[1:], _REGISTRATION_SIDE)
    small = prepared(images, binning, _REGISTRATION_BLUR_PX)
    order = np.argsort(tilts, kind="stable")
    lowest = int(np.argmin(np.abs(tilts[order])))
    pairs = [(int(order[k]), int(order[k + 1])) for k in range(len(order) - 1)]

    if method == "centre-of-mass":
        lines = [common_line(image) for image in small]
        columns = np.array([centre_of_mass(image) for image in small])
        steps = np.array(
            [[line_shift(lines[a], lines[b]), columns[b] - columns[a]] for a, b in pairs]
        )
    else:
        # The evolution strategy asks often; half the pixels a side are plenty for it.
        coarse_binning = binning_for(images.shape[1:], MATCHING_SIDE)
        ratio = coarse_binning // binning
        coarse = [binned(image, ratio) for image in small] if method == "mutual-information" else []

        def register(pair: tuple[int, int]) -> Floats64:
            a, b = pair
            found = phase_correlation(small[a], small[b])
            if coarse:
                found, _ = mutual_information(coarse[a], coarse[b], found / ratio)
                return found * ratio
            return found

        steps = np.zeros((len(pairs), 2))
        with ThreadPoolExecutor(len(sched_getaffinity(0)), thread_name_prefix="slices") as pool:
            for number, step in enumerate(pool.map(register, pairs)):
                steps[number] = step
                if progress is not None:
                    progress((number + 1) / len(pairs), f"registering tilt {number + 1}")
    summed = np.concatenate([np.zeros((1, 2)), np.cumsum(steps.reshape(-1, 2), axis=0)])
    shifts = np.empty((len(images), 2))
    shifts[order] = (summed - summed[lowest]) * binning
    return shifts


def align_series(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    method: Method = "mutual-information",
    *,
    progress: Progress | None = None,
    rounds: int = _ROUNDS,
) -> Alignment:
    """Align a tilt series: register, find the axis, refine both, and interpolate once.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), as recorded or denoised.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing; a missing tilt is no matter.
    method : str
        See :func:`register_series`.
    progress : callable, optional
        Called with the finished fraction and a word.
    rounds : int
        Rounds of the refinement against reprojections.

    Returns
    -------
    Alignment
        Shifts, axis, aligned images and quality figures.

    Raises
    ------
    ValueError
        If images and angles do not belong together, an image holds NaN (named), or fewer than
        three images show anything.
    """
    images, tilts = checked_series(images, tilt_deg)
    dark = dark_images(images)
    usable = np.setdiff1d(np.arange(len(images)), dark)
    if len(usable) < _FEWEST:
        raise ValueError(
            f"{len(dark)} of {len(images)} images are dark and {len(usable)} show something; "
            f"alignment needs {_FEWEST}: is the beam blanked or the specimen out of the field?"
        )
    lit, lit_tilts = (images[usable], tilts[usable]) if len(dark) else (images, tilts)
    share = _REGISTRATION_SHARE.get(method, 0.0)

    def tell(fraction: float, what: str) -> None:
        if progress is not None:
            progress(fraction, what)

    shifts = register_series(
        lit, lit_tilts, method, progress=lambda done, what: tell(share * done, what)
    )
    start = axis_through_mass(lit, shifts, binning_for(images.shape[1:], MATCHING_SIDE))
    shifts, start = _kept_in_field(shifts, start, lit_tilts)
    match = match_projections(
        lit,
        lit_tilts,
        shifts,
        start,
        rounds=rounds,
        report=lambda done: tell(share + 0.95 * (1 - share) * done, "refining shifts and axis"),
    )
    shifts, axis = _kept_in_field(match.shifts_px, match.axis, lit_tilts)
    every, correlation = _filled(shifts, tilts, usable), np.full(len(images), np.nan)
    correlation[usable] = match.correlation
    aligned = apply_alignment(images, every, axis)
    tell(1.0, "aligned")
    return Alignment(
        shifts_px=every,
        axis_offset_px=axis.offset_px,
        rotation_deg=axis.rotation_deg,
        images=aligned,
        method=method,
        correlation=correlation,
        misfit_before=float(match.misfit[0]),
        misfit_after=float(match.misfit[-1]),
        last_move_px=match.last_move_px,
        dark=tuple(int(n) for n in dark),
        notes=tuple(
            f"image {n} at {tilts[n]:g} deg is dark; its shift is interpolated from its neighbours"
            for n in dark
        ),
    )


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
    contrasts = np.array(
        [float(gaussian_filter(binned(image, binning), 2.0).std()) for image in images]
    )
    lit = contrasts[contrasts > 0]
    usual = float(np.median(lit)) if lit.size else 0.0
    return np.flatnonzero((contrasts < _DARK * usual) | (contrasts <= 0))


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
