"""Stamps, log rows and hold times of a run file in memory, until the next flush writes them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.manifest import RunManifest
from ...protocols.runfile import layout
from ...protocols.runfile.tracking_columns import TRACKING_COLUMNS
from ...protocols.storage.overlay import PAGE_BYTES


class BadRecord(ValueError):
    """Something that has no place in this file: an unknown stack, an index out of range."""


def integer_of(value: object) -> int | None:
    """Take a whole number that fits the file's int64 columns."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def number_of(value: object) -> float:
    """Take a number; NaN for anything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def whole_pages(chunk: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fill the last page of a chunk with zeros, which its filter does not read.

    The file is no larger for it, nothing else would be put there; but HDF5 would remember the
    place, for every frame.
    """
    rest = -len(chunk) % PAGE_BYTES
    if rest == 0 or len(chunk) <= PAGE_BYTES // 2:  # small ones share pages
        return chunk
    return np.concatenate((chunk, np.zeros(rest, np.uint8)))


class StackBuffer:
    """The frames of one stack, and their stamps in memory until they are written."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._path = file, layout.frames_path(name)
        self.data: Any = file[self._path]
        self.frames: int = self.data.shape[0]
        self.shape: tuple[int, ...] = self.data.shape[1:]
        self.dtype = np.dtype(self.data.dtype)
        self._there = layout.key_of_recorded(name)
        self._key_data = file[layout.image_key_path(name)]
        self.keys: NDArray[np.int32] = self._key_data[...]
        self._columns: dict[str, tuple[Any, NDArray[Any]]] = {}
        # Only a series of a run that tracks has them, and no file of an earlier version.
        self.is_tracked = f"/{name}/{TRACKING_COLUMNS[0].path}" in file
        tracked = TRACKING_COLUMNS if self.is_tracked else ()
        for column in (*layout.COLUMNS, *tracked):
            dataset = file[f"/{name}/{column.path}"]
            self._columns[column.key] = (dataset, dataset[...])
        self._dirty: tuple[int, int] | None = None

    @property
    def recorded(self) -> int:
        """Frames that are there."""
        return int((self.keys == self._there).sum())

    def is_recorded(self, index: int) -> bool:
        """Whether a frame is there."""
        return bool(self.keys[index] == self._there)

    @property
    def lost(self) -> int:
        """Frames that were taken and are not there."""
        return sum(self.is_lost(index) for index in range(self.frames))

    def is_lost(self, index: int) -> bool:
        """Whether a frame was taken and is not there."""
        return self.is_taken(index) and not self.is_recorded(index)

    def is_taken(self, index: int) -> bool:
        """Whether a frame was taken, whether it is there or not."""
        return math.isfinite(self._columns[layout.TIME_COLUMN.key][1][index])

    @property
    def is_behind(self) -> bool:
        """Whether something is not yet written."""
        return self._dirty is not None

    def reopen(self) -> None:
        """Make HDF5 forget a chunk that it could not write.

        It remembers the place that it had meant for the chunk, and would write the second attempt
        there without entering it into the index.
        """
        self.data = None  # the last handle must go before another one comes
        self.data = self._file[self._path]

    def values(self) -> dict[str, NDArray[Any]]:
        """What is known of the frames, by the keys of the columns; not to be changed."""
        return {key: values for key, (_, values) in self._columns.items()}

    def note(self, index: int, stamps: Mapping[str, Any], *, lost: bool) -> None:
        """Keep the stamps of a frame until they are written.

        Parameters
        ----------
        index : int
            Of the frame.
        stamps : mapping
            By the keys of `layout.COLUMNS`, and of `TRACKING_COLUMNS` where it is tracked.
        lost : bool
            Whether the frame is not in the file.
        """
        self.keys[index] = layout.MISSING if lost else self._there
        self.amend(index, stamps)

    def amend(self, index: int, stamps: Mapping[str, Any]) -> None:
        """Keep some stamps of a frame that was taken until they are written."""
        for key, value in stamps.items():
            self._columns[key][1][index] = value
        low, high = self._dirty or (index, index)
        self._dirty = min(low, index), max(high, index)

    def write_stamps(self) -> None:
        """Write the stamps that are not yet in the file; may raise OSError."""
        if self._dirty is None:
            return
        part = slice(self._dirty[0], self._dirty[1] + 1)
        for dataset, values in self._columns.values():
            dataset[part] = values[part]

    def write_keys(self) -> None:
        """Say which frames are there, when frames and stamps are."""
        if self._dirty is None:
            return
        part = slice(self._dirty[0], self._dirty[1] + 1)
        self._key_data[part] = self.keys[part]
        self._dirty = None


class LogBuffer:
    """Columns that grow together; `add` is cheap, `write` appends what has come."""

    def __init__(self, file: Any, paths: Mapping[str, str]) -> None:
        self._data = {name: file[path] for name, path in paths.items()}
        self._rows: list[Mapping[str, Any]] = []
        self._written = min(dataset.shape[0] for dataset in self._data.values())

    @property
    def rows(self) -> int:
        """Rows, written or not."""
        return self._written + len(self._rows)

    @property
    def waits(self) -> bool:
        """Whether rows are not yet written."""
        return bool(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row, with a value for each column, until it is written."""
        self._rows.append(row)

    def write(self) -> None:
        """Append the rows to the file; may raise OSError and can then be repeated."""
        if not self._rows:
            return
        end = self._written + len(self._rows)
        for name, dataset in self._data.items():
            dataset.resize((end,))
            values = [row[name] for row in self._rows]
            dataset[self._written : end] = np.array(values, dtype=dataset.dtype)
        self._written = end
        self._rows.clear()


