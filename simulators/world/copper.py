"""The specimen "cu-sintering": copper spheres in touching clusters whose necks grow.

Coordinates are (x, y, z) in nm about the centre of the field; the beam runs along z at zero tilt
and the tilt axis is y. Neck model (Ihara et al., Nanoscale 2023, 15, 10133): between two spheres
in contact stands a cylinder of radius x about the line of centres while the volume is kept. On
the side of a sphere of radius R the cylinder begins where it leaves the sphere, at
h = sqrt(R^2 - x^2) from the centre, and ends at that sphere's share l of the centre distance; it
replaces the cap beyond h, so that

    V = 4/3 pi R^3 + sum over necks of [ pi x^2 (l - h) - pi (2 R^3 - 3 R^2 h + h^3) / 3 ].

A *free* pair approaches until the bracket is zero, and R stays as it was: l = D(R, x), with
D(R, x) = h + (2 R^3 - 3 R^2 h + h^3) / (3 x^2). A pair bound by a third particle approaches by
only a part of that, and grows a smaller neck more slowly; its spheres shrink so that V is kept
all the same.

Growth: x = r (s0 + (s1 - s0) (1 - exp(-t / t_g))), with r the mean radius of the pair, t the
equivalent time at 350 degC (`chip.py` integrates it) and t_g near 20 s: 95 % in a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RADIUS_NM, RADIUS_SPREAD = 75.0, 0.08
FIELD_NM, HALF_THICKNESS_NM = 1000.0, 150.0
GAP_NM = 12.0
FIRST_NECK = 0.12
FREE_NECK, BOUND_NECK, NECK_SPREAD = 0.60, 0.44, 0.03
FREE_GROWTH_S, BOUND_GROWTH_S = 20.0, 26.0
BOUND_APPROACH = 0.5


class DoesNotFit(ValueError):
    """The particles find no place in the field."""


@dataclass(frozen=True)
class Truth:
    """The specimen at one moment.

    Attributes
    ----------
    centres_nm : ndarray, shape (n, 3)
        Sphere centres (x, y, z).
    radii_nm : ndarray, shape (n,)
        Sphere radii.
    pairs : ndarray of int, shape (m, 2)
        Touching spheres.
    neck_radii_nm : ndarray, shape (m,)
        Radius of the neck of each pair.
    bound : ndarray of bool, shape (m,)
        Pairs held by a third particle.
    clusters : ndarray of int, shape (n,)
        Which cluster each sphere belongs to.
    """

    centres_nm: Array
    radii_nm: Array
    pairs: NDArray[np.intp]
    neck_radii_nm: Array
    bound: NDArray[np.bool_]
    clusters: NDArray[np.intp]

    @property
    def distances_nm(self) -> Array:
        """Centre distance of each pair, shape (m,)."""
        ends = self.centres_nm[self.pairs]
        return np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)


def half_distance_nm(radius_nm: Array, neck_nm: Array) -> Array:
    """A sphere's share of the centre distance at which its volume is kept: D(R, x) above."""
    h = np.sqrt(radius_nm**2 - neck_nm**2)
    cap = (2.0 * radius_nm**3 - 3.0 * radius_nm**2 * h + h**3) / 3.0
    return h + cap / neck_nm**2


def kept_volume_radii_nm(volumes_nm3: Array, necks_nm: Array, shares_nm: Array) -> Array:
    """Radii of spheres whose volumes, necks included, are what they were; the equation above.

    Parameters
    ----------
    volumes_nm3 : ndarray, shape (n,)
        The volumes to keep.
    necks_nm, shares_nm : ndarray, shape (n, k)
        Neck radii on each sphere (0 for none) and its shares of the centre distances.

    Returns
    -------
    ndarray, shape (n,)
    """
    low = necks_nm.max(axis=1, initial=0.0) + 1e-9
    high = 1.5 * np.maximum(low, np.cbrt(3.0 * volumes_nm3 / (4.0 * math.pi)))
    for _ in range(50):
        radius = (0.5 * (low + high))[:, None]
        h = np.sqrt(radius**2 - necks_nm**2)
        caps = (2.0 * radius**3 - 3.0 * radius**2 * h + h**3) / 3.0
        balance = np.sum(necks_nm**2 * (shares_nm - h) - caps, axis=1)
        small = math.pi * (4.0 / 3.0 * radius[:, 0] ** 3 + balance) < volumes_nm3
        low, high = np.where(small, radius[:, 0], low), np.where(small, high, radius[:, 0])
    return 0.5 * (low + high)


