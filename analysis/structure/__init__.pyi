from .analysis import Structure, analyse_structure
from .displacements import Displacements, match_series
from .lattice.atom_list import AtomList, atom_list
from .lattice.bonds import Bonds, bonds_of
from .lattice.concentration import Concentration, concentration_of
from .lattice.interfaces import Interfaces, find_interfaces
from .lattice.order import BondOrder, bond_order
from .lattice.oxidation import Oxidation, oxidation_of
from .lattice.pair_distribution import (
    PairDistribution,
    ShapeFunction,
    pair_distribution,
    shape_function,
)
from .lattice.templates import Templates, match_templates
from .lattice.tessellation import Tetrahedra, tetrahedra_of
from .lattice.voids import Voids, find_voids
from .settings import StructureSettings
from .uncertainty import Estimate

__all__ = [
    "AtomList",
    "BondOrder",
    "Bonds",
    "Concentration",
    "Displacements",
    "Estimate",
    "Interfaces",
    "Oxidation",
    "PairDistribution",
    "ShapeFunction",
    "Structure",
    "StructureSettings",
    "Templates",
    "Tetrahedra",
    "Voids",
    "analyse_structure",
    "atom_list",
    "bond_order",
    "bonds_of",
    "concentration_of",
    "find_interfaces",
    "find_voids",
    "match_series",
    "match_templates",
    "oxidation_of",
    "pair_distribution",
    "shape_function",
    "tetrahedra_of",
]
