"""Frames of a stack in an open run file, read when they are indexed."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outliers:
    """Values of an imported series that its 16 bits cannot hold: far from all others, or NaN.

    Attributes
    ----------
    places : ndarray of int64, shape (outliers, 3)
        Frame, row and column of each.
    values : ndarray of float64, shape (outliers,)
        What was there.
    """

    places: NDArray[np.int64]
    values: NDArray[np.float64]

    def put_back(self, values: NDArray[Any], key: Any, shape: tuple[int, ...]) -> None:
        """Put them into an array that was read by integers and slices.

        Parameters
        ----------
        values : ndarray
            What indexing with `key` gave; changed.
        key : object
            An integer, a slice, an ellipsis, or a tuple of them.
        shape : tuple of int
            Of the whole dataset.
        """
        parts = key if isinstance(key, tuple) else (key,)
        if any(part is Ellipsis for part in parts):
            at = next(place for place, part in enumerate(parts) if part is Ellipsis)
            whole = (slice(None),) * (len(shape) - len(parts) + 1)
            parts = (*parts[:at], *whole, *parts[at + 1 :])
        parts = (*parts, *(slice(None),) * (len(shape) - len(parts)))
        there = np.ones(len(self.places), np.bool_)
        inside: list[NDArray[np.int64]] = []
        for axis, (size, part) in enumerate(zip(shape, parts, strict=True)):
            chosen = np.atleast_1d(np.arange(size)[part])
            position = np.full(size, -1)
            position[chosen] = np.arange(chosen.size)
            found = position[self.places[:, axis]]
            there &= found >= 0
            if not isinstance(part, int | np.integer):
                inside.append(found)
        if there.any():
            at = tuple(found[there] for found in inside)
            values[at] = self.values[there] if inside else self.values[there][0]


def outliers_paths(stack: str) -> tuple[str, str]:
    """Where the places and the values of outliers stand."""
    base = f"/{stack}/instrument/detector/encoding"
    return f"{base}/outliers", f"{base}/outlier_values"


def read_outliers(file: Any, stack: str) -> Outliers | None:
    """Outliers of a stack of an open run file; None where it has none."""
    places, values = outliers_paths(stack)
    if places not in file or values not in file:
        return None
    return Outliers(np.asarray(file[places][...], np.int64), np.asarray(file[values][...]))


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, int | np.integer | slice) or part is Ellipsis for part in parts)


class Frames:
    """Frames of a stack in the values that the detector gave; read from the file when indexed.

    A frame that was not recorded reads as zero counts; see `Stack.recorded`.

    Parameters
    ----------
    dataset : h5py.Dataset
        Frames as recorded, shape (frames, rows, columns).
    offset : int
        What was added to every value before it was recorded.
    scale : float
        Size of one recorded step: value = (recorded - offset) * scale.
    outliers : Outliers, optional
        Values that stand in a list beside the frames, since they are too far from all others.
    """

    def __init__(
        self, dataset: Any, offset: int, scale: float, outliers: Outliers | None = None
    ) -> None:
        self.raw: Any = dataset
        self.offset, self.scale = offset, scale
        self.outliers = outliers

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return self.raw.shape

    @property
    def ndim(self) -> int:
        """Three."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that indexing gives."""
        if self.scale != 1 or self.outliers is not None:
            return np.dtype(np.float32)
        return np.dtype(self.raw.dtype) if self.offset == 0 else np.dtype(np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Values at any index that h5py takes: a number, a slice, a tuple of both."""
        if self.outliers is not None and not _is_basic(key):
            return self[...][key]
        recorded = np.asarray(self.raw[key])
        if self.dtype == np.float32:
            # The offset of a narrow range far from zero is long; single precision would round it.
            steps = np.subtract(recorded, self.offset, dtype=np.float64)
            values = np.asarray((steps * self.scale).astype(np.float32))
            if self.outliers is not None:
                self.outliers.put_back(values, key, self.shape)
            return values
        if self.offset == 0:
            return recorded
        return np.subtract(recorded, self.offset, dtype=np.int64)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        frames, rows, columns = self.shape
        return f"<{frames} frames of {rows} x {columns}, {self.dtype}>"
