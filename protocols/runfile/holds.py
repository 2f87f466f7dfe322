"""How long and how hot each hold was, measured from the heater's log in an open run file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..messages.manifest import Interruption
from . import layout

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HoldFigures:
    """One hold as the heater's telemetry shows it."""

    achieved_s: float
    median_c: float
    max_c: float
    up_s: float
    down_s: float


@dataclass(frozen=True)
class Hold:
    """A hold as it was requested; `figures` is None where it did not take place, or not yet.

    `commanded` is false where the heater got no command, as when a steered cycle ended earlier.
    """

    index: int
    target_c: float
    requested_s: float
    commanded: bool
    figures: HoldFigures | None


@dataclass(frozen=True)
class Hole:
    """A time without record, in seconds as the log counts them.

    `hot_s` is how long of it the specimen was at processing temperature.
    """

    from_s: float
    until_s: float
    hot_s: float


def measure_hold(
    time_s: Floats,
    temperature_c: Floats,
    midpoint_c: float,
    up_from_s: float = -np.inf,
    down_from_s: float = -np.inf,
    holes: Sequence[Hole] = (),
) -> HoldFigures | None:
    """Measure a hold between the crossings of the midpoint, interpolated between samples.

    Where the run was interrupted within it, only what was recorded above the midpoint counts, and
    `hot_s` of what was not; no line is drawn across a hole.

    Parameters
    ----------
    time_s, temperature_c : ndarray of shape (samples,)
        Telemetry of the heater, in order of time and without NaN.
    midpoint_c : float
        Midpoint between standby and processing temperature.
    up_from_s, down_from_s : float
        Where to begin to look for the upward and for the downward crossing.
    holes : sequence of Hole
        Interruptions of the run.

    Returns
    -------
    HoldFigures or None
        None if the temperature did not cross the midpoint upwards and then downwards.
    """
    above = temperature_c >= midpoint_c
    ups = np.flatnonzero(~above[:-1] & above[1:])
    downs = np.flatnonzero(above[:-1] & ~above[1:])
    ups = ups[time_s[ups + 1] >= up_from_s]
    if not ups.size:
        return None
    up = int(ups[0])
    downs = downs[(downs > up) & (time_s[downs + 1] >= down_from_s)]
    if not downs.size:
        return None
    down = int(downs[0])
    across = _across(time_s, holes)
    begin_s = min(up_from_s, time_s[up + 1]) if np.isfinite(up_from_s) else time_s[up]
    within_holes = [h for h in holes if h.until_s > begin_s and h.from_s < time_s[down + 1]]
    if not within_holes:
        up_s = _crossing(time_s, temperature_c, midpoint_c, up)
        down_s = _crossing(time_s, temperature_c, midpoint_c, down)
        within = temperature_c[up + 1 : down + 1]
        hot = float(np.median(within)), float(np.max(within))
        return HoldFigures(down_s - up_s, *hot, up_s, down_s)
    # Crossings within a hole are known by the samples before and after it alone.
    up_s = time_s[up + 1] if across[up] else _crossing(time_s, temperature_c, midpoint_c, up)
    down_s = time_s[down] if across[down] else _crossing(time_s, temperature_c, midpoint_c, down)
    recorded_s = _time_above(time_s, temperature_c, midpoint_c, across, up, down)
    within = temperature_c[up + 1 : down + 1][above[up + 1 : down + 1]]
    return HoldFigures(
        recorded_s + sum(hole.hot_s for hole in within_holes),
        float(np.median(within)), float(np.max(within)), float(up_s), float(down_s),
    )  # fmt: skip


def _across(time_s: Floats, holes: Sequence[Hole]) -> NDArray[np.bool_]:
    """Which steps from one sample to the next lead across a hole."""
    across = np.zeros(max(0, len(time_s) - 1), bool)
    for hole in holes:
        # The step to the first sample after the hole, from the last one that is not after it.
        step = int(np.searchsorted(time_s, hole.until_s, "left")) - 1
        if 0 <= step < len(across):
            across[step] = True
    return across


def _time_above(
    time_s: Floats,
    temperature_c: Floats,
    level_c: float,
    across: NDArray[np.bool_],
    first: int,
    last: int,
) -> float:
    """Time above a level in the steps from `first` to `last`, holes left out."""
    part = slice(first, last + 2)
    step_s = np.diff(time_s[part])
    before, after = temperature_c[part][:-1] - level_c, temperature_c[part][1:] - level_c
    high, low = np.maximum(before, after), np.minimum(before, after)
    crossing = (high >= 0) & (low < 0)
    share = np.where(low >= 0, 1.0, 0.0)
    share[crossing] = high[crossing] / (high[crossing] - low[crossing])
    share[across[first : last + 1]] = 0.0
    return float((share * step_s).sum())


