"""Degree of oxidation of each metal atom, from the tetrahedra that can hold an oxygen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .atom_list import Floats64
from .tessellation import Tetrahedra

# Part of the volume of a regular tetrahedron of the same mean edge.
_SLIVER = 0.5


@dataclass(frozen=True)
class Oxidation:
    """How far atoms are oxidised.

    Attributes
    ----------
    degree : ndarray
        Shape (atoms,): filled part of the tetrahedra around the atom, 0 to 1; NaN without any.
    sites : ndarray
        Shape (atoms,): number of tetrahedra around the atom.
    oxygens : int
        Number of filled tetrahedra.
    """

    degree: Floats64
    sites: Floats64
    oxygens: int


def oxidation_of(
    tetrahedra: Tetrahedra,
    atoms: int,
    *,
    distortion: float = 0.255,
    volume_a3: float = 4.68,
) -> Oxidation:
    """Tell which tetrahedra of metal atoms are large enough for an oxygen.

    The rule and the numbers are those of Zhang et al., Nat. Commun. 2024, for zirconium: a
    tetrahedron counts if its longest edge is at most 25.5 % longer than the mean one (the parts of
    an octahedron are 32 % off); it holds an oxygen if its volume is above 4.68 cubic angstrom. Flat
    tetrahedra, which cut through octahedra of a crystal at random, do not count.

    Parameters
    ----------
    tetrahedra : Tetrahedra
        Of :func:`tetrahedra_of`, of the metal atoms alone.
    atoms : int
        Number of atoms.
    distortion : float
        Largest l_max / l_mean - 1.
    volume_a3 : float
        Least volume with an oxygen.

    Returns
    -------
    Oxidation
        Degree of each atom.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import tetrahedra_of
    >>> grid = np.stack(np.mgrid[:7, :7, :7], -1).reshape(-1, 3)
    >>> fluorite = 2.55 * grid[grid.sum(axis=1) % 2 == 0]
    >>> middle = np.linalg.norm(fluorite - fluorite.mean(axis=0), axis=1) < 4
    >>> found = oxidation_of(tetrahedra_of(fluorite, 4.5), len(fluorite))
    >>> found.degree[middle].min(), found.sites[middle].max()
    (np.float64(1.0), np.float64(8.0))
    """
    mean = tetrahedra.edges_a.mean(axis=1)
    sites = tetrahedra.inside & (tetrahedra.edges_a.max(axis=1) / mean - 1 <= distortion)
    sites &= tetrahedra.volumes_a3 > _SLIVER * mean**3 / (6 * np.sqrt(2))
    filled = sites & (tetrahedra.volumes_a3 > volume_a3)
    around = _at_atoms(tetrahedra, sites, atoms)
    with_oxygen = _at_atoms(tetrahedra, filled, atoms)
    degree = np.divide(with_oxygen, around, out=np.full(atoms, np.nan), where=around > 0)
    return Oxidation(degree, around, int(filled.sum()))


def _at_atoms(tetrahedra: Tetrahedra, chosen: np.ndarray, atoms: int) -> Floats64:
    return np.bincount(tetrahedra.corners[chosen].ravel(), minlength=atoms).astype(np.float64)
