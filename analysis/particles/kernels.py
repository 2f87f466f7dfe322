"""Loops over the voxels of a segmentation: histogram, distances to the vacuum, contacts, sums."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def count_values(values, lowest, per_unit, counts):
    """Add to a histogram."""
    for value in values:
        counts[min(int((value - lowest) * per_unit), counts.size - 1)] += 1


@numba.njit(nogil=True, cache=True)
def sum_positions(labels, sizes, sums):
    """Count the voxels and sum their positions for each label but 0."""
    a, b, c = labels.shape
    for i in range(a):
        for j in range(b):
            for k in range(c):
                name = labels[i, j, k]
                if name > 0:
                    sizes[name] += 1
                    sums[name, 0] += i
                    sums[name, 1] += j
                    sums[name, 2] += k


@numba.njit(nogil=True, cache=True)
def count_overlap(before, now, shared):
    """Count the voxels that two labels have in common."""
    a, b, c = now.shape
    for i in range(a):
        for j in range(b):
            for k in range(c):
                if before[i, j, k] > 0 and now[i, j, k] > 0:
                    shared[before[i, j, k], now[i, j, k]] += 1


@numba.njit(nogil=True, cache=True)
def max_depths(parts, depth, peaks):
    """Greatest depth of each part."""
    a, b, c = parts.shape
    for i in range(a):
        for j in range(b):
            for k in range(c):
                name = parts[i, j, k]
                peaks[name] = max(peaks[name], depth[i, j, k])


@numba.njit(nogil=True, cache=True)
def write_faces(labels, values, names, heights):
    """Write the faces between two labels while the arrays have room; return their number."""
    a, b, c = labels.shape
    count = 0
    for i in range(a):
        for j in range(b):
            for k in range(c):
                one = labels[i, j, k]
                if one == 0:
                    continue
                for axis in range(3):
                    p, q, r = i + (axis == 0), j + (axis == 1), k + (axis == 2)
                    if p == a or q == b or r == c:
                        continue
                    other = labels[p, q, r]
                    if other != one and other > 0:
                        if count < heights.size:
                            names[count, 0], names[count, 1] = min(one, other), max(one, other)
                            heights[count] = min(values[i, j, k], values[p, q, r])
                        count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _nearest(squares, along_first):
    """Lower squared distances by way of the neighbours in other rows (or planes)."""
    a, b, c = squares.shape
    lowered = np.empty_like(squares)
    for i in range(a):
        for j in range(b):
            for k in range(c):
                best = squares[i, j, k]
                step = 1
                # The vacuum around the piece ends the search within the array.
                while step * step < best:
                    if along_first:
                        near = min(squares[i - step, j, k], squares[i + step, j, k])
                    else:
                        near = min(squares[i, j - step, k], squares[i, j + step, k])
                    best = min(best, near + step * step)
                    step += 1
                lowered[i, j, k] = best
    return lowered


@numba.njit(nogil=True, cache=True)
def _squares(piece):
    """Squared distances to the vacuum along the last axis."""
    a, b, c = piece.shape
    squares = np.zeros((a, b, c), np.int32)
    for i in range(a):
        for j in range(b):
            run = 0
            for k in range(c):
                run = run + 1 if piece[i, j, k] else 0
                squares[i, j, k] = run * run
            run = 0
            for k in range(c - 1, -1, -1):
                run = run + 1 if piece[i, j, k] else 0
                squares[i, j, k] = min(squares[i, j, k], run * run)
    return squares


@numba.njit(nogil=True, cache=True)
def grow(labels, grown):
    """Give each empty voxel the greatest label among its six neighbours."""
    a, b, c = labels.shape
    for i in range(a):
        for j in range(b):
            for k in range(c):
                name = labels[i, j, k]
                if name == 0:
                    if i > 0:
                        name = max(name, labels[i - 1, j, k])
                    if i < a - 1:
                        name = max(name, labels[i + 1, j, k])
                    if j > 0:
                        name = max(name, labels[i, j - 1, k])
                    if j < b - 1:
                        name = max(name, labels[i, j + 1, k])
                    if k > 0:
                        name = max(name, labels[i, j, k - 1])
                    if k < c - 1:
                        name = max(name, labels[i, j, k + 1])
                grown[i, j, k] = name


def depth_in(piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance in voxels to the vacuum, which surrounds the piece."""
    # Exact: the nearest one in a row, then by way of other rows, then of other planes.
    return np.sqrt(_nearest(_nearest(_squares(piece), False), True), dtype=np.float32)
