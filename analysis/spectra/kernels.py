"""Loops over the events of a spectrum frame: merging, and expectation maximisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@njit(cache=True, nogil=True)
def merge_events(
    counts: NDArray[Any], channels: NDArray[Any], n_channels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Sum the events of equal pixel and channel.

    Parameters
    ----------
    counts : ndarray of shape (pixels,)
        Events of each pixel.
    channels : ndarray of shape (events,)
        Pixel after pixel.
    n_channels : int
        Length of the axis; every channel is below it.

    Returns
    -------
    starts : ndarray of shape (pixels + 1,)
        Where the entries of each pixel begin.
    channel, number : ndarray of shape (entries,)
        Channel of an entry, and how many events it holds.
    """
    starts = np.zeros(counts.size + 1, np.int64)
    channel = np.empty(channels.size, np.int32)
    number = np.empty(channels.size, np.float32)
    seen = np.full(n_channels, -1, np.int64)
    at, event = 0, 0
    for pixel in range(counts.size):
        first = at
        for _ in range(counts[pixel]):
            here = channels[event]
            event += 1
            if seen[here] >= first:
                number[seen[here]] += np.float32(1.0)
            else:
                seen[here] = at
                channel[at] = here
                number[at] = 1.0
                at += 1
        starts[pixel + 1] = at
    return starts, channel[:at].copy(), number[:at].copy()


@njit(cache=True, nogil=True, fastmath=True)
def em_pass(
    starts: NDArray[np.int64],
    channel: NDArray[np.int32],
    number: Floats,
    spectra: Floats,
    amounts: Floats,
    prior: Floats,
    weight: float,
    assigned: Floats,
    sums: NDArray[np.float64],
) -> None:
    """One pass of expectation maximisation of Poisson counts; `amounts` are changed in place.

    The events of a pixel are shared out among the components; an amount becomes the mean of the
    events assigned and of the prior with its weight (mode of the posterior of a Gamma prior).

    Parameters
    ----------
    starts, channel, number
        As from `merge_events`.
    spectra : ndarray of shape (channels, components)
        Each sums to 1 over the channels.
    amounts, prior : ndarray of shape (pixels, components)
        Counts; the prior is of no account where `weight` is 0.
    weight : float
        In frames.
    assigned : ndarray of shape (pixels, components)
        Receives the events assigned to each component.
    sums : ndarray of shape (channels, components)
        Receives the events assigned over all pixels.
    """
    components = spectra.shape[1]
    shared = np.empty(components, np.float32)
    sums[:] = 0.0
    keep = np.float32(1.0 / (1.0 + weight))
    w = np.float32(weight)
    for pixel in range(starts.size - 1):
        for k in range(components):
            assigned[pixel, k] = 0.0
        for entry in range(starts[pixel], starts[pixel + 1]):
            c = channel[entry]
            expected = np.float32(1e-20)
            for k in range(components):
                shared[k] = amounts[pixel, k] * spectra[c, k]
                expected += shared[k]
            scale = number[entry] / expected
            for k in range(components):
                part = shared[k] * scale
                assigned[pixel, k] += part
                sums[c, k] += part
        for k in range(components):
            amounts[pixel, k] = (assigned[pixel, k] + w * prior[pixel, k]) * keep
