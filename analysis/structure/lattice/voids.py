"""Voids of a particle: vacancies, nano-pores, large pores, and the porosity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atom_list import Floats64
from .tessellation import Tetrahedra, joined_across_faces, surface_corners

KINDS = ("vacancy", "nano-pore", "large pore")


@dataclass(frozen=True)
class Voids:
    """Voids from the size of a vacancy on.

    Attributes
    ----------
    volumes_a3 : ndarray
        Shape (voids,), in cubic angstrom.
    centres_a : ndarray
        Shape (voids, 3): centres of mass, in angstrom.
    kinds : ndarray
        Shape (voids,): 0 vacancy, 1 nano-pore, 2 large pore, as in `KINDS`.
    particle_a3 : float
        Volume inside the surface of the particle, voids included.
    """

    volumes_a3: Floats64
    centres_a: Floats64
    kinds: NDArray[np.intp]
    particle_a3: float

    @property
    def porosity(self) -> float:
        """Part of the particle that is void."""
        return float(self.volumes_a3.sum() / self.particle_a3) if self.particle_a3 else 0.0

    def count(self, kind: str) -> int:
        """Return the number of voids of a kind of `KINDS`."""
        return int((self.kinds == KINDS.index(kind)).sum())


def find_voids(
    positions_a: NDArray[Any],
    tetrahedra: Tetrahedra,
    *,
    radius_a: float = 3.19,
    volumes_a3: tuple[float, float, float] = (45.0, 125.0, 4500.0),
) -> Voids:
    """Find the voids: tetrahedra inside the surface with wide circumspheres, joined by faces.

    The rule and the numbers are those of Zhang et al., Nat. Commun. 2024, for zirconium. Terraces
    and steps of a surface make such tetrahedra as well: those with two or more corners on the
    surface are left out, so that a perfect crystal has no voids.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    tetrahedra : Tetrahedra
        Of :func:`tetrahedra_of`.
    radius_a : float
        A tetrahedron whose circumsphere has a larger radius is void.
    volumes_a3 : tuple of float
        Least volumes of a vacancy, of a nano-pore and of a large pore.

    Returns
    -------
    Voids
        The largest first. Smaller than a vacancy is no void.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import tetrahedra_of
    >>> grid = np.stack(np.mgrid[:7, :7, :7], -1).reshape(-1, 3)
    >>> fcc = grid[grid.sum(axis=1) % 2 == 0]
    >>> holed = 2.33 * fcc[np.any(fcc != (2, 3, 3), axis=1)]
    >>> voids = find_voids(holed, tetrahedra_of(holed, 4.5))
    >>> voids.count("vacancy"), voids.volumes_a3.round(1).tolist()
    (1, [84.3])
    """
    chosen = tetrahedra.inside & (tetrahedra.radii_a > radius_a)
    chosen &= surface_corners(tetrahedra, len(positions_a)) < 2
    count, groups = joined_across_faces(tetrahedra.neighbours, chosen)
    held = groups[chosen]
    weights = tetrahedra.volumes_a3[chosen]
    volumes = np.bincount(held, weights, minlength=count).astype(np.float64)
    middles = np.asarray(positions_a, np.float64)[tetrahedra.corners[chosen]].mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = np.stack(
            [
                np.bincount(held, weights * middles[:, k], minlength=count) / volumes
                for k in range(3)
            ],
            axis=1,
        )
    order = np.argsort(-volumes, kind="stable")
    order = order[volumes[order] >= volumes_a3[0]]
    kinds = np.searchsorted(volumes_a3, volumes[order], side="right") - 1
    inside = float(tetrahedra.volumes_a3[tetrahedra.inside].sum())
    return Voids(volumes[order], centres[order], kinds.astype(np.intp), inside)
