"""Compiled kernels of the fast BM3D: block transforms, block matching, filtering of groups.

They work on a *tile*: up to `ROWS` x `REFS` reference blocks, `STEP` pixels apart (or twice that
down a column), with a margin of at most `MARGIN` pixels around them. A *position* is that of a
block's first pixel in the tile, counted row by row. Four arrangements make it fast:

* The 2D transform is computed once for every position whose block joins a group, not once for
  every group. Filtered spectra are summed by position, so that one inverse per position is enough.
* Pixels are stored in `STEP` planes by column, so that neighbouring reference blocks are
  neighbouring numbers: all blocks of a column and of a row share their squared differences, and
  one vector holds a row of distances.
* Lists of best matches are kept sorted in vectors, where an insertion is a shift and two selects.
* The transform along the group is the Walsh-Hadamard transform, whose rows are characters of the
  group (Z2)^n: h_k(i) h_k(j) = h_k(i xor j). The exact variance of noise that is correlated
  between blocks is therefore one such transform of covariances summed over pairs of equal i xor j.

The vector code is in :mod:`.simd`.
"""
# numba is not typed.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

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

# Value of guide pixels beyond the image: 64 squared differences of it are still finite.
OUTSIDE = np.float32(1e18)
# Larger than any distance of two blocks within the image.
FAR = np.float32(1e30)


class Images(NamedTuple):
    """Images of one pass, float32, shape (rows, columns) each.

    Attributes
    ----------
    noisy : ndarray
        The image to filter.
    guide : ndarray
        The image in which blocks are matched.
    basic : ndarray
        The basic estimate whose spectra give the Wiener gains; empty in the first pass.
    """

    noisy: NDArray[np.float32]
    guide: NDArray[np.float32]
    basic: NDArray[np.float32]


class Tile(NamedTuple):
    """Reference blocks of a tile: first pixel of the first block, and numbers of blocks."""

    top: int
    left: int
    rows: int
    columns: int


class Search(NamedTuple):
    """Block matching.

    Attributes
    ----------
    margin : int
        Pixels around the reference blocks.
    every : int
        Rows of reference blocks are ``every * STEP`` pixels apart; 1 or 2.
    displacements : ndarray
        Int64, shape (n, 2), along rows and columns: where blocks are compared, nearest first.
    max_blocks : int
        Most blocks in a group, 16 or 32 at most.
    max_distance : float32
        Largest sum of squared differences at which a block joins a group.
    """

    margin: int
    every: int
    displacements: NDArray[np.int64]
    max_blocks: int
    max_distance: np.float32


class Filter(NamedTuple):
    """Transforms and noise statistics of one pass; arrays are flat.

    Attributes
    ----------
    forward, inverse : ndarray
        Float32, 64: [pixel][frequency] and [frequency][pixel]; the inverse includes the window.
    window : ndarray
        Float32, 8: weights of a block's pixels along a side.
    limits : ndarray
        Float32, 2 x 64: factors on the variance for the first Walsh coefficient and the others.
    covariances : ndarray
        Float32, see :class:`.bm3d.Noise`.
    reach : int
        Largest displacement in `covariances`.
    """

    forward: NDArray[np.float32]
    inverse: NDArray[np.float32]
    window: NDArray[np.float32]
    limits: NDArray[np.float32]
    covariances: NDArray[np.float32]
    reach: int


