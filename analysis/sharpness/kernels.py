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
    for row in range(rows):
        for column in range(columns):
            out[row, column] = 0
        for y in range(top + row * binning, top + (row + 1) * binning):
            for column in range(columns):
                first = left + column * binning
                total = np.int64(0)
                for x in range(first, first + binning):
                    total += np.int64(frame[y, x])
                out[row, column] += total


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
