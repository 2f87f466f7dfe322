"""Who writes a run file now: a lock that dies with its holder and keeps no reader out.

HDF5 itself locks with ``flock`` and drops that lock for SWMR. This one is a lock of the open file
description (Linux, ``F_OFD_SETLK``), which ``flock`` does not see: readers open the file as ever,
and ``kill -9`` leaves nothing behind. Where the system has no such
locks, no other program is kept out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

# One byte where no file has any.
_PLACE = 1 << 62
_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_ASK: int | None = getattr(fcntl, "F_OFD_GETLK", None)
_FORM = "hhqqi4x"  # struct flock of 64-bit Linux
_TAKEN = (errno.EAGAIN, errno.EACCES)


class Taken(OSError):
    """Another program is writing this file."""


class WriterLock:
    """Says that this process writes a file, until closed or dead.

    Parameters
    ----------
    path : Path
        The file; it must exist and may be written.

    Raises
    ------
    Taken
        If another program writes it.
    OSError
        If it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _SET is not None:
                fcntl.fcntl(self._fd, _SET, _request(fcntl.F_WRLCK))
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(self._fd)
                raise Taken(errno.EAGAIN, f"{path} is being written by another program") from None
            # A file system without locks: as good as it can be had there.

    def probe(self) -> None:
        """Write nothing to the file; raises OSError where the disk has become read-only."""
        if self._fd >= 0:
            os.pwrite(self._fd, b"", 0)

    def sync(self) -> None:
        """Wait until the disk has what was written to the file; raises OSError if it has not."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_written(path: Path) -> bool:
    """Whether a living program holds the `WriterLock` of a file; also one that may not be read."""
    if _ASK is None:
        return False
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            answer = fcntl.fcntl(fd, _ASK, _request(fcntl.F_WRLCK))
        finally:
            os.close(fd)
        return struct.unpack(_FORM, answer)[0] != fcntl.F_UNLCK
    return False


def _request(kind: int) -> bytes:
    return struct.pack(_FORM, kind, os.SEEK_SET, _PLACE, 1, 0)
