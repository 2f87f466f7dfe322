"""Amorphous particle of single atoms: random places that keep a distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

_BATCH_PART = 0.2
# Beyond this filled part random places run out.
_MOST_FILLED = 0.35


def amorphous_particle(
    atoms: int,
    rng: np.random.Generator,
    *,
    density_per_a3: float = 0.05,
    nearest_a: float = 2.25,
) -> NDArray[np.float64]:
    """Random places in a ball, none nearer to another than a distance.

    Random sequential addition (Widom, J. Chem. Phys. 44, 3888, 1966).

    Parameters
    ----------
    atoms : int
        Number of atoms.
    rng : Generator
        Source of random numbers.
    density_per_a3 : float
        Atoms per cubic angstrom; that of silicon is 0.05.
    nearest_a : float
        Least distance in angstrom.

    Returns
    -------
    ndarray
        Shape (atoms, 3): x, y, z in angstrom about their mean.

    Raises
    ------
    ValueError
        If so dense a particle cannot be made by random addition.

    Examples
    --------
    >>> import numpy as np
    >>> amorphous_particle(50, np.random.default_rng(1)).shape
    (50, 3)
    """
    filled = density_per_a3 * np.pi / 6 * nearest_a**3
    if filled > _MOST_FILLED:
        raise ValueError(f"atoms fill {filled:.2f} of the ball; at most {_MOST_FILLED} is possible")
    radius = (3 * atoms / (4 * np.pi * density_per_a3)) ** (1 / 3)
    placed = np.empty((0, 3))
    batch = max(64, round(_BATCH_PART * atoms))
    while len(placed) < atoms:
        tried = rng.uniform(-radius, radius, (batch, 3))
        tried = tried[np.linalg.norm(tried, axis=1) <= radius]
        if len(placed):
            distances, _ = KDTree(placed).query(tried, distance_upper_bound=nearest_a)
            tried = tried[~np.isfinite(distances)]
        # Of two new places that are too near, the later one goes.
        pairs = KDTree(tried).query_pairs(nearest_a, output_type="ndarray")
        stays = np.ones(len(tried), np.bool_)
        stays[pairs.max(axis=1, initial=0) if len(pairs) else []] = False
        placed = np.concatenate([placed, tried[stays]])
    placed = placed[:atoms]
    return placed - placed.mean(axis=0)
