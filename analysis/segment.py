"""Particles in a volume: threshold, opening, touching ones split, labels kept over the series."""
# scipy.ndimage and skimage are untyped where it matters here.
# pyright: basic

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as scipy_ndimage

# Its annotations know neither the overloads nor the arrays that come back.
ndimage: Any = scipy_ndimage
Labels = NDArray[np.int32]

# A particle's own middle must stand deeper in matter than the neck to its neighbour, by this.
_DEEPEST_NECK = 0.87
_HISTOGRAM_BINS = 512
_SEARCHED = 3  # how often `track` improves the common displacement


def otsu_level(volume: NDArray[Any]) -> float:
    """Value that best parts matter from vacuum (Otsu, IEEE Trans. Syst. Man Cybern. 9, 62, 1979).

    Raises
    ------
    ValueError
        If the volume holds NaN or infinity.
    """
    lowest, highest = float(volume.min()), float(volume.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueError("the volume holds NaN or infinity; it cannot be segmented")
    if lowest == highest:
        return highest
    counts, edges = np.histogram(volume, _HISTOGRAM_BINS, (lowest, highest))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = volume.size - below
    sums = np.cumsum(counts * middles)
    difference = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * difference**2)])


def segment(
    volume: NDArray[Any],
    *,
    level: float | None = None,
    opening: int = 1,
    smallest_voxels: int = 200,
) -> Labels:
    """Label the particles of a volume.

    Matter is what exceeds the threshold, eroded and dilated by `opening` voxels. A connected
    piece is cut by a watershed of the depth below its surface; two parts are one particle if the
    deepest point of the border between them is nearly as deep as the shallower middle.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).
    level : float, optional
        Threshold; Otsu's without it.
    opening : int
        Steps of erosion and dilation; 0 for none.
    smallest_voxels : int
        Smaller particles are dropped.

    Returns
    -------
    ndarray
        Int32 of the volume's shape: 0 is vacuum, particles are numbered from 1, the largest first.

    Raises
    ------
    ValueError
        If the volume is not three-dimensional or holds NaN.
    """
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(f"a volume of shape {volume.shape}; (y, z, x) is needed")
    threshold = otsu_level(volume) if level is None else level
    mask = volume > threshold
    if opening > 0:
        mask = ndimage.binary_opening(mask, iterations=opening)
    pieces, _ = ndimage.label(mask)
    labels = np.zeros(volume.shape, np.int32)
    count = 0
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        piece = np.pad(pieces[box] == number, 1)
        if np.count_nonzero(piece) < smallest_voxels:
            continue
        parts = _split(piece, smallest_voxels)[1:-1, 1:-1, 1:-1]
        here = labels[box]
        here[parts > 0] = parts[parts > 0] + count
        count += int(parts.max())
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = np.iinfo(sizes.dtype).max
    order = np.argsort(-sizes, kind="stable")
    renumbered = np.zeros(count + 1, np.int32)
    kept = order[sizes[order] >= smallest_voxels]
    renumbered[kept] = np.arange(len(kept))
    return renumbered[labels]


def _split(piece: NDArray[np.bool_], smallest_voxels: int) -> Labels:
    """Cut a connected piece where it is narrow; labels from 1 without gaps."""
    from skimage.segmentation import watershed

    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(piece).astype(np.float32), 1.0)
    reach = max(1, round(0.3 * float(depth.max())))
    summit = (depth == ndimage.maximum_filter(depth, 2 * reach + 1)) & piece
    seeds, count = ndimage.label(summit, np.ones((3, 3, 3)))
    if count <= 1:
        return piece.astype(np.int32)
    parts = watershed(-depth, seeds, mask=piece).astype(np.int32)
    peaks = np.asarray(ndimage.maximum(depth, parts, np.arange(count + 1)), np.float64)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    saddles = _saddles(parts, depth)
    while saddles:
        # Crumbs go to whatever they touch most deeply, then the least narrow necks close.
        openness = {
            (a, b): saddle / min(peaks[a], peaks[b]) + (min(sizes[a], sizes[b]) < smallest_voxels)
            for (a, b), saddle in saddles.items()
        }
        worst = max(openness, key=lambda pair: openness[pair])
        if openness[worst] < _DEEPEST_NECK:
            break
        keep, gone = worst if peaks[worst[0]] >= peaks[worst[1]] else worst[::-1]
        parts[parts == gone] = keep
        sizes[keep] += sizes[gone]
        joined: dict[tuple[int, int], float] = {}
        for (a, b), saddle in saddles.items():
            one, other = (keep if a == gone else a), (keep if b == gone else b)
            if one != other:
                pair = (min(one, other), max(one, other))
                joined[pair] = max(joined.get(pair, 0.0), saddle)
        saddles = joined
    names = np.unique(parts)
    return np.searchsorted(names, parts).astype(np.int32)


