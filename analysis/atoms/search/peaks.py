"""Atoms from a volume: local maxima, and the paper's method of tracing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial import KDTree

from ...core.arrays import in_threads
from ..refinement.kernels import mark_maxima

Floats64 = NDArray[np.float64]

_UPSAMPLING = 3
_BOX_A = 1.7
_NEAREST_A = 2.0
_RECENTRINGS = 3
_AT_ONCE = 256


@dataclass(frozen=True)
class Trace:
    """Atoms that were found in a volume.

    Attributes
    ----------
    positions : ndarray
        Shape (atoms, 3): x, y, z from the centre of the volume, in its voxels.
    intensity : ndarray
        Shape (atoms,): sum of the volume near each atom, in the unit of its voxels.
    """

    positions: Floats64
    intensity: Floats64


def local_maxima(volume: NDArray[Any], above: float) -> tuple[NDArray[np.intp], Floats64]:
    """Voxels that exceed all 26 neighbours, and where the peaks between the voxels lie.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).
    above : float
        Lower maxima are left out.

    Returns
    -------
    indices : ndarray
        Shape (maxima, 3): y, z, x of the voxel.
    positions : ndarray
        Shape (maxima, 3): x, y, z in voxels from the centre of the volume, by a parabola along
        each axis.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((5, 5, 5), np.float32)
    >>> volume[2, 2, 3] = 1
    >>> indices, positions = local_maxima(volume, 0.5)
    >>> indices.tolist(), positions.tolist()
    ([[2, 2, 3]], [[1.0, 0.0, 0.0]])
    """
    values = np.ascontiguousarray(volume, np.float32)
    marks = np.zeros(values.shape, np.uint8)
    in_threads(lambda y: mark_maxima(values, y, above, marks[y]), range(1, len(values) - 1))
    indices = np.argwhere(marks)
    offsets = np.empty(indices.shape)
    here = values[tuple(indices.T)].astype(np.float64)
    for axis in range(3):
        one = np.zeros(3, np.intp)
        one[axis] = 1
        before = values[tuple((indices - one).T)].astype(np.float64)
        after = values[tuple((indices + one).T)].astype(np.float64)
        bend = np.minimum(before + after - 2 * here, -1e-12)
        offsets[:, axis] = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)
    centre = (np.array(values.shape) - 1) / 2
    return indices, (indices + offsets - centre)[:, [2, 0, 1]]


def two_classes(values: NDArray[Any]) -> float:
    """Border between two classes of values: K-means with two means, in one dimension.

    Parameters
    ----------
    values : ndarray
        Shape (n,).

    Returns
    -------
    float
        Midpoint between the means of the two classes; minus infinity for fewer than two values.

    Examples
    --------
    >>> two_classes([1.0, 2.0, 9.0, 10.0])
    5.5
    """
    ranked = np.sort(np.asarray(values, np.float64))
    if ranked.size < 2:
        return -math.inf
    low, high = ranked[0], ranked[-1]
    while True:
        border = 0.5 * (low + high)
        split = int(np.searchsorted(ranked, border))
        if split in (0, ranked.size):
            return float(border)
        means = ranked[:split].mean(), ranked[split:].mean()
        if means == (low, high):
            return float(border)
        low, high = means


def spaced(positions: Floats64, strength: NDArray[Any], nearest: float) -> NDArray[np.intp]:
    """Indices of points, the strongest first, that keep a distance from all stronger ones.

    Parameters
    ----------
    positions : ndarray
        Shape (points, 3).
    strength : ndarray
        Shape (points,).
    nearest : float
        Least distance, in the unit of the positions.

    Returns
    -------
    ndarray
        Indices of the points that stay, by falling strength.

    Examples
    --------
    >>> import numpy as np
    >>> spaced(np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]), np.array([1.0, 2, 3]), 2.0).tolist()
    [2, 1]
    """
    order = np.argsort(-np.asarray(strength), kind="stable")
    rank = np.empty(order.size, np.intp)
    rank[order] = np.arange(order.size)
    near: dict[int, list[int]] = {}
    if len(positions) > 1:
        for one, two in KDTree(positions).query_pairs(nearest, output_type="ndarray"):
            weak, strong = (one, two) if rank[one] > rank[two] else (two, one)
            near.setdefault(int(weak), []).append(int(strong))
    kept = np.zeros(order.size, np.bool_)
    for point in order:
        kept[point] = not any(kept[other] for other in near.get(int(point), ()))
    return order[kept[order]]


def trace_volume(
    volume: NDArray[Any], pixel_a: float, *, nearest_a: float = _NEAREST_A, above: float = 0.0
) -> Trace:
    """Trace the atoms of a volume as the paper does (Zhang et al., Nat. Commun. 2024).

    Cubic splines give the volume three times finer around each local maximum. There a polynomial
    of second degree is fitted to a box of 1.7 A, and again about the place found. Of maxima that
    are nearer than `nearest_a` the weaker goes. Two classes of the intensity in the box
    (K-means) tell atoms from the rest. Manual correction, which the authors do then, is not done.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x), cubic voxels.
    pixel_a : float
        Side of a voxel in angstrom.
    nearest_a : float
        Least distance of two atoms in angstrom.
    above : float
        Lower maxima are left out.

    Returns
    -------
    Trace
        Positions in voxels and intensities.

    Raises
    ------
    ValueError
        If the volume is not three-dimensional or holds NaN, or the pixel size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> axis = np.arange(32) - 15.5
    >>> y, z, x = np.meshgrid(axis, axis, axis, indexing="ij")
    >>> volume = np.zeros((32, 32, 32))
    >>> for place, height in ((3.2, 1.0), (-7.0, 0.9), (11.0, 0.1)):
    ...     volume += height * np.exp(-((x - place) ** 2 + y**2 + z**2) / 8)
    >>> found = trace_volume(volume, 0.3)
    >>> found.positions[:, 0].round(1).tolist()
    [3.2, -7.0]
    """
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise ValueError("tracing needs a volume of three axes without NaN")
    if not pixel_a > 0:
        raise ValueError(f"a pixel size of {pixel_a:g} A; give the side of a voxel in angstrom")
    _, starts = local_maxima(volume, above)
    coefficients = np.asarray(spline_filter(np.asarray(volume, np.float64)), np.float32)
    half = max(1, round(_BOX_A / pixel_a / 2))
    positions, intensity = np.empty(starts.shape), np.empty(len(starts))

    def one(piece: int) -> None:
        part = slice(piece * _AT_ONCE, (piece + 1) * _AT_ONCE)
        positions[part], intensity[part] = _fitted(coefficients, starts[part], half)

    in_threads(one, range(-(-len(starts) // _AT_ONCE)))
    kept = spaced(positions, intensity, nearest_a / pixel_a)
    kept = kept[intensity[kept] >= two_classes(intensity[kept])]
    return Trace(positions[kept], intensity[kept])


def _fitted(
    coefficients: NDArray[np.float32], starts: Floats64, half: int
) -> tuple[Floats64, Floats64]:
    """Maximum of a polynomial about each start, and the sum of the box about it."""
    fine = np.arange(-_UPSAMPLING, _UPSAMPLING + 1) / _UPSAMPLING
    values, (x, y, z) = _sampled(coefficients, starts, fine)
    best = values.argmax(axis=1)
    places = starts + np.stack([x[best], y[best], z[best]], axis=1)
    steps = np.arange(-half, half + 1, dtype=np.float64)
    sums = np.zeros(len(starts))
    for _ in range(_RECENTRINGS):
        values, (x, y, z) = _sampled(coefficients, places, steps)
        terms = [np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z]
        sums = values.sum(axis=1)
        places = places + _summits(
            values.astype(np.float64) @ np.linalg.pinv(np.stack(terms, axis=1)).T, half
        )
    return places, sums


def _sampled(
    coefficients: NDArray[np.float32], places: Floats64, steps: Floats64
) -> tuple[NDArray[np.float32], tuple[Floats64, ...]]:
    """Spline at a cube of offsets about each place (places, offsets), and the offsets x, y, z."""
    x, y, z = (part.ravel() for part in np.meshgrid(steps, steps, steps, indexing="ij"))
    centre = (np.array(coefficients.shape) - 1) / 2
    at = (places[:, [1, 2, 0]] + centre).T[:, :, None] + np.stack([y, z, x])[:, None, :]
    values = map_coordinates(
        coefficients, at.reshape(3, -1), order=3, prefilter=False, mode="nearest"
    )
    return np.asarray(values, np.float32).reshape(len(places), -1), (x, y, z)


def _summits(fits: Floats64, reach: float) -> Floats64:
    """Maxima of second-degree polynomials; no further than a third of the box from its centre."""
    hessian = np.empty((len(fits), 3, 3))
    for n in range(3):
        hessian[:, n, n] = 2 * fits[:, 4 + n]
    for n, (row, column) in enumerate(((0, 1), (0, 2), (1, 2))):
        hessian[:, row, column] = hessian[:, column, row] = fits[:, 7 + n]
    peaked = np.linalg.eigvalsh(hessian)[:, -1] < 0
    hessian[~peaked] = -np.eye(3)
    moves = np.asarray(-np.linalg.solve(hessian, fits[:, 1:4, None])[:, :, 0], np.float64)
    moves[~peaked] = 0
    return np.clip(moves, -reach / 3, reach / 3)
