"""Metal core, crystalline and amorphous parts, and the distance of each atom from the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from .atom_list import LEAST_ATOMS, Floats64
from .bonds import Bonds

PHASES = ("amorphous", "crystalline", "core")
AMORPHOUS, CRYSTALLINE, CORE = range(3)


@dataclass(frozen=True)
class Interfaces:
    """Parts of a particle.

    Attributes
    ----------
    phase : ndarray
        Shape (atoms,): 0 amorphous, 1 crystalline (oxide), 2 metal core, as in `PHASES`.
    distance_a : ndarray
        Shape (atoms,): from the surface of the core, in angstrom, negative within; NaN without a
        core.
    """

    phase: NDArray[np.intp]
    distance_a: Floats64


def find_interfaces(
    positions_a: NDArray[Any],
    bonds: Bonds,
    order: NDArray[Any],
    concentration_per_a3: NDArray[Any],
    *,
    disordered_below: float = 0.534,
    core_above_per_a3: float = 0.0338,
) -> Interfaces:
    """Tell apart metal core, crystalline oxide and amorphous oxide.

    An atom belongs to the core if most of its neighbours are ordered and dense, and it hangs
    together with the largest such part. Ordered atoms outside of it are crystalline, the rest is
    amorphous. The surface of the core lies half way between its atoms and the next others. The
    default threshold of density is the middle between metal (0.0385) and oxides (0.0291) in Zhang
    et al., Nat. Commun. 2024.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    bonds : Bonds
        Of :func:`bonds_of`.
    order : ndarray
        Shape (atoms,): normalised bond orientational order.
    concentration_per_a3 : ndarray
        Shape (atoms,); NaN where it is not known.
    disordered_below : float
        Atoms of less order are disordered.
    core_above_per_a3 : float
        Atoms of the core are denser, in the mean over their neighbours.

    Returns
    -------
    Interfaces
        Part and distance of each atom.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import bonds_of
    >>> grid = np.stack(np.mgrid[:9, :9, :9], -1).reshape(-1, 3)
    >>> fcc = 2.33 * grid[grid.sum(axis=1) % 2 == 0]
    >>> dense = np.where(fcc[:, 0] < 9, 0.04, 0.03)
    >>> parts = find_interfaces(fcc, bonds_of(fcc, 4.5), np.ones(len(fcc)), dense)
    >>> parts.phase[[0, -1]].tolist(), parts.distance_a[[0, -1]].round(1).tolist()
    ([2, 1], [-7.7, 10.2])
    """
    positions = np.asarray(positions_a, np.float64)
    ordered = np.asarray(order) >= disordered_below
    dense = bonds.means(np.asarray(concentration_per_a3, np.float64)) > core_above_per_a3
    majority = bonds.means((ordered & dense).astype(np.float64)) > 0.5
    core = _largest(bonds, majority)
    phase = np.where(ordered, CRYSTALLINE, AMORPHOUS)
    phase[core] = CORE
    return Interfaces(phase.astype(np.intp), _distances(positions, bonds, core))


def _largest(bonds: Bonds, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest part of the chosen atoms that hangs together by bonds."""
    at = np.flatnonzero(chosen)
    core = np.zeros(len(chosen), np.bool_)
    if len(at) < LEAST_ATOMS:
        return core
    labels = np.asarray(connected_components(bonds.table()[at][:, at], directed=False)[1])
    sizes = np.bincount(labels)
    if sizes.max() >= LEAST_ATOMS:
        core[at[labels == sizes.argmax()]] = True
    return core


def _distances(positions: Floats64, bonds: Bonds, core: NDArray[np.bool_]) -> Floats64:
    distances = np.full(len(positions), np.nan)
    if not core.any() or core.all():
        return distances
    outside = KDTree(positions[core]).query(positions[~core])[0]
    within = KDTree(positions[~core]).query(positions[core])[0]
    half = 0.5 * min(float(np.median(_nearest(positions))), bonds.cutoff_a)
    distances[~core] = np.asarray(outside) - half
    distances[core] = half - np.asarray(within)
    return distances


def _nearest(positions: Floats64) -> Floats64:
    return np.asarray(KDTree(positions).query(positions, k=2)[0])[:, 1]
