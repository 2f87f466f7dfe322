"""Particles in a volume: threshold, opening, touching ones split, labels kept over the series."""
# scipy.ndimage and skimage are untyped where it matters here.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as scipy_ndimage

from ..core.progress import run_to_end, scaled_progress
from .kernels import count_values, depth_in, gather, grow, raise_peaks, share, write_faces

# Its annotations know neither the overloads nor the arrays that come back.
ndimage: Any = scipy_ndimage
Labels = NDArray[np.int32]
T = TypeVar("T")

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
    counts = np.zeros(_HISTOGRAM_BINS, np.int64)
    flat = np.ascontiguousarray(volume, np.result_type(volume, np.float32)).reshape(-1)
    count_values(flat, lowest, _HISTOGRAM_BINS / (highest - lowest), counts)
    edges = np.linspace(lowest, highest, _HISTOGRAM_BINS + 1)
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
    steps = iter_segment(volume, level=level, opening=opening, smallest_voxels=smallest_voxels)
    return run_to_end(steps)


def iter_segment(
    volume: NDArray[Any],
    *,
    level: float | None = None,
    opening: int = 1,
    smallest_voxels: int = 200,
) -> Generator[float, None, Labels]:
    """Do what :func:`segment` does in small pieces, with the same arguments.

    Yields
    ------
    float
        Finished fraction, after each piece of work.
    """
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(f"a volume of shape {volume.shape}; (y, z, x) is needed")
    threshold = otsu_level(volume) if level is None else level
    yield 0.1
    mask = volume > threshold
    for _ in range(opening):
        mask = erosion(mask)
    labels = np.zeros(volume.shape, np.int32)
    if not mask.any():
        return labels
    box = bounding_box(mask, opening)
    mask = mask[box]
    for _ in range(opening):
        mask = ~erosion(~mask, beyond=True)
    yield 0.2
    pieces, _ = ndimage.label(mask)
    yield 0.3
    found = np.zeros(mask.shape, np.int32)
    places = ndimage.find_objects(pieces)
    whole = sum(math.prod(side.stop - side.start for side in place) for place in places)
    count, done = 0, 0
    for number, place in enumerate(places, 1):
        here = found[place]
        piece = np.pad(pieces[place] == number, 1)
        start, done = done, done + here.size
        if np.count_nonzero(piece) < smallest_voxels:
            continue
        split = _split(piece, smallest_voxels)
        parts = yield from scaled_progress(
            0.3 + 0.7 * start / whole, 0.3 + 0.7 * done / whole, split
        )
        inner = parts[1:-1, 1:-1, 1:-1]
        np.add(inner, count, out=here, where=inner > 0)
        count += int(parts.max())
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    sizes[0] = np.iinfo(sizes.dtype).max
    order = np.argsort(-sizes, kind="stable")
    renumbered = np.zeros(count + 1, np.int32)
    kept = order[sizes[order] >= smallest_voxels]
    renumbered[kept] = np.arange(len(kept))
    labels[box] = renumbered[found]
    return labels


def bounding_box(mask: NDArray[np.bool_], rim: int) -> tuple[slice, ...]:
    """The part of an array that holds all that is true, and a rim; there must be something."""
    box: list[slice] = []
    for axis, length in enumerate(mask.shape):
        others = tuple(k for k in range(mask.ndim) if k != axis)
        there = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(0, int(there[0]) - rim), min(length, int(there[-1]) + rim + 1)))
    return tuple(box)


