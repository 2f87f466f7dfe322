"""Compiled kernels of the fast BM3D: block transforms, block matching, filtering of groups.

They work on a *tile*: up to `ROWS` x `REFS` reference blocks, `STEP` pixels apart (or twice that
down a column), and all that lies within a margin around them, `MARGIN` at most. Speed comes from
four arrangements:

* The 2D transform is done once at every place of the tile whose block joins a group, not once for
  every group, and filtered spectra are added up at their places: there is one inverse a place.
* Pixels lie in `STEP` planes by column, so that neighbouring reference blocks are neighbouring
  numbers: squared differences are shared by all blocks of a column and of a row, and one vector
  holds a row of distances.
* Lists of best matches are kept sorted in vectors, where an insertion is a shift and two selects.
* Along the group the transform is Walsh and Hadamard's, whose rows are characters of the group
  (Z2)^n: h_k(i) h_k(j) = h_k(i xor j). The exact variance of noise that is correlated between
  blocks is therefore itself one such transform, of covariances summed over pairs of equal i xor j.

The vector code itself is in :mod:`.block_code`.
"""
# numba is not typed.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from .simd import (
    BLOCK,
    COEFFICIENTS,
    FLOAT,
    GUIDE_PITCH,
    LANES,
    PITCH,
    PIXELS,
    PLACES,
    PLANE,
    ROW_REFS,
    ROWS,
    SPECTRUM,
    STEP,
    add_columns,
    add_rows,
    group_variances,
    insert_16,
    insert_32,
    lowest_bit,
    scan_all,
    scan_every_second,
    shrink,
    transform_columns,
    transform_rows,
    wiener_shrink,
)

