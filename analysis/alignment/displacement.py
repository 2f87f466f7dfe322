"""What a displacement of the whole specimen does to an alignment, and how it is separated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.offsets import Offset
from .preparation import MATCHING_SIDE, binning_for, prepared_image
from .resampling import TiltAxis, nearest_quarters_deg

Floats64 = NDArray[np.float64]
# Voxels along (y, z, x).
Displacement = tuple[float, float, float]
NO_DISPLACEMENT: Displacement = (0.0, 0.0, 0.0)
# A displacement differs from the offset of the axis if the cosines of the tilts span this much.
_MIN_COSINE_SPAN = 0.02
# A field that has moved by no more than this part of its side stood still.
_STILL_PART = 32
# An axis turned by less cuts off what a shift may cut off as well; a part of the intensity above
# the background that is worth a word.
_TURNED_DEG, _CUT_OFF = 12.0, 0.05


def displacements(shifts_px: Floats64, axis: TiltAxis) -> Floats64:
    """How far an alignment moves each image, along and across the tilt axis.

    Parameters
    ----------
    shifts_px : ndarray
        Shape (n, 2), along rows and columns.
    axis : TiltAxis
        The tilt axis.

    Returns
    -------
    ndarray
        Shape (n, 2): along the axis, and across it with the offset of the axis, in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> displacements(np.array([[1.0, 2.0]]), TiltAxis(0.5))
    array([[1. , 2.5]])
    """
    down, beside = directions(axis.rotation_deg)
    return np.column_stack([shifts_px @ down, shifts_px @ beside + axis.offset_px])


def directions(rotation_deg: float) -> tuple[Floats64, Floats64]:
    """Unit vectors (rows, columns) in the recorded images: along the tilt axis, and across it."""
    rotation_rad = math.radians(rotation_deg)
    cosine, sine = math.cos(rotation_rad), math.sin(rotation_rad)
    return np.array([cosine, -sine]), np.array([sine, cosine])


def displacement_between(before: Floats64, after: Floats64, tilt_deg: Floats64) -> Displacement:
    """Displacement of the specimen between two alignments of the same images.

    Parameters
    ----------
    before, after : ndarray
        :func:`displacements` of both alignments, shape (n, 2), in pixels.
    tilt_deg : ndarray
        Angles in degrees, shape (n,).

    Returns
    -------
    tuple of float
        Along (y, z, x), in voxels. A larger displacement of an image moves the specimen in the
        opposite direction.

    Examples
    --------
    >>> import numpy as np
    >>> before = np.zeros((3, 2))
    >>> found = displacement_between(before, before + [2.0, 0.0], np.array([-1.0, 0.0, 1.0]))
    >>> [round(part) for part in found]
    [-2, 0, 0]
    """
    moved, tilts = after - before, np.deg2rad(tilt_deg)
    # The constant term across the axis is the displacement of the axis itself.
    terms = np.column_stack([np.cos(tilts), np.sin(tilts), np.ones_like(tilts)])
    if len(tilts) < terms.shape[1] or np.ptp(np.cos(tilts)) < _MIN_COSINE_SPAN:
        terms = terms[:, :1]
    across = np.linalg.lstsq(terms, moved[:, 1])[0]
    z = float(across[1]) if len(across) > 1 else 0.0
    return -float(moved[:, 0].mean()), -z, -float(across[0])


def shifts_about(
    axis: TiltAxis, shifts: Floats64, through_mass: TiltAxis, tilts: Floats64
) -> Floats64:
    """Shifts about a known axis, from shifts about the axis through the mass.

    Pairwise registration keeps the mass in place, which is right for an axis through the mass;
    about another axis the mass moves with the cosine of the tilt.
    """
    rotation_rad = np.deg2rad(axis.rotation_deg)
    lever_px = through_mass.offset_px - axis.offset_px
    across = lever_px * (1 - np.cos(np.deg2rad(tilts)))
    return shifts + across[:, None] * [np.sin(rotation_rad), np.cos(rotation_rad)]


def lowest_tilt_in_place(
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


def field_in_place(shifts: Floats64, axis: TiltAxis, tilts: Floats64, side_px: int) -> Floats64:
    """The same alignment of a field that wandered, with the middle of its places in the centre.

    So the volume holds what most images show, and not what that of the lowest tilt does. Shifts of
    a field that stayed within 1/32 of its side are left alone.
    """
    down, across = directions(axis.rotation_deg)
    moves = displacements(shifts, axis)
    if np.ptp(moves, axis=0).max() <= side_px / _STILL_PART:
        return shifts
    cosines = np.cos(np.deg2rad(tilts))
    along, beside = (np.median(moves[:, k]) for k in (0, 1))
    beside = beside * cosines / np.median(cosines)
    return shifts - along * down - beside[:, None] * across


def specimen_in_place(
    shifts: Floats64, axis: TiltAxis, tilts: Floats64, offsets: Sequence[Offset | None]
) -> Floats64:
    """The same alignment, with the specimen where a measured offset of zero would show it.

    Parameters
    ----------
    shifts : ndarray
        Shape (n, 2), in pixels, that leave the image of the lowest tilt in place.
    axis : TiltAxis
        The tilt axis.
    tilts : ndarray
        Angles in degrees, shape (n,).
    offsets : sequence of Offset or None
        Where the specimen was measured to be in each image, in pixels.

    Returns
    -------
    ndarray
        Shape (n, 2); the shifts as given if no offset is known. So the series of a run lie alike,
        wherever the field has wandered to when the lowest tilt was exposed.
    """
    known = [n for n, offset in enumerate(offsets) if offset is not None]
    if not known:
        return shifts
    down, across = directions(axis.rotation_deg)
    lowest = min(known, key=lambda n: abs(tilts[n]))
    offset = offsets[lowest]
    assert offset is not None
    left = np.array(offset.place) - shifts[lowest]
    left = left - axis.offset_px * across
    cosines = np.cos(np.deg2rad(tilts))
    beside = (left @ across) * cosines / cosines[lowest]
    return shifts + (left @ down) * down + beside[:, None] * across


def unexplained(shifts: Floats64, offsets: Sequence[Offset | None] | None) -> float:
    """Largest shift along rows or columns, less the offset where one was measured."""
    if offsets is None:
        return float(np.abs(shifts).max())
    places = np.array([(0.0, 0.0) if offset is None else offset.place for offset in offsets])
    return float(np.abs(shifts - places).max())


def interpolated_over_tilt(shifts: Floats64, tilts: Floats64, usable: NDArray[np.intp]) -> Floats64:
    """Shifts of all images; those of dark images are interpolated linearly over the tilt."""
    order = usable[np.argsort(tilts[usable], kind="stable")]
    known = np.full((len(tilts), 2), np.nan)
    known[usable] = shifts
    every = np.column_stack(
        [np.interp(tilts, tilts[order], known[order, axis]) for axis in range(2)]
    )
    every[usable] = shifts
    return every


def cut_off(image: NDArray[Any], shift_px: Floats64, axis: TiltAxis) -> tuple[str, ...]:
    """Tell how much of a specimen lies outside an image that is turned and keeps its shape.

    Parameters
    ----------
    image : ndarray
        Shape (rows, columns), as recorded.
    shift_px : ndarray
        Shape (2,), along rows and columns.
    axis : TiltAxis
        The tilt axis.
    """
    rows, columns = image.shape
    turned_deg = nearest_quarters_deg(axis.rotation_deg)
    exchanged = round(turned_deg / 90.0) % 2 == 1 and rows != columns
    if abs(axis.rotation_deg - turned_deg) < _TURNED_DEG and not exchanged:
        return ()
    binning = binning_for(image.shape, MATCHING_SIDE)
    level = np.maximum(prepared_image(image, binning), 0)
    y, x = ((np.arange(side) - (side - 1) / 2) * binning for side in level.shape)
    down, beside = directions(axis.rotation_deg)
    y, x = (y - shift_px[0])[:, None], (x - shift_px[1])[None, :]
    along, across = y * down[0] + x * down[1], y * beside[0] + x * beside[1] - axis.offset_px
    outside = (np.abs(along) > rows / 2) | (np.abs(across) > columns / 2)
    total = float(level.sum())
    share = float(level[outside].sum()) / total if total > 0 else 0.0
    if share < _CUT_OFF:
        return ()
    return (
        f"turned upright by {axis.rotation_deg:.1f} deg, {share:.0%} of the specimen lies outside "
        f"the {rows} x {columns} pixels of the aligned images and is cut off",
    )