def _crossing(time_s: Floats, temperature_c: Floats, level_c: float, index: int) -> float:
    before, after = temperature_c[index], temperature_c[index + 1]
    part = (level_c - before) / (after - before)
    return float(time_s[index] + part * (time_s[index + 1] - time_s[index]))


def interruptions_of(file: Any) -> list[Interruption]:
    """Times in which the experiment was not controlled, in order; empty for most runs."""
    names = ("from_ns", "until_ns", "hot_s", "reason")
    columns = [_values(file, f"{layout.INTERRUPTIONS}/{name}") for name in names]
    return [
        Interruption(
            from_ns=int(begun),
            until_ns=int(ended),
            hot_s=float(hot),
            reason=bytes(why).decode("utf-8", "replace"),
        )
        for begun, ended, hot, why in zip(*columns, strict=False)
    ]


def holds_of(file: Any) -> list[Hold]:
    """Measure every hold of a run.

    Parameters
    ----------
    file : h5py.File
        A run file, complete, cut short or still growing.

    Returns
    -------
    list of Hold
        In the order of the recipe; empty where there was none.
    """
    index = _values(file, f"{layout.HOLDS}/index")
    standby, target, requested = (
        _values(file, f"{layout.HOLDS}/{name}") for name in ("standby_c", "target_c", "requested_s")
    )
    commands = [
        _values(file, f"{layout.HOLDS}/{name}") for name in ("commanded_up_ns", "commanded_down_ns")
    ]
    time_s, temperature_c, start_ns = heater_log(file)
    any_commanded = bool(len(index)) and bool((commands[0] >= 0).any())
    holes = [
        Hole((i.from_ns - start_ns) * 1e-9, (i.until_ns - start_ns) * 1e-9, i.hot_s)
        for i in interruptions_of(file)
    ]
    cursor_s = -np.inf
    holds: list[Hold] = []
    for row in range(len(index)):
        up_s, down_s = (
            (column[row] - start_ns) * 1e-9 if column[row] >= 0 else -np.inf for column in commands
        )
        figures = None
        commanded = bool(commands[0][row] >= 0) or not any_commanded
        if commanded:
            midpoint_c = (standby[row] + target[row]) / 2
            from_s = max(up_s, cursor_s)
            figures = measure_hold(time_s, temperature_c, midpoint_c, from_s, down_s, holes)
        if figures is not None:
            cursor_s = figures.down_s
        request = int(index[row]), float(target[row]), float(requested[row])
        holds.append(Hold(*request, commanded, figures))
    return holds


def hold_total_s(file: Any, stack: str, holds: Sequence[Hold]) -> float | None:
    """Time at processing temperature before a stack of frames.

    Parameters
    ----------
    file : h5py.File
        A run file.
    stack : str
        Such as ``series_002``.
    holds : sequence of Hold
        From :func:`holds_of`.

    Returns
    -------
    float or None
        None where it is not known: in an imported series, after a hold that cannot be measured,
        or before the stack was begun.
    """
    path = layout.holds_before_path(stack)
    if path not in file:
        return None
    begun = bool(
        (_values(file, layout.image_key_path(stack)) == layout.key_of_recorded(stack)).any()
    )
    total_s = 0.0
    for hold in holds[: int(file[path][()])]:
        if hold.figures is not None:
            total_s += hold.figures.achieved_s
        elif hold.commanded or not begun:
            return None
    return total_s


def heater_log(file: Any) -> tuple[Floats, Floats, int]:
    """The heater's log of an open run file, in order of time and without gaps in its numbers.

    Returns
    -------
    time_s, temperature_c : ndarray of shape (samples,)
        Empty where there is none.
    start_ns : int
        The zero of that time, in UTC nanoseconds.
    """
    nothing = np.empty(0), np.empty(0), 0
    device = f"{layout.TELEMETRY}/{layout.HEATER}"
    if device not in file:
        return nothing
    units = {name: str(log["value"].attrs.get("units", "")) for name, log in file[device].items()}
    channel = layout.temperature_channel(units)
    if channel is None:
        return nothing
    log = file[f"{device}/{channel}"]
    start_ns = int(log["time"].attrs["start_ns"])
    time_s, value = log["time"][...], log["value"][...]
    count = min(len(time_s), len(value))  # a growing file may have one written before the other
    time_s, value = time_s[:count], value[:count]
    good = np.isfinite(time_s) & np.isfinite(value)
    order = np.argsort(time_s[good], kind="stable")
    return time_s[good][order], value[good][order], start_ns


def _values(file: Any, path: str) -> Any:
    return file[path][...] if path in file else np.empty(0)
