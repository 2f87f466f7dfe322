"""The affine map of a scan from spots of silicon along [110].

In the crystal's axes (across, along) = ([1-10], [001]) the allowed spots are ``n1 g1 + n2 g2`` with
``g1 = (sqrt(2), 1) / a`` and ``g2 = (-sqrt(2), 1) / a``, which are (1-11) and (-111). A pixel (row,
column) shows the place ``A (row, column)``, so that a spot ``g`` of the crystal lies at ``A^T g``
cycles a pixel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .spots import Spots

Floats = NDArray[np.float64]

SILICON_A = 5.431020511  # CODATA 2018, at 22.5 degC
BASIS_PER_A = np.array([[math.sqrt(2.0), 1.0], [-math.sqrt(2.0), 1.0]]) / SILICON_A
# A first pair may be off by so much in length, and in the angle between them.
_LENGTH_OFF, _ANGLE_OFF_DEG = 0.25, 14.0
# A spot belongs to indices when it lies within this, in units of the shorter basis vector.
_WITHIN = 0.12
_HIGHEST = 4
_FIRST_SPOTS = 14
# Spots that are independent, without which nothing checks the map, and without which there is none.
CHECKED_FROM, _FEWEST = 4, 2


class NoLattice(ValueError):
    """A picture does not show silicon along [110]."""


@dataclass(frozen=True)
class LatticeMap:
    """What a pixel of one picture is worth.

    Attributes
    ----------
    matrix_a : ndarray
        Shape (2, 2): place in the crystal's axes, in angstrom, for one row and one column (columns
        of the matrix).
    covariance_a2 : ndarray
        Shape (4, 4): of its elements, row by row.
    indices : ndarray of int
        Shape (n, 2): n1 and n2 of each spot that was used.
    left : ndarray
        Shape (n, 2): place of each spot less that by the map, in cycles a pixel.
    sd : ndarray
        Shape (n, 2): standard deviation of the places by the fits of the spots.
    strained : float
        How much larger the spots lie off than their fits allow; 1 where they do not.
    """

    matrix_a: Floats
    covariance_a2: Floats
    indices: NDArray[np.intp]
    left: Floats
    sd: Floats
    strained: float

    @property
    def metric_a2(self) -> Floats:
        """Shape (2, 2): what does not depend on how the crystal lies, `matrix_a`^T `matrix_a`."""
        return self.matrix_a.T @ self.matrix_a

    @property
    def pixel_a(self) -> tuple[float, float]:
        """Distance of neighbouring rows and of neighbouring columns."""
        y, x = np.sqrt(np.diag(self.metric_a2))
        return float(y), float(x)

    @property
    def spot_pixel_a(self) -> Floats:
        """Shape (n,): the pixel size that each spot by itself would give."""
        expected = np.linalg.norm(self.indices @ BASIS_PER_A, axis=1)
        seen = self.indices @ BASIS_PER_A @ self.matrix_a + self.left
        return np.linalg.norm(seen, axis=1) / expected


def lattice_map(spots: Spots, pixel_a: float) -> LatticeMap:
    """Fit the affine map of a picture to its spots.

    Parameters
    ----------
    spots : Spots
        Of one picture.
    pixel_a : float
        Pixel size in angstrom as it is told; right within 25 %.

    Returns
    -------
    LatticeMap
        With its covariance: from what the fit leaves or from the fits of the spots, whichever is
        larger. The handedness of the picture is taken to be that of the crystal.

    Raises
    ------
    NoLattice
        If no two spots have the lengths and the angle of (1-11) and (-111), or few others follow.

    Examples
    --------
    >>> true = 0.358 * np.array([[1.01, 0.0], [0.02, 0.99]])
    >>> indices = np.array([[1, 0], [0, 1], [1, -1], [2, 1], [1, 2]])
    >>> seen = indices @ BASIS_PER_A @ true
    >>> found = lattice_map(Spots(seen, np.full((5, 2), 1e-4), np.arange(9, 4, -1.0)), 0.36)
    >>> np.allclose(found.metric_a2, true.T @ true)
    True
    """
    chosen, basis = _indexed(spots, pixel_a)
    indices, used = chosen
    if len(indices) < _FEWEST or np.linalg.matrix_rank(indices) < 2:
        raise NoLattice(_PROBLEM.format(pixel_a))
    for _ in range(2):
        # Once more with all spots that the fitted basis explains.
        indices, used = _assigned(spots.places, basis)
        basis = np.asarray(np.linalg.lstsq(indices, spots.places[used], rcond=None)[0], np.float64)
    seen, sd = spots.places[used], spots.sd[used]
    wanted = indices @ BASIS_PER_A
    weights = 1.0 / sd.mean(axis=1)
    # seen = wanted @ A: each column of A by weighted least squares.
    normal = np.linalg.inv((wanted * weights[:, None] ** 2).T @ wanted)
    matrix = normal @ (wanted * weights[:, None] ** 2).T @ seen
    left = seen - wanted @ matrix
    freedom = 2 * len(indices) - 4
    excess = ((left * weights[:, None]) ** 2).sum() / freedom if freedom > 0 else 1.0
    strained = math.sqrt(max(1.0, float(excess)))
    # seen = A^T g as columns: wanted @ A has A as place in the crystal for (row, column).
    covariance = np.zeros((4, 4))
    for column in range(2):
        at = [column, 2 + column]
        covariance[np.ix_(at, at)] = normal * strained**2
    return LatticeMap(matrix, covariance, indices, left, sd, strained)


_PROBLEM = (
    "no spots with the lengths and the angle of (1-11) and (-111) of silicon are there for pixels "
    "of about {:.4g} A; bring a crystal of silicon along [110] into the field, focus it, and tell "
    "the pixel size within 25 %"
)


def _indexed(spots: Spots, pixel_a: float) -> tuple[tuple[NDArray[np.intp], list[int]], Floats]:
    """Indices of spots by the pair of them that explains most strength, and that pair."""
    expected = math.sqrt(3.0) / SILICON_A * pixel_a
    first = spots.places[:_FIRST_SPOTS]
    lengths = np.linalg.norm(first, axis=1)
    near = np.flatnonzero(np.abs(lengths / expected - 1) < _LENGTH_OFF)
    angle = 2 * math.degrees(math.atan(math.sqrt(2.0)))
    best: tuple[float, tuple[NDArray[np.intp], list[int]], Floats] | None = None
    for one, other in itertools.permutations(near.tolist(), 2):
        for sign in (1.0, -1.0):
            g1, g2 = first[one], sign * first[other]
            between = math.degrees(math.atan2(float(g1[0] * g2[1] - g1[1] * g2[0]), float(g1 @ g2)))
            # From g1 to g2 the crystal's axes turn this way; the other way is its mirror image.
            if abs(between - angle) > _ANGLE_OFF_DEG:
                continue
            basis = np.stack([g1, g2])
            found = _assigned(spots.places, basis)
            score = float(np.sqrt(spots.strength[found[1]]).sum())
            if best is None or score > best[0]:
                best = score, found, basis
    if best is None:
        raise NoLattice(_PROBLEM.format(pixel_a))
    return best[1], best[2]


def _assigned(places: Floats, basis: Floats) -> tuple[NDArray[np.intp], list[int]]:
    """Indices of the spots that a basis explains, and which those are."""
    real = places @ np.linalg.inv(basis)
    whole = np.rint(real)
    shortest = float(np.linalg.norm(basis, axis=1).min())
    off = np.linalg.norm((real - whole) @ basis, axis=1) / shortest
    good = (off < _WITHIN) & (np.abs(whole).max(axis=1) <= _HIGHEST) & np.any(whole != 0, axis=1)
    used = np.flatnonzero(good).tolist()
    return whole[good].astype(np.intp), used
