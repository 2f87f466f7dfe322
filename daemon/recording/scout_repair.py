"""Repair the scouts of a run file that was cut off: what is not whole is taken off at the end."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...protocols.runfile.tracking_columns import SCOUT_COLUMN
from ...protocols.runfile.tree.scout_layout import (
    COLUMNS,
    account_of,
    column_path,
    is_scouts,
    scouts_path,
)
from .file_contents import H5_ERRORS, chunks_of


def scout_pictures(file: Any) -> Iterator[Any]:
    """Every stack of pictures of scouts, as datasets."""
    for name in file:
        if is_scouts(name):
            yield from _stacks(file, account_of(name)).values()


def repair_scouts(file: Any, size: int, was_open: bool) -> tuple[list[str], list[str]]:
    """Take off what is not whole: rows without their picture, pictures without a row.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    size : int
        Bytes of the file; what lies behind was not written.
    was_open : bool
        Whether the file was not closed; what a closed one lacks is told and left as it is.

    Returns
    -------
    done, lost : list of str
        What was changed, and what cannot be read, in words.
    """
    done, lost = list[str](), list[str]()
    for name in sorted(filter(is_scouts, file)):
        account = account_of(name)
        columns = [file[column_path(account, column.name)] for column in COLUMNS]
        stacks = _stacks(file, account)
        whole = {grid: _whole(stack, size) for grid, stack in stacks.items()}
        there = min(_written(column, size) for column in columns)
        used = _rows_that_are_whole(file, account, there, whole)
        if not was_open:
            if len(used) < len(columns[0]):
                lost.append(f"{len(columns[0]) - len(used)} scouts of {account}")
            continue
        pictures = {grid: 1 + max((p for g, p in used if g == grid), default=-1) for grid in stacks}
        parts = [(column, len(used)) for column in columns]
        parts += [(stacks[grid], count) for grid, count in pictures.items()]
        longer = [(item, rows) for item, rows in parts if len(item) > rows]
        for item, rows in longer:
            item.resize(rows, axis=0)
        if longer:
            done.append(f"cut the scouts of {account} to the {len(used)} that are whole")
        _forget_rows(file, account, len(used))
    return done, lost


def _stacks(file: Any, account: str) -> dict[str, Any]:
    """Pictures of each grid."""
    group = file[scouts_path(account)]
    return {
        grid: item["data"]
        for grid, item in group.items()
        if isinstance(item, h5py.Group) and "data" in item
    }


def _written(column: Any, size: int) -> int:
    """Rows before the first chunk that the file is too short for."""
    short = [c.chunk_offset[0] for c in chunks_of(column) if c.byte_offset + c.size > size]
    return min([len(column), *short])


def _whole(stack: Any, size: int) -> NDArray[np.bool_]:
    """Which pictures of a stack can be read."""
    whole = np.zeros(len(stack), bool)
    for stored in chunks_of(stack):
        index = stored.chunk_offset[0]
        if index >= len(whole) or stored.byte_offset + stored.size > size:
            continue
        try:
            stack[index]
        except H5_ERRORS:
            continue
        whole[index] = True
    return whole


def _rows_that_are_whole(
    file: Any, account: str, there: int, whole: dict[str, NDArray[np.bool_]]
) -> list[tuple[str, int]]:
    """Grid and picture of each row, up to the first that has none.

    Each picture of a grid follows the one before it, so that a number that was not written shows.
    """
    grids = file[column_path(account, "grid")][:there]
    pictures = file[column_path(account, "picture")][:there].tolist()
    rows: list[tuple[str, int]] = []
    for raw, picture in zip(grids, pictures, strict=True):
        grid = bytes(raw).rstrip(b"\0").decode("utf-8", "replace")
        found = whole.get(grid)
        due = sum(before == grid for before, _ in rows)
        if found is None or picture != due or due >= len(found) or not found[due]:
            break
        rows.append((grid, picture))
    return rows


def _forget_rows(file: Any, account: str, rows: int) -> None:
    """Let no frame name a row that is gone: another scout would take its place."""
    path = f"/{account}/{SCOUT_COLUMN.path}"
    if path not in file:
        return
    named = file[path][...]
    if (named >= rows).any():
        file[path][...] = np.where(named < rows, named, SCOUT_COLUMN.fill)
