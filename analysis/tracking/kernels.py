"""Loops over pixels: sums over rectangles, and the correlation coefficient at each lag."""
# numba's decorators are untyped.
# pyright: basic, reportMissingTypeStubs=false

from __future__ import annotations

import math

import numba


@numba.njit(nogil=True, cache=True)
def integral(values, out):
    """Sums over all rows above and columns left of each place; `out` is one larger."""
    rows, columns = values.shape
    for column in range(columns + 1):
        out[0, column] = 0.0
    for row in range(rows):
        along = 0.0
        out[row + 1, 0] = 0.0
        for column in range(columns):
            along += values[row, column]
            out[row + 1, column + 1] = out[row, column + 1] + along


@numba.njit(nogil=True, cache=True)
def _inside(sums, top, bottom, left, right):
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


@numba.njit(nogil=True, cache=True)
def coefficients(cross, one, one_square, other, other_square, least, out):
    """Correlation coefficient over the overlap at each lag; -2 where the overlap is too small.

    `cross` is the circular cross correlation, the others are integral images of both pictures and
    of their squares. Row k of `out` is the lag k + 1 - rows of the first picture.
    """
    rows, columns = one.shape[0] - 1, one.shape[1] - 1
    tall, wide = other.shape[0] - 1, other.shape[1] - 1
    for k in range(out.shape[0]):
        down = k + 1 - rows
        top, bottom = max(0, -down), min(rows, tall - down)
        for m in range(out.shape[1]):
            along = m + 1 - columns
            left, right = max(0, -along), min(columns, wide - along)
            number = (bottom - top) * (right - left)
            if bottom <= top or right <= left or number < least:
                out[k, m] = -2.0
                continue
            first = _inside(one, top, bottom, left, right)
            second = _inside(other, top + down, bottom + down, left + along, right + along)
            spread = _inside(one_square, top, bottom, left, right) - first * first / number
            other_spread = (
                _inside(other_square, top + down, bottom + down, left + along, right + along)
                - second * second / number
            )
            if spread <= 1e-9 * number or other_spread <= 1e-9 * number:
                out[k, m] = -2.0
                continue
            common = cross[down % cross.shape[0], along % cross.shape[1]] - first * second / number
            out[k, m] = common / math.sqrt(spread * other_spread)
