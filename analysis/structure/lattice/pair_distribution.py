"""Pair distribution functions of a particle, partial by species, and their peaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from scipy.spatial import KDTree

from .atom_list import Floats64
from .tessellation import Tetrahedra

_STEP_A = 0.005
# Room beyond the largest distance, so that smoothing knows what comes next.
_BEYOND = 4.0
_RANDOM_PAIRS = 1e6
_LEAST_PROMINENCE = 0.15
_LARGE_R = 2 / 3  # the last third scales the function to 1


@dataclass(frozen=True)
class PairDistribution:
    """A pair distribution function.

    Attributes
    ----------
    r_a : ndarray
        Shape (steps,): distances in angstrom.
    g : ndarray
        Shape (steps,): density of pairs over that of atoms without order in the same shape.
    """

    r_a: Floats64
    g: Floats64

    def peaks_a(self, most: int = 6) -> Floats64:
        """Return the places of the first clear maxima, in angstrom."""
        lowest = _LEAST_PROMINENCE
        at, _ = find_peaks(self.g, prominence=lowest, height=lowest)
        return np.array([self._parabola(int(i)) for i in at[:most]])

    def peak_near(self, place_a: float, reach_a: float = 0.35) -> float:
        """Return the place of the highest maximum near a place; NaN if there is none."""
        near = np.flatnonzero(np.abs(self.r_a - place_a) <= reach_a)
        if len(near) < 3:
            return float("nan")
        best = int(near[np.argmax(self.g[near])])
        if best in (near[0], near[-1]) or self.g[best] <= 0:
            return float("nan")
        return self._parabola(best)

    def first_valley_a(self) -> float:
        """Return the middle of the lowest part behind the first peak, in angstrom."""
        peaks = self.peaks_a(1)
        if not len(peaks):
            return float("nan")
        behind = (self.r_a > peaks[0]) & (self.r_a < 1.7 * peaks[0])
        low = self.g[behind].min()
        return float(self.r_a[behind][self.g[behind] <= low + 0.02].mean())

    def _parabola(self, i: int) -> float:
        """Place of a maximum from three values of the logarithm: exact for a Gaussian."""
        if not 0 < i < len(self.g) - 1:
            return float(self.r_a[i])
        left, middle, right = np.log(np.maximum(self.g[i - 1 : i + 2], 1e-12))
        bend = left - 2 * middle + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return float(self.r_a[i] + shift * (self.r_a[1] - self.r_a[0]))


@dataclass(frozen=True)
class ShapeFunction:
    """How likely two random points of a shape lie a distance apart.

    Attributes
    ----------
    r_a : ndarray
        Shape (steps,): distances in angstrom.
    per_pair : ndarray
        Shape (steps,): probability density of a distance, per angstrom, over 4 pi r^2.
    """

    r_a: Floats64
    per_pair: Floats64


def shape_function(
    positions_a: NDArray[Any],
    tetrahedra: Tetrahedra,
    longest_a: float,
    rng: np.random.Generator,
    members: NDArray[np.bool_] | None = None,
) -> ShapeFunction:
    """Distances of random points in the shape of a particle, or of a part of it.

    For a body of volume V the density of distances is 4 pi r^2 gamma(r) / V, where gamma falls
    slowly from 1 (Glatter and Kratky, Small Angle X-ray Scattering, 1982). It is fitted by a
    polynomial of third degree to random points in the tetrahedra inside the surface.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    tetrahedra : Tetrahedra
        Of these atoms.
    longest_a : float
        Largest distance, in angstrom.
    rng : Generator
        Source of random numbers.
    members : ndarray of bool, optional
        Shape (atoms,): the part is what lies nearest to these atoms.

    Returns
    -------
    ShapeFunction
        In steps of 0.005 angstrom.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import tetrahedra_of
    >>> cube = np.stack(np.mgrid[:9, :9, :9], -1).reshape(-1, 3) * 3.0
    >>> made = shape_function(cube, tetrahedra_of(cube, 4.5), 8.0, np.random.default_rng(0))
    >>> round(float(made.per_pair[0] * 24**3), 1)
    1.0
    """
    positions = np.asarray(positions_a, np.float64)
    volumes = np.where(tetrahedra.inside, tetrahedra.volumes_a3, 0.0)
    total = volumes.sum()
    r = np.arange(0.0, longest_a + _BEYOND, _STEP_A)
    if not total:
        return ShapeFunction(r, np.zeros(len(r)))
    ball = 4 / 3 * np.pi * longest_a**3
    points = _random_points(positions, tetrahedra, volumes / total, _points(total, ball), rng)
    if members is not None:
        points = points[members[np.asarray(KDTree(positions).query(points)[1])]]
    if len(points) < 2:
        return ShapeFunction(r, np.zeros(len(r)))
    edges = np.linspace(0, r[-1], 121)
    tree = KDTree(points)
    ordered = tree.count_neighbors(tree, edges) - len(points)
    counts = 0.5 * np.diff(ordered)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    density = counts / shells / (0.5 * len(points) * (len(points) - 1))
    middles = 0.5 * (edges[1:] + edges[:-1])
    weights = np.sqrt(shells / np.maximum(density, density.max() * 1e-3))
    fit = np.polynomial.Polynomial.fit(middles, density, 3, w=weights)
    return ShapeFunction(r, np.maximum(fit(r), 0.02 * density.max()))


def _points(volume: float, ball: float) -> int:
    """So many points that they have about a million pairs within reach."""
    part = min(1.0, ball / volume)
    return int(np.clip(np.sqrt(2 * _RANDOM_PAIRS / part), 2000, 40000))


def _random_points(
    positions: Floats64,
    tetrahedra: Tetrahedra,
    shares: Floats64,
    number: int,
    rng: np.random.Generator,
) -> Floats64:
    chosen = rng.choice(len(shares), size=number, p=shares)
    weights = rng.exponential(size=(number, 4))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("nk,nki->ni", weights, positions[tetrahedra.corners[chosen]])


def pair_distribution(
    positions_a: NDArray[Any],
    others_a: NDArray[Any] | None,
    shape: ShapeFunction,
    *,
    longest_a: float = 12.0,
    smoothing_a: float = 0.1,
) -> PairDistribution:
    """Pair distribution function, normalised for the shape and scaled to 1 at large distances.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3): atoms of one species, in angstrom.
    others_a : ndarray or None
        Shape (others, 3): atoms of the other species; None for pairs within the first.
    shape : ShapeFunction
        Of :func:`shape_function`; it must reach `longest_a`.
    longest_a : float
        Largest distance, in angstrom.
    smoothing_a : float
        Standard deviation of the Gaussian that smooths, in angstrom.

    Returns
    -------
    PairDistribution
        In steps of 0.005 angstrom; all 0 where there are no pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import tetrahedra_of
    >>> grid = np.stack(np.mgrid[:9, :9, :9], -1).reshape(-1, 3)
    >>> fcc = 2.33 * grid[grid.sum(axis=1) % 2 == 0]
    >>> shape = shape_function(fcc, tetrahedra_of(fcc, 4.5), 12.0, np.random.default_rng(0))
    >>> pair_distribution(fcc, None, shape).peaks_a(2).round(4).tolist()
    [3.2951, 4.66]
    """
    first = np.asarray(positions_a, np.float64)
    reach = longest_a + 5 * smoothing_a
    distances = _distances(first, others_a, reach)
    step = shape.r_a[1] - shape.r_a[0]
    kept = shape.r_a <= longest_a
    steps = int(reach / step) + 2
    if not len(distances):
        return PairDistribution(shape.r_a[kept], np.zeros(int(kept.sum())))
    # Each pair is shared between two steps, so that its mean place stays exact.
    weights = 1 / (4 * np.pi * distances**2 * np.interp(distances, shape.r_a, shape.per_pair))
    place = distances / step
    low = place.astype(np.intp)
    part = place - low
    g = np.bincount(low, weights * (1 - part), minlength=steps + 1)
    g += np.bincount(low + 1, weights * part, minlength=steps + 1)[: len(g)]
    smooth = gaussian_filter1d(g, smoothing_a / step, mode="constant", truncate=5.0)
    smooth = smooth[: int(kept.sum())]
    r = shape.r_a[kept]
    level = smooth[r >= _LARGE_R * longest_a].mean()
    return PairDistribution(r, smooth / level if level > 0 else smooth)


def _distances(first: Floats64, others_a: NDArray[Any] | None, reach: float) -> Floats64:
    if others_a is None:
        pairs = KDTree(first).query_pairs(reach, output_type="ndarray")
        vectors = first[pairs[:, 0]] - first[pairs[:, 1]]
    else:
        others = np.asarray(others_a, np.float64)
        if not (len(first) and len(others)):
            return np.zeros(0)
        found = KDTree(first).sparse_distance_matrix(
            KDTree(others), reach, output_type="coo_matrix"
        )
        return np.asarray(found.data, np.float64)
    return np.sqrt(np.einsum("pi,pi->p", vectors, vectors))
