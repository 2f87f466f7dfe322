"""The specimen "zr-zro2": a zirconium particle that is oxidised, atom by atom.

From the inside: metal (fcc), cubic ZrO2 (fluorite) on the same axes, turned a little, and an
amorphous oxide shell; vacancies among the crystalline zirconium, pores in the oxides, oxygen
throughout them. Concentrations of zirconium and distances are those of Zhang et al., Nat. Commun.
2024, 10.1038/s41467-024-52026-w: 3.85e-2 (metal), 2.92e-2 and 2.89e-2 per cubic angstrom (cubic and
amorphous oxide); first neighbours at 3.3, 3.6 and 3.45 A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Delaunay, KDTree

Floats = NDArray[np.float64]
METAL, CRYSTALLINE, AMORPHOUS = 0, 1, 2
REGIONS: Final = ("metal", "crystalline oxide", "amorphous oxide")

METAL_LATTICE_A, OXIDE_LATTICE_A = 4.70, 5.154
AMORPHOUS_PER_A3 = 0.0289
# Radii of metal core and of the crystalline oxide around it, over that of the particle.
CORE_PART, CRYSTAL_PART = 0.55, 0.84
ROUGHNESS = 0.05
OXIDE_TURN_DEG = 4.0
VACANCIES = 0.03
# One pore for so many atoms, in the oxides, and its radius.
ATOMS_PER_PORE, PORE_FROM_A, PORE_TO_A = 500, 3.5, 7.5
NEAREST_A, AMORPHOUS_NEAREST_A = 2.75, 3.25
OXYGEN_APART_A, OXYGEN_OF_ZR_A = 2.2, 1.8
# What the voids of tetrahedra must be to take an oxygen, as the source counts oxidation.
_LEAST_VOLUME_A3, _MOST_DISTORTED = 4.68, 0.255
_FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
_PUSHES = 60
_SPARE = 1.25


@dataclass(frozen=True)
class Particle:
    """Atoms of a particle.

    Attributes
    ----------
    zr_a : ndarray, shape (n, 3)
        Zirconium: x, y, z in angstrom about the centre of the field.
    region : ndarray of int8, shape (n,)
        Where each zirconium belongs: index in `REGIONS`.
    oxygen_a : ndarray, shape (m, 3)
        Oxygen.
    vacancies_a : ndarray, shape (k, 3)
        Places of crystalline zirconium that are empty.
    pores_a : ndarray, shape (p, 4)
        Centre and radius of each pore.
    """

    zr_a: Floats
    region: NDArray[np.int8]
    oxygen_a: Floats
    vacancies_a: Floats
    pores_a: Floats


def oxidised_particle(atoms: int, seed: int) -> Particle:
    """Build a particle.

    Parameters
    ----------
    atoms : int
        Number of zirconium atoms, 20 at least.
    seed : int
        The same seed gives the same particle.

    Returns
    -------
    Particle
        With exactly that many zirconium atoms, about their mean.

    Examples
    --------
    >>> particle = oxidised_particle(300, 1)
    >>> particle.zr_a.shape
    (300, 3)
    """
    rng = np.random.default_rng([seed, 0xA70])
    # Somewhat too large: what lies outermost goes.
    radius_a = (3 * _SPARE * atoms / (4 * math.pi * 0.030)) ** (1 / 3)
    shape = _Shape(radius_a, rng)
    frame = _any_turn(rng)
    pores = _pores(atoms, radius_a, rng)
    metal = _lattice(METAL_LATTICE_A, _FCC, frame, radius_a)
    metal = metal[shape.depth(metal) < CORE_PART]
    tilted = _turned(frame, rng)
    crystal = _lattice(OXIDE_LATTICE_A, _FCC, tilted, radius_a)
    depth = shape.depth(crystal)
    crystal = crystal[(depth < CRYSTAL_PART) & (depth > CORE_PART) & _outside(crystal, pores)]
    crystal = _apart_from(crystal, metal, NEAREST_A)
    inside = np.concatenate([metal, crystal])
    glass = _amorphous(shape, inside, pores, rng)
    zr = np.concatenate([inside, glass])
    region = np.repeat(
        np.array([METAL, CRYSTALLINE, AMORPHOUS], np.int8), [len(metal), len(crystal), len(glass)]
    )
    vacant = _vacancies(zr, region, rng)
    kept = ~vacant
    depth = shape.depth(zr)
    kept[np.flatnonzero(kept)[np.argsort(depth[kept])[atoms:]]] = False
    outermost = float(depth[kept].max())
    oxygen = _oxygen(_lattice_oxygen(tilted, radius_a, shape), zr, region, pores, rng)
    oxygen = oxygen[shape.depth(oxygen) < outermost]
    vacancies = zr[vacant & (depth < outermost)]
    zr, region = zr[kept], region[kept]
    middle = zr.mean(axis=0)
    moved = np.concatenate([middle, [0.0]])
    return Particle(zr - middle, region, oxygen - middle, vacancies - middle, pores - moved)


class _Shape:
    """A ball with a rough border: how deep a place lies in it, 0 in the centre, 1 at the border."""

    def __init__(self, radius_a: float, rng: np.random.Generator) -> None:
        self._radius_a = radius_a
        self._waves = rng.normal(0, 2.0, (6, 3))
        self._phases = rng.uniform(0, 2 * math.pi, 6)

    def depth(self, places: Floats) -> Floats:
        distance = np.linalg.norm(places, axis=1)
        towards = places / np.maximum(distance, 1e-9)[:, None]
        waves = np.cos(towards @ self._waves.T + self._phases).mean(axis=1)
        return distance / (self._radius_a * (1 + ROUGHNESS * math.sqrt(6) * waves))


def _lattice(lattice_a: float, basis: Floats, frame: Floats, radius_a: float) -> Floats:
    """Places of a lattice within a ball, its axes the rows of `frame`."""
    reach = math.ceil(1.3 * radius_a / lattice_a)
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), axis=-1)
    places = (cells.reshape(-1, 1, 3) + basis).reshape(-1, 3) * lattice_a
    return places[np.linalg.norm(places, axis=1) < 1.3 * radius_a] @ frame


def _any_turn(rng: np.random.Generator) -> Floats:
    """Any orientation: the rows are the axes."""
    found, _ = np.linalg.qr(rng.normal(0, 1, (3, 3)))
    return found * np.sign(np.linalg.det(found))


def _turned(frame: Floats, rng: np.random.Generator) -> Floats:
    """A frame, turned by `OXIDE_TURN_DEG` about any axis."""
    axis = rng.normal(0, 1, 3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(OXIDE_TURN_DEG)
    turn = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return frame @ turn.T


def _pores(atoms: int, radius_a: float, rng: np.random.Generator) -> Floats:
    """Centres and radii of the pores, which lie in the oxides."""
    count = max(1, round(atoms / ATOMS_PER_PORE))
    towards = rng.normal(0, 1, (count, 3))
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    away = radius_a * rng.uniform(CORE_PART + 0.02, 0.90, count)
    largest = min(PORE_TO_A, 0.2 * radius_a)
    sizes = rng.uniform(min(PORE_FROM_A, largest), largest, count)
    return np.column_stack([towards * away[:, None], sizes])


def _outside(places: Floats, pores: Floats) -> NDArray[np.bool_]:
    """Whether each place lies in no pore."""
    away = np.linalg.norm(places[:, None] - pores[:, :3], axis=2)
    return np.all(away > pores[:, 3], axis=1)


def _apart_from(places: Floats, others: Floats, nearest_a: float) -> Floats:
    """The places that are not nearer to any of the others."""
    if not len(others) or not len(places):
        return places
    return places[KDTree(others).query(places)[0] >= nearest_a]


def _amorphous(shape: _Shape, inside: Floats, pores: Floats, rng: np.random.Generator) -> Floats:
    """A shell of random places at the concentration of the glass, pushed apart."""
    reach = 1.3 * float(np.abs(inside).max()) / CRYSTAL_PART
    tried = rng.uniform(-reach, reach, (round(AMORPHOUS_PER_A3 * (2 * reach) ** 3), 3))
    depth = shape.depth(tried)
    shell = tried[(depth > CRYSTAL_PART) & (depth < 1.0) & _outside(tried, pores)]
    crystal = KDTree(inside)
    for _ in range(_PUSHES):
        pushes = np.zeros_like(shell)
        pairs = KDTree(shell).query_pairs(AMORPHOUS_NEAREST_A, output_type="ndarray")
        along = shell[pairs[:, 1]] - shell[pairs[:, 0]]
        away = np.linalg.norm(along, axis=1, keepdims=True)
        push = 0.5 * (AMORPHOUS_NEAREST_A - away) * along / np.maximum(away, 1e-6)
        np.add.at(pushes, pairs[:, 1], 0.6 * push)
        np.add.at(pushes, pairs[:, 0], -0.6 * push)
        away, nearest = crystal.query(shell)
        along = shell - inside[nearest]
        missing = np.maximum(AMORPHOUS_NEAREST_A - away, 0.0)[:, None]
        shell += pushes + 0.6 * missing * along / np.maximum(away, 1e-6)[:, None]
    shell = shell[_outside(shell, pores) & (crystal.query(shell)[0] >= NEAREST_A)]
    pairs = KDTree(shell).query_pairs(NEAREST_A, output_type="ndarray")
    stays = np.ones(len(shell), np.bool_)
    stays[pairs.max(axis=1, initial=0) if len(pairs) else []] = False
    return shell[stays]


def _vacancies(zr: Floats, region: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which crystalline zirconium is missing; no two of them are neighbours."""
    vacant = np.zeros(len(zr), np.bool_)
    tree = KDTree(zr)
    crystalline = np.flatnonzero(region != AMORPHOUS)
    for atom in rng.permutation(crystalline)[: round(VACANCIES * len(crystalline))]:
        near = tree.query_ball_point(zr[atom], 4.5)
        # Whole surroundings: a gap at the border is no vacancy.
        if len(near) >= 13 and not vacant[near].any():
            vacant[atom] = True
    return vacant


