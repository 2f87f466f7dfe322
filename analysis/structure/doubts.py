"""What seems to be wrong with a list of atoms, and what it does to its structure."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from .lattice.atom_list import AtomList
from .lattice.interfaces import CORE
from .measurement import Frame, Lattice

# Above this part of the distance of neighbours errors hide the difference of metal and oxide.
_LARGE_ERROR = 0.03
_FEW_NEIGHBOURS, _MANY_NEIGHBOURS = 4.0, 20.0
_CLOSE = 0.6


def doubts_of(metal: AtomList, lattice: Lattice, frame: Frame, left_out: int) -> tuple[str, ...]:
    """Say what a person should know about the figures.

    Parameters
    ----------
    metal : AtomList
        Metal atoms that were analysed.
    lattice : Lattice
        Their lattice.
    frame : Frame
        Gives cutoff and species.
    left_out : int
        Atoms that are less likely there than not.

    Returns
    -------
    tuple of str
        Sentences.
    """
    doubts: list[str] = []
    nearest = np.asarray(KDTree(metal.positions_a).query(metal.positions_a, k=2)[0])[:, 1]
    typical = float(np.median(nearest))
    if metal.covariance_a2 is None:
        doubts.append("positions have no errors, so the figures have none")
    else:
        along = np.sqrt(np.median(np.trace(metal.covariance_a2, axis1=1, axis2=2)) / 3)
        if along > _LARGE_ERROR * typical:
            doubts.append(
                f"positions are known to {100 * along:.0f} pm along an axis only; order and "
                "oxidation are biased by it, by more than the correction may take away"
            )
    neighbours = float(np.median(lattice.bonds.counts))
    if not _FEW_NEIGHBOURS <= neighbours <= _MANY_NEIGHBOURS:
        doubts.append(
            f"an atom has {neighbours:.0f} neighbours within {frame.cutoff_a:g} A; is the longest "
            "bond right, and are positions in angstrom?"
        )
    close = int((nearest < _CLOSE * typical).sum())
    if close:
        doubts.append(
            f"{close} atoms stand nearer than {_CLOSE * typical:.1f} A to another; they may be one "
            "atom found twice, and order and volumes around them are wrong"
        )
    if not (lattice.parts.phase == CORE).any():
        doubts.append("no metal core is found; there are no distances from it")
    if left_out:
        doubts.append(f"{left_out} atoms are less likely there than not; figures leave them out")
    return tuple(doubts)
