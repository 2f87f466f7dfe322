"""Make the noise of counts as if it were white, and undo that without bias.

Forward, the generalised Anscombe transform (Starck, Murtagh, Bijaoui, 1998). Backward, its exact
unbiased inverse (Makitalo, Foi, IEEE Trans. Image Process. 20, 99, 2011; with read-out noise 22,
91, 2013): not the algebraic one, for the mean of a root is not the root of the mean, which at a
count a pixel is an error of tens of percent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Means up to which the inverse is tabulated; beyond, its asymptote is good to 1e-5 counts.
_TABULATED = 64.0
_ENTRIES = 4096

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]


def anscombe(frame: NDArray[Any], gain: float = 1.0, readout: float = 0.0) -> Floats:
    """Values whose noise has a standard deviation of about 1, whatever their mean.

    Parameters
    ----------
    frame : ndarray
        Gain times Poisson counts, plus Gaussian read-out noise of mean 0.
    gain : float
        Value of one count.
    readout : float
        Standard deviation of the read-out noise, in the frame's unit.

    Returns
    -------
    ndarray
        Float32, ``2 sqrt(n + 3/8 + s^2)`` with n and s in counts. From about 4 counts up its
        variance is 1 to a few percent; towards 0 counts the variance falls to 0.
    """
    counts = np.asarray(frame, np.float32) / np.float32(gain)
    inside = np.maximum(counts + np.float32(0.375 + (readout / gain) ** 2), np.float32(0))
    return 2 * np.sqrt(inside)


def inverse_anscombe(stable: NDArray[Any], gain: float = 1.0, readout: float = 0.0) -> Floats:
    """Mean counts whose stabilised values have the given mean: the exact unbiased inverse.

    Parameters
    ----------
    stable : ndarray
        Denoised values on the scale of :func:`stabilise`.
    gain, readout : float
        As they were there.

    Returns
    -------
    ndarray
        Float32, in the frame's unit, at least 0.
    """
    values = np.asarray(stable, np.float64)
    means, expected = _table()
    inner = np.interp(values, expected, means)
    inner = np.where(values > expected[-1], values**2 / 4 - 1 / 8, inner)
    return (gain * np.maximum(inner - (readout / gain) ** 2, 0)).astype(np.float32)


@cache
def _table() -> tuple[Floats64, Floats64]:
    """Means of Poisson's law, and the expectations of their stabilised counts."""
    means = np.linspace(0, np.sqrt(_TABULATED), _ENTRIES) ** 2
    expected = np.zeros_like(means)
    chance = np.exp(-means)
    for count in range(int(_TABULATED + 16 * np.sqrt(_TABULATED))):
        expected += chance * 2 * np.sqrt(count + 0.375)
        chance = chance * means / (count + 1)
    return means, expected
