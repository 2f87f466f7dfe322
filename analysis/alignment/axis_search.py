"""Direction of the tilt axis over the full circle, from a coarse volume for each direction.

A series agrees with itself only about its own axis. The images are binned to 32 pixels a side and
turned upright about each of some directions; a thin volume is fitted to each, and the direction
with the smallest residual is the axis, to some degrees. Projection matching refines it. About one
direction, a tilt and its negative give mirrored volumes that fit alike: no image tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from ..tomography.projector import LANES
from .matching.matching_volume import MatchingVolume
from .preparation import prepared_series
from .registration import centre_of_mass
from .resampling import Splines, TiltAxis

Floats64 = NDArray[np.float64]

# Side of the images; each direction fills one block of the projector.
_SIDE = LANES
_STEP_DEG = 20.0
_MOST_VIEWS = 15
_BLUR_PX = 0.7
_ITERATIONS = 6
_THICKNESS = _SIDE // 2
# Directions nearer to one another than this belong to one minimum.
_APART_DEG = 30.0
# The axis is given as an angle above this one and up to 180 deg more.
_LOWEST_DEG = -89.5


@dataclass(frozen=True)
class DirectionSearch:
    """How well a series agrees with itself about axes of several directions.

    Attributes
    ----------
    directions_deg : ndarray
        Shape (m,): rotations of the axis that were tried, see :mod:`.resampling`.
    misfit : ndarray
        Shape (m,): relative residual of the volume about each.
    """

    directions_deg: Floats64
    misfit: Floats64

    @property
    def best_deg(self) -> float:
        """Direction of the smallest misfit in degrees, interpolated between those tried."""
        regular = np.arange(len(self.misfit)) < _regular_count()
        angles, misfit = self.directions_deg[regular], self.misfit[regular]
        k = int(np.argmin(misfit))
        before, here, after = misfit[k - 1], misfit[k], misfit[(k + 1) % len(misfit)]
        curvature = before - 2 * here + after
        step = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
        return wrapped_deg(float(angles[k] + min(max(step, -0.5), 0.5) * _STEP_DEG))

    def misfit_at(self, rotation_deg: float) -> float:
        """Misfit of the direction tried that is nearest to a rotation in degrees."""
        away = [abs(difference_deg(rotation_deg, tried)) for tried in self.directions_deg]
        return float(self.misfit[int(np.argmin(away))])

    def rival(self, rotation_deg: float) -> tuple[float, float]:
        """Best direction in degrees that differs much from a rotation, and its misfit."""
        away = np.array([abs(difference_deg(rotation_deg, d)) for d in self.directions_deg])
        misfit = np.where(away >= _APART_DEG, self.misfit, np.inf)
        k = int(np.argmin(misfit))
        return float(self.directions_deg[k]), float(misfit[k])


def wrapped_deg(rotation_deg: float) -> float:
    """The rotation of the same line in degrees above -89.5 and up to 90.5."""
    return _LOWEST_DEG + (rotation_deg - _LOWEST_DEG) % 180.0


def difference_deg(one_deg: float, other_deg: float) -> float:
    """Angle from one line to another in degrees, -90 to 90."""
    return (one_deg - other_deg + 90.0) % 180.0 - 90.0


def search_direction(
    images: NDArray[Any],
    tilts: Floats64,
    shifts_px: Floats64 | None,
    weights: Floats | None = None,
    also_deg: Sequence[float] = (),
) -> DirectionSearch:
    """Compare directions of the tilt axis over the full circle.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), none of them dark.
    tilts : ndarray
        Angles in degrees, shape (n,).
    shifts_px : ndarray or None
        Shifts from pairwise registration, which keep the specimen in place, shape (n, 2). None
        to keep the centre of mass in place.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images; by default all 1.
    also_deg : sequence of float
        Directions to try beside the regular ones, every 20 deg.

    Returns
    -------
    DirectionSearch
        Directions and misfits.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((32, 32, 32), np.float32)
    >>> volume[8:20, 12:18, 12:20] = volume[20:26, 10:14, 6:9] = 1
    >>> tilt_deg = np.arange(-60.0, 61.0, 15.0)
    >>> images = np.rot90(project(volume, tilt_deg), axes=(1, 2))
    >>> abs(round(search_direction(images, tilt_deg, np.zeros((9, 2))).best_deg / 10))
    9
    """
    binning = max(1, math.ceil(max(images.shape[1:]) / _SIDE))
    order = np.argsort(tilts, kind="stable")
    few = np.linspace(0, len(order) - 1, min(_MOST_VIEWS, len(order)))
    pick = order[np.unique(np.round(few).astype(int))]
    some = None if weights is None else weights[pick]
    small, shares = prepared_series(images[pick], some, binning, _BLUR_PX)
    splines, padding = _square(small, shares)
    moved = np.array([[centre_of_mass(image.T), centre_of_mass(image)] for image in small])
    shifts = moved if shifts_px is None else shifts_px[pick] / binning
    centred = shifts + np.median(moved - shifts, axis=0) + padding
    directions = np.concatenate([_regular_deg(), np.asarray(also_deg, np.float64)])
    axes = [TiltAxis(0.0, float(direction)) for direction in directions]
    aligned = np.concatenate([splines.sampled(centred, axis) for axis in axes], axis=1)
    valid = np.concatenate([splines.valid_mask(centred, axis) for axis in axes], axis=1)
    volume = MatchingVolume(tilts[pick], aligned.shape[1:], _THICKNESS)
    return DirectionSearch(directions, volume.fit_blocks(aligned, valid, _ITERATIONS))


def _regular_count() -> int:
    return round(180 / _STEP_DEG)


def _regular_deg() -> Floats64:
    """Directions every 20 deg, upright among them."""
    return (
        np.arange(_regular_count(), dtype=np.float64) * _STEP_DEG
        - _regular_count() // 2 * _STEP_DEG
    )


def _square(small: Floats, shares: Floats | None) -> tuple[Splines, Floats64]:
    """Splines of the images in the middle of squares, and how far that moved them."""
    _, tall, wide = small.shape
    if (tall, wide) == (_SIDE, _SIDE):
        return Splines(small, shares), np.zeros(2)
    top, left = (_SIDE - tall) // 2, (_SIDE - wide) // 2
    inside = np.s_[:, top : top + tall, left : left + wide]
    images = np.zeros((len(small), _SIDE, _SIDE), np.float32)
    weights = np.zeros_like(images)
    images[inside] = small
    weights[inside] = 1 if shares is None else shares
    return Splines(images, weights), np.array([top - (_SIDE - tall) / 2, left - (_SIDE - wide) / 2])