# Larger than the square of any pixel difference, yet 64 squares of it are finite.
OUTSIDE = np.float32(1e18)
FAR = np.float32(1e30)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill(image, top, left, down, along, pixels, guide, outside):
    """Copy a tile out of an image, in rows (`pixels`) or in column planes (`guide`)."""
    rows, columns = image.shape
    high, wide = down + BLOCK - 1, along + BLOCK - 1
    line = np.full(PITCH, outside, np.float32)
    first, last = max(0, -left), min(wide, columns - left)
    for y in range(high):
        row = top + y
        if 0 <= row < rows:
            for x in range(first, last):
                line[x] = image[row, left + x]
        else:
            for x in range(first, last):
                line[x] = outside
        if guide:
            start = y * GUIDE_PITCH
            for plane in range(STEP):
                for k in range(PLANE):
                    pixels[start + plane * PLANE + k] = line[STEP * k + plane]
        else:
            for x in range(wide):
                pixels[y * PITCH + x] = line[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _match(
    guide, rows, columns, margin, every, displacements, most, tau,
    far, distances, masks, best, places,
):  # fmt: skip
    """List the blocks nearest to each reference block, nearest first; -1 where there are none."""
    lead = np.int64(2) if every == 1 else np.int64(1)
    void = np.float32(-1)
    for i in range((rows + lead) * ROW_REFS):
        far[i] = void
    for t in range(lead, rows + lead):
        for j in range(columns):
            far[t * ROW_REFS + j] = tau
    for i in range(rows * ROW_REFS * 32):
        best[i] = tau
        places[i] = -1
    base = guide.ctypes.data
    here = base + (margin * GUIDE_PITCH + margin // STEP) * 4
    for o in range(displacements.shape[0]):
        dy, dx = displacements[o, 0], displacements[o, 1]
        line = base + (margin + dy) * GUIDE_PITCH * 4
        x = margin + dx
        there_0 = line + (x % STEP * PLANE + x // STEP) * 4
        there_1 = line + ((x + 1) % STEP * PLANE + (x + 1) // STEP) * 4
        there_2 = line + ((x + 2) % STEP * PLANE + (x + 2) // STEP) * 4
        if every == 1:
            scan_all(
                here, there_0, there_1, there_2, rows + lead,
                far.ctypes.data, distances.ctypes.data, masks.ctypes.data,
            )  # fmt: skip
        else:
            scan_every_second(
                here, there_0, there_1, there_2, rows + lead,
                far.ctypes.data, distances.ctypes.data, masks.ctypes.data,
            )  # fmt: skip
        for t in range(lead, rows + lead):
            mask = masks[t]
            while mask != 0:
                j = lowest_bit(mask)
                mask &= mask - np.uint32(1)
                i = t * ROW_REFS + j
                entry = ((t - lead) * ROW_REFS + j) * 32
                down = every * STEP * (t - lead) + margin + dy
                place = np.int32(down * PLACES + STEP * j + margin + dx)
                into, into_places = best.ctypes.data + entry * 4, places.ctypes.data + entry * 4
                if most <= LANES:
                    insert_16(into, into_places, distances[i], place)
                else:
                    insert_32(into, into_places, distances[i], place)
                far[i] = best[entry + most - 1]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _count(rows, columns, most, down, along, places, counts, weights, used, starts):
    """Cut stacks to powers of two; list the places that are used, row by row.

    Row y of the tile has those from ``starts[y]`` on, before ``starts[y + 1]``.
    """
    nothing = np.float32(0)
    for i in range(down * PLACES):
        weights[i] = nothing
    for t in range(rows):
        for j in range(columns):
            entry = (t * ROW_REFS + j) * 32
            found = 0
            while found < most and places[entry + found] >= 0:
                found += 1
            count = 1
            while 2 * count <= found:
                count *= 2
            counts[t * ROW_REFS + j] = count
            for k in range(count):
                weights[places[entry + k]] = np.float32(1)
    number = 0
    for y in range(down):
        starts[y] = number
        for i in range(y * PLACES, y * PLACES + along):
            # Without a branch, which would be guessed wrongly half the time.
            used[number] = i
            number += np.int64(weights[i])
            weights[i] = nothing
    starts[down] = number


# Both ways go row by row, so that what is half transformed is still in the cache.


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _transform(pixels, matrix, half, down, along, used, starts, spectra):
    """Spectra of the blocks at the places that are used."""
    line, half_line = PITCH * FLOAT, PLACES * BLOCK * FLOAT
    ahead = BLOCK - 1
    transform_rows(pixels.ctypes.data, matrix.ctypes.data, half.ctypes.data, ahead, along)
    for y in range(down):
        transform_rows(
            pixels.ctypes.data + (y + ahead) * line, matrix.ctypes.data,
            half.ctypes.data + (y + ahead) * half_line, 1, along,
        )  # fmt: skip
        transform_columns(
            half.ctypes.data, matrix.ctypes.data, spectra.ctypes.data,
            used.ctypes.data + starts[y] * 4, starts[y + 1] - starts[y],
        )  # fmt: skip


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _transform_back(sums, matrix, half, down, along, used, starts, pixels):
    """Pixels in which the blocks of all sums at places that are used are added up."""
    line, half_line = PITCH * FLOAT, PLACES * BLOCK * FLOAT
    clear = 0
    for y in range(down + BLOCK - 1):
        while clear < min(y, down - 1) + BLOCK:
            start = clear * PLACES * BLOCK
            for i in range(start, start + along * BLOCK):
                half[i] = np.float32(0)
            clear += 1
        if y < down:
            add_columns(
                sums.ctypes.data, matrix.ctypes.data, half.ctypes.data,
                used.ctypes.data + starts[y] * 4, starts[y + 1] - starts[y],
            )  # fmt: skip
        add_rows(
            half.ctypes.data + y * half_line, matrix.ctypes.data,
            pixels.ctypes.data + y * line, 1, along,
        )  # fmt: skip


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _spread(weights, window, down, along, denominator):
    """Sum of the windows of all blocks, times the weights of their places."""
    nothing = np.float32(0)
    line = np.empty(PITCH, np.float32)
    for y in range(down + BLOCK - 1):
        for x in range(PITCH):
            denominator[y * PITCH + x] = nothing
    for y in range(down):
        for x in range(PITCH):
            line[x] = nothing
        for c in range(BLOCK):
            for x in range(along):
                line[x + c] += window[c] * weights[y * PLACES + x]
        for r in range(BLOCK):
            for x in range(along + BLOCK - 1):
                denominator[(y + r) * PITCH + x] += window[r] * line[x]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def filter_tile(
    image, guide_image, basic, top, left, rows, columns, margin, every,
    displacements, most, tau, forward, inverse, window, limits, covariances, reach,
    guide, pixels, half, spectra, basic_spectra, sums, weights,
    far, distances, masks, best, places, counts, used, starts, numerator, denominator,
):  # fmt: skip
    """Filter one tile: `numerator` and `denominator` become its weighted sums of pixels.

    Reference blocks lie `STEP` apart along a row, and `every` times as much down a column.
    """
    wiener = basic.size > 0
    down = every * STEP * (rows - 1) + 1 + 2 * margin
    along = STEP * (columns - 1) + 1 + 2 * margin
    nothing = np.float32(0)
    _fill(guide_image, top - margin, left - margin, down, along, guide, True, OUTSIDE)
    _match(
        guide, rows, columns, margin, every, displacements, most, tau,
        far, distances, masks, best, places,
    )  # fmt: skip
    _count(rows, columns, most, down, along, places, counts, weights, used, starts)
    _fill(image, top - margin, left - margin, down, along, pixels, False, nothing)
    _transform(pixels, forward, half, down, along, used, starts, spectra)
    if wiener:
        _fill(basic, top - margin, left - margin, down, along, pixels, False, nothing)
        _transform(pixels, forward, half, down, along, used, starts, basic_spectra)
    for n in range(starts[down]):
        start = np.int64(used[n]) * COEFFICIENTS
        for i in range(start, start + COEFFICIENTS):
            sums[i] = nothing
    scratch = np.empty(32 * COEFFICIENTS, np.float32)
    exact = np.empty(32 * COEFFICIENTS, np.float32)
    offsets = np.empty(32, np.int64)
    for t in range(rows):
        for j in range(columns):
            entry = (t * ROW_REFS + j) * 32
            count = np.int64(counts[t * ROW_REFS + j])
            for k in range(count):
                offsets[k] = np.int64(places[entry + k]) * SPECTRUM
            group_variances(
                covariances.ctypes.data, reach, places.ctypes.data + entry * 4, count,
                exact.ctypes.data,
            )  # fmt: skip
            if wiener:
                weight = wiener_shrink(
                    spectra.ctypes.data,
                    basic_spectra.ctypes.data,
                    sums.ctypes.data,
                    offsets.ctypes.data,
                    count,
                    exact.ctypes.data,
                    limits.ctypes.data,
                    scratch.ctypes.data,
                )
            else:
                weight = shrink(
                    spectra.ctypes.data,
                    sums.ctypes.data,
                    offsets.ctypes.data,
                    count,
                    exact.ctypes.data,
                    limits.ctypes.data,
                    scratch.ctypes.data,
                )
            for k in range(count):
                weights[places[entry + k]] += weight
    _transform_back(sums, inverse, half, down, along, used, starts, numerator)
    _spread(weights, window, down, along, denominator)


class Workspace:
    """Memory that a thread needs for a tile, about 14 MB; pages are touched once and kept."""

    def __init__(self) -> None:
        def floats(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            memory = np.zeros(count + LANES, np.float32)
            skip = -(memory.ctypes.data // FLOAT) % LANES
            return memory[skip : skip + count]

        spectra = PLACES * PLACES * COEFFICIENTS
        slots = (ROWS + 2) * ROW_REFS
        self.arrays = (
            floats((PIXELS + STEP) * GUIDE_PITCH), floats(PIXELS * PITCH),
            floats(PIXELS * PLACES * BLOCK), floats(spectra), floats(spectra), floats(spectra),
            floats(PLACES * PLACES),
            floats(slots), floats(slots), np.zeros(ROWS + 2, np.uint32),
            floats(slots * 32), np.zeros(slots * 32, np.int32), np.zeros(slots, np.int32),
            np.zeros(PLACES * PLACES + 1, np.int32), np.zeros(PLACES + 1, np.int64),
        )  # fmt: skip