class Sintering:
    """A seeded specimen; a pure function of equivalent time.

    Parameters
    ----------
    particles : int
        How many spheres.
    seed : int
        The same seed gives the same specimen.
    """

    def __init__(self, particles: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x5EED])
        shapes = _cluster_shapes(particles, rng)
        sizes = [n for n, _ in shapes]
        count = sum(sizes)
        self._radii = RADIUS_NM * (
            1.0 + RADIUS_SPREAD * np.clip(rng.standard_normal(count), -2.0, 2.0)
        )
        firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
        self._members = [np.arange(f, f + n) for f, n in zip(firsts, sizes, strict=True)]
        pairs: list[tuple[int, int]] = []
        self._bonds: list[list[int]] = []
        for first, (size, closed) in zip(firsts, shapes, strict=True):
            edges = list(pairwise(range(first, first + size)))
            edges += [(first + size - 1, first)] if closed else []
            self._bonds.append(list(range(len(pairs), len(pairs) + len(edges))))
            pairs += edges
        self._pairs = np.array(pairs, np.intp).reshape(-1, 2)
        self._clusters = np.repeat(np.arange(len(sizes)), sizes).astype(np.intp)
        self._bound = np.array(sizes)[self._clusters[self._pairs[:, 0]]] > 2
        spread = 1.0 + NECK_SPREAD * np.clip(rng.standard_normal((2, len(pairs))), -2.0, 2.0)
        self._last_neck = np.where(self._bound, BOUND_NECK, FREE_NECK) * spread[0]
        self._growth_s = np.where(self._bound, BOUND_GROWTH_S, FREE_GROWTH_S) * spread[1]
        self._turns = [_turns(n, closed, rng) for n, closed in shapes]
        self._frames, self._places = self._place(rng)

    def truth(self, equivalent_s: float) -> Truth:
        """The specimen after so many equivalent seconds at 350 degC."""
        progress = -np.expm1(-max(0.0, equivalent_s) / self._growth_s)
        ends = self._radii[self._pairs]
        ratio = FIRST_NECK + (self._last_neck - FIRST_NECK) * progress
        necks = np.mean(ends, axis=1) * ratio
        free = half_distance_nm(ends, necks[:, None])
        touching = half_distance_nm(ends, FIRST_NECK * np.mean(ends, axis=1, keepdims=True))
        shares = np.where(self._bound[:, None], touching + BOUND_APPROACH * (free - touching), free)
        # No sphere has more than two necks: on the left and on the right of it in its chain.
        on = np.zeros((2, 2, len(self._radii)))
        for side in range(2):
            on[:, side, self._pairs[:, side]] += [necks, shares[:, side]]
        radii = kept_volume_radii_nm(4.0 / 3.0 * math.pi * self._radii**3, on[0].T, on[1].T)
        distances = shares.sum(axis=1)
        centres = np.empty((len(radii), 3))
        for k, members in enumerate(self._members):
            local = self._local(k, distances)
            centres[members] = local @ self._frames[k] + self._places[k]
        return Truth(centres, radii, self._pairs, necks, self._bound, self._clusters)

    def _local(self, cluster: int, distances: Array) -> Array:
        """Centres of one cluster in its own frame, about their mean."""
        lengths = distances[self._bonds[cluster]]
        size = len(self._members[cluster])
        local = np.zeros((size, 3))
        if len(lengths) == 3 and size == 3:
            a, b, c = (float(v) for v in lengths)
            local[1, 0] = a
            local[2, 0] = (a * a + c * c - b * b) / (2.0 * a)
            local[2, 1] = math.sqrt(max(0.0, c * c - local[2, 0] ** 2))
        else:
            for k, length in enumerate(lengths):
                local[k + 1] = local[k] + length * self._turns[cluster][k]
        return local - local.mean(axis=0)

    def _place(self, rng: np.random.Generator) -> tuple[list[Array], Array]:
        """Orientation and place of each cluster, apart from one another for all times."""
        touching = np.sum(
            half_distance_nm(
                self._radii[self._pairs],
                FIRST_NECK * np.mean(self._radii[self._pairs], axis=1, keepdims=True),
            ),
            axis=1,
        )
        side = FIELD_NM * max(1.0, math.sqrt(len(self._radii) / 36.0))
        for attempt in range(40):
            half = np.array([side / 2, side / 2, HALF_THICKNESS_NM * (1.0 + 0.02 * attempt)])
            found = self._try_place(rng, touching, half)
            if found is not None:
                return found
        raise DoesNotFit(f"{len(self._radii)} particles find no place in a field of {side:g} nm")

    def _try_place(
        self, rng: np.random.Generator, distances: Array, half: Array
    ) -> tuple[list[Array], Array] | None:
        clusters = len(self._members)
        frames = [np.eye(3)] * clusters
        places = np.zeros((clusters, 3))
        done = np.empty((0, 3))
        done_radii = np.empty(0)
        for k in sorted(range(clusters), key=lambda k: -len(self._members[k])):
            local, radii = self._local(k, distances), self._radii[self._members[k]]
            for _ in range(600):
                frame = _orientation(rng)
                turned = local @ frame
                reach = np.max(np.abs(turned) + radii[:, None], axis=0)
                if np.any(reach > half):
                    continue
                place = rng.uniform(-(half - reach), half - reach)
                apart = np.linalg.norm(done[:, None] - (turned + place), axis=2)
                if np.all(apart >= done_radii[:, None] + radii + GAP_NM):
                    frames[k], places[k] = frame, place
                    done = np.vstack([done, turned + place])
                    done_radii = np.concatenate([done_radii, radii])
                    break
            else:
                return None
        return frames, places


