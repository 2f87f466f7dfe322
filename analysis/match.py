"""Projection matching: shifts, axis offset and rotation that make a tilt series agree with itself.

Reconstruction and registration take turns (Guersoy et al., Sci. Rep. 7, 11818, 2017): a few
iterations of SIRT from the volume reached before, then one Gauss-Newton step of all shifts and
the rotation towards the reprojections. Two things make it exact enough for a missing wedge. The
volume is no thicker than the specimen, or it swallows wrong shifts: the thickness is where a short
SIRT leaves the least misfit. And the step knows that a rotation of the images has been taken up
by the volume as far as a volume can: its two shears in the plane of the axis are fitted beside it.
"""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .project import LANES, Floats, in_threads, project
from .reconstruct import binned, sirt
from .warp import Axis, Splines

Floats64 = NDArray[np.float64]

# Pixels along the longer side at which series are matched.
MATCHING_SIDE = 128
_BLUR_PX = 0.5
_BACKGROUND_PERCENTILE = 10.0
# Thicknesses of the volume that are tried, in widths, and what is added to the best.
_THICKNESSES = (1.0, 0.75, 0.6, 0.5, 0.43, 0.37, 0.32, 0.28, 0.24, 0.2, 0.17, 0.14)
_THICKNESS_MARGIN = 1.2
# The middle of the specimen is sought within this part of its thickness.
_MIDDLES = 0.3
_TRIAL_ITERATIONS = 10
# The volume takes up more of a turn than its shears.
_TURN_GAIN = 1.7
_LARGEST_TURN_RAD = math.radians(1.0)
# Per image: moves along y and x', and gain; together: rotation and the shears of the volume.
_LOCAL, _SHARED = 3, 3
_TERMS = _LOCAL + _SHARED + 1


@dataclass(frozen=True)
class Match:
    """Outcome of projection matching, in pixels of the images given.

    Attributes
    ----------
    shifts_px : ndarray
        Float64, shape (n, 2), along rows and columns.
    axis : Axis
        The tilt axis.
    misfit : ndarray
        Misfit of the volume after each round (see `reconstruct.Reconstruction`).
    correlation : ndarray
        Shape (n,): correlation coefficient of each aligned image and its reprojection.
    thickness_px : int
        Thickness given to the volume.
    last_move_px : float
        Root mean square of the last step of the shifts.
    """

    shifts_px: Floats64
    axis: Axis
    misfit: Floats64
    correlation: Floats64
    thickness_px: int
    last_move_px: float


def prepared(images: NDArray[Any], binning: int, blur_px: float = _BLUR_PX) -> Floats:
    """Images binned, blurred, freed from their background and brought to a mean of 1.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    binning : int
        Side of the squares that are averaged.
    blur_px : float
        Standard deviation of the Gaussian, in binned pixels.

    Returns
    -------
    ndarray
        Float32, shape (n, rows // binning, columns // binning).
    """
    first = binned(images[0], binning)
    out = np.empty((len(images), *first.shape), np.float32)

    def one(n: int) -> None:
        small = binned(images[n], binning) if binning > 1 else images[n].astype(np.float32)
        if blur_px > 0:
            small = gaussian_filter(small, blur_px, mode="nearest")
        out[n] = small - np.percentile(small, _BACKGROUND_PERCENTILE)

    in_threads(one, range(len(images)))
    mean = float(out.mean())
    return out / np.float32(mean) if mean > 0 else out


def binning_for(shape: tuple[int, ...], side: int) -> int:
    """Smallest binning, a power of two, that brings the longer side of an image to `side`."""
    binning = 1
    while max(shape) // binning > side:
        binning *= 2
    return binning


