"""Frames of one tilt added up where the specimen was, each interpolated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from .drift import FrameDrift

Floats64 = NDArray[np.float64]


@dataclass(frozen=True)
class MergedFrames:
    """The sum of the frames of a tilt, free of drift.

    Attributes
    ----------
    total : ndarray
        Float32, shape (rows, columns): sum of the frames, in their unit. Where only some frames
        have measured, it is scaled to all.
    variance : ndarray
        Float32, shape (rows, columns): variance of each value, were the frames Poisson counts.
    weights : ndarray
        Float32, shape (rows, columns): share of the frames that have measured a pixel.
    """

    total: Floats
    variance: Floats
    weights: Floats


def merge_frames(
    frames: NDArray[Any], drift: FrameDrift, weights: NDArray[Any] | None = None
) -> MergedFrames:
    """Add up frames at the places where the specimen was, row by row.

    Rows are recorded one after another, so that a drift also shears and stretches each frame. A
    probe measures at its own place for the dwell time, whatever the specimen does: values are
    interpolated and not rescaled. The interpolation is linear, with weights that are not negative
    and sum up to 1. So the mean stays that of the counts, no value becomes negative, and noise
    that is wider than two pixels is Poisson noise of the sum. Single pixels have less variance
    (`variance` says how much) and are correlated with their neighbours.

    Parameters
    ----------
    frames : ndarray
        Shape (frames, rows, columns).
    drift : FrameDrift
        Where the specimen was in them.
    weights : ndarray, optional
        Share of each pixel that was measured, 0 to 1, shape of `frames`; by default all 1.

    Returns
    -------
    MergedFrames
        As the specimen stood in the middle of all exposures.

    Raises
    ------
    ValueError
        If frames and drift do not belong together.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((8, 8))
    >>> image[3, 3] = 10
    >>> still = FrameDrift(np.arange(2.0), 0.0, np.array([[0, -1.0], [0, 1]]), np.array([0, 2.0]),
    ...     np.zeros(2), np.zeros(2), True, True)
    >>> merged = merge_frames(np.stack([np.roll(image, -1, 1), np.roll(image, 1, 1)]), still)
    >>> float(merged.total[3, 3]), float(merged.variance[3, 3]), float(merged.weights[3, 0])
    (20.0, 20.0, 0.5)
    """
    if frames.ndim != 3 or len(frames) != len(drift.time):
        raise ValueError(f"{len(drift.time)} places of the specimen for frames of {frames.shape}")
    count, rows, columns = frames.shape
    sums, squares, seen = (np.zeros((rows, columns)) for _ in range(3))
    for number in range(count):
        frame = np.asarray(frames[number], np.float64)
        share = np.ones_like(frame) if weights is None else np.asarray(weights[number], np.float64)
        at = _positions(drift, number, (rows, columns))
        sums += _sampled(frame * share, at, power=1)
        squares += _sampled(frame * share, at, power=2)
        seen += _sampled(share, at, power=1)
    weight = seen / count
    scale = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    return MergedFrames(
        np.asarray(sums * scale, np.float32),
        np.asarray(squares * scale**2, np.float32),
        np.asarray(np.clip(weight, 0, 1), np.float32),
    )


def _positions(drift: FrameDrift, number: int, shape: tuple[int, int]) -> tuple[Floats64, Floats64]:
    """Row of a frame that shows each row of the specimen, and the shift of the columns there."""
    rows = shape[0]
    centre = (rows - 1) / 2
    place = drift.places_px[number]
    per_row = drift.slope_px(number) * drift.exposure / rows
    # A row r is seen when the specimen is at place + per_row (r - centre).
    row = (np.arange(rows) + place[0] - per_row[0] * centre) / (1 - per_row[0])
    return row, place[1] + per_row[1] * (row - centre)


def _sampled(frame: Floats64, at: tuple[Floats64, Floats64], power: int) -> Floats64:
    """Linear interpolation, its weights raised to a power; what lies outside counts as 0."""
    row, shift = at
    rows, columns = frame.shape
    padded = np.pad(frame, 1)
    first_r = np.floor(row).astype(np.intp)
    part_r = (row - first_r)[:, None]
    lower = padded[np.clip(first_r + 1, 0, rows + 1)]
    upper = padded[np.clip(first_r + 2, 0, rows + 1)]
    mixed = (1 - part_r) ** power * lower + part_r**power * upper
    first_s = np.floor(shift).astype(np.intp)
    part_s = (shift - first_s)[:, None]
    left = np.arange(columns) + first_s[:, None] + 1
    first, second = (
        np.take_along_axis(mixed, np.clip(place, 0, columns + 1), axis=1)
        for place in (left, left + 1)
    )
    return (1 - part_s) ** power * first + part_s**power * second
