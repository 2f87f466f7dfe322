"""Values that only a hit of the detector or a bad pixel can give: found in one frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from . import kernels
from .levels import Levels
from .references import Mask

# A spike exceeds its highest neighbour by so many standard deviations of its noise, and by this
# part of the range of the frame.
_SIGMAS, _FLOOR = 5.5, 0.03
# A probe is not sharper than 1.65 pixels (full width at half maximum): beside its image the
# neighbours reach this part of the maximum.
_NEIGHBOUR_SHARE = 0.35
# A hit of several pixels is so many times and standard deviations brighter than everything else
# and no larger than this; around the pixels above half its maximum there is no more than this part
# of their mean.
_BRIGHT, _BRIGHT_SIGMAS, _LARGEST, _RING_SHARE = 6.0, 10.0, 12, 0.22
# Where more pixels than this stand out, the frame is of such a kind.
_MOST = 0.01
_SMALLEST_SIDE = 5


def find_outliers(frame: Floats, levels: Levels) -> tuple[Mask, bool]:
    """Find pixels of a frame that no image of a specimen can have.

    Two kinds. Single pixels, brighter or darker, that differ from all their neighbours by 5.5
    standard deviations and three times as much as these vary: a probe two pixels wide spreads over
    its neighbours, the tip of a needle continues on one side, and the square root of single counts
    (Anscombe, Biometrika 35, 246, 1948) does not stand out. And groups of up to 12 pixels with
    sharp edges that are six times brighter than everything else.

    Parameters
    ----------
    frame : ndarray
        Float32, finite, shape (rows, columns), without its pedestal; bad pixels that are known are
        filled.
    levels : Levels
        Of the frame without its pedestal.

    Returns
    -------
    outliers : ndarray
        True where a value is not to be believed, shape (rows, columns).
    doubtful : bool
        Whether more than a hundredth of the pixels stood out. Then it is the kind of the frame,
        and there are no outliers.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.random.default_rng(0).poisson(20.0, (32, 32)).astype(np.float32)
    >>> frame[9, 7] = 200
    >>> outliers, _ = find_outliers(frame, Levels(0.0, 20.0, 1.0, 20.0))
    >>> np.argwhere(outliers)
    array([[9, 7]])
    """
    outliers = np.zeros(frame.shape, np.bool_)
    if min(frame.shape) < _SMALLEST_SIDE:
        return outliers, False
    values = np.ascontiguousarray(frame, np.float32)
    vacuum = levels.vacuum
    span = max(float(kernels.highest_plateau(values)) - vacuum, 0.0)
    most = max(4, int(_MOST * values.size))
    found = np.zeros((most + 1, 2), np.int64)
    gain, shift = _transform(levels)
    floor = (np.float32(_FLOOR * span), np.float32(_SIGMAS))
    scale = np.float32(2 / np.sqrt(gain)) if gain > 0 else np.float32(np.inf)
    count = kernels.find_spikes(
        values, np.float32(shift), scale, floor, np.float32(_NEIGHBOUR_SHARE), found
    )
    if count > most:
        return outliers, True
    outliers[found[:count, 0], found[:count, 1]] = True
    reached = np.sqrt(max(vacuum + span + shift, 0.0)) + _BRIGHT_SIGMAS / float(scale)
    bright = max(vacuum + _BRIGHT * span, float(reached) ** 2 - shift)
    if float(values.max()) > bright:
        _add_clusters(values, vacuum, span, bright, outliers)
    if np.count_nonzero(outliers) > max(most, 2 * _LARGEST):
        return np.zeros(frame.shape, np.bool_), True
    return outliers, False


def _transform(levels: Levels) -> tuple[float, float]:
    """Gain, and what is added to a value before its root is taken (Anscombe's 3/8 counts)."""
    counted = max(levels.vacuum, 0.0) * levels.gain
    readout = max(0.0, levels.noise - counted) / levels.gain if levels.gain > 0 else 0.0
    return levels.gain, 0.375 * levels.gain + readout


def _add_clusters(
    values: Floats, vacuum: float, span: float, bright: float, outliers: Mask
) -> None:
    """Mark groups of pixels with sharp edges around those that are brighter than `bright`."""
    plain = values.copy()
    plain.flat[np.flatnonzero(outliers)] = vacuum
    taken = outliers.copy()
    cluster = np.zeros((_LARGEST, 2), np.int64)
    seeds = np.flatnonzero(plain > bright)
    brightest_first = seeds[np.argsort(-plain.flat[seeds], kind="stable")]
    for row, column in zip(*np.unravel_index(brightest_first, plain.shape), strict=True):
        if taken[row, column]:
            continue
        height = float(plain[row, column]) - vacuum
        size = kernels.grow_cluster(
            plain, row, column, np.float32(vacuum + height / 2), taken, cluster
        )
        if size > _LARGEST:
            continue
        core = cluster[:size]
        ring = _around(core, plain.shape)
        mean = float(plain[tuple(core.T)].mean()) - vacuum
        beside = plain[tuple(ring.T)] - vacuum
        if beside.size and float(beside.max()) <= _RING_SHARE * mean:
            outliers[tuple(core.T)] = True
            spread = ring[beside > 2 * span]  # charge that has leaked from the hit
            outliers[tuple(spread.T)] = taken[tuple(spread.T)] = True


def _around(core: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Pixels that touch a group and do not belong to it."""
    inside = {(int(row), int(column)) for row, column in core}
    near = {
        (row + down, column + along)
        for row, column in inside
        for down in (-1, 0, 1)
        for along in (-1, 0, 1)
    }
    kept = [(r, c) for r, c in near - inside if 0 <= r < shape[0] and 0 <= c < shape[1]]
    return np.array(sorted(kept), np.int64).reshape(-1, 2)
