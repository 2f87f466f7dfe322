from .atom_list import AtomList, atom_list
from .bonds import Bonds, bonds_of
from .concentration import Concentration, concentration_of
from .order import BondOrder, bond_order
from .oxidation import Oxidation, oxidation_of
from .tessellation import Tetrahedra, tetrahedra_of
from .voids import Voids, find_voids

__all__ = [
    "AtomList",
    "BondOrder",
    "Bonds",
    "Concentration",
    "Oxidation",
    "Tetrahedra",
    "Voids",
    "atom_list",
    "bond_order",
    "bonds_of",
    "concentration_of",
    "find_voids",
    "oxidation_of",
    "tetrahedra_of",
]
