r"""Profile of a species that diffuses out of a source, as a blurred picture shows it.

Without blur it is 1 in the source (u < 0) and erfc(u / (2 sqrt(theta))) beyond, theta = int D dt;
the front length is L = sqrt(2 theta). Blurred by a Gaussian of sd s it has a closed form. With
x = u / s, lambda = L / s, y = x / sqrt(1 + lambda^2), the normal distribution Phi and Owen's
function T:

    F(x, lambda) = Phi(-y) + 2 T(y, lambda)

because erfc(v / (2 sqrt(theta))) = 2 P(L Z > v), which makes the blurred profile a probability of
two correlated normal variables; one of Owen's two terms vanishes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtr, owens_t

Array = NDArray[np.float64]
_Y_MOST, _Y_STEPS, _LENGTH_STEPS = 8.0, 1601, 1601

_PART_MOST = 1.0 - 1e-6


def front_profile(x: Array, length: Array) -> Array:
    """Blurred profile at `x`, for front lengths; both in units of the blur's sd.

    Parameters
    ----------
    x, length : ndarray
        Shapes that broadcast; a length of 0 is a step.

    Examples
    --------
    >>> front_profile(np.array([-5.0, 0.0, 5.0]), np.array(0.0)).round(3).tolist()
    [1.0, 0.5, 0.0]
    """
    y = x / np.sqrt(1.0 + length**2)
    return ndtr(-y) + 2.0 * owens_t(y, length)


@cache
def _table() -> tuple[Array, Array]:
    """Phi(-y) at steps of y, and 2 T(y, lambda) at steps of y >= 0 and of lambda/(1+lambda)."""
    y = np.linspace(0.0, _Y_MOST, _Y_STEPS)
    part = np.linspace(0.0, _PART_MOST, _LENGTH_STEPS)
    return ndtr(-y), 2.0 * owens_t(y[None, :], (part / (1.0 - part))[:, None])


@njit(cache=True, nogil=True, fastmath=True)
def _fill(x: Array, lengths: Array, below: Array, owen: Array, found: Array) -> None:
    """The profile of each change of the source, by bilinear interpolation."""
    per_y = (below.size - 1) / _Y_MOST
    per_part = (owen.shape[0] - 1) / _PART_MOST
    for t in range(lengths.shape[0]):
        for j in range(lengths.shape[1]):
            length = lengths[t, j]
            if length < 0.0:
                found[t, :, j] = 0.0
                continue
            narrow = 1.0 / np.sqrt(1.0 + length * length)
            place = length / (1.0 + length) * per_part
            row = min(int(place), owen.shape[0] - 2)
            up = place - row
            for r in range(x.shape[1]):
                y = x[t, r] * narrow
                at = abs(y) * per_y
                column = int(at)
                if column >= below.size - 1:
                    found[t, r, j] = 1.0 if y < 0 else 0.0
                    continue
                beside = at - column
                tail = below[column] * (1 - beside) + below[column + 1] * beside
                low = owen[row, column] * (1 - beside) + owen[row, column + 1] * beside
                high = owen[row + 1, column] * (1 - beside) + owen[row + 1, column + 1] * beside
                value = (tail if y >= 0 else 1.0 - tail) + low * (1 - up) + high * up
                found[t, r, j] = value


def tabulated_profiles(x: Array, lengths: Array) -> Array:
    """Profiles that a source has which changed at several moments, one for each change.

    Parameters
    ----------
    x : ndarray of shape (frames, rows)
        Depths, in units of the blur's sd.
    lengths : ndarray of shape (frames, changes)
        Front length sqrt(2 (theta_t - theta_j)) that each change has had until the frame, in the
        same units; below 0 for changes to come, whose profile is 0.

    Returns
    -------
    ndarray of shape (frames, rows, changes)
        To 5e-5. The profile of the source is their sum, weighted by what each change was.
    """
    found = np.empty((*x.shape, lengths.shape[1]))
    below, owen = _table()
    _fill(np.ascontiguousarray(x), np.ascontiguousarray(lengths), below, owen, found)
    return found


def warm_up_profiles() -> None:
    """Compile what a fit needs."""
    one: Any = np.ones((1, 1))
    tabulated_profiles(one, one)
