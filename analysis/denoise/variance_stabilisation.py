"""Variance stabilisation: the Anscombe transform of counts and its exact unbiased inverse.

The algebraic inverse is biased, because the mean of a root is not the root of the mean: at one
count per pixel its error is tens of percent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Means up to which the inverse is tabulated; beyond, its asymptote is accurate to 1e-5 counts.
_TABULATED = 64.0
_ENTRIES = 4096

Floats = NDArray[np.float32]
Floats64 = NDArray[np.float64]


def anscombe(frame: NDArray[Any], gain: float = 1.0, readout: float = 0.0) -> Floats:
    """Generalised Anscombe transform: noise gets a standard deviation of about 1.

    Starck, Murtagh, Bijaoui, Image Processing and Data Analysis, Cambridge, 1998.

    Parameters
    ----------
    frame : ndarray
        Gain times Poisson counts, plus Gaussian read-out noise of mean 0; any shape.
    gain : float
        Value of one count, in the unit of the frame.
    readout : float
        Standard deviation of the read-out noise, in the unit of the frame.

    Returns
    -------
    ndarray
        Float32 in the shape of the frame: ``2 sqrt(n + 3/8 + s^2)`` with counts n and read-out
        noise s in counts. From about 4 counts up the variance is 1 within a few percent; towards
        0 counts it falls to 0.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(20.0, 10_000)
    >>> round(float(anscombe(counts).std()), 1)
    1.0
    """
    counts = np.asarray(frame, np.float32) / np.float32(gain)
    inside = np.maximum(counts + np.float32(0.375 + (readout / gain) ** 2), np.float32(0))
    return 2 * np.sqrt(inside)


def inverse_anscombe(stable: NDArray[Any], gain: float = 1.0, readout: float = 0.0) -> Floats:
    """Exact unbiased inverse of :func:`anscombe`.

    The result is the mean whose counts have, transformed, the given mean (Makitalo, Foi, IEEE
    Trans. Image Process. 20, 99, 2011; with read-out noise ibid. 22, 91, 2013).

    Parameters
    ----------
    stable : ndarray
        Denoised values on the scale of :func:`anscombe`; any shape.
    gain, readout : float
        The same as for :func:`anscombe`.

    Returns
    -------
    ndarray
        Float32 in the shape of `stable`, in the unit of the frame, at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(1.0, 100_000)
    >>> mean = anscombe(counts).mean(keepdims=True)
    >>> [round(float(value), 1) for value in inverse_anscombe(mean)]
    [1.0]
    """
    values = np.asarray(stable, np.float64)
    means, expected = _table()
    inner = np.interp(values, expected, means)
    inner = np.where(values > expected[-1], values**2 / 4 - 1 / 8, inner)
    return (gain * np.maximum(inner - (readout / gain) ** 2, 0)).astype(np.float32)


@cache
def _table() -> tuple[Floats64, Floats64]:
    """Means of Poisson distributions, and the means of their transformed counts."""
    means = np.linspace(0, np.sqrt(_TABULATED), _ENTRIES) ** 2
    expected = np.zeros_like(means)
    probability = np.exp(-means)
    for count in range(int(_TABULATED + 16 * np.sqrt(_TABULATED))):
        expected += probability * 2 * np.sqrt(count + 0.375)
        probability = probability * means / (count + 1)
    return means, expected
