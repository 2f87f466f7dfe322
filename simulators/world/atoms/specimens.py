"""Specimens made of atoms, as the simulated microscope images them, with their truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ....protocols.config.simulated import Si110, ZrZrO2
from .motion import AtomMotion
from .projection import Scatterers
from .scattering import cross_section_a2
from .zr_particle import Particle, oxidised_particle

Floats = NDArray[np.float64]

# Root mean square thermal displacement along an axis near room temperature.
THERMAL_A = {"C": 0.08, "O": 0.09, "Si": 0.076, "Zr": 0.08}
SI_LATTICE_A = 5.431
FILM_PER_A3 = 0.10
# Half the side of the supporting film: it fills the field at every tilt.
FILM_HALF_A, FILM_GAP_A = 160.0, 2.0
_ANGSTROM = 10.0  # in a nanometre


@dataclass(frozen=True)
class AtomTruth:
    """Every atom of the specimen at one moment, the film apart.

    Attributes
    ----------
    symbols : ndarray of str, shape (n,)
        Element of each atom.
    positions_a : ndarray, shape (n, 3)
        x, y, z in angstrom from the centre of the field, at tilt 0.
    region : ndarray of int8, shape (n,)
        For zirconium the index in `zr_particle.REGIONS`; -1 for other atoms.
    """

    symbols: NDArray[np.str_]
    positions_a: Floats
    region: NDArray[np.int8]

    def of(self, symbol: str) -> Floats:
        """Positions of the atoms of one element, shape (k, 3)."""
        return self.positions_a[self.symbols == symbol]


class AtomSpecimen(Protocol):
    """What is imaged atom by atom; a function of equivalent time."""

    def truth(self, equivalent_s: float) -> AtomTruth:
        """Every atom after so many equivalent seconds at 350 degC."""
        ...

    def scatterers(self, equivalent_s: float, voltage_kv: float) -> Scatterers:
        """The same, as the probe sees it."""
        ...


class OxidisedParticle:
    """The specimen "zr-zro2".

    Parameters
    ----------
    config : ZrZrO2
        Number of atoms, and the film that carries them.
    seed : int
        The same seed gives the same particle and the same course.
    """

    def __init__(self, config: ZrZrO2, seed: int) -> None:
        self.particle: Particle = oxidised_particle(config.atoms, seed)
        self._motion = AtomMotion(self.particle, seed)
        self._symbols = np.repeat(
            np.array(["Zr", "O"]), [config.atoms, len(self.particle.oxygen_a)]
        )
        lowest_a = float(self.particle.zr_a[:, 2].min()) - FILM_GAP_A
        self._film = _film(_ANGSTROM * config.film_nm, lowest_a, seed)

    def truth(self, equivalent_s: float) -> AtomTruth:
        """Every atom of the particle after so many equivalent seconds at 350 degC."""
        oxygen = self.particle.oxygen_a
        positions = np.concatenate([self._motion.positions_a(equivalent_s), oxygen])
        region = np.concatenate([self.particle.region, np.full(len(oxygen), -1, np.int8)])
        return AtomTruth(self._symbols, positions, region)

    def scatterers(self, equivalent_s: float, voltage_kv: float) -> Scatterers:
        """The same with the film, as the probe sees it."""
        zr, oxygen = self._motion.positions_a(equivalent_s), self.particle.oxygen_a
        kinds = {"Zr": zr, "O": oxygen, "C": self._film}
        return _as_scatterers(kinds, voltage_kv, len(zr) + len(oxygen))


class SiliconLamella:
    """The specimen "si-110": a crystal of silicon, seen along [110] at tilt 0.

    Its [001] direction lies along the columns' numbers (x), turned by `config.turn_deg`. Heat does
    not change it.

    Parameters
    ----------
    config : Si110
        Thickness, side and orientation.
    """

    def __init__(self, config: Si110) -> None:
        # One rectangular cell: [001] along x, [1-10] along y, [110] along the beam.
        short = SI_LATTICE_A / math.sqrt(2)
        cell = np.array([SI_LATTICE_A, short, short])
        basis = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0, 0.5], [0.75, 0.5, 0]])
        size = np.array([config.side_nm, config.side_nm, config.thickness_nm]) * _ANGSTROM
        counts = np.maximum(1, np.rint(size / cell)).astype(int)
        cells = np.stack(np.meshgrid(*[np.arange(n) for n in counts], indexing="ij"), axis=-1)
        places = ((cells.reshape(-1, 1, 3) + basis).reshape(-1, 3)) * cell
        places -= places.mean(axis=0)
        turn = math.radians(config.turn_deg)
        x, y = places[:, 0].copy(), places[:, 1].copy()
        places[:, 0] = x * math.cos(turn) - y * math.sin(turn)
        places[:, 1] = x * math.sin(turn) + y * math.cos(turn)
        self._truth = AtomTruth(
            np.full(len(places), "Si"), places, np.full(len(places), -1, np.int8)
        )

    def truth(self, equivalent_s: float) -> AtomTruth:
        """Every atom, at any time."""
        return self._truth

    def scatterers(self, equivalent_s: float, voltage_kv: float) -> Scatterers:
        """The same, as the probe sees it."""
        places = self._truth.positions_a
        return _as_scatterers({"Si": places}, voltage_kv, len(places))


def _as_scatterers(kinds: Mapping[str, Floats], voltage_kv: float, smooth_from: int) -> Scatterers:
    counts = [len(places) for places in kinds.values()]
    cross = [cross_section_a2(symbol, voltage_kv) for symbol in kinds]
    thermal = [THERMAL_A[symbol] for symbol in kinds]
    return Scatterers(
        np.concatenate(list(kinds.values())),
        np.repeat(cross, counts),
        np.repeat(thermal, counts),
        smooth_from,
    )


def _film(thickness_a: float, top_a: float, seed: int) -> Floats:
    """Carbon atoms below the particle: one at a random place in each cell of a grid."""
    if thickness_a <= 0:
        return np.empty((0, 3))
    cell = FILM_PER_A3 ** (-1 / 3)
    across = np.arange(-FILM_HALF_A, FILM_HALF_A, cell)
    layers = max(1, round(thickness_a / cell))
    down = top_a - (np.arange(layers) + 1) * thickness_a / layers
    corners = np.stack(np.meshgrid(across, across, down, indexing="ij"), axis=-1).reshape(-1, 3)
    within = np.random.default_rng([seed, 0xC]).random(corners.shape)
    return corners + within * np.array([cell, cell, thickness_a / layers])
