"""Bond orientational order averaged over the neighbours: Q4, Q6, and which atoms are disordered."""
# pyscal3 is untyped.
# pyright: basic

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .atom_list import Floats64

FCC_Q4, FCC_Q6 = 0.190941, 0.574524
DISORDERED_BELOW = 0.534


@dataclass(frozen=True)
class BondOrder:
    """Order of each atom.

    Attributes
    ----------
    q4, q6 : ndarray
        Shape (atoms,): averaged over the atom and its neighbours.
    """

    q4: Floats64
    q6: Floats64

    @property
    def normalised(self) -> Floats64:
        """sqrt(Q4^2 + Q6^2) over that of fcc; below 0.534 an atom is disordered."""
        return np.hypot(self.q4, self.q6) / np.hypot(FCC_Q4, FCC_Q6)


def bond_order(positions_a: NDArray[Any], cutoff_a: float) -> BondOrder:
    """Bond orientational order after Lechner and Dellago, by pyscal3.

    J. Chem. Phys. 129, 114707, 2008, equations 5 and 6. Threshold and normalisation are those of
    Zhang et al., Nat. Commun. 2024.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    cutoff_a : float
        Longest bond, in angstrom.

    Returns
    -------
    BondOrder
        Of each atom; 0 for one without neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.stack(np.mgrid[:9, :9, :9], -1).reshape(-1, 3)
    >>> fcc = 2.3 * grid[grid.sum(axis=1) % 2 == 0]
    >>> middle = np.argmin(np.linalg.norm(fcc - 4 * 2.3, axis=1))
    >>> order = bond_order(fcc, 4.0)
    >>> np.round([order.q4[middle], order.q6[middle], order.normalised[middle]], 5).tolist()
    [0.19094, 0.57452, 1.0]
    """
    import pyscal3
    from ase import Atoms

    atoms = Atoms(positions=np.asarray(positions_a, np.float64), numbers=[1] * len(positions_a))
    pyscal3.find_neighbors(atoms, method="cutoff", cutoff=cast(Any, cutoff_a), store_rows=False)
    q4, q6 = pyscal3.steinhardt_parameter(atoms, l=[4, 6], averaged=True)
    return BondOrder(np.nan_to_num(np.asarray(q4)), np.nan_to_num(np.asarray(q6)))