def _cluster_shapes(particles: int, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """Sizes of clusters and whether their chain closes to a triangle; together `particles`."""
    kinds: Sequence[tuple[int, bool]] = [(2, False), (3, True), (3, False), (4, False), (5, False)]
    wanted = [kinds[0], kinds[1], kinds[3]]
    shapes: list[tuple[int, bool]] = []
    left = particles
    while left > 0:
        kind = wanted.pop(0) if wanted else kinds[rng.choice(5, p=[0.45, 0.2, 0.15, 0.12, 0.08])]
        if kind[0] > left:
            kind = (left, False)
        if left - kind[0] == 1 and kind[0] < 5:
            kind = (kind[0] + 1, False)
        shapes.append(kind)
        left -= kind[0]
    return shapes


def _turns(size: int, closed: bool, rng: np.random.Generator) -> Array:
    """Directions of a chain's bonds in its plane; it bends by at most 70 degrees at a time."""
    if closed:
        return np.empty((0, 3))
    bends = np.concatenate([[0.0], rng.uniform(-1.2, 1.2, max(0, size - 2))])[: size - 1]
    # Bends alternate, or a chain of five could close on itself.
    angles: Array = np.cumsum(np.abs(bends) * np.where(np.arange(len(bends)) % 2, -1.0, 1.0))
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)


def _orientation(rng: np.random.Generator) -> Array:
    """Rotation of a cluster that lies nearly flat: any azimuth, up to 25 degrees out of plane."""
    azimuth, spin = rng.uniform(0.0, 2.0 * math.pi, 2)
    out = math.radians(rng.uniform(-25.0, 25.0))
    turned: Array = _about_z(float(azimuth)) @ _about_x(out) @ _about_z(float(spin))
    return turned


def _about_z(angle: float) -> Array:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def _about_x(angle: float) -> Array:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])
