"""Whether a run file is closed, being written, or left open by a killed program; opens it."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # pyright: ignore[reportUnusedImport]  # noqa: F401 - registers the frames' filter

from ..core.errors import BadInput
from ..storage import superblock
from ..storage.redo_log import redo_path
from ..storage.writer_lock import is_written
from . import layout


def is_left_open(path: Path) -> bool:
    """Whether a program was killed while it had a file open or while it changed it.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    bool
        False also for a file that is being written, cannot be read or is not HDF5.
    """
    block = _superblock(path)
    if block is None:
        return False
    return redo_path(path).exists() or (block.left_open and not is_written(path))


def open_hdf5(path: Path, growing: bool = False) -> Any:
    """Open a run file for reading.

    Parameters
    ----------
    path : Path
        The file.
    growing : bool
        Also open a file that is being written, or that a killed program has left open.

    Returns
    -------
    h5py.File
        In SWMR mode where a recorder writes the file, or wrote it until it was killed.

    Raises
    ------
    BadInput
        If the file is missing, is not a run file, cannot be read, or is not closed and `growing`
        is false.
    """
    _check_readable(path)
    if not growing:
        _check_closed(path)
    # A file opens in SWMR mode only where there is or was a writer: HDF5 would otherwise read a
    # damaged spot again and again, for minutes, in the hope that it gets better.
    block = _superblock(path)
    swmr = block is not None and bool(block.flags & superblock.OPEN_FOR_SWMR)
    try:
        file: Any = h5py.File(path, "r", swmr=swmr)
    except OSError as error:
        if is_left_open(path):
            raise BadInput(
                str(path), f"was left open by a killed program; run `pyrotome recover {path}`"
            ) from None
        raise BadInput(str(path), f"HDF5 cannot open it: {error}") from None
    missing = [p for p in (layout.STATUS, f"{layout.ENTRY}/title") if p not in file]
    if missing:
        file.close()
        raise BadInput(
            str(path),
            f"is HDF5 but not a run file: it has no {missing[0]} (`pyrotome import` makes a run "
            "file from a tilt series)",
        )
    return file


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except IsADirectoryError:
        raise BadInput(str(path), "is a folder; name a run file") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    if not h5py.is_hdf5(path):
        raise BadInput(str(path), "is not an HDF5 file, so it is not a run file")


def _check_closed(path: Path) -> None:
    block = _superblock(path)
    if not (redo_path(path).exists() or (block is not None and block.left_open)):
        return
    if is_written(path):
        raise BadInput(
            str(path),
            "is still being written; wait until the run has ended (`pyrotome inspect`, and "
            "pyrotome.open with growing=True, read it meanwhile)",
        )
    raise BadInput(
        str(path),
        "is still being written, or was left open by a killed program; if no run is in progress, "
        f"run `pyrotome recover {path}`",
    )


def _superblock(path: Path) -> superblock.Superblock | None:
    try:
        with path.open("rb") as raw:
            return superblock.parse(raw.read(superblock.SIZE))
    except (OSError, superblock.BadSuperblock):
        return None
