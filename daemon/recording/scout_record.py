"""Scouts in a run file while it grows: pictures go in at once, rows of the table with a flush."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from ...protocols.messages.manifest import RunManifest, ScoutGrid
from ...protocols.messages.offsets import pair_of
from ...protocols.runfile.tree.scout_layout import (
    COLUMNS,
    MOST_PICTURES,
    TIME,
    column_path,
    pictures_path,
    scouts_path,
)
from .buffers import BadRecord, LogBuffer, integer_of, number_of


class _Stack:
    """The pictures of one grid, of one series."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path = file, path
        self._data: Any = file[path]
        self.count: int = self._data.shape[0]

    def append(self, picture: NDArray[Any]) -> None:
        """Write one more; may raise OSError and can then be repeated."""
        try:
            if len(self._data) <= self.count:
                self._data.resize(self.count + 1, axis=0)
            self._data[self.count] = picture
        except (OSError, RuntimeError):
            # HDF5 remembers the place that it had meant for a chunk; see `StackBuffer.reopen`.
            self._data = None
            self._data = self._file[self._path]
            raise
        self.count += 1


class _Account:
    """The scouts of one series, or of one calibration."""

    def __init__(self, file: Any, account: str, grids: tuple[ScoutGrid, ...]) -> None:
        self._stacks: dict[tuple[str, tuple[int, int]], tuple[str, _Stack]] = {
            (grid.kind, grid.shape): (grid.name, _Stack(file, pictures_path(account, grid.name)))
            for grid in grids
        }
        self.table = LogBuffer(file, {c.name: column_path(account, c.name) for c in COLUMNS})
        # Time and row of the latest scout of this process.
        self.latest: tuple[int, int] | None = None

    def write(self, header: Mapping[str, Any], picture: NDArray[Any]) -> dict[str, Any]:
        """Write a picture; returns where it is, as columns of the table."""
        kind = str(header.get("scan"))
        found = self._stacks.get((kind, picture.shape))
        if found is None or picture.dtype.kind != "u":
            known = ", ".join(f"{one} {rows} x {columns}" for one, (rows, columns) in self._stacks)
            raise BadRecord(
                f"this file takes scouts of {known}, not {kind!r} {picture.shape} {picture.dtype}"
            )
        grid, stack = found
        if stack.count >= MOST_PICTURES:
            raise BadRecord(
                f"{MOST_PICTURES} pictures of '{grid}' are recorded; this scout is left out"
            )
        stack.append(picture)
        return {"kind": kind.encode(), "grid": grid.encode(), "picture": stack.count - 1}


class ScoutRecord:
    """The scouts of a run file.

    Parameters
    ----------
    file : h5py.File
        Open for writing, with everything that the manifest announces.
    manifest : RunManifest
        Of the file.
    seconds : callable
        Time in the file of a moment in UTC nanoseconds; NaN for what is none.
    """

    def __init__(
        self, file: Any, manifest: RunManifest, seconds: Callable[[object], float]
    ) -> None:
        plan = None if manifest.tracking is None else manifest.tracking.scouts
        self._seconds = seconds
        self._accounts: dict[str, _Account] = {}
        if plan is not None:
            there = (account for account in plan.accounts if scouts_path(account) in file)
            self._accounts = {account: _Account(file, account, plan.grids) for account in there}

    def write(self, header: Mapping[str, Any], picture: NDArray[Any]) -> None:
        """Write the picture of a scout, and keep its row until it is written.

        Parameters
        ----------
        header : mapping
            See `scouts.scout_message`.
        picture : ndarray of shape (rows, columns)
            Counts as the detector sent them, or their sum.

        Raises
        ------
        BadRecord
            If the file has no room for such a scout.
        OSError
            From the disk; can then be repeated.
        """
        account = self._accounts.get(str(header.get("series")))
        if account is None:
            raise BadRecord(f"this file has no room for scouts of {header.get('series')!r}")
        row = account.write(header, picture)
        shift = pair_of(header.get("shift_nm")) or (float("nan"), float("nan"))
        row |= {
            "tilt": number_of(header.get("tilt_deg")),
            "dose": number_of(header.get("dose_e_per_nm2")),
            "shift_y": shift[0],
            "shift_x": shift[1],
            "defocus": number_of(header.get("defocus_nm")),
            TIME: self._seconds(header.get("t_ns")),
        }
        t_ns = integer_of(header.get("t_ns"))
        if t_ns is not None:
            account.latest = t_ns, account.table.rows
        account.table.add(row)

    def row_before(self, header: Mapping[str, Any]) -> int:
        """Row of the latest scout before a frame, by the frame's header; -1 where there is none.

        ``scout_t_ns`` in the header says which scout that was.
        """
        account = self._accounts.get(str(header.get("series")))
        if account is None or account.latest is None:
            return -1
        t_ns, row = account.latest
        return row if header.get("scout_t_ns") == t_ns else -1

    @property
    def is_behind(self) -> bool:
        """Whether rows are not yet written."""
        return any(account.table.waits for account in self._accounts.values())

    def write_rows(self) -> None:
        """Write the rows whose pictures are flushed; may raise OSError and can be repeated."""
        for account in self._accounts.values():
            account.table.write()