def _lattice_oxygen(frame: Floats, radius_a: float, shape: _Shape) -> Floats:
    """Places of oxygen in the crystalline oxide: the middles of the eighths of its cells."""
    eighths = np.stack(np.meshgrid(*[[0.25, 0.75]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _lattice(OXIDE_LATTICE_A, eighths, frame, radius_a)
    depth = shape.depth(places)
    return places[(depth > CORE_PART) & (depth < CRYSTAL_PART)]


def _oxygen(
    crystalline: Floats,
    zr: Floats,
    region: NDArray[np.int8],
    pores: Floats,
    rng: np.random.Generator,
) -> Floats:
    """Oxygen of the lattice, and in the tetrahedra of the glass that can take it: two a Zr."""
    crystalline = crystalline[_outside(crystalline, pores)]
    crystalline = _apart_from(crystalline, zr, OXYGEN_OF_ZR_A)
    # Where the crystal ends there are places without zirconium around them.
    crystalline = crystalline[KDTree(zr).query(crystalline, k=3)[0][:, 2] < 2.9]
    corners = Delaunay(zr).simplices
    corners = corners[(region[corners] == AMORPHOUS).any(axis=1)]
    at = zr[corners]
    lengths = np.linalg.norm(at[:, [0, 0, 0, 1, 1, 2]] - at[:, [1, 2, 3, 2, 3, 3]], axis=2)
    distorted = lengths.max(axis=1) / lengths.mean(axis=1) - 1
    volume = np.abs(np.linalg.det(at[:, 1:] - at[:, :1])) / 6
    good = (distorted <= _MOST_DISTORTED) & (volume > _LEAST_VOLUME_A3)
    good &= lengths.max(axis=1) < 5.5
    middles = at[good].mean(axis=1)
    middles = _apart_from(middles, zr, OXYGEN_OF_ZR_A)
    middles = _apart_from(middles, crystalline, OXYGEN_APART_A)
    middles = middles[rng.permutation(len(middles))]
    pairs = KDTree(middles).query_pairs(OXYGEN_APART_A, output_type="ndarray")
    goes = np.zeros(len(middles), np.bool_)
    for first, second in pairs[np.lexsort(pairs.T[::-1])]:
        if not goes[first]:
            goes[second] = True
    middles = middles[~goes]
    most = 2 * int((region == AMORPHOUS).sum())
    return np.concatenate([crystalline, middles[:most]])
