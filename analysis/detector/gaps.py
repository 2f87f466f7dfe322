"""Rows and columns that measure nothing: gaps between chips, dead lines."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .references import Mask

# Gaps between chips of hybrid pixel detectors are up to 37 pixels wide.
_WIDEST = 64
# Chance that a line which measures has one value only, below which it does not measure.
_CHANCE = 1e-9
# Vacuum without noise has few changes between one value and others along a line; counts have many.
_FEWEST_CHANGES = 10
# A line is apart from its neighbours if this share of their values lies on one side of its value.
_ONE_SIDE = 0.98


def constant_lines(frame: NDArray[Any], left_out: Mask | None = None) -> Mask | None:
    """Find rows and columns of one single value between others that measure.

    A row or column of one value is left out where its neighbours are hardly ever equal to that
    value by chance, and either lie on one side of it or change between it and other values
    all the time. So an empty band of a noiseless image, and the padding of an aligned image with
    the value of the vacuum, stay.

    Parameters
    ----------
    frame : ndarray
        Shape (rows, columns), as the detector sent it.
    left_out : ndarray, optional
        Pixels that are known to be bad; they do not count.

    Returns
    -------
    ndarray or None
        True in such rows and columns; None if there are none.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.random.default_rng(0).poisson(20.0, (48, 64))
    >>> frame[10:14], frame[:, 30] = 0, 0
    >>> lines = constant_lines(frame)
    >>> np.flatnonzero(lines.all(axis=1)), np.flatnonzero(lines.all(axis=0))
    (array([10, 11, 12, 13]), array([30]))
    """
    known = np.zeros(frame.shape, np.bool_) if left_out is None else left_out
    flat_rows, flat_columns = _flat_rows(frame, known), _flat_rows(frame.T, known.T)
    if not flat_rows and not flat_columns:
        return None
    # Where a gap crosses another, its neighbours do not measure either.
    rows = _constant_rows(frame, _with_columns(known, flat_columns), flat_rows)
    columns = _constant_rows(frame.T, _with_columns(known.T, flat_rows), flat_columns)
    if not rows and not columns:
        return None
    lines = np.zeros(frame.shape, np.bool_)
    lines[rows], lines[:, columns] = True, True
    return lines


def _flat_rows(frame: NDArray[Any], known: Mask) -> dict[int, Any]:
    """Rows of one single value, and the value."""
    # A line that measures shows it in its first pixels.
    head = frame[:, :8]
    flat = (head == head[:, :1]).all(axis=1) | known[:, :8].any(axis=1)
    value: dict[int, Any] = {}
    for row in np.flatnonzero(flat):
        kept = frame[row][~known[row]]
        if kept.size > 1 and (kept == kept[0]).all():
            value[int(row)] = kept[0]
    return value


def _with_columns(known: Mask, columns: Collection[int]) -> Mask:
    more = known.copy()
    more[:, list(columns)] = True
    return more


def _constant_rows(frame: NDArray[Any], known: Mask, value: dict[int, Any]) -> list[int]:
    """Those of the rows of one single value that do not measure."""
    found: list[int] = []
    for run in _runs(sorted(value)):
        beside = [row for row in (run[0] - 1, run[-1] + 1) if 0 <= row < len(frame)]
        beside = [row for row in beside if not known[row].all()]
        if len(run) <= _WIDEST and beside and all(value[row] == value[run[0]] for row in run):
            shown = [frame[row][~known[row]] for row in beside]
            inside = len(beside) == 2
            if all(_measures(line, value[run[0]], inside) for line in shown):
                found += run
    return found


def _runs(rows: list[int]) -> list[list[int]]:
    """Neighbouring rows together."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _measures(line: NDArray[Any], value: Any, inside: bool) -> bool:
    """Whether a line beside a constant one shows that the constant one should not be so.

    At the edge of the frame, where aligned images are padded, only another level shows it.
    """
    if not line.size:
        return False
    equal = line == value
    share = max(np.count_nonzero(equal), 1) / line.size
    if line.size * np.log(share) > np.log(_CHANCE):
        return False
    apart = max(np.mean(line > value), np.mean(line < value)) >= _ONE_SIDE
    return bool(apart) or (inside and int(np.count_nonzero(np.diff(equal))) >= _FEWEST_CHANGES)


def lines_in_words(lines: Mask) -> str:
    """Say which rows and columns are left out.

    Parameters
    ----------
    lines : ndarray
        True in them, shape (rows, columns).

    Returns
    -------
    str
        Such as ``rows 10-13 and column 30``; empty if there are none.

    Examples
    --------
    >>> import numpy as np
    >>> lines = np.zeros((48, 64), bool)
    >>> lines[10:14], lines[:, 30] = True, True
    >>> lines_in_words(lines)
    'rows 10-13 and column 30'
    """
    # A line may lack the pixels that are left out for another reason.
    parts = [
        _named(name, np.flatnonzero(lines.mean(axis=axis) > 0.5).tolist())
        for name, axis in (("row", 1), ("column", 0))
    ]
    return " and ".join(part for part in parts if part)


def _named(name: str, places: list[int]) -> str:
    runs = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in _runs(places)]
    if not runs:
        return ""
    return f"{name}{'s' if len(places) > 1 else ''} {', '.join(runs)}"
