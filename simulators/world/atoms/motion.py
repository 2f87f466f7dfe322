"""Atoms that move while the specimen is hot: hops on the surface, and into vacancies.

A pure function of equivalent time at 350 degC, as the chip integrates it (`chip.py`). Attempts
come at a rate that falls as 1 / (1 + t / `SETTLES_S`): what moves easily has moved. Each attempt
picks an atom. Beside a vacancy it may go there. On the surface it goes to another place on it,
where no other atom is too near and enough are near to hold it. Rates are assumed.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .zr_particle import NEAREST_A, OXYGEN_OF_ZR_A, Particle

Floats = NDArray[np.float64]

# Attempts of an atom in a second at first, and the time in which the rate falls to a half.
ATTEMPTS_PER_S, SETTLES_S = 0.03, 20.0
HOP_A, NEIGHBOURS_A = 3.4, 4.5
# An atom with so few neighbours lies on the surface; with fewer it holds nowhere.
SURFACE_NEIGHBOURS, LEAST_NEIGHBOURS = 8, 4
_TRIES = 12
# Share of the attempts beside a vacancy that succeed, and how near that is.
INTO_VACANCY, VACANCY_REACH_A = 0.2, 4.1


@dataclass(frozen=True)
class Hop:
    """An atom goes to another place, at an equivalent time."""

    equivalent_s: float
    atom: int
    to_a: Floats


class AtomMotion:
    """The course of the atoms of one particle; safe to call from several threads.

    Parameters
    ----------
    particle : Particle
        As it is at first.
    seed : int
        The same seed gives the same course.
    """

    def __init__(self, particle: Particle, seed: int) -> None:
        self._oxygen = particle.oxygen_a
        self._lock = threading.Lock()
        self._rng = np.random.default_rng([seed, 0x40B])
        self._first = particle.zr_a
        # As after the last attempt so far.
        self._now, self._vacancies = particle.zr_a.copy(), particle.vacancies_a.copy()
        self._hops: list[Hop] = []
        self._progress, self._next_s = 0.0, 0.0
        self._draw_next()
        self._seen: tuple[int, Floats] = (0, particle.zr_a)

    def positions_a(self, equivalent_s: float) -> Floats:
        """Zirconium after so many equivalent seconds, shape (n, 3); not to be changed."""
        with self._lock:
            while self._next_s <= equivalent_s:
                self._attempt()
                self._draw_next()
            count = len(self._hops)
            while count and self._hops[count - 1].equivalent_s > equivalent_s:
                count -= 1
            if self._seen[0] != count:
                there = self._first.copy()
                for hop in self._hops[:count]:
                    there[hop.atom] = hop.to_a
                self._seen = count, there
            return self._seen[1]

    def _draw_next(self) -> None:
        """When the next attempt comes: the inverse of the accumulated rate."""
        self._progress += float(self._rng.standard_exponential())
        rate = ATTEMPTS_PER_S * len(self._first) * SETTLES_S
        exponent = self._progress / rate
        self._next_s = SETTLES_S * math.expm1(exponent) if exponent < 700 else math.inf

    def _attempt(self) -> None:
        atom = int(self._rng.integers(len(self._now)))
        here = self._now[atom]
        nearest = self._vacancy_beside(here)
        if nearest is not None:
            self._into_vacancy(atom, nearest)
            return
        near = self._near(here, atom, NEIGHBOURS_A + HOP_A)
        if self._neighbours(here, near) > SURFACE_NEIGHBOURS:
            return
        towards = self._rng.normal(0, 1, (_TRIES, 3))
        towards *= HOP_A / np.linalg.norm(towards, axis=1, keepdims=True)
        oxygen = self._oxygen[np.linalg.norm(self._oxygen - here, axis=1) < HOP_A + OXYGEN_OF_ZR_A]
        for to in here + towards:
            away = np.linalg.norm(near - to, axis=1)
            held = int((away < NEIGHBOURS_A).sum()) >= LEAST_NEIGHBOURS
            free = away.min(initial=math.inf) >= NEAREST_A and (
                np.linalg.norm(oxygen - to, axis=1).min(initial=math.inf) >= OXYGEN_OF_ZR_A
            )
            if held and free:
                self._go(atom, to)
                return

    def _vacancy_beside(self, here: Floats) -> int | None:
        if not len(self._vacancies):
            return None
        away = np.linalg.norm(self._vacancies - here, axis=1)
        nearest = int(np.argmin(away))
        return nearest if away[nearest] < VACANCY_REACH_A else None

    def _into_vacancy(self, atom: int, vacancy: int) -> None:
        """Let an atom go into a vacancy, now and then; one that has been filled is none."""
        to = self._vacancies[vacancy].copy()
        if self._near(to, atom, NEAREST_A).size:
            self._vacancies = np.delete(self._vacancies, vacancy, axis=0)
        elif self._rng.random() < INTO_VACANCY:
            self._vacancies[vacancy] = self._now[atom]
            self._go(atom, to)

    def _near(self, here: Floats, atom: int, reach_a: float) -> Floats:
        """The other atoms within a reach."""
        close = np.linalg.norm(self._now - here, axis=1) < reach_a
        close[atom] = False
        return self._now[close]

    @staticmethod
    def _neighbours(here: Floats, near: Floats) -> int:
        return int((np.linalg.norm(near - here, axis=1) < NEIGHBOURS_A).sum())

    def _go(self, atom: int, to: Floats) -> None:
        self._now[atom] = to
        self._hops.append(Hop(self._next_s, atom, to.copy()))
