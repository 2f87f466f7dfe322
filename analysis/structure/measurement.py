"""One evaluation of everything that a list of positions says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lattice.atom_list import AtomList, Floats64
from .lattice.bonds import Bonds, bonds_of
from .lattice.concentration import concentration_of
from .lattice.interfaces import PHASES, Interfaces, find_interfaces
from .lattice.order import bond_order
from .lattice.oxidation import oxidation_of
from .lattice.pair_distribution import PairDistribution, ShapeFunction, pair_distribution
from .lattice.tessellation import Tetrahedra, tetrahedra_of
from .lattice.voids import Voids, find_voids
from .settings import ZIRCONIUM_CUTOFF_A, StructureSettings

PER_ATOM = ("q4", "q6", "order", "concentration_per_a3", "oxidation", "distance_a")
PROFILE = ("concentration_per_a3", "order", "disordered_fraction", "oxidation")
_LEAST_IN_BIN = 5
_LEAST_IN_PHASE = 10


@dataclass(frozen=True)
class Frame:
    """What is the same in every evaluation of one particle.

    Attributes
    ----------
    settings : StructureSettings
        As told.
    metal : str
        Species whose lattice is analysed.
    cutoff_a : float
        Longest bond.
    shapes : dict of str to ShapeFunction
        Of the whole ("") and of each phase.
    peaks_a : dict of str to ndarray
        Places of the peaks of each pair distribution; empty in the first evaluation.
    edges_a : ndarray
        Edges of the bins of the profile; empty in the first evaluation.
    """

    settings: StructureSettings
    metal: str
    cutoff_a: float
    shapes: dict[str, ShapeFunction]
    peaks_a: dict[str, Floats64]
    edges_a: Floats64

    @property
    def scale(self) -> float:
        """Cutoff over that of zirconium, with which lengths scale."""
        return self.cutoff_a / ZIRCONIUM_CUTOFF_A


@dataclass(frozen=True)
class Measurement:
    """What positions say, without errors.

    Attributes
    ----------
    per_atom : dict of str to ndarray
        Shape (metal atoms,) each; names as in `PER_ATOM`.
    coordination : ndarray
        Shape (metal atoms,): faces of the Voronoi cell.
    phase : ndarray
        Shape (metal atoms,).
    voids : Voids
        Of the metal's lattice.
    pairs : dict of str to PairDistribution
        By name: ``Zr-Zr``, ``Zr-Zr core``, ``Zr-O``.
    figures : dict of str to float
        Numbers of the whole.
    profile : ndarray
        Shape (bins, 4): means of `PROFILE` in bins of distance from the core.
    """

    per_atom: dict[str, Floats64]
    coordination: NDArray[np.int64]
    phase: NDArray[np.intp]
    voids: Voids
    pairs: dict[str, PairDistribution]
    figures: dict[str, float]
    profile: Floats64


@dataclass(frozen=True)
class Lattice:
    """Metal atoms: tetrahedra, bonds, and what each atom is."""

    tetrahedra: Tetrahedra
    bonds: Bonds
    per_atom: dict[str, Floats64]
    coordination: NDArray[np.int64]
    sites: Floats64
    oxygens: int
    parts: Interfaces


def lattice_of(positions_a: Floats64, cutoff_a: float, settings: StructureSettings) -> Lattice:
    """Evaluate each metal atom."""
    scale = cutoff_a / ZIRCONIUM_CUTOFF_A
    tetrahedra = tetrahedra_of(positions_a, cutoff_a)
    bonds = bonds_of(positions_a, cutoff_a)
    cells = concentration_of(positions_a, bonds, least_face=settings.least_face)
    order = bond_order(positions_a, cutoff_a)
    oxidation = oxidation_of(
        tetrahedra, len(positions_a),
        distortion=settings.distortion, volume_a3=settings.oxygen_volume_a3 * scale**3,
    )  # fmt: skip
    parts = find_interfaces(
        positions_a, bonds, order.normalised, cells.per_a3,
        disordered_below=settings.disordered_below,
        core_above_per_a3=settings.core_above_per_a3 / scale**3,
    )  # fmt: skip
    values = (
        order.q4, order.q6, order.normalised, cells.per_a3, oxidation.degree, parts.distance_a,
    )  # fmt: skip
    return Lattice(
        tetrahedra, bonds, dict(zip(PER_ATOM, values, strict=True)), cells.faces,
        oxidation.sites, oxidation.oxygens, parts,
    )  # fmt: skip


def measured(atoms: AtomList, frame: Frame, lattice: Lattice | None = None) -> Measurement:
    """Evaluate positions once.

    Parameters
    ----------
    atoms : AtomList
        All atoms.
    frame : Frame
        Settings, shapes, peaks and bins.
    lattice : Lattice, optional
        Of the metal atoms, where it is known already.

    Returns
    -------
    Measurement
        Without errors.
    """
    settings = frame.settings
    metal = atoms.positions_a[atoms.species == frame.metal]
    lattice = lattice or lattice_of(metal, frame.cutoff_a, settings)
    voids = find_voids(
        metal, lattice.tetrahedra, radius_a=settings.void_radius_a * frame.scale,
        volumes_a3=_scaled(settings.void_volumes_a3, frame.scale**3),
    )  # fmt: skip
    pairs = pair_functions(atoms, frame, lattice.parts)
    figures = _figures(lattice, voids, settings)
    for name, places in frame.peaks_a.items():
        for number, place in enumerate(places, 1):
            key = f"pdf_{name.replace(' ', '_')}_peak_{number}_a"
            figures[key] = pairs[name].peak_near(place) if name in pairs else float("nan")
    return Measurement(
        lattice.per_atom, lattice.coordination, lattice.parts.phase, voids, pairs, figures,
        _profile(lattice, frame.edges_a, settings.disordered_below),
    )  # fmt: skip


def _scaled(volumes: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    return volumes[0] * by, volumes[1] * by, volumes[2] * by


def pair_functions(atoms: AtomList, frame: Frame, parts: Interfaces) -> dict[str, PairDistribution]:
    """Pair distributions: partial by species, and of the metal in each phase."""
    settings = frame.settings
    reach = {"longest_a": settings.longest_a, "smoothing_a": settings.smoothing_a}
    names = sorted({str(s) for s in atoms.species}, key=lambda s: (s != frame.metal, s))
    places = {name: atoms.positions_a[atoms.species == name] for name in names}
    whole = frame.shapes[""]
    made: dict[str, PairDistribution] = {}
    for n, one in enumerate(names):
        for two in names[n:]:
            other = None if one == two else places[two]
            made[f"{one}-{two}"] = pair_distribution(places[one], other, whole, **reach)
    for number, phase in enumerate(PHASES):
        chosen = parts.phase == number
        if phase in frame.shapes and chosen.sum() >= _LEAST_IN_PHASE:
            made[f"{frame.metal}-{frame.metal} {phase}"] = pair_distribution(
                places[frame.metal][chosen], None, frame.shapes[phase], **reach
            )
    return made


def _figures(lattice: Lattice, voids: Voids, settings: StructureSettings) -> dict[str, float]:
    values, phase = lattice.per_atom, lattice.parts.phase
    atoms = len(phase)
    figures = {
        "disordered_fraction": float((values["order"] < settings.disordered_below).mean()),
        "concentration_per_a3": _middle(values["concentration_per_a3"]),
        "coordination": float(lattice.coordination[np.isfinite(values["concentration_per_a3"])]
                              .mean()) if np.isfinite(values["concentration_per_a3"]).any()
        else float("nan"),
        "oxidation": _mean(values["oxidation"]),
        "oxygen_per_metal": lattice.oxygens / atoms,
        "vacancies": float(voids.count("vacancy")),
        "nano_pores": float(voids.count("nano-pore")),
        "large_pores": float(voids.count("large pore")),
        "porosity": voids.porosity,
        "volume_a3": voids.particle_a3,
    }  # fmt: skip
    for number, name in enumerate(PHASES):
        chosen = phase == number
        enough = chosen.sum() >= _LEAST_IN_PHASE
        figures[f"{name}_fraction"] = float(chosen.mean())
        for key, of in (("concentration_per_a3", _middle), ("oxidation", _mean), ("order", _mean)):
            figures[f"{name}_{key}"] = of(values[key][chosen]) if enough else float("nan")
    return figures


def _mean(values: Floats64) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _middle(values: Floats64) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _profile(lattice: Lattice, edges: Floats64, disordered_below: float) -> Floats64:
    """Means in bins of distance from the core."""
    bins = max(len(edges) - 1, 0)
    table = np.full((bins, len(PROFILE)), np.nan)
    distance = lattice.parts.distance_a
    known = np.isfinite(distance)
    at = np.searchsorted(edges, distance[known], side="right") - 1
    order = lattice.per_atom["order"][known]
    columns = (
        lattice.per_atom["concentration_per_a3"][known], order,
        (order < disordered_below).astype(np.float64), lattice.per_atom["oxidation"][known],
    )  # fmt: skip
    for column, values in enumerate(columns):
        fine = np.isfinite(values) & (at >= 0) & (at < bins)
        number = np.bincount(at[fine], minlength=bins)
        total = np.bincount(at[fine], values[fine], minlength=bins)
        enough = number >= _LEAST_IN_BIN
        table[enough, column] = total[enough] / number[enough]
    return table