class Workspace(NamedTuple):
    """Memory of one thread for a tile, about 14 MB; make it with :meth:`allocate`.

    Attributes
    ----------
    guide, pixels : ndarray
        Pixels of the tile in column planes and in rows.
    half : ndarray
        Blocks transformed along rows only.
    spectra, basic_spectra, sums : ndarray
        Spectra of the blocks of the noisy and of the basic image, and sums of filtered spectra,
        by position.
    weights : ndarray
        Sum of the weights of the groups, by position.
    max_distances, distances, masks : ndarray
        Per reference block: the distance that a new match must undercut, the distance at the
        current displacement, and one bit that says whether it does.
    best, positions, counts : ndarray
        Per reference block: distances and positions of its 32 best matches, and the group size.
    used, starts : ndarray
        Positions that belong to a group, and the first of them in each row of the tile.
    """

    guide: NDArray[np.float32]
    pixels: NDArray[np.float32]
    half: NDArray[np.float32]
    spectra: NDArray[np.float32]
    basic_spectra: NDArray[np.float32]
    sums: NDArray[np.float32]
    weights: NDArray[np.float32]
    max_distances: NDArray[np.float32]
    distances: NDArray[np.float32]
    masks: NDArray[np.uint32]
    best: NDArray[np.float32]
    positions: NDArray[np.int32]
    counts: NDArray[np.int32]
    used: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def allocate(cls) -> Workspace:
        """Allocate the memory; its pages are touched once and kept."""
        spectra = PLACES * PLACES * COEFFICIENTS
        slots = (ROWS + 2) * ROW_REFS
        return cls(
            guide=_aligned((PIXELS + STEP) * GUIDE_PITCH),
            pixels=_aligned(PIXELS * PITCH),
            half=_aligned(PIXELS * PLACES * BLOCK),
            spectra=_aligned(spectra),
            basic_spectra=_aligned(spectra),
            sums=_aligned(spectra),
            weights=_aligned(PLACES * PLACES),
            max_distances=_aligned(slots),
            distances=_aligned(slots),
            masks=np.zeros(ROWS + 2, np.uint32),
            best=_aligned(slots * 32),
            positions=np.zeros(slots * 32, np.int32),
            counts=np.zeros(slots, np.int32),
            used=np.zeros(PLACES * PLACES + 1, np.int32),
            starts=np.zeros(PLACES + 1, np.int64),
        )


