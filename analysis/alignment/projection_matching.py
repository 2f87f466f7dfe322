"""Projection matching: shifts, axis offset and rotation that make a tilt series agree with itself.

Reconstruction and registration take turns (Guersoy et al., Sci. Rep. 7, 11818, 2017): a few
iterations from the volume reached before, then one Gauss-Newton step of all shifts and the
rotation towards the reprojections. Three things make it exact enough for a missing wedge. The
volume is no thicker than the specimen, or it swallows wrong shifts: the thickness is where a short
SIRT leaves the least misfit. It converges fast in all detail (`slab`), and pixels beyond the
recorded border ask nothing of it. And the step knows that a rotation of the images has been taken
up by the volume as far as a volume can: its two shears in the plane of the axis are fitted beside.
"""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, in_threads
from ..core.progress import run_to_end
from ..tomography.iterative import sirt
from ..tomography.projector import LANES
from .matching_volume import MatchingVolume
from .preparation import MATCHING_SIDE, binning_for, prepared
from .resampling import Axis, Splines

Floats64 = NDArray[np.float64]
_T = TypeVar("_T")

# Thicknesses of the volume that are tried first, in widths; then around the best; and what is
# added to it.
_THICKNESSES = (0.8, 0.6, 0.45, 0.34, 0.26, 0.2, 0.15)
_NEARBY = (1.3, 1.15, 1.0, 0.87, 0.75)
_THICKNESS_MARGIN = 1.05
# The middle of the specimen is sought within this part of its thickness.
_MIDDLES = (-0.3, -0.15, 0.0, 0.15, 0.3)
_TRIAL_ITERATIONS = 8
# Iterations of a volume from nothing, and from the one before.
_FIRST, _FURTHER = 15, 3
# After these rounds the thickness is found again: what was thick enough for rough shifts is too
# thick for better ones.
_SETTLING = 5
# The volume takes up more of a turn than its shears.
_TURN_GAIN = 1.7
_LARGEST_TURN_RAD = math.radians(1.0)
# Gain of the offset when all shifts are free: the volume takes up much of a wrong one.
_OFFSET_GAIN = 1.7
# Settled: moves (rms, in matched pixels), offset and turn of two rounds on end are below.
_SETTLED_PX = 0.003
_SETTLED_OFFSET_PX = 0.006
_SETTLED_RAD = math.radians(0.004)
# Part of the largest eigenvalue below which what is common to all images is left alone.
_LEAST_VALUE = 1e-7
# An offset is told from a displacement if this part of it is beside all displacements.
_LEAST_BESIDE = 0.01
# Per image: moves along y and x', and gain; together: rotation and the shears of the volume.
_LOCAL, _SHARED = 3, 3
_TERMS = _LOCAL + _SHARED + 1


@dataclass(frozen=True)
class ProjectionMatch:
    """Outcome of projection matching, in pixels of the images given.

    Attributes
    ----------
    shifts_px : ndarray
        Float64, shape (n, 2), along rows and columns.
    axis : Axis
        The tilt axis.
    residual : ndarray
        Of the volume after each round: norm of (images - projections) over that of the images.
    correlation : ndarray
        Shape (n,): correlation coefficient of each aligned image and its reprojection.
    thickness_px : int
        Thickness given to the volume.
    last_move_px : float
        Root mean square of the last step of the shifts.
    """

    shifts_px: Floats64
    axis: Axis
    residual: Floats64
    correlation: Floats64
    thickness_px: int
    last_move_px: float


