"""Loops over the pixels of a frame: outliers among neighbours, changes, sources of a filling."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import numba
import numpy as np

# Pixels in the ring around the eight neighbours.
_RING = 16


@numba.njit(nogil=True, cache=True)
def find_sources(mask, positions, reach, sources, weights):
    """Nearest measured pixel of each masked one in eight directions, with weights of sum 1."""
    rows, columns = mask.shape
    for n in range(positions.shape[0]):
        row, column = positions[n, 0], positions[n, 1]
        count = 0
        total = 0.0
        for down in range(-1, 2):
            for along in range(-1, 2):
                if down == 0 and along == 0:
                    continue
                for step in range(1, reach + 1):
                    y, x = row + step * down, column + step * along
                    if y < 0 or x < 0 or y >= rows or x >= columns:
                        break
                    if not mask[y, x]:
                        weight = 1.0 / (step * step * (down * down + along * along))
                        sources[n, count] = y * columns + x
                        weights[n, count] = weight
                        total += weight
                        count += 1
                        break
        for k in range(count):
            weights[n, k] /= total


@numba.njit(nogil=True, cache=True)
def _root(value, shift):
    return np.sqrt(max(value + shift, np.float32(0)))


@numba.njit(nogil=True, cache=True)
def _insert(ascending, count, value):
    """Put a value into its place among the first `count`; return how many there are then."""
    k = count
    while k > 0 and ascending[k - 1] > value:
        ascending[k] = ascending[k - 1]
        k -= 1
    ascending[k] = value
    return count + 1


@numba.njit(nogil=True, cache=True)
def _ring_median(values, row, column, ring):
    """Median of the pixels at a distance of two; the frame's edge is left out."""
    rows, columns = values.shape
    count = 0
    for down in range(-2, 3):
        for along in range(-2, 3):
            if abs(down) < 2 and abs(along) < 2:
                continue
            y, x = row + down, column + along
            if 0 <= y < rows and 0 <= x < columns:
                value = values[y, x]
                count = _insert(ring, count, value)
    return np.float32(0.5) * (ring[(count - 1) // 2] + ring[count // 2])


@numba.njit(nogil=True, cache=True, fastmath=True)
def _neighbours_of_row(values, row, tallest, lowest, edge_up, edge_down):
    """Highest and lowest of the eight neighbours of each pixel of a row."""
    rows, columns = values.shape
    here = values[row]
    # At the frame's edge the row on the other side stands in for the missing one.
    above = values[row - 1] if row > 0 else values[row + 1]
    below = values[row + 1] if row + 1 < rows else values[row - 1]
    for x in range(columns):
        tallest[x] = max(above[x], here[x], below[x])
        lowest[x] = min(above[x], here[x], below[x])
    for x in range(1, columns - 1):
        edge_up[x] = max(tallest[x - 1], tallest[x + 1], above[x], below[x])
        edge_down[x] = min(lowest[x - 1], lowest[x + 1], above[x], below[x])
    for x, beside in ((0, 1), (columns - 1, columns - 2)):
        edge_up[x] = max(tallest[beside], above[x], below[x])
        edge_down[x] = min(lowest[beside], above[x], below[x])


@numba.njit(nogil=True, cache=True)
def find_spikes(values, shift, scale, floor, share, found):
    """Single pixels that stand out of their eight neighbours; return how many there are.

    `scale * sqrt(value + shift)` has noise of variance 1. A spike exceeds the highest neighbour by
    `floor` in the unit of the frame and on that scale, and the neighbours rise by no more than
    `share` of its height above the ring around them. Holes are found alike.
    """
    rows, columns = values.shape
    least, sigmas = floor
    ring = np.empty(_RING, np.float32)
    tallest, lowest = np.empty(columns, np.float32), np.empty(columns, np.float32)
    edge_up, edge_down = np.empty(columns, np.float32), np.empty(columns, np.float32)
    count = 0
    for row in range(rows):
        _neighbours_of_row(values, row, tallest, lowest, edge_up, edge_down)
        for column in range(columns):
            value = values[row, column]
            if value > edge_up[column] + least:
                edge = edge_up[column]
            elif value < edge_down[column] - least:
                edge = edge_down[column]
            else:
                continue
            if scale * abs(_root(value, shift) - _root(edge, shift)) <= sigmas:
                continue
            middle = _ring_median(values, row, column, ring)
            if abs(edge - middle) <= share * abs(value - middle):
                found[count, 0] = row
                found[count, 1] = column
                count += 1
                if count == found.shape[0]:
                    return count
    return count


@numba.njit(nogil=True, cache=True)
def highest_plateau(values):
    """Highest value that seven pixels of a square of 3 x 3 reach: the maximum without hits."""
    rows, columns = values.shape
    best = np.float32(-np.inf)
    nine = np.empty(9, np.float32)
    for row in range(1, rows - 1, 2):
        for column in range(1, columns - 1, 2):
            if values[row, column] <= best and values[row, column + 1] <= best:
                continue
            count = 0
            for y in range(row - 1, row + 2):
                for x in range(column - 1, column + 2):
                    value = values[y, x]
                    count = _insert(nine, count, value)
            best = max(best, nine[2])
    return best


@numba.njit(nogil=True, cache=True)
def grow_cluster(values, row, column, threshold, taken, cluster):
    """Collect the pixels above a threshold that hang together; return their number.

    More than `cluster` has room for are counted as one more than the room.
    """
    rows, columns = values.shape
    room = cluster.shape[0]
    cluster[0, 0], cluster[0, 1] = row, column
    taken[row, column] = True
    count, done = 1, 0
    while done < count:
        y0, x0 = cluster[done, 0], cluster[done, 1]
        done += 1
        for y in range(max(y0 - 1, 0), min(y0 + 2, rows)):
            for x in range(max(x0 - 1, 0), min(x0 + 2, columns)):
                if taken[y, x] or values[y, x] <= threshold:
                    continue
                if count == room:
                    return room + 1
                taken[y, x] = True
                cluster[count, 0], cluster[count, 1] = y, x
                count += 1
    return count


@numba.njit(nogil=True, cache=True)
def count_changes(before, now, changes):
    """Count for each pixel that it has another value than in the frame before."""
    rows, columns = now.shape
    for row in range(rows):
        for column in range(columns):
            changes[row, column] += now[row, column] != before[row, column]


@numba.njit(nogil=True, cache=True)
def find_unchanging(changes, known, frames, log_chance, rank, found):
    """Pixels that never change, although they would if they were like those around them.

    With the share q of changes among the neighbours, but for the `rank` of them that change least,
    the chance of no change is (1 - q) ** (frames - 1); its logarithm is below `log_chance`.
    """
    rows, columns = changes.shape
    eight = np.empty(8, np.int64)
    count = 0
    for row in range(1, rows - 1):
        for column in range(1, columns - 1):
            if changes[row, column] > 0 or known[row, column]:
                continue
            size = 0
            for y in range(row - 1, row + 2):
                for x in range(column - 1, column + 2):
                    if (y != row or x != column) and not known[y, x]:
                        value = np.int64(changes[y, x])
                        size = _insert(eight, size, value)
            if size <= rank:
                continue
            changed = 0
            for k in range(rank, size):
                changed += eight[k]
            # A share that few frames show is not known well: as if some had not changed.
            share = changed / ((size - rank) * (frames - 1) + 5.0)
            if (frames - 1) * np.log(1.0 - share) < log_chance:
                found[row, column] = True
                count += 1
    return count
