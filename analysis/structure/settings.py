"""Settings of the analysis of structure; the constants are those of zirconium and its oxide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lattice.atom_list import AtomList
from .lattice.pair_distribution import pair_distribution, shape_function
from .lattice.tessellation import tetrahedra_of

ZIRCONIUM_CUTOFF_A = 4.5
_LEAST_CUTOFF_A, _MOST_CUTOFF_A = 1.0, 12.0


@dataclass(frozen=True)
class StructureSettings:
    """What the analysis takes for granted; the defaults are those of Zhang et al. for zirconium.

    Lengths and volumes scale with the cutoff where it is not 4.5 angstrom: they are written here
    as for zirconium.

    Attributes
    ----------
    metal : str, optional
        Species whose lattice is analysed; by default the heaviest in the list.
    cutoff_a : float, optional
        Longest bond and radius of the ball that finds the surface, in angstrom. By default 4.5 for
        Zr, else the first valley of the pair distribution.
    disordered_below : float
        Normalised order below which an atom is disordered.
    void_radius_a : float
        Circumradius above which a tetrahedron is void.
    void_volumes_a3 : tuple of float
        Least volumes of vacancy, nano-pore, large pore.
    distortion : float
        Largest l_max / l_mean - 1 of a tetrahedron that can hold an oxygen.
    oxygen_volume_a3 : float
        Least volume of a tetrahedron that holds one.
    least_face : float
        Least part of the surface of a Voronoi cell that a face must have.
    core_above_per_a3 : float
        Atoms of the metal core are denser.
    longest_a : float
        Largest distance of the pair distribution; it does not scale.
    smoothing_a : float
        Standard deviation of its smoothing; it does not scale.
    profile_step_a : float
        Width of a bin of distance from the core; it does not scale.
    draws : int
        Times that the positions are moved by their errors.
    """

    metal: str | None = None
    cutoff_a: float | None = None
    disordered_below: float = 0.534
    void_radius_a: float = 3.19
    void_volumes_a3: tuple[float, float, float] = (45.0, 125.0, 4500.0)
    distortion: float = 0.255
    oxygen_volume_a3: float = 4.68
    least_face: float = 0.01
    core_above_per_a3: float = 0.0338
    longest_a: float = 12.0
    smoothing_a: float = 0.1
    profile_step_a: float = 2.0
    draws: int = 16


def metal_of(species: NDArray[Any], numbers: dict[str, int]) -> str:
    """Tell the species with the largest atomic number.

    Parameters
    ----------
    species : ndarray
        Chemical symbols.
    numbers : dict of str to int
        Atomic numbers by symbol.

    Returns
    -------
    str
        Its symbol.
    """
    return max((str(symbol) for symbol in np.unique(species)), key=lambda s: numbers.get(s, 0))


def cutoff_of(atoms: AtomList, metal: str, settings: StructureSettings, seed: int) -> float:
    """Longest bond: as told, 4.5 for Zr, else the first valley of the pair distribution.

    Parameters
    ----------
    atoms : AtomList
        Atoms of the metal.
    metal : str
        Their species.
    settings : StructureSettings
        May tell the cutoff.
    seed : int
        Of the random numbers.

    Returns
    -------
    float
        In angstrom, in steps of 0.05.

    Raises
    ------
    ValueError
        If none is told and the pair distribution has no clear first valley.
    """
    if settings.cutoff_a is not None:
        if not _LEAST_CUTOFF_A <= settings.cutoff_a <= _MOST_CUTOFF_A:
            raise ValueError(
                f"a cutoff of {settings.cutoff_a:g} A; a longest bond lies between "
                f"{_LEAST_CUTOFF_A:g} and {_MOST_CUTOFF_A:g} A"
            )
        return settings.cutoff_a
    if metal == "Zr":
        return ZIRCONIUM_CUTOFF_A
    tetrahedra = tetrahedra_of(atoms.positions_a, 2 * settings.longest_a)
    shape = shape_function(
        atoms.positions_a, tetrahedra, settings.longest_a, np.random.default_rng(seed)
    )
    found = pair_distribution(
        atoms.positions_a, None, shape,
        longest_a=settings.longest_a, smoothing_a=settings.smoothing_a,
    ).first_valley_a()  # fmt: skip
    if not np.isfinite(found):
        raise ValueError("the pair distribution has no clear first peak; tell the longest bond")
    return round(20 * found) / 20