def match_projections(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: Axis,
    *,
    rounds: int = 30,
    axis_only: bool = False,
    report: Callable[[float], None] | None = None,
) -> ProjectionMatch:
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
        How often volume and shifts are improved at most; it ends when they are settled.
    axis_only : bool
        Leave the shifts as they are and refine only offset and rotation of the axis.
    report : callable, optional
        Is told the finished fraction after each round.

    Returns
    -------
    ProjectionMatch
        What a specimen's own displacement does to the images (the same along the axis, and a
        cosine and a sine of the tilt across) cannot be told from shifts and is left as it is.
    """
    pieces = iter_match_projections(
        images, tilt_deg, shifts_px, axis, rounds=rounds, axis_only=axis_only
    )
    return run_to_end(pieces, report)


def iter_match_projections(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: Axis,
    *,
    rounds: int = 30,
    axis_only: bool = False,
) -> Generator[float, None, ProjectionMatch]:
    """:func:`match_projections` in small pieces: yields the finished fraction after each."""
    binning = binning_for(images.shape[1:], MATCHING_SIDE)
    small = prepared(images, binning)
    tilts = np.asarray(tilt_deg, np.float64)
    tall, wide = small.shape[1:]
    splines = Splines(small)
    trials = _Trials(splines, tilts)
    yield 0.0
    shifts = np.asarray(shifts_px, np.float64) / binning
    offset, turn_rad = axis.offset_px / binning, math.radians(axis.rotation_deg)
    shape = _offset_component(tilts)
    constant = float(shape.sum()) or 1.0
    misfit: list[float] = []
    slab, last_move, quiet = None, 0.0, 0
    aligned = reprojected = small
    seen = np.ones(small.shape, np.bool_)
    best = float(wide)
    rounds = max(1, rounds)
    for number in range(rounds):
        here = Axis(offset, math.degrees(turn_rad))
        if number in (0, _SETTLING):
            factors = _THICKNESSES if slab is None else _NEARBY
            best, middle = yield from _slab(
                trials, shifts, here, [best * f for f in factors], number / rounds
            )
            shifts, slab = shifted_in_z(shifts, here, tilts, middle), None
        aligned = splines.sampled(shifts, here)
        seen = splines.valid_mask(shifts, here)
        if slab is None:
            slab = MatchingVolume(
                tilts, (tall, wide), min(wide, math.ceil(best * _THICKNESS_MARGIN))
            )
            for _ in range(_FIRST // _FURTHER - 1):
                slab.fit(aligned, seen, _FURTHER)
                yield number / rounds
        misfit.append(slab.fit(aligned, seen, _FURTHER))
        reprojected, *sheared = slab.projections()
        moves, slide, turn = _step(
            aligned, reprojected, sheared, seen, tilts if axis_only else None
        )
        if not axis_only:
            part = float(shape @ moves[:, 1])
            moves[:, 1] += (_OFFSET_GAIN - 1) * part * shape
            slide = _OFFSET_GAIN * part / constant
        else:
            offset += slide
        cosine, sine = math.cos(turn_rad), math.sin(turn_rad)
        shifts = shifts + np.column_stack(
            [moves[:, 0] * cosine + moves[:, 1] * sine, moves[:, 1] * cosine - moves[:, 0] * sine]
        )
        turn_rad += min(max(_TURN_GAIN * turn, -_LARGEST_TURN_RAD), _LARGEST_TURN_RAD)
        last_move = float(np.sqrt((moves**2).sum(axis=1).mean()))
        calm = (
            last_move < _SETTLED_PX and abs(slide) < _SETTLED_OFFSET_PX and abs(turn) < _SETTLED_RAD
        )
        quiet = quiet + 1 if calm and number > _SETTLING else 0
        if quiet == 2:
            break
        yield (number + 1) / rounds
    yield 1.0
    assert slab is not None
    return ProjectionMatch(
        np.asarray(shifts_px, np.float64) if axis_only else shifts * binning,
        Axis(offset * binning, math.degrees(turn_rad)),
        np.array(misfit),
        _correlations(aligned * seen, reprojected * seen),
        slab.thickness * binning,
        last_move * binning,
    )


class _Trials:
    """Short reconstructions of a few slices, to compare what an alignment is worth."""

    def __init__(self, splines: Splines, tilts: Floats64) -> None:
        tall, self.wide = splines.shape
        rows = np.unique(np.linspace(0, tall - 1, min(tall, 2 * LANES)).astype(int))
        self._splines, self._tilts, self._rows = splines, tilts, rows

    def residual(
        self, shifts: Floats64, axis: Axis, thicknesses: Sequence[int], middle: float
    ) -> Iterator[float]:
        """Yield the misfits that are left of volumes of some thicknesses at one height."""
        lower = shifted_in_z(shifts, axis, self._tilts, middle)
        aligned = self._splines.sampled(lower, axis, self._rows)
        for thickness in thicknesses:
            shape = (thickness, self.wide)
            made = sirt(aligned, self._tilts, _TRIAL_ITERATIONS, slice_shape=shape)
            yield float(made.residual[-1])


def _slab(
    trials: _Trials, shifts: Floats64, axis: Axis, thicknesses: Sequence[float], done: float
) -> Generator[float, None, tuple[float, float]]:
    """Thickness of the volume that explains the images best, and where its middle lies along z.

    Displaced by the middle, the specimen lies where the slab expects it. Yields `done`.
    """
    heights = sorted({min(trials.wide, max(4, round(t))) for t in thicknesses}, reverse=True)
    found: list[float] = []
    for misfit in trials.residual(shifts, axis, heights, 0.0):
        found.append(misfit)
        yield done
    best = float(heights[int(np.argmin(found))])
    if best >= trials.wide:
        return best, 0.0
    if len(heights) == len(thicknesses):
        # Their ratios are about the same.
        best = math.exp(_lowest_of(np.log(heights), np.array(found)))
    found = []
    for part in _MIDDLES:
        found.extend(trials.residual(shifts, axis, [round(best)], part * best))
        yield done
    return best, _lowest_of(best * np.array(_MIDDLES), np.array(found))


def _lowest_of(places: Floats64, values: Floats64) -> float:
    """Place of the lowest value, between places by a parabola."""
    k = min(max(int(np.argmin(values)), 1), len(values) - 2)
    before, here, after = values[k - 1 : k + 2]
    curvature = before - 2 * here + after
    step = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return float(places[k] + min(max(step, -1.0), 1.0) * (places[1] - places[0]))


def shifted_in_z(shifts: Floats64, axis: Axis, tilts: Floats64, height: float) -> Floats64:
    """Shifts with which the volume comes to lie lower by `height` along z."""
    turn_rad = math.radians(axis.rotation_deg)
    across = height * np.sin(np.deg2rad(tilts))
    return shifts + across[:, None] * [math.sin(turn_rad), math.cos(turn_rad)]


def _offset_component(tilts: Floats64) -> Floats64:
    """What an offset of the axis is beside all displacements of the specimen; norm 1 or 0."""
    tilt_rad = np.deg2rad(tilts)
    displaced = np.column_stack([np.cos(tilt_rad), np.sin(tilt_rad)])
    even = np.ones(len(tilts))
    beside = even - displaced @ np.linalg.lstsq(displaced, even)[0]
    norm = float(np.linalg.norm(beside))
    return beside / norm if norm > _LEAST_BESIDE * len(tilts) ** 0.5 else np.zeros(len(tilts))


def _step(
    aligned: Floats,
    reprojected: Floats,
    sheared: Sequence[Floats],
    seen: NDArray[np.bool_],
    tilts: Floats64 | None,
) -> tuple[Floats64, float, float]:
    """One Gauss-Newton step: moves (y, x') in the aligned frame, offset, and turn in radians.

    With `tilts` (in degrees) no image moves on its own: there are the axis's offset and a
    displacement of the specimen. The offset is 0 otherwise.
    """
    count = len(aligned)
    grams = np.zeros((count, _TERMS, _TERMS))

    def one(n: int) -> None:
        _gram(aligned[n], reprojected[n], sheared[0][n], sheared[1][n], seen[n], grams[n])

    in_threads(one, range(count))
    grams += np.tril(grams, -1).transpose(0, 2, 1)
    if tilts is None:
        local, shared = _solved(grams, _LOCAL)
        return local[:, :2], 0.0, float(shared[0])
    # An image's own is its gain; common are the offset, the displacement, turn and shears.
    cosines, sines = np.cos(np.deg2rad(tilts)), np.sin(np.deg2rad(tilts))
    terms = np.zeros((count, 5 + _SHARED + 1, _TERMS))
    terms[:, 0, 2] = 1.0
    terms[:, 1, 1], terms[:, 2, 1], terms[:, 3, 1] = 1.0, cosines, sines
    terms[:, 4, 0] = 1.0
    terms[:, 5:, _LOCAL:] = np.eye(_SHARED + 1)
    _, common = _solved(terms @ grams @ terms.transpose(0, 2, 1), 1)
    offset, cosine, sine, down, turn = (float(value) for value in common[:5])
    moves = np.column_stack([np.full(count, down), cosine * cosines + sine * sines])
    return moves, offset, turn


def _solved(grams: Floats64, own: int) -> tuple[Floats64, Floats64]:
    """Least squares from the products of the terms of each image; the last is the difference.

    The first `own` terms are each image's own (shape (n, own)), the rest common to all; the own
    ones are eliminated image by image.
    """
    # An image that shows nothing moves nothing.
    inverse = np.linalg.pinv(grams[:, :own, :own], rcond=1e-9, hermitian=True)
    beside, right = grams[:, :own, own:-1], grams[:, :own, -1:]
    common = grams[:, own:-1, own:-1].sum(axis=0)
    scale = np.sqrt(np.maximum(np.diag(common), 1e-30))
    reduced = common - (beside.transpose(0, 2, 1) @ inverse @ beside).sum(axis=0)
    wanted = grams[:, own:-1, -1].sum(axis=0)
    wanted = wanted - (beside.transpose(0, 2, 1) @ inverse @ right).sum(axis=0)[:, 0]
    shared = (
        np.linalg.pinv(reduced / np.outer(scale, scale), rcond=_LEAST_VALUE, hermitian=True)
        @ (wanted / scale)
        / scale
    )
    return (inverse @ (right - beside @ shared[:, None]))[:, :, 0], shared


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _gram(aligned, reprojected, shear_y, shear_x, seen, gram):
    """Lower triangle of the products of all terms of one image; the last is the difference."""
    tall, wide = aligned.shape
    terms = np.empty(7)
    for i in range(1, tall - 1):
        y = i - 0.5 * (tall - 1)
        for j in range(1, wide - 1):
            # Beyond the recorded border nothing is compared.
            if not seen[i, j]:
                continue
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
