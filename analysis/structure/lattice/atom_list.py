"""A list of atoms: positions, species, covariances, probabilities; checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Floats64 = NDArray[np.float64]
LEAST_ATOMS = 10
_SAME_PLACE_A = 0.01
_FLAT_A = 0.05


@dataclass(frozen=True)
class AtomList:
    """Atoms of a particle; made by :func:`atom_list`, which checks them.

    Attributes
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    species : ndarray
        Shape (atoms,): chemical symbols.
    covariance_a2 : ndarray or None
        Shape (atoms, 3, 3): covariance of a position, in square angstrom; None if unknown.
    probability : ndarray or None
        Shape (atoms,): that the atom is there; None if unknown.
    """

    positions_a: Floats64
    species: NDArray[np.str_]
    covariance_a2: Floats64 | None = None
    probability: Floats64 | None = None

    def of(self, symbol: str) -> AtomList:
        """Return the atoms of one species."""
        return self.where(self.species == symbol)

    def where(self, kept: NDArray[Any]) -> AtomList:
        """Return the atoms that a mask or indices choose."""
        covariance, probability = self.covariance_a2, self.probability
        return AtomList(
            self.positions_a[kept],
            self.species[kept],
            None if covariance is None else covariance[kept],
            None if probability is None else probability[kept],
        )


def atom_list(
    positions_a: NDArray[Any],
    species: NDArray[Any] | list[str] | str,
    covariance_a2: NDArray[Any] | None = None,
    probability: NDArray[Any] | None = None,
) -> AtomList:
    """Check atoms, and hold them together.

    Parameters
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    species : ndarray, list of str or str
        Chemical symbols, one for all or one each.
    covariance_a2 : ndarray, optional
        Shape (atoms, 3, 3), in square angstrom.
    probability : ndarray, optional
        Shape (atoms,), from 0 to 1.

    Returns
    -------
    AtomList
        The atoms.

    Raises
    ------
    ValueError
        If there are fewer than 10 atoms, two at one place, all in one plane, or values that no
        atom can have.

    Examples
    --------
    >>> import numpy as np
    >>> cube = np.stack(np.mgrid[:3, :3, :3], -1).reshape(-1, 3) * 3.0
    >>> len(atom_list(cube, "Po").positions_a)
    27
    """
    positions = np.array(positions_a, np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions have the shape {positions.shape}; give x, y, z of each atom")
    size = len(positions)
    if size < LEAST_ATOMS:
        raise ValueError(f"{size} atoms are too few; structure needs at least {LEAST_ATOMS}")
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise ValueError(f"the position of atom {bad[0] + 1} is NaN or infinite")
    _check_places(positions)
    symbols = np.broadcast_to(np.asarray(species, np.str_), (size,)).copy()
    return AtomList(
        positions, symbols, _checked_covariance(covariance_a2, size), _checked(probability, size)
    )


def _check_places(positions: Floats64) -> None:
    pairs = KDTree(positions).query_pairs(_SAME_PLACE_A, output_type="ndarray")
    if len(pairs):
        one, two = sorted(int(n) + 1 for n in pairs[0])
        more = f" (and {len(pairs) - 1} other pairs do)" if len(pairs) > 1 else ""
        raise ValueError(f"atoms {one} and {two} stand at the same place{more}")
    spread = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    if spread[2] < _FLAT_A * np.sqrt(len(positions)):
        raise ValueError("all atoms lie in one plane; structure needs a particle")


def _checked_covariance(covariance: NDArray[Any] | None, size: int) -> Floats64 | None:
    if covariance is None:
        return None
    given = np.array(covariance, np.float64)
    if given.shape != (size, 3, 3):
        raise ValueError(f"covariances have the shape {given.shape}; give a 3 x 3 for each atom")
    if not np.isfinite(given).all():
        bad = int(np.flatnonzero(~np.isfinite(given).all(axis=(1, 2)))[0]) + 1
        raise ValueError(f"the covariance of atom {bad} is NaN or infinite")
    given = 0.5 * (given + np.swapaxes(given, 1, 2))
    values = np.linalg.eigvalsh(given)
    bad = np.flatnonzero(values[:, 0] < -1e-3 * np.maximum(values[:, 2], 1e-12))
    if len(bad):
        raise ValueError(f"the covariance of atom {bad[0] + 1} has a negative variance")
    return given


def _checked(probability: NDArray[Any] | None, size: int) -> Floats64 | None:
    if probability is None:
        return None
    given = np.array(probability, np.float64)
    if given.shape != (size,):
        raise ValueError(f"probabilities have the shape {given.shape}; give one for each atom")
    bad = np.flatnonzero(~((given >= 0) & (given <= 1)))
    if len(bad):
        raise ValueError(f"the probability of atom {bad[0] + 1} is not between 0 and 1")
    return given
