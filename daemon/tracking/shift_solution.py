"""The matrix of the beam shift from pictures at several deflections, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[float, float]

# Pictures are registered to this part of a pixel, and no better known than to so much of one.
_UPSAMPLE, _LEAST_PX, _ROUNDS = 50, 0.1, 3
# What a linear shift with a steady drift leaves may be this part of the largest shift at most.
_MOST_LEFT = 0.05


class NoMatrix(ValueError):
    """The pictures do not tell what the deflectors do."""


@dataclass(frozen=True)
class ShiftSolution:
    """What the deflectors do to the image.

    Attributes
    ----------
    matrix_nm : ndarray
        Shape (2, 2): rows (y, x) of the image in nm, for one unit of each deflector.
    covariance_nm2 : ndarray
        Shape (4, 4): of its elements, row by row.
    drift_nm_per_s : tuple of float
        (y, x) of the specimen meanwhile.
    left_nm : float
        Rms of what the fit leaves.
    largest_nm : float
        Largest shift that was seen.
    """

    matrix_nm: Floats
    covariance_nm2: Floats
    drift_nm_per_s: Pair
    left_nm: float
    largest_nm: float


def displacements_px(pictures: Sequence[NDArray[Any]]) -> Floats:
    """How far each picture lies from the first, (y, x) in pixels, shape (n, 2).

    Cross-correlation of the square roots of the counts, blurred by two pixels, upsampled around its
    maximum (Guizar-Sicairos et al., Opt. Lett. 33, 156, 2008).

    Raises
    ------
    NoMatrix
        If a picture is blank.
    """
    from scipy.ndimage import gaussian_filter
    from skimage import registration

    # Its stubs do not know that the normalization may be left out.
    correlate: Any = registration.phase_cross_correlation
    smooth: list[Floats] = []
    for number, picture in enumerate(pictures, 1):
        root = gaussian_filter(np.sqrt(np.asarray(picture, np.float64)), 2.0)
        if not np.ptp(root) > 0:
            raise NoMatrix(f"picture {number} of {len(pictures)} is blank")
        smooth.append(root - root.mean())
    moved: list[Floats] = []
    for other in smooth:
        whole = np.zeros(2, np.int64)
        rest = np.zeros(2)
        # What both pictures show: the border of a picture pulls a correlation towards no shift.
        for _ in range(_ROUNDS):
            one, two = _common(smooth[0], other, whole)
            found = correlate(one, two, upsample_factor=_UPSAMPLE, normalization=None)[0]
            rest = -np.asarray(found, np.float64)
            whole = whole + np.rint(rest).astype(np.int64)
            rest = rest - np.rint(rest)
        moved.append(whole + rest)
    return np.array(moved, np.float64)


def _common(one: Floats, other: Floats, moved: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The parts of two pictures that show the same, if the other lies so many pixels away."""
    first: list[slice] = []
    second: list[slice] = []
    for away, size in zip(moved.tolist(), one.shape, strict=True):
        by = max(-size // 2, min(size // 2, away))
        first.append(slice(max(0, -by), size - max(0, by)))
        second.append(slice(max(0, by), size - max(0, -by)))
    parts = one[tuple(first)], other[tuple(second)]
    return parts[0] - parts[0].mean(), parts[1] - parts[1].mean()


def solve_shifts(
    units: Sequence[Pair], times_s: Sequence[float], moved_px: Floats, pixel_nm: float
) -> ShiftSolution:
    """Fit matrix, drift and origin to displacements at several deflections.

    Parameters
    ----------
    units : sequence of pair
        Both deflectors at each picture, in their own unit.
    times_s : sequence of float
        When each was taken.
    moved_px : ndarray
        Shape (n, 2): (y, x) of each picture against the first.
    pixel_nm : float
        Sampling of the pictures.

    Raises
    ------
    NoMatrix
        If shift and steady drift do not explain the displacements, or the deflectors move the image
        along one line, or hardly.

    Examples
    --------
    >>> units = [(0, 0), (100, 0), (-100, 0), (0, 0), (0, 100), (0, -100), (0, 0)]
    >>> matrix = np.array([[0.0, -1.0], [-1.1, 0.2]])
    >>> moved = np.array(units) @ matrix.T / 4.0 + np.arange(7)[:, None] * 0.1
    >>> found = solve_shifts(units, range(7), moved, 4.0)
    >>> found.matrix_nm.round(3).tolist(), [round(v, 3) for v in found.drift_nm_per_s]
    ([[0.0, -1.0], [-1.1, 0.2]], [0.4, 0.4])
    """
    given = np.asarray(units, np.float64)
    scale = max(float(np.abs(given).max()), 1e-12)
    passed_s = np.asarray(times_s, np.float64) - times_s[0]
    span_s = max(float(passed_s[-1]), 1e-9)
    design = np.column_stack([given / scale, passed_s / span_s, np.ones(len(given))])
    moved_nm = moved_px * pixel_nm
    fitted, *_ = np.linalg.lstsq(design, moved_nm, rcond=None)
    left = moved_nm - design @ fitted
    freedom = max(1, len(given) - design.shape[1])
    variance = np.maximum((left**2).sum(axis=0) / freedom, (_LEAST_PX * pixel_nm) ** 2)
    left_nm = float(np.sqrt((left**2).mean()))
    matrix = np.asarray(fitted[:2].T / scale, np.float64)
    largest_nm = float(np.hypot(*(matrix @ given.T)).max())
    if left_nm > max(_MOST_LEFT * largest_nm, pixel_nm):
        raise NoMatrix(
            f"the pictures do not follow the deflectors: {left_nm:.1f} nm are left of shifts up to "
            f"{largest_nm:.0f} nm (a specimen without features, or one that repeats itself?)"
        )
    if not abs(np.linalg.det(matrix)) > 0.02 * float(np.abs(matrix).max()) ** 2:
        raise NoMatrix("the two deflectors move the image along one line, or not at all")
    inverse = np.linalg.inv(design.T @ design)[:2, :2] / scale**2
    covariance = np.zeros((4, 4))
    for axis in (0, 1):
        covariance[2 * axis : 2 * axis + 2, 2 * axis : 2 * axis + 2] = variance[axis] * inverse
    drift = fitted[2] / span_s
    return ShiftSolution(
        matrix, covariance, (float(drift[0]), float(drift[1])), left_nm, largest_nm
    )
