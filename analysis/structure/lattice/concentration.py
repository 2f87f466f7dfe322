"""Concentration at each atom: one over the volume of its Voronoi cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atom_list import Floats64
from .bonds import Bonds
from .kernels import cells


@dataclass(frozen=True)
class Concentration:
    """Voronoi cells of atoms.

    Attributes
    ----------
    per_a3 : ndarray
        Shape (atoms,): atoms per cubic angstrom; NaN where the cell is open, as at the surface.
    faces : ndarray
        Shape (atoms,): faces of the cell, which is the coordination number.
    """

    per_a3: Floats64
    faces: NDArray[np.int64]


def concentration_of(
    positions_a: NDArray[Any], bonds: Bonds, *, least_face: float = 0.01
) -> Concentration:
    """Volumes of Voronoi cells whose small faces and long bonds are dropped.

    Rule of Zhang et al., Nat. Commun. 2024: only neighbours within the cutoff bound a cell; faces
    below 1 % of its surface are dropped, and the cell is made again without them. A cell with a
    corner farther than the cutoff from its atom is open and has no volume.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    bonds : Bonds
        Of :func:`bonds_of`.
    least_face : float
        Least part of the surface of a cell.

    Returns
    -------
    Concentration
        Of each atom.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import bonds_of
    >>> grid = np.stack(np.mgrid[:5, :5, :5], -1).reshape(-1, 3)
    >>> fcc = 2.3 * grid[grid.sum(axis=1) % 2 == 0]
    >>> middle = np.argmin(np.linalg.norm(fcc - 4.6, axis=1))
    >>> found = concentration_of(fcc, bonds_of(fcc, 4.5))
    >>> round(float(found.per_a3[middle] * 2 * 2.3**3), 9), int(found.faces[middle])
    (1.0, 12)
    """
    positions = np.ascontiguousarray(positions_a, np.float64)
    volumes, faces = cells(positions, bonds.starts, bonds.neighbours, least_face, bonds.cutoff_a)
    return Concentration(1 / volumes, faces)
