from .atom_fit import AtomFit
from .doubts import BondScale, bond_scale
from .fit import fit_atoms
from .matching import AtomMatch, match_atoms
from .refinement.settings import LikelihoodSettings
from .search.peaks import Trace, trace_volume

__all__ = [
    "AtomFit",
    "AtomMatch",
    "BondScale",
    "LikelihoodSettings",
    "Trace",
    "bond_scale",
    "fit_atoms",
    "match_atoms",
    "trace_volume",
]
