"""Segmentation: threshold, opening, split of touching particles."""
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
from .kernels import (
    count_values,
    depth_in,
    grow,
    max_depths,
    write_faces,
)

# Its annotations know neither the overloads nor the arrays that come back.
ndimage: Any = scipy_ndimage
Labels = NDArray[np.int32]
T = TypeVar("T")

# A neck as deep as this part of the shallower particle does not separate two particles.
_MAX_NECK_DEPTH = 0.87
_HISTOGRAM_BINS = 512


def otsu_level(volume: NDArray[Any]) -> float:
    """Threshold that best separates matter from vacuum.

    Otsu, IEEE Trans. Syst. Man Cybern. 9, 62, 1979.

    Parameters
    ----------
    volume : ndarray
        Any shape.

    Returns
    -------
    float
        In the unit of the volume.

    Raises
    ------
    ValueError
        If the volume holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> 0.2 < otsu_level(np.repeat([0.1, 0.2, 0.9, 1.0], 10)) < 0.9
    True
    """
    lowest, highest = float(volume.min()), float(volume.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ValueError("the volume holds NaN or infinity and cannot be segmented")
    if lowest == highest:
        return highest
    counts = np.zeros(_HISTOGRAM_BINS, np.int64)
    flat = np.ascontiguousarray(volume, np.result_type(volume, np.float32)).reshape(-1)
    count_values(flat, lowest, _HISTOGRAM_BINS / (highest - lowest), counts)
    edges = np.linspace(lowest, highest, _HISTOGRAM_BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = volume.size - below
    sums = np.cumsum(counts * centres)
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

    Matter is above the threshold, eroded and dilated by `opening` voxels. Each connected component
    is split by a watershed of the depth below its surface (Vincent, Soille, IEEE Trans. Pattern
    Anal. Mach. Intell. 13, 583, 1991). Two parts are one particle if the deepest point of their
    contact is nearly as deep as the centre of the shallower part.

    Parameters
    ----------
    volume : ndarray
        Shape (y, z, x).
    level : float, optional
        Threshold; by default that of :func:`otsu_level`.
    opening : int
        Steps of erosion and dilation, in voxels; 0 for none.
    smallest_voxels : int
        Smaller particles are removed.

    Returns
    -------
    ndarray
        Int32, shape (y, z, x): 0 is vacuum, particles are numbered from 1, the largest first.

    Raises
    ------
    ValueError
        If the volume is not three-dimensional or holds NaN.

    Examples
    --------
    >>> import numpy as np
    >>> y, z, x = np.ogrid[-12:13, -12:13, -20:21]
    >>> left, right = (y**2 + z**2 + (x - centre) ** 2 < 81 for centre in (-8, 8))
    >>> volume = (left | right).astype(np.float32)
    >>> int(segment(volume).max())
    2
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
    """Do what :func:`segment` does in small pieces of work.

    Parameters
    ----------
    volume, level, opening, smallest_voxels
        See :func:`segment`.

    Yields
    ------
    float
        Finished fraction after each piece of work.

    Returns
    -------
    ndarray
        Labels, as the generator's return value.

    Examples
    --------
    >>> import numpy as np
    >>> next(iter_segment(np.zeros((8, 8, 8))))
    0.1
    """
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(f"the volume has the shape {volume.shape}; (y, z, x) is needed")
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
    components, _ = ndimage.label(mask)
    yield 0.3
    found = np.zeros(mask.shape, np.int32)
    boxes = ndimage.find_objects(components)
    whole = sum(math.prod(side.stop - side.start for side in part) for part in boxes)
    count, done = 0, 0
    for number, part in enumerate(boxes, 1):
        here = found[part]
        component = np.pad(components[part] == number, 1)
        start, done = done, done + here.size
        if np.count_nonzero(component) < smallest_voxels:
            continue
        split = _iter_split(component, smallest_voxels)
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
    """Slices of the part of an array that holds all true voxels, with a rim around it."""
    box: list[slice] = []
    for axis, length in enumerate(mask.shape):
        others = tuple(k for k in range(mask.ndim) if k != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(0, int(inside[0]) - rim), min(length, int(inside[-1]) + rim + 1)))
    return tuple(box)


def erosion(mask: NDArray[np.bool_], *, beyond: bool = False) -> NDArray[np.bool_]:
    """Erode a mask by one voxel along the axes.

    Parameters
    ----------
    mask : ndarray of bool
        Any shape.
    beyond : bool
        Value beyond the border of the array.

    Returns
    -------
    ndarray of bool
        The voxels that are true together with all their neighbours along the axes.

    Examples
    --------
    >>> import numpy as np
    >>> erosion(np.array([True, True, True, False])).tolist()
    [False, True, False, False]
    """
    eroded = mask.copy()
    for axis in range(mask.ndim):
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(eroded, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        if not beyond:
            target[0] = target[-1] = False
    return eroded


def _iter_split(piece: NDArray[np.bool_], smallest_voxels: int) -> Generator[float, None, Labels]:
    """Split a connected component, surrounded by vacuum, where it is narrow; labels from 1 on."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree
    from skimage.segmentation import watershed

    depth = ndimage.gaussian_filter(depth_in(piece), 1.0)
    yield 0.2
    reach = max(1, round(0.3 * float(depth.max())))
    maxima = np.argwhere((depth == ndimage.maximum_filter(depth, 2 * reach + 1)) & piece)
    # Maxima that touch, even at a corner, are one.
    near = KDTree(maxima).query_pairs(1.8, output_type="ndarray")
    links = coo_array((np.ones(len(near)), tuple(near.T)), shape=(len(maxima), len(maxima)))
    count, name = connected_components(links, directed=False)
    yield 0.4
    if count <= 1:
        return piece.astype(np.int32)
    seeds = np.zeros(piece.shape, np.int32)
    seeds[tuple(maxima.T)] = name + 1
    parts = watershed(-depth, seeds, mask=piece).astype(np.int32)
    yield 0.9
    peaks = np.zeros(count + 1, np.float32)
    max_depths(parts, depth, peaks)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    return _merged(contacts(parts, depth), peaks, sizes, smallest_voxels)[parts]


def _merged(
    saddles: dict[tuple[int, int], float],
    peaks: NDArray[np.float32],
    sizes: NDArray[np.intp],
    smallest_voxels: int,
) -> Labels:
    """New label of each part after merging parts that are not separated by a neck."""
    heir = np.arange(peaks.size)
    while saddles:
        # Small parts join the neighbour with the deepest contact; then the widest necks close.
        openness = {
            (a, b): saddle / min(peaks[a], peaks[b]) + (min(sizes[a], sizes[b]) < smallest_voxels)
            for (a, b), saddle in saddles.items()
        }
        worst = max(openness, key=lambda pair: openness[pair])
        if openness[worst] < _MAX_NECK_DEPTH:
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
    return names.astype(np.int32)


def contacts(labels: Labels, values: NDArray[Any] | None = None) -> dict[tuple[int, int], float]:
    """Find the pairs of labels that touch along an axis, and the greatest value at their contact.

    Parameters
    ----------
    labels : ndarray of int
        Shape (y, z, x).
    values : ndarray, optional
        Shape (y, z, x). The value of a face is the smaller of its two voxels.

    Returns
    -------
    dict
        Greatest value of the faces by (smaller label, greater label), sorted; vacuum (0) has no
        contacts. Without `values` only the keys have a meaning.

    Examples
    --------
    >>> import numpy as np
    >>> list(contacts(np.array([[[1, 1, 2, 0, 3]]], np.int32)))
    [(1, 2)]
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


def dilation(labels: Labels, steps: int) -> Labels:
    """Dilate labels into the vacuum; a label never replaces another.

    Parameters
    ----------
    labels : ndarray of int
        Shape (y, z, x).
    steps : int
        Number of voxels along the axes.

    Returns
    -------
    ndarray
        The dilated labels. Where two labels meet, the greater wins.

    Examples
    --------
    >>> import numpy as np
    >>> dilation(np.array([[[1, 0, 0, 0, 2]]], np.int32), 1).tolist()
    [[[1, 1, 0, 2, 2]]]
    """
    grown = labels
    for _ in range(steps):
        source = np.ascontiguousarray(grown)
        grown = np.empty_like(source)
        grow(source, grown)
    return grown
