"""What a simulated detector shows without an electron: an offset, and pixels that are hot."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.simulated import SimulatedDetector

# A hot pixel shows this much more than the offset, in counts.
HOT_COUNTS = (200, 2000)


def dark_signal(
    config: SimulatedDetector, shape: tuple[int, int], seed: int
) -> NDArray[np.int64] | None:
    """Counts that every frame has besides those of electrons.

    Parameters
    ----------
    config : SimulatedDetector
        Of the rig.
    shape : tuple of int
        (rows, columns) of a frame.
    seed : int
        Of the places of the hot pixels.

    Returns
    -------
    ndarray of int64 or None
        Shape (rows, columns), the same for every frame; None where there is nothing to add.
    """
    if not config.offset and not config.hot_pixels:
        return None
    return _signal(config.offset, config.hot_pixels, shape, seed)


def factory_mask(
    config: SimulatedDetector, shape: tuple[int, int], seed: int
) -> NDArray[np.bool_] | None:
    """Pixels that the maker of the detector has found to be bad: the hot ones.

    Returns
    -------
    ndarray of bool or None
        Shape (rows, columns); None where there are none.
    """
    if not config.hot_pixels:
        return None
    return _signal(0, config.hot_pixels, shape, seed) > 0


@cache
def _signal(offset: int, hot_pixels: int, shape: tuple[int, int], seed: int) -> NDArray[np.int64]:
    signal = np.full(shape, offset, np.int64)
    random = np.random.default_rng(seed)
    count = min(hot_pixels, signal.size)
    places = random.choice(signal.size, count, replace=False)
    signal.flat[places] += random.integers(*HOT_COUNTS, count)
    return signal


def with_dark_signal(
    counts: NDArray[np.unsignedinteger[Any]], signal: NDArray[np.int64] | None, ceiling: int
) -> NDArray[np.unsignedinteger[Any]]:
    """Counts with the dark signal, cut off at the highest count of the detector."""
    if signal is None:
        return counts
    return np.minimum(counts + signal, ceiling).astype(counts.dtype)
