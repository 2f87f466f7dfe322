"""Projection matching: shifts, axis offset and rotation that make a tilt series agree with itself.

Reconstruction and registration alternate (Guersoy et al., Sci. Rep. 7, 11818, 2017): a few
iterations of a volume that continues from the previous round, then one Gauss-Newton step of all
shifts and of the rotation towards the reprojections. Three measures make it accurate despite the
missing wedge:

* The volume is not thicker than the specimen, for a thicker one can explain wrong shifts. The
  thickness is where a short SIRT leaves the smallest residual.
* The volume converges alike in coarse and fine detail (:mod:`.matching_volume`), and pixels beyond
  the recorded border have no weight.
* The volume takes up a rotation of the images as far as a volume can, by two shears in the plane
  of the axis. The step fits these shears together with the rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from ..core.progress import run_to_end
from ..core.weights import checked_weights
from ..tomography.reconstruction import margin_px
from .matching.gauss_newton import gauss_newton_step
from .matching.matching_volume import MatchingVolume
from .preparation import MATCHING_SIDE, binning_for, prepared_series
from .resampling import Splines, TiltAxis
from .thickness_search import ThicknessTrials, iter_find_thickness, shifted_in_z

Floats64 = NDArray[np.float64]

# Thicknesses of the volume that are tried first, in image widths; then around the best one; and
# the margin that is added to the best.
_THICKNESSES = (0.8, 0.6, 0.45, 0.34, 0.26, 0.2, 0.15)
_NEARBY = (1.3, 1.15, 1.0, 0.87, 0.75)
_THICKNESS_MARGIN = 1.05
# Iterations of a new volume, and of one that continues.
_FIRST, _FURTHER = 15, 3
# After so many rounds the thickness is searched again: coarse shifts need a thicker volume.
_SETTLING = 5
# The volume takes up more of a rotation than its shears.
_ROTATION_GAIN = 1.7
_MAX_ROTATION_STEP_RAD = math.radians(1.0)
# Gain of the offset when all shifts are free: the volume takes up a part of a wrong offset.
_OFFSET_GAIN = 1.7
# Settled: moves (rms, in binned pixels), offset and rotation of two successive rounds are smaller.
_SETTLED_ROUNDS = 2
_SETTLED_PX = 0.003
_SETTLED_OFFSET_PX = 0.006
_SETTLED_RAD = math.radians(0.004)
# An offset differs from a displacement if this part of it is orthogonal to all displacements.
_MIN_ORTHOGONAL = 0.01


@dataclass(frozen=True)
class ProjectionMatch:
    """Result of projection matching; lengths are pixels of the images given.

    Attributes
    ----------
    shifts_px : ndarray
        Float64, shape (n, 2), along rows and columns.
    axis : TiltAxis
        The tilt axis.
    residual : ndarray
        Relative residual of the volume after each round: norm of (images - projections) over
        the norm of the images.
    correlation : ndarray
        Shape (n,): correlation coefficient of each aligned image and its reprojection.
    thickness_px : int
        Thickness of the volume.
    last_move_px : float
        Root mean square of the last step of the shifts.
    settled : bool
        Whether the last rounds changed nothing to speak of.
    """

    shifts_px: Floats64
    axis: TiltAxis
    residual: Floats64
    correlation: Floats64
    thickness_px: int
    last_move_px: float
    settled: bool


def match_projections(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: TiltAxis,
    *,
    rounds: int = 30,
    axis_only: bool = False,
    weights: NDArray[Any] | None = None,
    range_deg: tuple[float, float] | None = None,
    progress: Callable[[float], None] | None = None,
) -> ProjectionMatch:
    """Refine an alignment until the images agree with the reprojections of their volume.

    Guersoy et al., Sci. Rep. 7, 11818, 2017; see the docstring of the module for what differs.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), as recorded; they are binned to at most 128 pixels a side.
    tilt_deg : ndarray
        Angles in degrees, shape (n,).
    shifts_px : ndarray
        Start of the shifts, shape (n, 2), along rows and columns.
    axis : TiltAxis
        Start of the tilt axis.
    rounds : int
        Most rounds; the refinement ends earlier when it has settled.
    axis_only : bool
        Keep the shifts and refine only offset and rotation of the axis.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1. A
        pixel of weight 0 has no influence.
    range_deg : tuple of float, optional
        Lowest and highest rotation of the axis; by default it is free.
    progress : callable, optional
        Called with the finished fraction after each round.

    Returns
    -------
    ProjectionMatch
        A displacement of the specimen (constant along the axis, a cosine and a sine of the tilt
        across it) cannot be separated from the shifts; it stays as it was at the start.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((24, 24, 24), np.float32)
    >>> volume[6:18, 9:15, 8:16] = 1
    >>> tilt_deg = np.arange(-60.0, 61.0, 20.0)
    >>> images, shifts = project(volume, tilt_deg), np.zeros((7, 2))
    >>> found = match_projections(images, tilt_deg, shifts, TiltAxis(), rounds=3)
    >>> bool(found.residual[-1] < 0.2)
    True
    """
    steps = iter_match_projections(
        images,
        tilt_deg,
        shifts_px,
        axis,
        rounds=rounds,
        axis_only=axis_only,
        weights=weights,
        range_deg=range_deg,
    )
    return run_to_end(steps, progress)


def iter_match_projections(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: TiltAxis,
    *,
    rounds: int = 30,
    axis_only: bool = False,
    weights: NDArray[Any] | None = None,
    range_deg: tuple[float, float] | None = None,
) -> Generator[float, None, ProjectionMatch]:
    """Do what :func:`match_projections` does in small pieces of work.

    Parameters
    ----------
    images, tilt_deg, shifts_px, axis, rounds, axis_only, weights, range_deg
        See :func:`match_projections`.

    Yields
    ------
    float
        Finished fraction after each piece of work.

    Returns
    -------
    ProjectionMatch
        As the generator's return value.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((3, 16, 16))
    >>> next(iter_match_projections(images, np.arange(3.0), np.zeros((3, 2)), TiltAxis()))
    0.0
    """
    weights = checked_weights(weights, images.shape)
    refinement = _Refinement(
        images,
        tilt_deg,
        shifts_px,
        axis,
        axis_only=axis_only,
        weights=weights,
        range_deg=range_deg,
    )
    yield 0.0
    rounds = max(1, rounds)
    for number in range(rounds):
        if number in (0, _SETTLING):
            yield from refinement.find_thickness(number / rounds)
        yield from refinement.improve_volume(number / rounds)
        settled = refinement.improve_alignment()
        if refinement.count_settled(settled and number > _SETTLING) == _SETTLED_ROUNDS:
            break
        yield (number + 1) / rounds
    yield 1.0
    return refinement.match()


class _Refinement:
    """State of the refinement; all lengths are binned pixels."""

    def __init__(
        self,
        images: NDArray[Any],
        tilt_deg: NDArray[Any],
        shifts_px: NDArray[Any],
        axis: TiltAxis,
        *,
        axis_only: bool,
        weights: Floats | None,
        range_deg: tuple[float, float] | None,
    ) -> None:
        self._binning = binning_for(images.shape[1:], MATCHING_SIDE)
        small, shares = prepared_series(images, weights, self._binning)
        self._tilts = np.asarray(tilt_deg, np.float64)
        self._splines = Splines(small, shares)
        self._trials = ThicknessTrials(self._splines, self._tilts)
        self._given_px, self._axis_only = np.asarray(shifts_px, np.float64), axis_only
        self._shifts = self._given_px / self._binning
        self._offset = axis.offset_px / self._binning
        self._rotation_rad = math.radians(axis.rotation_deg)
        self._range_rad = None if range_deg is None else np.deg2rad(range_deg)
        self._component = _offset_component(self._tilts)
        self._volume: MatchingVolume | None = None
        self._thickness = float(self._splines.shape[1])
        self._residuals: list[float] = []
        self._last_move, self._settled_rounds = 0.0, 0
        self._aligned = self._reprojected = small
        self._valid = np.ones(small.shape, np.bool_)

    @property
    def _axis(self) -> TiltAxis:
        return TiltAxis(self._offset, math.degrees(self._rotation_rad))

    def find_thickness(self, done: float) -> Generator[float, None, None]:
        """Search thickness and height of the volume; the next one begins from nothing."""
        factors = _THICKNESSES if self._volume is None else _NEARBY
        thicknesses = [self._thickness * factor for factor in factors]
        self._thickness, height = yield from iter_find_thickness(
            self._trials, self._shifts, self._axis, thicknesses, done
        )
        self._shifts = shifted_in_z(self._shifts, self._axis, self._tilts, height)
        self._volume = None

    def improve_volume(self, done: float) -> Generator[float, None, None]:
        """Resample the images and fit the volume to them."""
        self._aligned = self._splines.sampled(self._shifts, self._axis)
        self._valid = self._splines.valid_mask(self._shifts, self._axis)
        if self._volume is None:
            tall, wide = self._splines.shape
            thickness = min(wide, math.ceil(self._thickness * _THICKNESS_MARGIN))
            beside = margin_px(self._valid)
            self._volume = MatchingVolume(self._tilts, (tall, wide), thickness, beside)
            for _ in range(_FIRST // _FURTHER - 1):
                self._volume.fit(self._aligned, self._valid, _FURTHER)
                yield done
        self._residuals.append(self._volume.fit(self._aligned, self._valid, _FURTHER))

    def improve_alignment(self) -> bool:
        """Step towards the reprojections; returns whether the step is negligible."""
        assert self._volume is not None
        self._reprojected, *sheared = self._volume.projections()
        tilts = self._tilts if self._axis_only else None
        moves, slide, rotation = gauss_newton_step(
            self._aligned, self._reprojected, sheared, self._valid, tilts
        )
        if not self._axis_only:
            part = float(self._component @ moves[:, 1])
            moves[:, 1] += (_OFFSET_GAIN - 1) * part * self._component
            slide = _OFFSET_GAIN * part / (float(self._component.sum()) or 1.0)
        else:
            self._offset += slide
        cosine, sine = math.cos(self._rotation_rad), math.sin(self._rotation_rad)
        self._shifts = self._shifts + np.column_stack(
            [moves[:, 0] * cosine + moves[:, 1] * sine, moves[:, 1] * cosine - moves[:, 0] * sine]
        )
        self._rotation_rad += min(
            max(_ROTATION_GAIN * rotation, -_MAX_ROTATION_STEP_RAD), _MAX_ROTATION_STEP_RAD
        )
        if self._range_rad is not None:
            before, lowest, highest = self._rotation_rad, *self._range_rad
            self._rotation_rad = float(min(max(before, lowest), highest))
            # At its bound the rotation is settled.
            rotation = rotation if self._rotation_rad == before else 0.0
        self._last_move = float(np.sqrt((moves**2).sum(axis=1).mean()))
        return (
            self._last_move < _SETTLED_PX
            and abs(slide) < _SETTLED_OFFSET_PX
            and abs(rotation) < _SETTLED_RAD
        )

    def count_settled(self, settled: bool) -> int:
        """Number of successive rounds that have settled."""
        self._settled_rounds = self._settled_rounds + 1 if settled else 0
        return self._settled_rounds

    def match(self) -> ProjectionMatch:
        """The result in pixels of the images given."""
        assert self._volume is not None
        return ProjectionMatch(
            self._given_px if self._axis_only else self._shifts * self._binning,
            TiltAxis(self._offset * self._binning, math.degrees(self._rotation_rad)),
            np.array(self._residuals),
            _correlations(self._aligned * self._valid, self._reprojected * self._valid),
            self._volume.thickness * self._binning,
            self._last_move * self._binning,
            self._settled_rounds >= _SETTLED_ROUNDS,
        )


def _offset_component(tilts: Floats64) -> Floats64:
    """Part of an axis offset that is orthogonal to all displacements; norm 1, or all zeros."""
    tilt_rad = np.deg2rad(tilts)
    displaced = np.column_stack([np.cos(tilt_rad), np.sin(tilt_rad)])
    even = np.ones(len(tilts))
    orthogonal = even - displaced @ np.linalg.lstsq(displaced, even)[0]
    norm = float(np.linalg.norm(orthogonal))
    significant = norm > _MIN_ORTHOGONAL * len(tilts) ** 0.5
    return orthogonal / norm if significant else np.zeros(len(tilts))


def _correlations(one: Floats, other: Floats) -> Floats64:
    count = len(one)
    a = (one - one.mean(axis=(1, 2), keepdims=True)).reshape(count, -1).astype(np.float64)
    b = (other - other.mean(axis=(1, 2), keepdims=True)).reshape(count, -1).astype(np.float64)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(count), where=norm > 0)
