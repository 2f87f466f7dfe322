"""Compiled kernels of the fast BM3D: block transforms, block matching, filtering of groups.

They work on a *tile*: up to `REFS` x `REFS` reference blocks, `STEP` pixels apart, and all that
lies within `RADIUS` of them. Speed comes from four arrangements:

* The 2D transform is done once at every place of the tile, not once for every group that a block
  joins, and filtered spectra are added up at their places, so that there is one inverse a place.
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

from .block_code import (
    BLOCK,
    COEFFICIENTS,
    FLOAT,
    GUIDE_PITCH,
    LANES,
    MARGIN,
    PITCH,
    PIXELS,
    PLACES,
    PLANE,
    REFS,
    ROW_REFS,
    SPECTRUM,
    STEP,
    add_blocks,
    group_variances,
    insert,
    lowest_bit,
    scan,
    shrink,
    spectra_of,
    wiener_shrink,
)

# Larger than the square of any pixel difference, yet 64 squares of it are finite.
OUTSIDE = np.float32(1e18)
FAR = np.float32(1e30)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill(image, top, left, down, along, pixels, guide, outside):
    """Copy a tile out of an image, in rows (`pixels`) or in column planes (`guide`)."""
    rows, columns = image.shape
    for y in range(down + BLOCK - 1):
        row = top + y
        inside = 0 <= row < rows
        for x in range(along + BLOCK - 1):
            column = left + x
            value = outside
            if inside and 0 <= column < columns:
                value = image[row, column]
            if guide:
                pixels[y * GUIDE_PITCH + x % STEP * PLANE + x // STEP] = value
            else:
                pixels[y * PITCH + x] = value


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _match(guide, rows, columns, displacements, most, tau, far, distances, masks, best, places):
    """List the blocks nearest to each reference block, nearest first; -1 where there are none."""
    void = np.float32(-1)
    for i in range(far.size):
        far[i] = void
    for t in range(rows):
        for j in range(columns):
            far[(t + 2) * ROW_REFS + j] = tau
    for i in range(rows * ROW_REFS * 32):
        best[i] = tau
        places[i] = -1
    base = guide.ctypes.data
    here = base + (MARGIN * GUIDE_PITCH + MARGIN // STEP) * 4
    for o in range(displacements.shape[0]):
        dy, dx = displacements[o, 0], displacements[o, 1]
        line = base + (MARGIN + dy) * GUIDE_PITCH * 4
        x = MARGIN + dx
        scan(
            here,
            line + (x % STEP * PLANE + x // STEP) * 4,
            line + ((x + 1) % STEP * PLANE + (x + 1) // STEP) * 4,
            line + ((x + 2) % STEP * PLANE + (x + 2) // STEP) * 4,
            rows + 2,
            far.ctypes.data,
            distances.ctypes.data,
            masks.ctypes.data,
        )
        for t in range(2, rows + 2):
            mask = masks[t]
            while mask != 0:
                j = lowest_bit(mask)
                mask &= mask - np.uint32(1)
                i = t * ROW_REFS + j
                entry = ((t - 2) * ROW_REFS + j) * 32
                place = (STEP * (t - 2) + MARGIN + dy) * PLACES + STEP * j + MARGIN + dx
                insert(
                    best.ctypes.data + entry * 4,
                    places.ctypes.data + entry * 4,
                    distances[i],
                    np.int32(place),
                )
                far[i] = best[entry + most - 1]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def filter_tile(
    image, guide_image, basic, top, left, rows, columns,
    displacements, most, tau, forward, inverse, window, limits, covariances,
    guide, pixels, half, spectra, basic_spectra, sums, weights,
    far, distances, masks, best, places, numerator, denominator,
):  # fmt: skip
    """Filter one tile: `numerator` and `denominator` become its weighted sums of pixels."""
    wiener = basic.size > 0
    down = STEP * (rows - 1) + 1 + 2 * MARGIN
    along = STEP * (columns - 1) + 1 + 2 * MARGIN
    nothing = np.float32(0)
    _fill(guide_image, top - MARGIN, left - MARGIN, PLACES, PLACES, guide, True, OUTSIDE)
    _fill(image, top - MARGIN, left - MARGIN, down, along, pixels, False, nothing)
    spectra_of(
        pixels.ctypes.data, forward.ctypes.data, half.ctypes.data, spectra.ctypes.data, down, along
    )
    if wiener:
        _fill(basic, top - MARGIN, left - MARGIN, down, along, pixels, False, nothing)
        spectra_of(
            pixels.ctypes.data,
            forward.ctypes.data,
            half.ctypes.data,
            basic_spectra.ctypes.data,
            down,
            along,
        )
    _match(guide, rows, columns, displacements, most, tau, far, distances, masks, best, places)
    for i in range(down * PLACES * COEFFICIENTS):
        sums[i] = nothing
    for i in range(down * PLACES):
        weights[i] = nothing
    scratch = np.empty(32 * COEFFICIENTS, np.float32)
    exact = np.empty(32 * COEFFICIENTS, np.float32)
    offsets = np.empty(32, np.int64)
    centre = covariances.ctypes.data + covariances.size // COEFFICIENTS // 2 * SPECTRUM
    for t in range(rows):
        for j in range(columns):
            entry = (t * ROW_REFS + j) * 32
            found = 0
            while found < most and places[entry + found] >= 0:
                offsets[found] = np.int64(places[entry + found]) * SPECTRUM
                found += 1
            count = 1
            while 2 * count <= found:
                count *= 2
            group_variances(centre, offsets.ctypes.data, count, exact.ctypes.data)
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
    for i in range((down + BLOCK - 1) * PLACES * BLOCK):
        half[i] = nothing
    for i in range(numerator.size):
        numerator[i] = nothing
        denominator[i] = nothing
    add_blocks(
        sums.ctypes.data, inverse.ctypes.data, half.ctypes.data, numerator.ctypes.data, down, along
    )
    line = np.empty(PITCH, np.float32)
    for y in range(down):
        for x in range(PITCH):
            line[x] = nothing
        for c in range(BLOCK):
            for x in range(along):
                line[x + c] += window[c] * weights[y * PLACES + x]
        for r in range(BLOCK):
            for x in range(along + BLOCK - 1):
                denominator[(y + r) * PITCH + x] += window[r] * line[x]


class Workspace:
    """Memory that a thread needs for a tile, about 12 MB; pages are touched once and kept."""

    def __init__(self) -> None:
        def floats(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            memory = np.zeros(count + LANES, np.float32)
            skip = -(memory.ctypes.data // FLOAT) % LANES
            return memory[skip : skip + count]

        spectra = PLACES * PLACES * COEFFICIENTS
        slots = (REFS + 2) * ROW_REFS
        self.arrays = (
            floats((PIXELS + STEP) * GUIDE_PITCH), floats(PIXELS * PITCH),
            floats(PIXELS * PLACES * BLOCK), floats(spectra), floats(spectra), floats(spectra),
            floats(PLACES * PLACES),
            floats(slots), floats(slots), np.zeros(REFS + 2, np.uint32),
            floats(REFS * ROW_REFS * 32), np.zeros(REFS * ROW_REFS * 32, np.int32),
        )  # fmt: skip