class HoldTimes:
    """The moments of the holds: columns of ``/entry/holds``.

    A hold that was interrupted and then goes on began with its first rise, and ends with its last
    fall.
    """

    def __init__(self, file: Any, manifest: RunManifest) -> None:
        self._row = {hold.index: row for row, hold in enumerate(manifest.holds)}
        self._data = {n: file[f"{layout.HOLDS}/{n}"] for n in layout.HOLD_TIMES if manifest.holds}
        self._begun = {
            (name, row)
            for name in layout.HOLD_BEGINS
            if name in self._data
            for row in np.flatnonzero(self._data[name][...] >= 0).tolist()
        }
        self._pending: list[tuple[str, int, float]] = []
        self._chosen = {
            name: file[f"{layout.HOLDS}/{name}"]
            for name in ("requested_s", "target_c")
            if manifest.adaptive_holds
        }

    def choose(self, index: int, hold_s: float, temperature_c: float) -> None:
        """Keep the length and temperature that were chosen for a hold until they are written."""
        row = self._row.get(index)
        if row is None or not self._chosen:
            raise BadRecord(f"this run has the holds 1 to {len(self._row)}, not {index}")
        self._pending += [("requested_s", row, hold_s), ("target_c", row, temperature_c)]

    def set(self, times: object) -> None:
        """Keep moments of a hold until they are written; BadRecord if there is no such hold."""
        index = integer_of(times.get("index")) if isinstance(times, dict) else None
        row = None if index is None else self._row.get(index)
        if row is None or not isinstance(times, dict):
            raise BadRecord(f"this run has the holds 1 to {len(self._row)}, not {times!r}")
        for name in layout.HOLD_TIMES:
            moment = integer_of(times.get(name))
            if moment is None or (name, row) in self._begun:
                continue
            self._pending.append((name, row, moment))
            if name in layout.HOLD_BEGINS:
                self._begun.add((name, row))

    def write(self) -> None:
        """Write the moments to the file; may raise OSError and can then be repeated."""
        for name, row, value in self._pending:
            (self._chosen if name in self._chosen else self._data)[name][row] = value
        self._pending.clear()
