"""A file with changes that stay in memory, as h5py takes it in place of a path."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import errno
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

# Most that is changed in place; pages of memory.
LIMIT_BYTES = 256 << 20
PAGE_BYTES = 4096


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
        Bytes of it that count; what follows does not belong to it.
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
                write_at(self._fd, offset + cut, view[cut:])
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
        data = read_at(self._fd, offset, end - offset) if end > offset else b""
        return data.ljust(count, b"\0")


def read_at(fd: int, offset: int, count: int) -> bytes:
    """Bytes of a file, fewer at its end."""
    parts: list[bytes] = []
    while count > 0 and (part := os.pread(fd, count, offset)):
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of some bytes into a file."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset, view = offset + written, view[written:]
