"""Tracking: particles keep their labels over the series of a run."""
# The annotations of scipy are incomplete.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernels import count_overlap, sum_positions
from .segmentation import Labels

_DISPLACEMENT_ROUNDS = 3  # how often `track` improves the common displacement


def centroids(labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Centroids and sizes of the particles.

    Parameters
    ----------
    labels : ndarray of int
        Shape (y, z, x).

    Returns
    -------
    labels : ndarray
        The labels in rising order, shape (particles,).
    centres : ndarray
        Float64, shape (particles, 3): (y, z, x) in voxels.
    sizes : ndarray
        Float64, shape (particles,): number of voxels.

    Examples
    --------
    >>> import numpy as np
    >>> labels, centres, sizes = centroids(np.array([[[0, 4, 4]]], np.int32))
    >>> centres.tolist(), sizes.tolist()
    ([[0.0, 0.0, 1.5]], [2.0])
    """
    sizes = np.zeros(int(labels.max(initial=0)) + 1)
    sums = np.zeros((sizes.size, 3))
    sum_positions(labels, sizes, sums)
    names = np.flatnonzero(sizes)
    names = names[names > 0]
    return names, sums[names] / sizes[names, None], sizes[names]


def track(before: Labels, now: Labels, *, first_new: int | None = None) -> Labels:
    """Track particles: give them the labels that they have in the previous volume.

    Particles are assigned one to one (Kuhn, Naval Res. Logist. Q. 2, 83, 1955) by the distance of
    their centroids in units of their radius, after the displacement common to all, and by their
    overlap. A particle further away than its radius is not assigned unless the overlap exceeds
    30 %.

    Parameters
    ----------
    before, now : ndarray of int
        Labels of the previous and of this volume, both of shape (y, z, x).
    first_new : int, optional
        Label of the first particle without a predecessor; by default one more than the greatest
        in `before`. Give a number that no earlier series has used, so that labels are not reused.

    Returns
    -------
    ndarray
        Int32, shape (y, z, x): `now` with new labels.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> before = np.array([[[1, 1, 0, 2, 2]]], np.int32)
    >>> track(before, np.array([[[2, 2, 0, 1, 1]]], np.int32)).tolist()
    [[[1, 1, 0, 2, 2]]]
    """
    from scipy.optimize import linear_sum_assignment

    if before.shape != now.shape:
        raise ValueError(
            f"the labels have the shapes {before.shape} and {now.shape}; they must be equal"
        )
    old_names, old_centres, old_sizes = centroids(before)
    new_names, new_centres, new_sizes = centroids(now)
    fresh = first_new if first_new is not None else int(before.max(initial=0)) + 1
    renumbered = np.zeros(int(now.max(initial=0)) + 1, np.int32)
    matched: set[int] = set()
    if old_names.size and new_names.size:
        shared = np.zeros((int(before.max()) + 1, int(now.max()) + 1))
        count_overlap(before, now, shared)
        shared = shared[np.ix_(old_names, new_names)]
        overlap = shared / (old_sizes[:, None] + new_sizes - shared)
        radius = np.cbrt(3 / (4 * np.pi) * np.minimum(old_sizes[:, None], new_sizes))
        apart = new_centres[None] - old_centres[:, None]
        shift = np.zeros(3)
        rows = columns = np.empty(0, np.intp)
        far = np.empty((0, 0))
        for _ in range(_DISPLACEMENT_ROUNDS):
            far = np.linalg.norm(apart - shift, axis=2) / radius
            rows, columns = linear_sum_assignment(np.minimum(far, 3.0) - overlap)
            near = far[rows, columns] < 1
            if not near.any():
                break
            shift = np.median(apart[rows[near], columns[near]], axis=0)
        for row, column in zip(rows, columns, strict=True):
            if far[row, column] < 1 or overlap[row, column] > 0.3:
                renumbered[new_names[column]] = old_names[row]
                matched.add(int(column))
    for column, name in enumerate(new_names):
        if column not in matched:
            renumbered[name] = fresh
            fresh += 1
    return renumbered[now]
