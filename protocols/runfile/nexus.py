"""Write what `layout` plans with h5py: groups, datasets and links of a run file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from ..messages.manifest import RunManifest
from ..storage.overlay import PAGE_BYTES
from ..storage.redo_log import redo_path
from ..storage.transaction import CHUNK_CACHE_BYTES, LIBVER, edited
from . import layout
from .steering_table import steering_nodes
from .tracking_columns import tracking_nodes
from .tree.scout_layout import TIME, is_scouts, scout_nodes

_LOG_CHUNK_BYTES = 32_768
_NEW = ".new"
# A file system that knows no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def create_run_file(path: Path, manifest: RunManifest) -> Any:
    """Create the file of a run, with every group and dataset that it will ever have.

    Parameters
    ----------
    path : Path
        Where; nothing may be there.
    manifest : RunManifest
        What will be recorded.

    Returns
    -------
    h5py.File
        Open for writing, complete in structure, not yet in SWMR mode.

    Raises
    ------
    FileExistsError
        If there is something at `path`, which is left alone.
    OSError
        If it cannot be written; nothing is left behind then.
    """
    tables = (*steering_nodes(manifest), *tracking_nodes(manifest), *scout_nodes(manifest))
    return create_file(path, (*layout.tree(manifest), *tables))


def create_file(path: Path, nodes: Iterable[layout.Node]) -> Any:
    """Create a file of the given nodes: under another name, and under its own when it is whole.

    Parameters
    ----------
    path : Path
        Where; nothing may be there.
    nodes : iterable of Node
        Groups before what they hold, links after their targets.

    Returns
    -------
    h5py.File
        Open for writing, complete in structure, not yet in SWMR mode.

    Raises
    ------
    FileExistsError
        If there is something at `path`, which is left alone.
    OSError
        If it cannot be written; nothing is left behind then.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    clear_unfinished(path)
    new = path.with_name(f".{path.name}.{os.getpid()}{_NEW}")
    file: Any = h5py.File(
        new,
        "x",
        libver=LIBVER,
        rdcc_nbytes=CHUNK_CACHE_BYTES,
        fs_strategy="page",
        fs_page_size=PAGE_BYTES,
    )
    try:
        for node in nodes:
            add_node(file, node)
        file.flush()
        redo_path(path).unlink(missing_ok=True)  # of a file that is no longer there
        _give_name(new, path)
    except BaseException:
        file.close()
        new.unlink(missing_ok=True)
        raise
    return file


def _give_name(new: Path, path: Path) -> None:
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("xb"):  # nobody else can take the name now
            new.replace(path)
    else:
        new.unlink()


def clear_unfinished(path: Path) -> int:
    """Delete what programs left that were killed while they created this file; how many."""
    cleared = 0
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_NEW}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its creator lives
            left.unlink()
            cleared += 1
    return cleared


def add_node(file: Any, node: layout.Node) -> None:
    """Write one group, dataset or link into an open file that is not in SWMR mode."""
    if isinstance(node, layout.Link):
        target = file[node.target]
        target.attrs["target"] = node.target  # how NeXus tells the original from its other names
        file[node.path] = target
        return
    if isinstance(node, layout.Group):
        made = file[node.path] if node.path == "/" else file.create_group(node.path)
        made.attrs["NX_class"] = node.nx_class
    else:
        made = _dataset(file, node)
    for name, value in node.attrs.items():
        made.attrs[name] = value


def _dataset(file: Any, node: layout.Dataset) -> Any:
    if node.value is not None:
        return file.create_dataset(node.path, data=node.value)
    if node.dtype.startswith("S"):
        dtype: Any = h5py.string_dtype("utf-8", int(node.dtype[1:]))
    else:
        dtype = np.dtype(node.dtype)
    if node.storage == "growing":
        rows = max(1, _LOG_CHUNK_BYTES // dtype.itemsize)
        return file.create_dataset(
            node.path, shape=(0,), maxshape=(None,), chunks=(rows,), dtype=dtype
        )
    if node.storage in ("frames", "pictures"):
        return file.create_dataset(
            node.path,
            shape=node.shape,
            maxshape=(None, *node.shape[1:]) if node.storage == "pictures" else None,
            dtype=dtype,
            chunks=(table_chunk if "columns" in node.attrs else frame_chunk)(node.shape),
            fillvalue=node.fill,
            **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
        )
    fill = node.fill.encode() if isinstance(node.fill, str) else node.fill
    return file.create_dataset(node.path, data=np.array(fill, dtype=dtype), dtype=dtype)


def table_chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Many rows of a table per chunk: a table of thousands of atoms is written at once."""
    rows = max(1, _LOG_CHUNK_BYTES // (8 * max(1, math.prod(shape[1:]))))
    return (min(shape[0], rows), *shape[1:])


def frame_chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One index of the first axis per chunk; a table of one axis is one chunk."""
    return shape if len(shape) == 1 else (1, *shape[1:])


def finalise(path: Path) -> None:
    """Tidy a closed run file as :func:`tidy` does. Harmless when repeated.

    Raises
    ------
    BlockingIOError
        If another program has the file open.
    OSError
        If the file cannot be opened for writing.
    """
    with edited(path) as file:
        tidy(file)


def tidy(file: Any) -> bool:
    """Remove from an open run file what stayed empty, since readers stumble over empty arrays.

    That is the date of a result that never came, the end time of a run that never ended, logs
    without a single entry, and room for scouts that were not taken.

    Returns
    -------
    bool
        Whether there was something to remove.
    """
    empty: list[str] = []
    for name, stack in file.items():
        for process in [n for n in stack if n.startswith("process_")]:
            date = f"/{name}/{process}/date"
            if date in file and not file[date][()]:
                empty.append(date)
    if layout.END_TIME in file and not file[layout.END_TIME][()]:
        empty.append(layout.END_TIME)
    if layout.TELEMETRY in file:
        for device, channels in file[layout.TELEMETRY].items():
            empty += [layout.telemetry_path(device, c) for c in channels if _is_empty(channels[c])]
    logs = (layout.DOSE, layout.EVENTS, layout.CLOCK)
    empty += [path for path in logs if path in file and _is_empty(file[path])]
    empty += [path for name in file if is_scouts(name) for path in _empty_scouts(file, name)]
    for path in empty:
        del file[path]
    return bool(empty)


def _empty_scouts(file: Any, name: str) -> list[str]:
    """All of a group of scouts if none was taken, else the grids that have no picture."""
    group = file[name]
    if not len(group["scouts"][TIME]):
        return [f"/{name}"]
    grids = {grid: len(item["data"]) for grid, item in group.items() if "data" in _names(item)}
    used = [grid for grid, pictures in grids.items() if pictures]
    if used and group.attrs["default"] not in used:
        group.attrs["default"] = used[0]
    return [f"/{name}/{grid}" for grid in grids if grid not in used]


def _names(item: Any) -> list[str]:
    return list(item) if isinstance(item, h5py.Group) else []


def _is_empty(log: Any) -> bool:
    return any(item.shape == (0,) for item in log.values())