def _aligned(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Float32 zeros that begin at a cache line."""
    memory = np.zeros(count + LANES, np.float32)
    skip = -(memory.ctypes.data // FLOAT) % LANES
    return memory[skip : skip + count]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill(image, top, left, down, along, pixels, guide, outside):
    """Copy a tile out of an image, in rows or (with `guide`) in column planes."""
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
def _match(tile, search, space):
    """List the blocks nearest to each reference block, nearest first; -1 where there are none."""
    rows, columns, margin, every = tile.rows, tile.columns, search.margin, search.every
    most, displacements = search.max_blocks, search.displacements
    far, distances, masks = space.max_distances, space.distances, space.masks
    best, positions = space.best, space.positions
    lead = np.int64(2) if every == 1 else np.int64(1)
    void = np.float32(-1)
    for i in range((rows + lead) * ROW_REFS):
        far[i] = void
    for t in range(lead, rows + lead):
        for j in range(columns):
            far[t * ROW_REFS + j] = search.max_distance
    for i in range(rows * ROW_REFS * 32):
        best[i] = search.max_distance
        positions[i] = -1
    base = space.guide.ctypes.data
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
                position = np.int32(down * PLACES + STEP * j + margin + dx)
                into, into_positions = (
                    best.ctypes.data + entry * 4,
                    positions.ctypes.data + entry * 4,
                )
                if most <= LANES:
                    insert_16(into, into_positions, distances[i], position)
                else:
                    insert_32(into, into_positions, distances[i], position)
                far[i] = best[entry + most - 1]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _list_used(tile, most, down, along, space):
    """Cut groups to powers of two; list the positions that are used, row by row.

    The positions of row y are ``used[starts[y] : starts[y + 1]]``.
    """
    positions, counts, weights = space.positions, space.counts, space.weights
    used, starts = space.used, space.starts
    nothing = np.float32(0)
    for i in range(down * PLACES):
        weights[i] = nothing
    for t in range(tile.rows):
        for j in range(tile.columns):
            entry = (t * ROW_REFS + j) * 32
            found = 0
            while found < most and positions[entry + found] >= 0:
                found += 1
            count = 1
            while 2 * count <= found:
                count *= 2
            counts[t * ROW_REFS + j] = count
            for k in range(count):
                weights[positions[entry + k]] = np.float32(1)
    number = 0
    for y in range(down):
        starts[y] = number
        for i in range(y * PLACES, y * PLACES + along):
            # Without a branch, which would be mispredicted half the time.
            used[number] = i
            number += np.int64(weights[i])
            weights[i] = nothing
    starts[down] = number


# Both transforms go row by row, so that half-transformed blocks are still in the cache.


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _transform(pixels, matrix, half, down, along, used, starts, spectra):
    """Spectra of the blocks at the positions that are used."""
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
    """Transform the sums at the used positions back and add their blocks up in `pixels`."""
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
    """Sum of the windows of all blocks, times the weights of their positions."""
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
def _filter_groups(tile, filters, wiener, space):
    """Filter the group of every reference block; add the result to the sums and weights."""
    covariances, limits = filters.covariances.ctypes.data, filters.limits.ctypes.data
    spectra, basic_spectra = space.spectra.ctypes.data, space.basic_spectra.ctypes.data
    sums, positions, weights = space.sums.ctypes.data, space.positions, space.weights
    scratch = np.empty(32 * COEFFICIENTS, np.float32)
    exact = np.empty(32 * COEFFICIENTS, np.float32)
    offsets = np.empty(32, np.int64)
    for t in range(tile.rows):
        for j in range(tile.columns):
            entry = (t * ROW_REFS + j) * 32
            count = np.int64(space.counts[t * ROW_REFS + j])
            for k in range(count):
                offsets[k] = np.int64(positions[entry + k]) * SPECTRUM
            group_variances(
                covariances, filters.reach, positions.ctypes.data + entry * 4, count,
                exact.ctypes.data,
            )  # fmt: skip
            if wiener:
                weight = wiener_shrink(
                    spectra, basic_spectra, sums, offsets.ctypes.data, count,
                    exact.ctypes.data, limits, scratch.ctypes.data,
                )  # fmt: skip
            else:
                weight = shrink(
                    spectra, sums, offsets.ctypes.data, count,
                    exact.ctypes.data, limits, scratch.ctypes.data,
                )  # fmt: skip
            for k in range(count):
                weights[positions[entry + k]] += weight


@numba.njit(nogil=True, cache=True, error_model="numpy")
def filter_tile(images, tile, search, filters, space, numerator, denominator):
    """Filter one tile.

    Parameters
    ----------
    images : Images
        Noisy image, guide, and basic estimate.
    tile : Tile
        The reference blocks.
    search : Search
        How blocks are matched.
    filters : Filter
        Transforms and noise statistics.
    space : Workspace
        Memory of the thread.
    numerator, denominator : ndarray
        Float32, `PIXELS` x `PITCH` each, filled: sums of the weighted pixels of all filtered
        blocks, and of their weights.
    """
    wiener = images.basic.size > 0
    margin = search.margin
    down = search.every * STEP * (tile.rows - 1) + 1 + 2 * margin
    along = STEP * (tile.columns - 1) + 1 + 2 * margin
    top, left = tile.top - margin, tile.left - margin
    pixels, half, used, starts = space.pixels, space.half, space.used, space.starts
    forward, nothing = filters.forward, np.float32(0)
    _fill(images.guide, top, left, down, along, space.guide, True, OUTSIDE)
    _match(tile, search, space)
    _list_used(tile, search.max_blocks, down, along, space)
    _fill(images.noisy, top, left, down, along, pixels, False, nothing)
    _transform(pixels, forward, half, down, along, used, starts, space.spectra)
    if wiener:
        _fill(images.basic, top, left, down, along, pixels, False, nothing)
        _transform(pixels, forward, half, down, along, used, starts, space.basic_spectra)
    sums = space.sums
    for n in range(starts[down]):
        start = np.int64(used[n]) * COEFFICIENTS
        for i in range(start, start + COEFFICIENTS):
            sums[i] = nothing
    _filter_groups(tile, filters, wiener, space)
    _transform_back(sums, filters.inverse, half, down, along, used, starts, numerator)
    _spread(space.weights, filters.window, down, along, denominator)
