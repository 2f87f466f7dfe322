"""Two lists of atoms compared: which belong together, and how far they lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

_REACH_A = 0.9
_TURNS = 10


@dataclass(frozen=True)
class AtomMatch:
    """How a list of atoms agrees with a reference.

    Attributes
    ----------
    pairs : ndarray
        Shape (pairs, 2): index in the list, index in the reference; one to one.
    errors_a : ndarray
        Shape (pairs, 3): position less that of the reference, the mean removed, in angstrom.
    recall : float
        Part of the reference that has a partner.
    precision : float
        Part of the list that has a partner.
    rmsd_a : float
        Root of the summed variances of the errors along the three axes, in angstrom.
    offset_a : ndarray
        Shape (3,): mean displacement of the list, in angstrom.
    """

    pairs: NDArray[np.intp]
    errors_a: NDArray[np.float64]
    recall: float
    precision: float
    rmsd_a: float
    offset_a: NDArray[np.float64]


def match_atoms(
    positions_a: NDArray[Any], reference_a: NDArray[Any], *, reach_a: float = _REACH_A
) -> AtomMatch:
    """Match atoms with those of a reference, one to one, after removing the mean displacement.

    Two atoms belong together if each is the nearest of the other within `reach_a` (the rule of
    Yang et al., Nature 592, 60, 2021, made one to one).

    Parameters
    ----------
    positions_a, reference_a : ndarray
        Shapes (n, 3) and (m, 3), in angstrom.
    reach_a : float
        Largest distance of a pair.

    Returns
    -------
    AtomMatch
        Pairs, errors, recall and precision.

    Raises
    ------
    ValueError
        If a list is empty or holds NaN.

    Examples
    --------
    >>> import numpy as np
    >>> reference = np.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]])
    >>> match = match_atoms(reference[:2] + 0.5, reference)
    >>> round(match.recall, 2), match.precision, match.offset_a.round(2).tolist()
    (0.67, 1.0, [0.5, 0.5, 0.5])
    """
    found, reference = np.asarray(positions_a, np.float64), np.asarray(reference_a, np.float64)
    if not (len(found) and len(reference) and np.isfinite(found).all()):
        raise ValueError("matching needs atoms in both lists and positions without NaN")
    tree = KDTree(reference)
    offset = _better_start(found, reference, reach_a)
    pairs = _mutual(found - offset, reference, tree, reach_a)
    for _ in range(_TURNS):
        if len(pairs):
            offset = (found[pairs[:, 0]] - reference[pairs[:, 1]]).mean(axis=0)
        before, pairs = pairs, _mutual(found - offset, reference, tree, reach_a)
        if np.array_equal(pairs, before):
            break
    errors = found[pairs[:, 0]] - reference[pairs[:, 1]] - offset
    rmsd = float(np.sqrt(errors.var(axis=0).sum())) if len(pairs) else float("nan")
    return AtomMatch(
        pairs, errors, len(pairs) / len(reference), len(pairs) / len(found), rmsd, offset
    )


def _better_start(
    found: NDArray[np.float64], reference: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """No displacement, or that of the means: whichever gives more pairs."""
    tree = KDTree(reference)
    tried = [np.zeros(3), found.mean(axis=0) - reference.mean(axis=0)]
    counts = [len(_mutual(found - offset, reference, tree, reach)) for offset in tried]
    return tried[int(np.argmax(counts))]


def _mutual(
    found: NDArray[np.float64], reference: NDArray[np.float64], tree: KDTree, reach: float
) -> NDArray[np.intp]:
    distances, near = tree.query(found)
    back = np.asarray(KDTree(found).query(reference)[1], np.intp)
    nearest = np.asarray(near, np.intp)
    one = np.flatnonzero((distances < reach) & (back[nearest] == np.arange(len(found))))
    return np.stack([one, nearest[one]], axis=1).astype(np.intp)
