"""Counts of a spectrum frame as events: how many each pixel has, and the channel of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import merge_events


@dataclass(frozen=True)
class EventFrame:
    """A spectrum frame.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    n_channels : int
        Length of the spectrum axis.
    starts : ndarray of shape (rows * columns + 1,)
        Where the entries of each pixel begin, in C order.
    channel, number : ndarray of shape (entries,)
        Channel of an entry, and how many events it holds.
    """

    shape: tuple[int, int]
    n_channels: int
    starts: NDArray[np.int64]
    channel: NDArray[np.int32]
    number: NDArray[np.float32]

    @property
    def events(self) -> float:
        """Events of the whole frame."""
        return float(self.number.sum())

    def spectrum(self) -> NDArray[np.float64]:
        """Sum over all pixels, shape (channels,)."""
        return np.bincount(self.channel, self.number, self.n_channels).astype(
            np.float64, copy=False
        )

    def image(self) -> NDArray[np.float64]:
        """Events of each pixel, all channels together; shape (rows, columns)."""
        ends = np.concatenate([[0.0], np.cumsum(self.number, dtype=np.float64)])
        return np.diff(ends[self.starts]).reshape(self.shape)

    def dense(self) -> NDArray[np.float32]:
        """Counts as an array, shape (rows, columns, channels)."""
        found = np.zeros((self.shape[0] * self.shape[1], self.n_channels), np.float32)
        pixel = np.repeat(np.arange(len(found)), np.diff(self.starts))
        found[pixel, self.channel] = self.number
        return found.reshape(*self.shape, self.n_channels)

    def split(self, rng: np.random.Generator) -> tuple[EventFrame, EventFrame]:
        """Two frames of half the counts, whose noise is independent (binomial thinning)."""
        half = rng.binomial(self.number.astype(np.int64), 0.5).astype(np.float32)
        return self._with(half), self._with(self.number - half)

    def _with(self, number: NDArray[np.float32]) -> EventFrame:
        return EventFrame(self.shape, self.n_channels, self.starts, self.channel, number)


def frame_of_events(counts: NDArray[Any], channels: NDArray[Any], n_channels: int) -> EventFrame:
    """A frame from its event list.

    Parameters
    ----------
    counts : ndarray of integers, shape (rows, columns)
        Events of each pixel.
    channels : ndarray of integers, shape (events,)
        Channel of each event, pixel after pixel in C order.
    n_channels : int
        Length of the axis.

    Returns
    -------
    EventFrame
        The same counts.

    Raises
    ------
    ValueError
        If the numbers disagree, or a channel is not on the axis.

    Examples
    --------
    >>> frame = frame_of_events(np.array([[2, 1]]), np.array([5, 5, 3]), 8)
    >>> frame.image().tolist(), frame.spectrum().tolist()
    ([[2.0, 1.0]], [0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    """
    if counts.ndim != 2 or channels.ndim != 1:
        raise ValueError(f"counts of shape {counts.shape} and channels of {channels.shape}")
    if counts.size and counts.min() < 0:
        raise ValueError(f"a pixel has {counts.min()} events")
    if int(counts.sum()) != len(channels):
        raise ValueError(f"the pixels have {int(counts.sum())} events, {len(channels)} are there")
    if len(channels) and not 0 <= channels.min() <= channels.max() < n_channels:
        raise ValueError(
            f"channels {channels.min()} to {channels.max()} on an axis of {n_channels}"
        )
    flat = np.ascontiguousarray(counts).ravel()
    starts, channel, number = merge_events(flat, np.ascontiguousarray(channels), n_channels)
    shape = int(counts.shape[0]), int(counts.shape[1])
    return EventFrame(shape, n_channels, starts, channel, number)


def frame_of_counts(counts: NDArray[Any]) -> EventFrame:
    """A frame from its counts.

    Parameters
    ----------
    counts : ndarray of shape (rows, columns, channels)
        Events of each pixel and channel.

    Returns
    -------
    EventFrame
        The same counts.

    Raises
    ------
    ValueError
        If they have another shape, or values below zero or that are not finite.

    Examples
    --------
    >>> frame = frame_of_counts(np.array([[[0, 2], [1, 0]]]))
    >>> frame.image().tolist(), frame.events
    ([[2.0, 1.0]], 3.0)
    """
    if counts.ndim != 3:
        raise ValueError(f"counts of shape {counts.shape}; rows, columns, channels are needed")
    if not np.isfinite(counts).all() or (counts.size and counts.min() < 0):
        raise ValueError("values below zero, or not finite, are no counts")
    flat = counts.reshape(-1, counts.shape[2])
    pixel, channel = np.nonzero(flat)
    starts = np.searchsorted(pixel, np.arange(len(flat) + 1))
    return EventFrame(
        (int(counts.shape[0]), int(counts.shape[1])),
        int(counts.shape[2]),
        starts.astype(np.int64),
        channel.astype(np.int32),
        flat[pixel, channel].astype(np.float32),
    )
