"""Change a closed HDF5 file so that a kill at any moment leaves the file before or after.

HDF5 works on an `Overlay`: what it overwrites stays in memory, at most `LIMIT_BYTES`. When it has
closed the file, the changed bytes go to a redo file beside it (``FILE.redo``), old and new, with a
digest over all; then they are written in place and the redo file goes. `settle` deals with what a
killed edit left: a whole redo file is carried out again, an unfinished one is deleted.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import superblock

# What HDF5 1.10 and later can read, filtered datasets included; SWMR needs it.
LIBVER = ("v110", "v110")
# For each dataset that is written: some chunks of a log. By default HDF5 keeps 8 MiB of every
# column of telemetry, which a day fills.
CHUNK_CACHE_BYTES = 256 << 10
LIMIT_BYTES = 256 << 20
PAGE_BYTES = 4096
_MAGIC = b"pyrotome redo 1\n"
_HEAD = struct.Struct("<16sQQQ")
_RANGE = struct.Struct("<QI")
_DIGEST_BYTES = hashlib.sha256().digest_size


class LeftOpen(OSError):
    """A program was killed while it had the file open; it must be recovered first."""


class ForeignRedo(OSError):
    """A redo file that lies beside a file to which it does not belong."""


@dataclass(frozen=True)
class Change:
    """Bytes of a file before and after; where the file was shorter, zeros stand for them."""

    offset: int
    old: bytes
    new: bytes


class Overlay(io.RawIOBase):
    """A file with changes in memory, as h5py takes it in place of a path.

    What goes wrong when it is written is kept in `problem`: h5py would swallow an exception.

    Parameters
    ----------
    fd : int
        The file.
    size : int
        How much of it counts; what stands behind is no part of it.
    appending : bool
        Whether what is written behind `size` goes to the file at once, where nothing points to it
        before the edit is done. For edits that add large data.
    """

    def __init__(self, fd: int, size: int, appending: bool = False) -> None:
        super().__init__()
        self._fd, self._base, self._size = fd, size, size
        self._appending = appending
        self._pages: dict[int, bytearray] = {}
        self._at = 0
        self.problem: OSError | None = None

    @property
    def size(self) -> int:
        """Size that the file is to have."""
        return self._size

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def seekable(self) -> bool:
        """Tell that it has positions."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def tell(self) -> int:
        """Position."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend; the file itself is left as it is."""
        size = self._at if size is None else size
        if size < self._size:
            first, within = divmod(size, PAGE_BYTES)
            for number in [n for n in self._pages if n >= first + bool(within)]:
                del self._pages[number]
            if within and first in self._pages:
                self._pages[first][within:] = bytes(PAGE_BYTES - within)
        self._size = size
        return size

    def readinto(self, buffer: Any) -> int:
        """Read what would stand in the file."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        view[:count] = self.at(self._at, count)
        self._at += count
        return count

    def at(self, offset: int, count: int) -> bytes:
        """Bytes as they would stand in the file, zeros where there are none."""
        data = bytearray(self._stored(offset, count))
        for number in range(offset // PAGE_BYTES, -(-(offset + count) // PAGE_BYTES)):
            page = self._pages.get(number)
            if page is None:
                continue
            start = number * PAGE_BYTES
            low, high = max(start, offset), min(start + PAGE_BYTES, offset + count)
            data[low - offset : high - offset] = page[low - start : high - start]
        return bytes(data)

    def at_most(self, offset: int, count: int) -> bytes:
        """Bytes as they would stand in the file, fewer at its end."""
        return self.at(offset, max(0, min(count, self._size - offset)))

    def write(self, data: Any) -> int:
        """Take in what is to stand in the file."""
        view = memoryview(data).cast("B")
        offset, end = self._at, self._at + len(view)
        self._at = end
        self._size = max(self._size, end)
        if self._appending and end > self._base:
            cut = max(0, self._base - offset)
            try:
                _write_at(self._fd, offset + cut, view[cut:])
            except OSError as error:
                self.problem = self.problem or error
            view = view[:cut]
        while view:
            number, within = divmod(offset, PAGE_BYTES)
            part = view[: PAGE_BYTES - within]
            page = self._page(number)
            if page is not None:
                page[within : within + len(part)] = part
            offset += len(part)
            view = view[len(part) :]
        return len(memoryview(data).cast("B"))

    def changes(self) -> list[Change]:
        """What differs from the file, in order of place; nothing of what was appended."""
        found: list[Change] = []
        for number in sorted(self._pages):
            offset = number * PAGE_BYTES
            length = min(PAGE_BYTES, self._size - offset)
            if length <= 0:
                continue
            new = bytes(self._pages[number][:length])
            old = self._stored(offset, length)
            differ = np.flatnonzero(np.frombuffer(new, np.uint8) != np.frombuffer(old, np.uint8))
            if differ.size:
                low, high = int(differ[0]), int(differ[-1]) + 1
                found.append(Change(offset + low, old[low:high], new[low:high]))
        return found

    def _page(self, number: int) -> bytearray | None:
        page = self._pages.get(number)
        if page is None:
            if (len(self._pages) + 1) * PAGE_BYTES > LIMIT_BYTES:
                self.problem = self.problem or OSError(
                    errno.EFBIG, f"more than {LIMIT_BYTES >> 20} MiB would be changed in place"
                )
                return None
            page = self._pages[number] = bytearray(self._stored(number * PAGE_BYTES, PAGE_BYTES))
        return page

    def _stored(self, offset: int, count: int) -> bytes:
        end = offset + count if self._appending else min(offset + count, self._base)
        data = _read_at(self._fd, offset, end - offset) if end > offset else b""
        return data.ljust(count, b"\0")


@contextmanager
def edited(
    path: Path, *, appending: bool = False, check: Callable[[Any], None] | None = None
) -> Iterator[Any]:
    """Open a closed HDF5 file for changes that come about as a whole, or not at all.

    Parameters
    ----------
    path : Path
        The file.
    appending : bool
        As for `Overlay`.
    check : callable, optional
        Given the changed file, open for reading, before anything is written; raises if it is not
        as it must be.

    Yields
    ------
    h5py.File
        Open for reading and writing.

    Raises
    ------
    BlockingIOError
        If another program has the file open.
    LeftOpen
        If a killed program had it open.
    OSError
        If it cannot be written; then it is as it was.
    """
    with locked(path) as fd:
        settle(path, fd)
        first = _read_at(fd, 0, superblock.SIZE)
        stored = end = os.fstat(fd).st_size
        with contextlib.suppress(superblock.BadSuperblock):
            known = superblock.parse(first)
            if known.left_open:
                raise LeftOpen(
                    errno.EBUSY,
                    f"{path} was left open by a killed program; run `pyrotome recover {path}`",
                )
            if known.version == 3:  # closed, so nothing points behind its end
                end = min(end, known.base + known.end)
        if stored > end:
            os.ftruncate(fd, end)  # what a killed edit had appended
        overlay = Overlay(fd, end, appending)
        done = False
        try:
            with h5py.File(overlay, "r+", libver=LIBVER) as file:
                yield file
            if check is not None:
                with h5py.File(overlay, "r") as file:
                    check(file)
            commit(path, fd, overlay)
            done = True
        finally:
            if appending and not done and not redo_path(path).exists():
                os.ftruncate(fd, end)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Keep other programs that respect HDF5's lock out of a file; the descriptor is its value.

    Raises
    ------
    BlockingIOError
        If one has it open.
    OSError
        If it cannot be opened for writing.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                errno.EAGAIN, f"{path} is open in another program; close it there first"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                raise
        yield fd
    finally:
        os.close(fd)


def redo_path(path: Path) -> Path:
    """Where the redo file of a file stands."""
    return path.with_name(path.name + ".redo")


def commit(path: Path, fd: int, overlay: Overlay) -> bool:
    """Bring the changes of an overlay into its file; false if there is nothing to do.

    Raises
    ------
    OSError
        If the redo file cannot be written: then the file is as it was. If the changes themselves
        cannot be: then the redo file stays, and `settle` can do it later.
    """
    if not write_redo(path, fd, overlay):
        return False
    settle(path, fd)
    return True


def write_redo(path: Path, fd: int, overlay: Overlay) -> bool:
    """Write the redo file of an overlay; false if nothing has changed.

    Raises
    ------
    OSError
        If that cannot be done; no redo file is left then.
    """
    if overlay.problem is not None:
        raise overlay.problem
    changes, before = overlay.changes(), os.fstat(fd).st_size
    if not changes and overlay.size == before:
        return False
    os.fsync(fd)  # what was appended must not come after what points to it
    redo = redo_path(path)
    try:
        with redo.open("wb") as file:
            file.write(pack_redo(changes, before, overlay.size))
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path)
    except BaseException:
        redo.unlink(missing_ok=True)
        raise
    return True


def pack_redo(changes: Sequence[Change], before: int, after: int) -> bytes:
    """Contents of a redo file.

    Parameters
    ----------
    changes : sequence of Change
        Where the file changes.
    before, after : int
        Size of the file in bytes.
    """
    parts = [_HEAD.pack(_MAGIC, len(changes), before, after)]
    for change in changes:
        parts += [_RANGE.pack(change.offset, len(change.new)), change.old, change.new]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def parse_redo(data: bytes) -> tuple[list[Change], int, int] | None:
    """Changes and sizes of a redo file, as given to `pack_redo`; None if it is not whole."""
    if len(data) < _HEAD.size + _DIGEST_BYTES:
        return None
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest or not body.startswith(_MAGIC):
        return None
    _, count, before, after = _HEAD.unpack_from(body)
    changes: list[Change] = []
    at = _HEAD.size
    for _ in range(count):
        if len(body) < at + _RANGE.size:
            return None
        offset, length = _RANGE.unpack_from(body, at)
        at += _RANGE.size
        old, new = body[at : at + length], body[at + length : at + 2 * length]
        if len(new) != length:
            return None
        changes.append(Change(offset, old, new))
        at += 2 * length
    return (changes, before, after) if at == len(body) else None


def settle(path: Path, fd: int) -> str | None:
    """Carry out a whole redo file, delete an unfinished one; what was done in words, or None.

    Parameters
    ----------
    path : Path
        The file beside which it stands.
    fd : int
        That file, locked.

    Raises
    ------
    ForeignRedo
        If the redo file is whole and made for a file with other contents; nothing is changed.
    OSError
        If the file cannot be written.
    """
    redo = redo_path(path)
    try:
        known = parse_redo(redo.read_bytes())
    except FileNotFoundError:
        return None
    if known is None:
        redo.unlink()
        return "deleted the notes of an edit that had not begun to change the file"
    changes, before, after = known
    size = os.fstat(fd).st_size
    for change in changes:
        there = np.frombuffer(
            _read_at(fd, change.offset, len(change.new)).ljust(len(change.new), b"\0"), np.uint8
        )
        old, new = (np.frombuffer(part, np.uint8) for part in (change.old, change.new))
        if not ((there == old) | (there == new)).all():
            size = -1
    if size not in range(min(before, after), max(before, after) + 1):
        raise ForeignRedo(
            errno.EINVAL,
            f"{redo} does not belong to {path.name} as it is now; move it away to go on without it",
        )
    for change in changes:
        _write_at(fd, change.offset, change.new)
    os.ftruncate(fd, after)
    os.fsync(fd)
    redo.unlink()
    return "completed an edit that had been cut short"


def _read_at(fd: int, offset: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count > 0 and (part := os.pread(fd, count, offset)):
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def _write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset, view = offset + written, view[written:]


def _sync_folder(path: Path) -> None:
    """Let the name of a new file survive a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
