"""Atoms of two series matched: displacements with errors, atoms that came and went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from scipy.stats import chi2, false_discovery_control

from .lattice.atom_list import AtomList, Floats64

_TURNS = 40
# Errors that are not told: as if positions were known to 10 pm along each axis.
_UNTOLD_VARIANCE = 0.01
_HEAVY_TAIL = 5.0  # degrees of freedom of Student's t: atoms that moved pull little
_STARTS_DEG = (0.0, 3.0, -3.0)
_FALSE_PART = 0.05


@dataclass(frozen=True)
class Displacements:
    """How atoms moved between two series, the motion of the whole taken out.

    Attributes
    ----------
    before, after : ndarray
        Shape (pairs,): indices in the first and in the second list; one to one.
    displacement_a : ndarray
        Shape (pairs, 3), in angstrom, along the axes of the second list.
    covariance_a2 : ndarray
        Shape (pairs, 3, 3), of the displacements; NaN if a list has no errors.
    significance : ndarray
        Shape (pairs,): probability of so large a displacement by error alone; NaN without errors.
    moved : ndarray of bool
        Shape (pairs,): displacements of which at most 5 % are chance (Benjamini and Hochberg).
    went, came : ndarray
        Indices in the first list without partner, and in the second.
    rotation : ndarray
        Shape (3, 3): turns the first list into the second.
    rotation_deg, rotation_sd_deg : float
        Its angle, and the error of it.
    translation_a, translation_sd_a : ndarray
        Shape (3,): moves the centre of the first list.
    """

    before: NDArray[np.intp]
    after: NDArray[np.intp]
    displacement_a: Floats64
    covariance_a2: Floats64
    significance: Floats64
    moved: NDArray[np.bool_]
    went: NDArray[np.intp]
    came: NDArray[np.intp]
    rotation: Floats64
    rotation_deg: float
    rotation_sd_deg: float
    translation_a: Floats64
    translation_sd_a: Floats64


@dataclass(frozen=True)
class _Motion:
    rotation: Floats64
    shift: Floats64  # of the centre of the first list

    def __call__(self, offsets: Floats64) -> Floats64:
        return offsets @ self.rotation.T + self.shift


def match_series(
    before: AtomList, after: AtomList, *, reach_a: float | None = None
) -> Displacements:
    """Match the atoms of two series, and tell which moved.

    Atoms belong together if each is the nearest of the other within `reach_a`. The motion of the
    whole (turn and shift) is the one that brings most of them together; it is refined by weighted
    least squares in which atoms that moved by themselves count little (Student's t).

    Parameters
    ----------
    before, after : AtomList
        Atoms of the first and of the second series.
    reach_a : float, optional
        Largest displacement in angstrom; by default 45 % of the distance of neighbours, beyond
        which an atom may be taken for its neighbour.

    Returns
    -------
    Displacements
        Pairs and motion.

    Raises
    ------
    ValueError
        If fewer than half of the atoms find a partner.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.structure import atom_list
    >>> grid = np.stack(np.mgrid[:5, :5, :5], -1).reshape(-1, 3)
    >>> first = 2.33 * grid[grid.sum(axis=1) % 2 == 0]
    >>> second = first[1:] + (3.0, -1.0, 0.5)
    >>> error = np.tile(1e-4 * np.eye(3), (len(first), 1, 1))
    >>> found = match_series(atom_list(first, "Zr", error), atom_list(second, "Zr", error[1:]))
    >>> found.went.tolist(), found.came.tolist(), int(found.moved.sum())
    ([0], [], 0)
    """
    centre = before.positions_a.mean(axis=0)
    offsets = before.positions_a - centre
    reach = _reach(before.positions_a) if reach_a is None else reach_a
    if not (np.isfinite(reach) and reach > 0):
        raise ValueError(f"a reach of {reach:g} A; give the largest displacement in angstrom")
    tree = KDTree(after.positions_a)
    motion = _start(offsets, after.positions_a, tree, reach)
    pairs, motion, normal = _refined(before, after, offsets, motion, tree, reach)
    if 2 * len(pairs) < min(len(before.positions_a), len(after.positions_a)):
        raise ValueError(
            f"only {len(pairs)} of {len(before.positions_a)} atoms find a partner within "
            f"{reach:.2f} A; are these two series of one particle?"
        )
    return _told(before, after, offsets, centre, pairs, motion, normal)


def _reach(positions: Floats64) -> float:
    return 0.45 * float(np.median(np.asarray(KDTree(positions).query(positions, k=2)[0])[:, 1]))


def _mutual(moved: Floats64, tree: KDTree, reach: float) -> NDArray[np.intp]:
    """Pairs that are each other's nearest within the reach."""
    distances, near = tree.query(moved)
    back = np.asarray(KDTree(moved).query(tree.data)[1], np.intp)
    nearest = np.asarray(near, np.intp)
    one = np.flatnonzero((distances < reach) & (back[nearest] == np.arange(len(moved))))
    return np.stack([one, nearest[one]], axis=1).astype(np.intp)


def _start(offsets: Floats64, after: Floats64, tree: KDTree, reach: float) -> _Motion:
    """The best of some turns, each grown from the middle outwards, where turns matter least."""
    shift = after.mean(axis=0)
    radius = np.linalg.norm(offsets, axis=1)
    best, most = _Motion(np.eye(3), shift), -1
    turns = np.array(np.meshgrid(*[_STARTS_DEG] * 3, indexing="ij")).reshape(3, -1).T
    for turn in turns:
        start = Rotation.from_rotvec(np.deg2rad(turn)).as_matrix()
        motion = _grown(_Motion(start, shift), offsets, radius, after, tree, reach)
        number = len(_mutual(motion(offsets), tree, reach))
        if number > most:
            best, most = motion, number
        if most > 0.9 * min(len(offsets), len(after)):
            break
    return best


def _grown(
    motion: _Motion, offsets: Floats64, radius: Floats64, after: Floats64, tree: KDTree,
    reach: float,
) -> _Motion:  # fmt: skip
    for part in (0.35, 0.5, 0.7, 0.85, 1.0):
        chosen = np.flatnonzero(radius <= part * radius.max())
        for _ in range(4):
            pairs = _mutual(motion(offsets[chosen]), tree, reach)
            if len(pairs) < 4:
                break
            motion = _rigid(offsets[chosen[pairs[:, 0]]], after[pairs[:, 1]])
    return motion


def _rigid(offsets: Floats64, targets: Floats64) -> _Motion:
    """Turn and shift of least squares (Kabsch, Acta Cryst. A 32, 922, 1976)."""
    middle, goal = offsets.mean(axis=0), targets.mean(axis=0)
    left, _, right = np.linalg.svd((offsets - middle).T @ (targets - goal))
    sign = np.sign(np.linalg.det(left @ right))
    turn = (left @ np.diag([1.0, 1.0, sign]) @ right).T
    return _Motion(turn, goal - turn @ middle)


def _refined(
    before: AtomList, after: AtomList, offsets: Floats64, motion: _Motion, tree: KDTree,
    reach: float,
) -> tuple[NDArray[np.intp], _Motion, Floats64]:  # fmt: skip
    """Pairs, motion, and the covariance of its six parameters (turn, shift)."""
    pairs = _mutual(motion(offsets), tree, reach)
    normal = np.eye(6)
    for _ in range(_TURNS):
        one, two = pairs[:, 0], pairs[:, 1]
        if len(one) < 4:
            break
        covariance = _sum(before, after, one, two, motion.rotation)
        inverse = np.linalg.inv(covariance)
        turned = offsets[one] @ motion.rotation.T
        residual = after.positions_a[two] - turned - motion.shift
        square = np.einsum("ni,nij,nj->n", residual, inverse, residual)
        weight = (_HEAVY_TAIL + 3) / (_HEAVY_TAIL + square)
        design = _design(turned)
        weighted = np.einsum("nji,njk->nik", design, weight[:, None, None] * inverse)
        information = np.einsum("nik,nkl->il", weighted, design)
        gradient = np.einsum("nik,nk->i", weighted, residual)
        step = np.linalg.solve(information, gradient)
        turn = Rotation.from_rotvec(step[:3]).as_matrix()
        motion = _Motion(turn @ motion.rotation, motion.shift + step[3:])
        normal = np.linalg.inv(information)
        again = _mutual(motion(offsets), tree, reach)
        if np.array_equal(again, pairs) and np.abs(step).max() < 1e-7:
            break
        pairs = again
    return pairs, motion, normal


def _design(turned: Floats64) -> Floats64:
    """Derivatives of places by a small turn and by the shift, shape (atoms, 3, 6)."""
    design = np.zeros((len(turned), 3, 6))
    x, y, z = turned.T
    design[:, 0, 1], design[:, 0, 2] = z, -y
    design[:, 1, 0], design[:, 1, 2] = -z, x
    design[:, 2, 0], design[:, 2, 1] = y, -x
    design[:, :, 3:] = np.eye(3)
    return design


def _sum(
    before: AtomList, after: AtomList, one: NDArray[Any], two: NDArray[Any], turn: Floats64
) -> Floats64:
    """Covariance of the difference of two positions."""
    total = np.zeros((len(one), 3, 3))
    untold = _UNTOLD_VARIANCE * np.eye(3)
    first, second = before.covariance_a2, after.covariance_a2
    total += untold if first is None else turn @ first[one] @ turn.T
    total += untold if second is None else second[two]
    return total + 1e-10 * np.eye(3)


def _told(
    before: AtomList, after: AtomList, offsets: Floats64, centre: Floats64,
    pairs: NDArray[np.intp], motion: _Motion, normal: Floats64,
) -> Displacements:  # fmt: skip
    one, two = pairs[:, 0], pairs[:, 1]
    moves = after.positions_a[two] - motion(offsets[one])
    known = before.covariance_a2 is not None and after.covariance_a2 is not None
    covariance = np.full((len(one), 3, 3), np.nan)
    significance, moved = np.full(len(one), np.nan), np.zeros(len(one), np.bool_)
    if known:
        design = _design(offsets[one] @ motion.rotation.T)
        of_motion = design @ normal @ np.swapaxes(design, 1, 2)
        covariance = _sum(before, after, one, two, motion.rotation) + of_motion
        square = np.einsum("ni,nij,nj->n", moves, np.linalg.inv(covariance), moves)
        significance = np.asarray(chi2.sf(square, 3))
        moved = np.asarray(false_discovery_control(significance)) < _FALSE_PART
    vector = Rotation.from_matrix(motion.rotation).as_rotvec()
    angle = float(np.linalg.norm(vector))
    along = vector / angle if angle > 1e-9 else np.full(3, 3**-0.5)
    spread = float(np.sqrt(along @ normal[:3, :3] @ along)) if known else float("nan")
    return Displacements(
        one, two, moves, covariance, significance, moved,
        np.setdiff1d(np.arange(len(before.positions_a)), one),
        np.setdiff1d(np.arange(len(after.positions_a)), two),
        motion.rotation, float(np.rad2deg(angle)), float(np.rad2deg(spread)),
        motion.shift - centre,
        np.sqrt(np.diag(normal)[3:]) if known else np.full(3, np.nan),
    )  # fmt: skip
