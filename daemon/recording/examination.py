"""Look into a run file that may be damaged, and prepare its repair; `recovery.py` carries it out.

Everything happens on an overlay: the file is not touched. HDF5 may crash or hang on what it reads,
so that a process of its own does this: ``python -m pyrotome.daemon.recording.examination FILE``
prints an `Examination` as JSON and, with ``--repair``, leaves a redo file beside the file.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

import math
import os
import resource
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...protocols.core.chunk import BadChunk, Chunk
from ...protocols.core.clock import iso_utc
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import RunManifest
from ...protocols.runfile import layout
from ...protocols.runfile.nexus import tidy
from ...protocols.runfile.reader import Run
from ...protocols.runfile.summary import report_of
from ...protocols.runfile.tracking_columns import TRACKING_COLUMNS
from ...protocols.storage import superblock
from ...protocols.storage.chunk_index import repaired_nodes
from ...protocols.storage.overlay import Overlay
from ...protocols.storage.redo_log import write_redo
from ...protocols.storage.transaction import LIBVER
from .file_contents import (
    H5_ERRORS,
    address_of,
    chunks_of,
    frames_in_words,
    is_fill,
    is_large,
    last_moment_ns,
    logs_of,
    text_of,
    walk,
)
from .scout_repair import repair_scouts, scout_pictures

KILLED = "the program that recorded it was killed"
MEMORY_BYTES = 8 << 30
_LARGEST_TABLE_BYTES = 1 << 30


class Unrepairable(Exception):
    """A file that cannot be made readable; the message says why."""


class Examination(BaseModel):
    """What was found in a file, and what its repair does.

    Attributes
    ----------
    problem : str or None
        Why it cannot be made readable; nothing else is known then.
    done : list of str
        What the repair changes, in words; empty for a healthy file.
    lost : list of str
        What cannot be read any more, in words.
    status : str
        As it is after the repair.
    manifest : str or None
        JSON of the run's manifest; None for an import.
    last_ns : int
        Latest moment recorded, UTC nanoseconds; 0 where none is known.
    image_keys : dict
        Per stack, what of it is there.
    report : dict
        As ``inspect --json`` after the repair.
    """

    model_config = ConfigDict(extra="forbid")

    problem: str | None = None
    done: list[str] = []
    lost: list[str] = []
    status: str = ""
    manifest: str | None = None
    last_ns: int = 0
    image_keys: dict[str, list[int]] = {}
    report: dict[str, Any] = {}


def examine(path: Path, repair: bool = False) -> Examination:
    """Look into a file and prepare its repair; may crash or hang with the HDF5 library.

    Parameters
    ----------
    path : Path
        The file; it is not changed.
    repair : bool
        Leave a redo file beside it that repairs it, if something is to be done.

    Raises
    ------
    OSError
        If it cannot be read, or the redo file cannot be written.
    """
    fd = os.open(path, (os.O_RDWR if repair else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        try:
            found, overlay = FileRepair(fd, path.name).repaired()
        except Unrepairable as error:
            return Examination(problem=str(error))
        if repair and found.done:
            write_redo(path, fd, overlay)
        return found
    finally:
        os.close(fd)


class FileRepair:
    """One file on its overlay."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._size, self._name = fd, os.fstat(fd).st_size, name
        self._overlay = Overlay(fd, self._size)
        self._found = Examination()
        self._was_open = False  # or cut off: then its tables may say what is not there

    def repaired(self) -> tuple[Examination, Overlay]:
        """Repair on the overlay; raises :class:`Unrepairable` where that cannot be done."""
        self._open_superblock()
        with self._opened("r") as file:
            self._check_is_run(file)
            walked = walk(file) if self._was_open else ()
            indexed = [address_of(item) for _, item in walked if is_large(item)]
        self._repair_indices(indexed)
        with self._opened("r") as file:
            self._read_all(file)
        with self._opened("r+") as file:
            self._repair(file)
        if self._overlay.problem is not None:
            raise Unrepairable(f"its repair would change too much: {self._overlay.problem}")
        with self._opened("r") as file:
            try:
                self._found.report = report_of(Run(file, Path(self._name)))
            except H5_ERRORS as error:
                raise Unrepairable(f"cannot be read even when repaired: {error}") from None
        return self._found, self._overlay

    def _opened(self, mode: str) -> Any:
        try:
            if mode == "r":
                return h5py.File(self._overlay, "r")
            return h5py.File(self._overlay, "r+", libver=LIBVER)
        except H5_ERRORS as error:
            raise Unrepairable(f"is damaged beyond help; HDF5 cannot open it: {error}") from None

    def _open_superblock(self) -> None:
        if self._size == 0:
            raise Unrepairable("is empty: nothing was ever recorded in it")
        head = self._overlay.at(0, min(self._size, superblock.SIZE))
        if head[:8] != superblock.SIGNATURE[: len(head)]:
            raise Unrepairable("is not an HDF5 file, so it is not a run file")
        try:
            block = superblock.parse(head)
        except superblock.BadSuperblock as error:
            raise Unrepairable(f"is damaged beyond help, or is not a run file: {error}") from None
        end = block.base + block.end
        if block.left_open:
            self._was_open = True
            self._found.done.append("closed it, which its program had not done")
        elif end > self._size:
            self._found.lost.append(f"{end - self._size} bytes at its end: it was cut off")
            self._found.done.append("closed it where it was cut off")
            self._was_open = True
        else:
            if block.version == 3:
                self._overlay.truncate(end)
            return
        block = block.closed(self._size)
        self._overlay.seek(0)
        self._overlay.write(block.pack())
        self._overlay.truncate(block.base + block.end)

    def _check_is_run(self, file: Any) -> None:
        try:
            for path in (layout.STATUS, f"{layout.ENTRY}/title"):
                if path not in file:
                    raise Unrepairable(f"is HDF5 but not a run file: it has no {path}")
            self._found.status = text_of(file[layout.STATUS])
            if layout.MANIFEST in file:
                text = text_of(file[layout.MANIFEST])
                RunManifest.model_validate_json(text)
                self._found.manifest = text
        except H5_ERRORS as error:
            raise Unrepairable(
                f"is damaged beyond help; it does not tell its run: {error}"
            ) from None

    def _repair_indices(self, datasets: list[int]) -> None:
        changes = [c for d in dict.fromkeys(datasets) for c in repaired_nodes(
            self._overlay.at_most, d, self._size
        )]  # fmt: skip
        for address, data in changes:
            self._overlay.seek(address)
            self._overlay.write(data)
        if changes:
            self._found.done.append(f"repaired {len(changes)} index tables of frames")

    def _read_all(self, file: Any) -> None:
        """Read everything but frames and scouts, which are looked at by chunk."""
        frames = {address_of(file[p]) for n in file if (p := layout.frames_path(n)) in file}
        frames |= {address_of(pictures) for pictures in scout_pictures(file)}
        seen: set[int] = set()
        for name, item in walk(file):
            if item is None:
                raise Unrepairable(f"is damaged beyond help: {name} cannot be read")
            try:
                for attribute in item.attrs:
                    item.attrs[attribute]
                if not isinstance(item, h5py.Dataset) or address_of(item) in frames | seen:
                    continue
                seen.add(address_of(item))
                if is_large(item):
                    if not self._is_whole(item):
                        self._found.lost.append(f"{name}; `pyrotome process` can make it again")
                    continue
                if item.nbytes > _LARGEST_TABLE_BYTES:
                    raise Unrepairable(f"is damaged beyond help: {name} has {item.nbytes} bytes")
                start = item.id.get_offset()
                if start is not None and start + item.id.get_storage_size() > self._size:
                    raise Unrepairable(f"is damaged beyond help: {name} was cut off")
                item[...]
            except H5_ERRORS as error:
                raise Unrepairable(
                    f"is damaged beyond help: {name} cannot be read: {error}"
                ) from None

    def _is_whole(self, result: Any) -> bool:
        try:
            for stored in chunks_of(result):
                if stored.byte_offset + stored.size > self._size:
                    return False
                result[tuple(slice(a, a + b) for a, b in zip(
                    stored.chunk_offset, result.chunks, strict=True
                ))]  # fmt: skip
        except H5_ERRORS:
            return False
        return True

    def _repair(self, file: Any) -> None:
        try:
            for name in sorted(n for n in file if layout.frames_path(n) in file):
                self._repair_stack(file, name)
            self._repair_logs(file)
            done, lost = repair_scouts(file, self._size, self._was_open)
            self._found.done += done
            self._found.lost += lost
            self._found.last_ns = last_moment_ns(file)
            if self._found.status == "running":
                self._interrupt(file)
            if tidy(file):
                self._found.done.append("removed what had stayed empty")
        except H5_ERRORS as error:
            raise Unrepairable(f"is damaged beyond help: {error}") from None

    def _interrupt(self, file: Any) -> None:
        file[layout.STATUS][()] = b"interrupted"
        file[layout.REASON][()] = layout.fit_text(KILLED, layout.REASON_BYTES)
        if layout.END_TIME in file:
            file[layout.END_TIME][()] = iso_utc(self._found.last_ns).encode()
        self._found.status = "interrupted"
        self._found.done.append("status 'interrupted', ended at the last moment recorded")

    # --- frames ---------------------------------------------------------------------------------

    def _repair_stack(self, file: Any, name: str) -> None:
        data, key_data = file[layout.frames_path(name)], file[layout.image_key_path(name)]
        time_path = layout.column_path(name, layout.TIME_COLUMN.key)
        keys: NDArray[np.int32] = key_data[...]
        taken = np.isfinite(file[time_path][...])
        if not len(keys) == len(taken) == len(data):
            raise Unrepairable(f"is damaged beyond help: the tables of {name} differ in length")
        whole = self._whole_frames(data)
        for column in TRACKING_COLUMNS:
            path = f"/{name}/{column.path}"
            if path in file and len(file[path]) != len(data):
                raise Unrepairable(f"is damaged beyond help: {path} differs in length")
        recorded = keys == layout.key_of_recorded(name)
        gone = np.flatnonzero(recorded & ~whole)
        if gone.size:
            self._found.lost.append(f"{frames_in_words(gone)} of {name} cannot be read")
        if gone.size and self._was_open:
            # Their stamps stay: they were taken, and are counted as lost.
            keys[gone] = layout.MISSING
            self._found.done.append(f"marked {frames_in_words(gone)} of {name} as missing")
        # Its program was killed between writing the frame and saying that it is there.
        found = np.flatnonzero(~recorded & whole & taken) if self._was_open else np.empty(0, int)
        if found.size:
            keys[found] = layout.key_of_recorded(name)
            self._found.done.append(f"marked {frames_in_words(found)} of {name} as recorded")
        if gone.size or found.size:
            key_data[...] = keys
        self._found.image_keys[name] = keys.tolist()

    def _whole_frames(self, data: Any) -> NDArray[np.bool_]:
        """Which frames of a stack can be decompressed."""
        whole = np.zeros(len(data), bool)
        if data.chunks is None or data.chunks[0] != 1:
            whole[:] = True  # not of our recorder; read by HDF5 like any table
            return whole
        compressed = data.id.get_create_plist().get_nfilters() > 0
        try:
            chunks = chunks_of(data)
        except H5_ERRORS:
            return whole
        for stored in chunks:
            index = stored.chunk_offset[0]
            if stored.byte_offset + stored.size > self._size or index >= len(whole):
                continue
            raw = os.pread(self._fd, stored.size, stored.byte_offset)
            if stored.filter_mask or not compressed:
                whole[index] = len(raw) == data.dtype.itemsize * math.prod(data.shape[1:])
                continue
            try:
                Chunk.stored(data.shape[1:], data.dtype.name, raw).decompress()
            except BadChunk:
                continue
            whole[index] = True
        return whole

    # --- logs -----------------------------------------------------------------------------------

    def _repair_logs(self, file: Any) -> None:
        """Cut every log to the rows of which all columns were written."""
        for name, columns in logs_of(file):
            lengths = [len(column) for column in columns]
            rows = min([*lengths, *(self._rows_there(column) for column in columns)])
            if rows < min(lengths):
                self._found.lost.append(f"{min(lengths) - rows} rows of {name}")
            values = [column[:rows] for column in columns]
            empty = np.all([is_fill(part) for part in values], axis=0)
            # Rows for which there was room already, at the end.
            while self._was_open and rows and empty[rows - 1]:
                rows -= 1
            if rows < max(lengths):
                self._found.done.append(f"cut {name} to the {rows} rows that are whole")
                for column in columns:
                    if len(column) > rows:
                        column.resize((rows,))

    def _rows_there(self, column: Any) -> int:
        """Rows before the first chunk that the file is too short for."""
        rows = len(column)
        for stored in chunks_of(column):
            if stored.byte_offset + stored.size > self._size:
                rows = min(rows, stored.chunk_offset[0])
        return rows


def main() -> int:
    """Examine one file; returns the exit code."""
    path, *options = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, most))
    try:
        found = examine(Path(path), "--repair" in options)
    except (OSError, BadInput) as error:
        found = Examination(problem=f"cannot be examined: {error}")
    sys.stdout.write(found.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
