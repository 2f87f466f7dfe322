"""How many components a frame has: count splitting.

Half of the counts, drawn at random, are fitted; the other half, whose noise is independent, judge
the fit by their Poisson likelihood. More components than there are fit the noise of the first half
and lose on the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .decompose import DecomposeSettings, Decomposition
from .events import EventFrame


def choose_extra(
    frame: EventFrame,
    formulas: Sequence[str],
    mass_axis: NDArray[np.float64],
    most: int = 4,
    seed: int = 0,
) -> tuple[int, NDArray[np.float64]]:
    """Choose the number of components without a formula.

    Parameters
    ----------
    frame : EventFrame
        A frame, or the sum of some, with many counts: pixels should hold tens of them.
    formulas : sequence of str
        Components that are there in any case.
    mass_axis : ndarray of shape (channels,)
        Mass over charge.
    most : int
        Numbers from 0 to this one are tried.
    seed : int
        Of the split.

    Returns
    -------
    extra : int
        The smallest number that no larger one beats by two sd of the difference.
    gain : ndarray of shape (most + 1,)
        Log likelihood of the second half, per event, over that without extra components.

    Examples
    --------
    >>> from .events import frame_of_counts
    >>> rng = np.random.default_rng(1)
    >>> maps = rng.gamma(1.0, 100.0, (2, 12, 12))
    >>> spectra = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    >>> frame = frame_of_counts(rng.poisson(np.einsum("kyx,kc->yxc", maps, spectra)))
    >>> choose_extra(frame, ["Na"], np.array([23.0, 75.0, 79.0]), most=2)[0]
    1
    """
    rng = np.random.default_rng(seed)
    fitted, judging = frame.split(rng)
    values: list[NDArray[np.float64]] = []
    for extra in range(most + 1):
        settings = DecomposeSettings(extra=extra, first_passes=100)
        found = Decomposition(formulas, mass_axis, settings).feed(fitted)
        values.append(_log_likelihood(judging, found.maps.reshape(len(found.names), -1),
                                      found.spectra))  # fmt: skip
    events = max(judging.events, 1.0)
    chosen = 0
    for extra in range(1, most + 1):
        difference = values[extra] - values[chosen]
        if difference.sum() > 2.0 * np.sqrt((difference**2).sum()):
            chosen = extra
    return chosen, np.array([(one - values[0]).sum() / events for one in values])


def _log_likelihood(
    frame: EventFrame, maps: NDArray[np.float32], spectra: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Poisson log likelihood of each pixel, up to what depends on its counts alone."""
    pixel = np.repeat(np.arange(maps.shape[1]), np.diff(frame.starts))
    expected = np.maximum((maps[:, pixel] * spectra[:, frame.channel]).sum(axis=0), 1e-9)
    found = np.bincount(pixel, frame.number * np.log(expected), maps.shape[1])
    return found - maps.sum(axis=0)