def _saddles(parts: Labels, depth: NDArray[np.float32]) -> dict[tuple[int, int], float]:
    """Greatest depth on the border of each pair of parts that touch."""
    found: dict[tuple[int, int], float] = {}
    for low, high, where in borders(parts):
        here = np.minimum(depth[where[0]], depth[where[1]])
        keys = low.astype(np.int64) * (int(parts.max()) + 1) + high
        for key in np.unique(keys):
            pair = divmod(int(key), int(parts.max()) + 1)
            found[pair] = max(found.get(pair, 0.0), float(here[keys == key].max()))
    return found


def borders(labels: Labels) -> Iterator[tuple[Labels, Labels, tuple[Any, Any]]]:
    """Yield, for each axis, the faces between two different labels.

    Yields
    ------
    low, high : ndarray of int
        The two labels of each face, the smaller one first; none is 0.
    where : tuple of two tuples of ndarray
        Indices of the voxels on either side.
    """
    for axis in range(labels.ndim):
        ahead = [slice(None)] * labels.ndim
        behind = list(ahead)
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        one, other = labels[tuple(behind)], labels[tuple(ahead)]
        at = np.nonzero((one != other) & (one > 0) & (other > 0))
        further = tuple(i + (k == axis) for k, i in enumerate(at))
        yield np.minimum(one[at], other[at]), np.maximum(one[at], other[at]), (at, further)


def centres_of(labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of the particles, their centres (y, z, x) in voxels, and their volumes."""
    flat = labels.ravel()
    sizes = np.bincount(flat).astype(np.float64)
    sums = np.empty((sizes.size, 3))
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = labels.shape[axis]
        places = np.broadcast_to(np.arange(labels.shape[axis]).reshape(shape), labels.shape)
        sums[:, axis] = np.bincount(flat, places.ravel(), sizes.size)
    names = np.flatnonzero(sizes)
    names = names[names > 0]
    return names, sums[names] / sizes[names, None], sizes[names]


def track(before: Labels, now: Labels, *, first_new: int | None = None) -> Labels:
    """Give the particles of a volume the numbers that they had in the volume before.

    Particles are matched one to one (Hungarian method) by the distance of their centres, after
    the displacement common to all, in units of their radius, and by how much they overlap. None
    is matched with one further off than its radius.

    Parameters
    ----------
    before, now : ndarray of int
        Labels, shapes (y, z, x) alike.
    first_new : int, optional
        Number for the first particle without a predecessor; one more than any in `before`
        without it. Give it what no earlier series has used, or a number may come back to life.

    Returns
    -------
    ndarray
        `now` with other numbers.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    from scipy.optimize import linear_sum_assignment

    if before.shape != now.shape:
        raise ValueError(f"labels of shapes {before.shape} and {now.shape}; they must be alike")
    old_names, old_centres, old_sizes = centres_of(before)
    new_names, new_centres, new_sizes = centres_of(now)
    fresh = first_new if first_new is not None else int(before.max(initial=0)) + 1
    renumbered = np.zeros(int(now.max(initial=0)) + 1, np.int32)
    matched: set[int] = set()
    if old_names.size and new_names.size:
        width = int(now.max()) + 1
        both = np.bincount(before.ravel().astype(np.int64) * width + now.ravel())
        shared = np.zeros((int(before.max()) + 1) * width)
        shared[: both.size] = both
        shared = shared.reshape(-1, width)[np.ix_(old_names, new_names)]
        overlap = shared / (old_sizes[:, None] + new_sizes - shared)
        radius = np.cbrt(3 / (4 * np.pi) * np.minimum(old_sizes[:, None], new_sizes))
        apart = new_centres[None] - old_centres[:, None]
        shift = np.zeros(3)
        rows = columns = np.empty(0, np.intp)
        far = np.empty((0, 0))
        for _ in range(_SEARCHED):
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


def dilated(labels: Labels, steps: int) -> Labels:
    """Labels grown into the vacuum by so many voxels along the axes, none into another."""
    grown = labels
    for _ in range(steps):
        source = grown.copy()
        for axis, back in product(range(labels.ndim), (False, True)):
            to, of = [slice(None)] * labels.ndim, [slice(None)] * labels.ndim
            to[axis], of[axis] = slice(1, None), slice(None, -1)
            if back:
                to, of = of, to
            target = source[tuple(to)]
            empty = target == 0
            target[empty] = grown[tuple(of)][empty]
        grown = source
    return grown