def match_projections(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: Axis,
    *,
    rounds: int = 40,
    axis_only: bool = False,
    report: Callable[[float], None] | None = None,
) -> Match:
    """Refine an alignment until images and reprojections of their volume agree.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), as recorded; they are binned to `MATCHING_SIDE`.
    tilt_deg : ndarray
        Angles, shape (n,).
    shifts_px : ndarray
        Shape (n, 2), where to start.
    axis : Axis
        Where to start.
    rounds : int
        How often volume and shifts are improved.
    axis_only : bool
        Leave the shifts as they are and refine only offset and rotation of the axis.
    report : callable, optional
        Is told the finished fraction after each round.

    Returns
    -------
    Match
        What a specimen's own displacement does to the images (the same along the axis, and a
        cosine and a sine of the tilt across) cannot be told from shifts and is left as it is.
    """
    binning = binning_for(images.shape[1:], MATCHING_SIDE)
    small = prepared(images, binning)
    tilts = np.asarray(tilt_deg, np.float64)
    wide = small.shape[2]
    splines = Splines(small)
    shifts = np.asarray(shifts_px, np.float64) / binning
    offset, turn_rad = axis.offset_px / binning, math.radians(axis.rotation_deg)
    allowed = _allowed_moves(tilts, axis_only)
    settle = max(1, rounds // 5)
    misfit: list[float] = []
    height, volume, last_move = wide, None, 0.0
    aligned = reprojected = small
    for number in range(rounds):
        here = Axis(offset, math.degrees(turn_rad))
        if number in (0, settle):
            # What was thick enough for rough shifts is too thick for better ones.
            height, middle = _slab(splines, shifts, here, tilts)
            shifts, volume = lifted(shifts, here, tilts, middle), None
        aligned = splines.sampled(shifts, here)
        made = sirt(
            aligned, tilts, 20 if volume is None else 5,
            slice_shape=(height, wide), initial=volume,
        )  # fmt: skip
        volume = made.volume
        misfit.append(float(made.misfit[-1]))
        reprojected = project(volume, tilts, wide)
        total = _totals(shifts, offset, turn_rad)
        moves, turn = _step(aligned, reprojected, volume, tilts, total, allowed)
        cosine, sine = math.cos(turn_rad), math.sin(turn_rad)
        if axis_only:
            offset += float(moves[-1, 0])
            moves = moves[:-1]
        shifts = shifts + np.column_stack(
            [moves[:, 0] * cosine + moves[:, 1] * sine, moves[:, 1] * cosine - moves[:, 0] * sine]
        )
        turn_rad += min(max(_TURN_GAIN * turn, -_LARGEST_TURN_RAD), _LARGEST_TURN_RAD)
        last_move = float(np.sqrt((moves**2).sum(axis=1).mean()))
        if report is not None:
            report((number + 1) / rounds)
    return Match(
        np.asarray(shifts_px, np.float64) if axis_only else shifts * binning,
        Axis(offset * binning, math.degrees(turn_rad)),
        np.array(misfit),
        _correlations(aligned, reprojected),
        height * binning,
        last_move * binning,
    )


def _totals(shifts: Floats64, offset: float, turn_rad: float) -> Floats64:
    """How far each image is moved in all."""
    return shifts + offset * np.array([math.sin(turn_rad), math.cos(turn_rad)])


def _slab(splines: Splines, shifts: Floats64, axis: Axis, tilts: Floats64) -> tuple[int, float]:
    """Thickness of the volume that explains the images best after a few iterations, and a bit.

    Returns
    -------
    thickness : int
        In voxels.
    middle : float
        Where the specimen's middle lies along z; displacing it there is what the slab expects.
    """
    tall, wide = splines.shape
    # Two blocks of slices tell enough.
    rows = np.unique(np.linspace(0, tall - 1, min(tall, 2 * LANES)).astype(int))

    def misfit(thickness: int, middle: float) -> float:
        aligned = splines.sampled(lifted(shifts, axis, tilts, middle), axis)[:, rows]
        made = sirt(aligned, tilts, _TRIAL_ITERATIONS, slice_shape=(thickness, wide))
        return float(made.misfit[-1])

    heights = sorted({max(4, round(wide * t)) for t in _THICKNESSES}, reverse=True)
    best, middle = wide, 0.0
    for _ in range(2):
        best = min(heights, key=lambda h: misfit(h, middle))
        middles = middle + best * np.linspace(-_MIDDLES, _MIDDLES, 5)
        if best < wide:
            middle = _lowest_of(middles, np.array([misfit(best, float(m)) for m in middles]))
        heights = sorted({max(4, min(wide, round(best * f))) for f in (1.1, 1.0, 0.9, 0.8)})
    return min(wide, math.ceil(best * _THICKNESS_MARGIN)), middle


def _lowest_of(places: Floats64, values: Floats64) -> float:
    """Place of the lowest value, between places by a parabola."""
    k = min(max(int(np.argmin(values)), 1), len(values) - 2)
    before, here, after = values[k - 1 : k + 2]
    curvature = before - 2 * here + after
    step = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return float(places[k] + min(max(step, -1.0), 1.0) * (places[1] - places[0]))


def lifted(shifts: Floats64, axis: Axis, tilts: Floats64, height: float) -> Floats64:
    """Shifts with which the volume comes to lie lower by `height` along z."""
    turn_rad = math.radians(axis.rotation_deg)
    across = height * np.sin(np.deg2rad(tilts))
    return shifts + across[:, None] * [math.sin(turn_rad), math.cos(turn_rad)]


def _allowed_moves(tilts: Floats64, axis_only: bool) -> Floats64:
    """Columns of moves that may be made: unknowns are (y, x', gain) of each image, then shared.

    With `axis_only` the moves of all images follow from the axis's offset (first column) and a
    displacement of the specimen.
    """
    count = len(tilts)
    every = np.eye(_LOCAL * count + _SHARED)
    if not axis_only:
        return every
    tilt_rad = np.deg2rad(tilts)
    common = np.zeros((_LOCAL * count + _SHARED, 4))
    common[1 : _LOCAL * count : _LOCAL, 0] = 1.0
    common[1 : _LOCAL * count : _LOCAL, 1] = np.cos(tilt_rad)
    common[1 : _LOCAL * count : _LOCAL, 2] = np.sin(tilt_rad)
    common[0 : _LOCAL * count : _LOCAL, 3] = 1.0
    gains = every[:, 2 : _LOCAL * count : _LOCAL]
    return np.concatenate([common, gains, every[:, _LOCAL * count :]], axis=1)


def _step(
    aligned: Floats,
    reprojected: Floats,
    volume: Floats,
    tilts: Floats64,
    totals: Floats64,
    allowed: Floats64,
) -> tuple[Floats64, float]:
    """One Gauss-Newton step: moves (y, x') in the aligned frame and the turn in radians.

    With a restricted set of moves a last row holds the first restricted unknown, the offset.
    """
    count, tall, wide = aligned.shape
    y = (np.arange(tall) - (tall - 1) / 2).astype(np.float32)
    x = (np.arange(wide) - (wide - 1) / 2).astype(np.float32)
    down = np.gradient(volume, axis=0) if tall > 1 else np.zeros_like(volume)
    shear_y = project(down * x[None, None, :], tilts, wide)
    shear_x = project(np.gradient(volume, axis=2) * y[:, None, None], tilts, wide)
    grams = np.zeros((count, _TERMS, _TERMS))
    # Beyond the recorded border nothing is compared.
    margins = np.minimum(np.ceil(np.abs(totals)).astype(int) + 2, [tall // 4, wide // 4])

    def one(n: int) -> None:
        _gram(
            aligned[n], reprojected[n], shear_y[n], shear_x[n],
            max(1, margins[n, 0]), max(1, margins[n, 1]), grams[n],
        )  # fmt: skip

    in_threads(one, range(count))
    grams += np.tril(grams, -1).transpose(0, 2, 1)
    size = _LOCAL * count + _SHARED
    normal, right = np.zeros((size, size)), np.zeros(size)
    for n in range(count):
        own = slice(_LOCAL * n, _LOCAL * (n + 1))
        normal[own, own] = grams[n, :_LOCAL, :_LOCAL]
        normal[own, -_SHARED:] = grams[n, :_LOCAL, _LOCAL:-1]
        normal[-_SHARED:, own] = grams[n, _LOCAL:-1, :_LOCAL]
        normal[-_SHARED:, -_SHARED:] += grams[n, _LOCAL:-1, _LOCAL:-1]
        right[own] = grams[n, :_LOCAL, -1]
        right[-_SHARED:] += grams[n, _LOCAL:-1, -1]
    restricted = allowed.T @ normal @ allowed
    scale = np.sqrt(np.maximum(np.diag(restricted), 1e-12 * np.diag(restricted).max() + 1e-30))
    solved = np.linalg.lstsq(
        restricted / np.outer(scale, scale), allowed.T @ right / scale, rcond=1e-6
    )[0]
    unknowns = solved / scale
    moves = (allowed @ unknowns)[: _LOCAL * count].reshape(count, _LOCAL)[:, :2]
    if allowed.shape[0] != allowed.shape[1]:
        # The offset is kept apart from what moves the specimen.
        moves = moves - [0.0, unknowns[0]]
        moves = np.vstack([moves, [unknowns[0], 0.0]])
    return moves, float(unknowns[-_SHARED])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _gram(aligned, reprojected, shear_y, shear_x, margin_y, margin_x, gram):
    """Lower triangle of the products of all terms of one image; the last is the difference."""
    tall, wide = aligned.shape
    terms = np.empty(7)
    for i in range(margin_y, tall - margin_y):
        y = i - 0.5 * (tall - 1)
        for j in range(margin_x, wide - margin_x):
            x = j - 0.5 * (wide - 1)
            # Slopes of the reprojection alone: those of the image share its noise.
            terms[0] = 0.5 * (reprojected[i + 1, j] - reprojected[i - 1, j])
            terms[1] = 0.5 * (reprojected[i, j + 1] - reprojected[i, j - 1])
            terms[2] = reprojected[i, j]
            terms[3] = terms[0] * x - terms[1] * y
            terms[4] = shear_y[i, j]
            terms[5] = shear_x[i, j]
            terms[6] = reprojected[i, j] - aligned[i, j]
            for a in range(7):
                for b in range(a + 1):
                    gram[a, b] += terms[a] * terms[b]


def _correlations(one: Floats, other: Floats) -> Floats64:
    count = len(one)
    a = (one - one.mean(axis=(1, 2), keepdims=True)).reshape(count, -1).astype(np.float64)
    b = (other - other.mean(axis=(1, 2), keepdims=True)).reshape(count, -1).astype(np.float64)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(count), where=norm > 0)
