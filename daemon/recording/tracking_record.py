"""Tracking in a run file while it grows: measured offsets of frames, and a row for each series."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...protocols.core.clock import iso_utc
from ...protocols.messages.manifest import RunManifest
from ...protocols.messages.offsets import offset_of
from ...protocols.runfile.tracking_columns import (
    TRACKED_SERIES,
    TRACKING_DATE,
    answer_stamps,
    figures_of,
    tracked_series,
)
from .buffers import BadRecord, StackBuffer


class TrackingRecord:
    """The tracked series of a run file.

    Parameters
    ----------
    file : h5py.File
        Open for writing, with everything that the manifest announces.
    manifest : RunManifest
        Of the file.
    stacks : mapping
        Buffers of the stacks by name.
    """

    def __init__(self, file: Any, manifest: RunManifest, stacks: Mapping[str, StackBuffer]) -> None:
        self._file, self._stacks = file, stacks
        self._rows = {name: row for row, name in enumerate(tracked_series(manifest))}
        self._lost_beyond_nm = manifest.tracking.lost_beyond_nm if manifest.tracking else 0.0

    def note(self, header: Mapping[str, Any]) -> None:
        """Keep the measured offset of a frame until it is written.

        Raises
        ------
        BadMessage
            If the message names no frame.
        BadRecord
            If the file has no place for it, or no such frame was taken.
        """
        found = offset_of(header)
        if found.series not in self._rows:
            raise BadRecord(f"{found.series!r} is no series that this file tracks")
        stack = self._stacks[found.series]
        if found.index >= stack.frames or not stack.is_taken(found.index):
            raise BadRecord(f"frame {found.index} of {found.series} was not taken")
        stack.amend(found.index, answer_stamps(header))

    def write(self, last_ns: int) -> None:
        """Write the row of each series of which something is not yet written; may raise OSError.

        Parameters
        ----------
        last_ns : int
            Latest moment recorded, for the date of the table.
        """
        behind = [name for name in self._rows if self._stacks[name].is_behind]
        for name in behind:
            figures = figures_of(self._stacks[name].values(), self._lost_beyond_nm)
            for field, value in asdict(figures).items():
                self._file[f"{TRACKED_SERIES}/{field}"][self._rows[name]] = value
        if behind:
            self._file[TRACKING_DATE][()] = iso_utc(last_ns).encode()
