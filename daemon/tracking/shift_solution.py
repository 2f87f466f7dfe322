"""The matrix of the beam shift from pictures at several deflections, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[float, float]

# Pictures are binned to so many pixels at most, blurred by so many, and no better known than to so
# much of one; they share this part of the field at least.
_MOST_PX, _BLUR_PX, _LEAST_PX, _LEAST_COMMON = 128, 1.5, 0.15, 0.3
# Noise correlates by up to 0.4 somewhere, sparse scans of one specimen by 0.9.
_LEAST_ALIKE = 0.45
# What a linear shift with a steady drift leaves may be this part of the largest shift at most.
_MOST_LEFT = 0.05
# Sd of an element, as a part of the largest one, beyond which nothing is known of it.
_MOST_DOUBT = 0.05


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


def solve_pictures(
    pictures: Sequence[NDArray[Any]],
    units: Sequence[Pair],
    times_s: Sequence[float],
    pixel_nm: float,
) -> ShiftSolution:
    """Fit what the deflectors do to pictures at several deflections.

    Parameters
    ----------
    pictures : sequence of ndarray
        Counts, of one shape.
    units, times_s, pixel_nm
        As for :func:`solve_shifts`.

    Raises
    ------
    NoMatrix
        If they do not tell it.
    """
    return solve_shifts(units, times_s, displacements_px(pictures), pixel_nm)


def displacements_px(pictures: Sequence[NDArray[Any]]) -> Floats:
    """How far each picture lies from the first, (y, x) in pixels, shape (n, 2).

    Maximum of the normalised correlation of what both pictures show (Padfield, IEEE Trans. Image
    Process. 21, 2706, 2012), of the square roots of the counts: the border of a picture then pulls
    no displacement towards zero, as it does in a plain or a phase correlation.

    Raises
    ------
    NoMatrix
        If a picture is blank, or shows nothing that the first one shows.
    """
    from scipy.ndimage import gaussian_filter

    size = max(pictures[0].shape)
    bins = -(-size // _MOST_PX)
    smooth: list[Floats] = []
    for number, picture in enumerate(pictures, 1):
        root = gaussian_filter(np.sqrt(_binned(np.asarray(picture, np.float64), bins)), _BLUR_PX)
        if not np.ptp(root) > 0:
            raise NoMatrix(f"picture {number} of {len(pictures)} is blank")
        smooth.append(root - root.mean())
    moved: list[Floats] = []
    for number, other in enumerate(smooth, 1):
        found, alike = _displacement(smooth[0], other)
        if alike < _LEAST_ALIKE:
            raise NoMatrix(
                f"picture {number} of {len(pictures)} does not show what the first one does (their "
                f"correlation is {alike:.2f})"
            )
        moved.append(found)
    return np.array(moved, np.float64) * bins


def _binned(counts: Floats, bins: int) -> Floats:
    rows, columns = (length // bins for length in counts.shape)
    whole = counts[: rows * bins, : columns * bins]
    return whole.reshape(rows, bins, columns, bins).sum(axis=(1, 3))


def _displacement(one: Floats, other: Floats) -> tuple[Floats, float]:
    """How far the other picture lies from the one in pixels, and their correlation there."""
    alike = _correlations(one, other)
    rows, columns = one.shape
    place = np.unravel_index(int(np.argmax(alike)), alike.shape)
    y, x = (min(max(int(at), 1), size - 2) for at, size in zip(place, alike.shape, strict=True))
    near = alike[y - 1 : y + 2, x - 1 : x + 2]
    away_y, away_x = np.mgrid[-1:2, -1:2].reshape(2, 9)
    design = np.stack([np.ones(9), away_y, away_x, away_y**2, away_x**2, away_y * away_x], axis=1)
    _, b_y, b_x, c_yy, c_xx, c_yx = np.linalg.lstsq(design, near.ravel(), rcond=None)[0]
    bend = np.array([[2.0 * c_yy, c_yx], [c_yx, 2.0 * c_xx]])
    rest = np.zeros(2)
    if np.linalg.det(bend) > 0.0:
        rest = np.clip(-np.linalg.solve(bend, [b_y, b_x]), -1.0, 1.0)
    return np.array([y - (rows - 1), x - (columns - 1)]) + rest, float(alike.max())


def _correlations(one: Floats, other: Floats) -> Floats:
    """Normalised correlation of the common part at each displacement, shape (2n - 1, 2m - 1).

    0 where the common part is too small.
    """
    full = tuple(2 * length - 1 for length in one.shape)

    def summed(first: Floats, second: Floats) -> Floats:
        """Sums of products of what lies on each other, for each displacement of the second."""
        spectrum = np.fft.rfft2(first[::-1, ::-1], full) * np.fft.rfft2(second, full)
        return np.fft.irfft2(spectrum, full)

    whole = np.ones_like(one)
    common = np.maximum(np.rint(summed(whole, whole)), 1.0)
    sum_one, sum_other = summed(one, whole), summed(whole, other)
    spread_one = summed(one**2, whole) - sum_one**2 / common
    spread_other = summed(whole, other**2) - sum_other**2 / common
    least = 1e-9 * max(float(spread_one.max()), float(spread_other.max()))
    product = summed(one, other) - sum_one * sum_other / common
    size = np.sqrt(np.maximum(spread_one, least) * np.maximum(spread_other, least))
    return np.where(common >= _LEAST_COMMON * one.size, product / size, 0.0)


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
        If shift and steady drift do not explain the displacements, the deflectors move the image
        along one line, or hardly, or an element is too uncertain.

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
    if left_nm > max(_MOST_LEFT * largest_nm, 0.5 * pixel_nm):
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
    size = float(np.abs(matrix).max())
    doubt = float(np.sqrt(np.diag(covariance).max()))
    if doubt > _MOST_DOUBT * size:
        raise NoMatrix(
            f"an element is known to {doubt:.2g} nm only, and the largest is {size:.2g} nm; "
            "deflect further, or take more counts"
        )
    drift = fitted[2] / span_s
    return ShiftSolution(
        matrix, covariance, (float(drift[0]), float(drift[1])), left_nm, largest_nm
    )
