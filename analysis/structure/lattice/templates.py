"""Polyhedral template matching by OVITO: which crystal an atom and its neighbours look like."""
# ovito is an optional extra and untyped.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atom_list import Floats64

KINDS = ("other", "fcc", "hcp", "bcc", "ico", "sc", "diamond", "hexagonal diamond", "graphene")


@dataclass(frozen=True)
class Templates:
    """What atoms look like.

    Attributes
    ----------
    kind : ndarray
        Shape (atoms,): index in `KINDS`.
    rmsd : ndarray
        Shape (atoms,): deviation from the template over the distance of neighbours.
    """

    kind: NDArray[np.intp]
    rmsd: Floats64


class OvitoMissing(ImportError):
    """OVITO is not installed."""


def require_ovito() -> None:
    """Refuse before anything is computed where OVITO is not installed."""
    try:
        import ovito.data
        import ovito.modifiers  # noqa: F401
    except ImportError as error:
        raise OvitoMissing("OVITO is not installed") from error


def match_templates(positions_a: NDArray[Any], *, most_rmsd: float = 0.1) -> Templates:
    """Polyhedral template matching, by OVITO.

    Larsen, Schmidt and Schiotz, Model. Simul. Mater. Sci. Eng. 24, 055007, 2016.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    most_rmsd : float
        Largest deviation of a match.

    Returns
    -------
    Templates
        Kind and deviation of each atom.

    Raises
    ------
    OvitoMissing
        If the package is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.stack(np.mgrid[:7, :7, :7], -1).reshape(-1, 3)
    >>> fcc = 2.33 * grid[grid.sum(axis=1) % 2 == 0]
    >>> try:
    ...     found = match_templates(fcc)
    ... except OvitoMissing:
    ...     pass
    ... else:
    ...     assert KINDS[found.kind[len(fcc) // 2]] == "fcc"
    """
    require_ovito()
    from ovito.data import DataCollection, Particles
    from ovito.modifiers import PolyhedralTemplateMatchingModifier

    particles = Particles()
    particles.create_property("Position", data=np.asarray(positions_a, np.float64))
    data = DataCollection()
    data.objects.append(particles)
    matching = PolyhedralTemplateMatchingModifier(rmsd_cutoff=most_rmsd, output_rmsd=True)
    for structure in matching.structures[1:]:  # the first is "other"
        structure.enabled = True
    data.apply(matching)
    found = data.particles
    return Templates(
        np.array(found["Structure Type"], np.intp), np.array(found["RMSD"], np.float64)
    )
