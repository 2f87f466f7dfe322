"""Loops over pixels: counts summed over squares, and the power of a spectrum in rings."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def sum_squares(frame, binning, top, left, out):
    """Sum the counts of squares of `binning` pixels, from a first row and column on."""
    rows, columns = out.shape
    wide = columns * binning
    line = np.empty(wide, np.int64)
    for row in range(rows):
        first = top + row * binning
        for x in range(wide):
            line[x] = frame[first, left + x]
        for y in range(first + 1, first + binning):
            for x in range(wide):
                line[x] += frame[y, left + x]
        for column in range(columns):
            total = np.int64(0)
            for x in range(column * binning, (column + 1) * binning):
                total += line[x]
            out[row, column] = total


@numba.njit(nogil=True, cache=True)
def windowed(counts, down, along, out):
    """Counts times a window; the sum of those, and that of counts times its square."""
    total, squares = 0.0, 0.0
    for row in range(counts.shape[0]):
        one, other = 0.0, 0.0
        for column in range(counts.shape[1]):
            value = np.float32(counts[row, column])
            seen = value * along[column]
            one += seen
            other += seen * along[column]
            out[row, column] = seen * down[row]
        total += one * down[row]
        squares += other * down[row] * down[row]
    return total, squares


@numba.njit(nogil=True, cache=True)
def less_mean(shown, down, along, mean):
    """Take a mean, times the window, out of windowed counts."""
    for row in range(shown.shape[0]):
        level = np.float32(mean * down[row])
        for column in range(shown.shape[1]):
            shown[row, column] -= level * along[column]


@numba.njit(nogil=True, cache=True)
def power_in_rings(spectrum, ring, out):
    """Add up the squares of a half spectrum in rings; -1 marks what belongs to none.

    What the other half repeats counts twice.
    """
    rows, columns = spectrum.shape
    for k in range(out.shape[0]):
        out[k] = 0.0
    for row in range(rows):
        for column in range(columns):
            k = ring[row, column]
            if k >= 0:
                value = spectrum[row, column]
                power = value.real * value.real + value.imag * value.imag
                out[k] += power if column == 0 else 2.0 * power
