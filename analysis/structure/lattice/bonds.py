"""Neighbours within a cutoff, as one list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import KDTree

from .atom_list import Floats64


@dataclass(frozen=True)
class Bonds:
    """Neighbours of each atom.

    Attributes
    ----------
    starts : ndarray
        Shape (atoms + 1,): the neighbours of atom a are ``neighbours[starts[a]:starts[a + 1]]``.
    neighbours : ndarray
        Indices of atoms; each bond stands there twice.
    cutoff_a : float
        Longest bond, in angstrom.
    """

    starts: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    cutoff_a: float

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of neighbours of each atom."""
        return np.diff(self.starts)

    def sums(self, values: NDArray[Any]) -> Floats64:
        """Return the sum of a value over the neighbours of each atom and the atom itself."""
        table = self.table()
        return table @ np.asarray(values, np.float64) + values

    def means(self, values: NDArray[Any]) -> Floats64:
        """Return the mean over an atom and its neighbours; NaN values are left out."""
        known = np.isfinite(values)
        number = self.sums(known.astype(np.float64))
        total = self.sums(np.where(known, values, 0.0))
        return np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)

    def table(self) -> csr_array:
        """Return the bonds as a sparse matrix of ones."""
        size = len(self.starts) - 1
        ones = np.ones(len(self.neighbours))
        return csr_array((ones, self.neighbours, self.starts), shape=(size, size))


def bonds_of(positions_a: NDArray[Any], cutoff_a: float) -> Bonds:
    """Find the neighbours of each atom within a cutoff.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    cutoff_a : float
        Longest bond, in angstrom.

    Returns
    -------
    Bonds
        In order of the atoms.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.array([[0.0, 0, 0], [1, 0, 0], [2.5, 0, 0]])
    >>> bonds_of(line, 2.0).counts.tolist()
    [1, 2, 1]
    """
    positions = np.asarray(positions_a, np.float64)
    pairs = KDTree(positions).query_pairs(cutoff_a, output_type="ndarray")
    one = np.concatenate([pairs[:, 0], pairs[:, 1]])
    other = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((other, one))
    starts = np.zeros(len(positions) + 1, np.int64)
    np.cumsum(np.bincount(one, minlength=len(positions)), out=starts[1:])
    return Bonds(starts, other[order].astype(np.int64), cutoff_a)