def erosion(mask: NDArray[np.bool_], *, beyond: bool = False) -> NDArray[np.bool_]:
    """What is true together with its neighbours along the axes; `beyond` the array all is alike."""
    left = mask.copy()
    for axis in range(mask.ndim):
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(left, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        if not beyond:
            target[0] = target[-1] = False
    return left


def _split(piece: NDArray[np.bool_], smallest_voxels: int) -> Generator[float, None, Labels]:
    """Cut a connected piece, with vacuum all round, where it is narrow; labels from 1, no gaps."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree
    from skimage.segmentation import watershed

    depth = ndimage.gaussian_filter(depth_in(piece), 1.0)
    yield 0.2
    reach = max(1, round(0.3 * float(depth.max())))
    summits = np.argwhere((depth == ndimage.maximum_filter(depth, 2 * reach + 1)) & piece)
    # Summits that touch, even by a corner, are one.
    near = KDTree(summits).query_pairs(1.8, output_type="ndarray")
    links = coo_array((np.ones(len(near)), tuple(near.T)), shape=(len(summits), len(summits)))
    count, name = connected_components(links, directed=False)
    yield 0.4
    if count <= 1:
        return piece.astype(np.int32)
    seeds = np.zeros(piece.shape, np.int32)
    seeds[tuple(summits.T)] = name + 1
    parts = watershed(-depth, seeds, mask=piece).astype(np.int32)
    yield 0.9
    peaks = np.zeros(count + 1, np.float32)
    raise_peaks(parts, depth, peaks)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    saddles = contacts(parts, depth)
    heir = np.arange(count + 1)
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
        heir[heir == gone] = keep
        sizes[keep] += sizes[gone]
        joined: dict[tuple[int, int], float] = {}
        for (a, b), saddle in saddles.items():
            one, other = (keep if a == gone else a), (keep if b == gone else b)
            if one != other:
                pair = (min(one, other), max(one, other))
                joined[pair] = max(joined.get(pair, 0.0), saddle)
        saddles = joined
    _, names = np.unique(heir, return_inverse=True)
    return names.astype(np.int32)[parts]


def contacts(labels: Labels, values: NDArray[Any] | None = None) -> dict[tuple[int, int], float]:
    """Pairs of labels that touch along an axis, and the greatest value on their border.

    Parameters
    ----------
    labels : ndarray of int
        Shape (y, z, x).
    values : ndarray, optional
        Shape (y, z, x). That of a face is the lesser of its two voxels'; without it nothing is
        meant by the values.

    Returns
    -------
    dict
        By (smaller, greater label), sorted; 0 touches nothing.
    """
    values = labels if values is None else values
    names, heights = np.empty((0, 2), np.int32), np.empty(0, np.float32)
    count = write_faces(labels, values, names, heights)
    names, heights = np.empty((count, 2), np.int32), np.empty(count, np.float32)
    write_faces(labels, values, names, heights)
    order = np.lexsort((heights, names[:, 1], names[:, 0]))
    names, heights = names[order], heights[order]
    last = np.flatnonzero(np.append((names[1:] != names[:-1]).any(axis=1), True)[:count])
    return {
        (int(low), int(high)): float(height)
        for (low, high), height in zip(names[last], heights[last], strict=True)
    }


def centroids(labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of the particles, their centres (y, z, x) in voxels, and their volumes."""
    sizes = np.zeros(int(labels.max(initial=0)) + 1)
    sums = np.zeros((sizes.size, 3))
    gather(labels, sizes, sums)
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
    old_names, old_centres, old_sizes = centroids(before)
    new_names, new_centres, new_sizes = centroids(now)
    fresh = first_new if first_new is not None else int(before.max(initial=0)) + 1
    renumbered = np.zeros(int(now.max(initial=0)) + 1, np.int32)
    matched: set[int] = set()
    if old_names.size and new_names.size:
        shared = np.zeros((int(before.max()) + 1, int(now.max()) + 1))
        share(before, now, shared)
        shared = shared[np.ix_(old_names, new_names)]
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


def dilation(labels: Labels, steps: int) -> Labels:
    """Labels grown into the vacuum by so many voxels along the axes, none into another."""
    grown = labels
    for _ in range(steps):
        source = np.ascontiguousarray(grown)
        grown = np.empty_like(source)
        grow(source, grown)
    return grown
