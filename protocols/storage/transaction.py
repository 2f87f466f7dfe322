"""Change a closed HDF5 file so that a kill at any moment leaves the file before or after.

HDF5 works on an `Overlay`: what it overwrites stays in memory. When it has closed the file, the
changed bytes, old and new, go into a redo file beside it (``FILE.redo``) with a digest over all of
them. Then they are written in place and the redo file is deleted. After a kill, `replay_redo`
writes the changes of a whole redo file again, and deletes an unfinished one.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from . import superblock
from .overlay import Overlay, read_at
from .redo_log import redo_path, replay_redo, write_redo

# What HDF5 1.10 and later can read, filtered datasets included; SWMR needs it.
LIBVER = ("v110", "v110")
# For each dataset that is written: some chunks of a log. By default HDF5 keeps 8 MiB of every
# column of telemetry, which a day fills.
CHUNK_CACHE_BYTES = 256 << 10


class LeftOpen(OSError):
    """A program was killed while it had the file open; it must be recovered first."""


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
        replay_redo(path, fd)
        first = read_at(fd, 0, superblock.SIZE)
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


def commit(path: Path, fd: int, overlay: Overlay) -> bool:
    """Bring the changes of an overlay into its file; false if there is nothing to do.

    Raises
    ------
    OSError
        If the redo file cannot be written: then the file is as it was. If the changes themselves
        cannot be: then the redo file stays, and `replay_redo` can do it later.
    """
    if not write_redo(path, fd, overlay):
        return False
    replay_redo(path, fd)
    return True
