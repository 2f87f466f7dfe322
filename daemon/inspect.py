"""What a run file holds, measured from what was recorded; reads only, also while the file grows."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# h5py carries no types.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..protocols import layout
from ..protocols.loading import BadInput

Floats = NDArray[np.float64]


def inspect_file(path: Path) -> dict[str, Any]:
    """Report what a run file holds.

    Parameters
    ----------
    path : Path
        A file of this software, complete, cut short or still growing.

    Returns
    -------
    dict
        The object that ``inspect --json`` prints; absent things are None.

    Raises
    ------
    BadInput
        If the file is missing, cannot be read, or is none of ours.
    """
    file = _open(path)
    try:
        return _report(file)
    except (KeyError, OSError, RuntimeError) as error:
        raise BadInput(str(path), f"is a damaged or unfinished run file: {error}") from error
    finally:
        file.close()


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as raw:
            superblock = raw.read(12)
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except IsADirectoryError:
        raise BadInput(str(path), "is a folder; name a run file") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    if not h5py.is_hdf5(path):
        raise BadInput(str(path), "is not an HDF5 file, so it is no run file")
    # The mark of a SWMR writer. A file opens as SWMR only where there is (or was) one: HDF5 would
    # otherwise read a damaged spot again and again, for minutes, in the hope that it gets better.
    growing = len(superblock) == 12 and superblock[8] >= 3 and bool(superblock[11] & 4)
    try:
        file: Any = h5py.File(path, "r", swmr=growing)
    except OSError as error:
        raise BadInput(str(path), f"HDF5 cannot open it: {error}") from None
    if layout.STATUS not in file or f"{layout.ENTRY}/title" not in file:
        file.close()
        raise BadInput(str(path), f"is HDF5 but no run file: it has no {layout.STATUS}")
    return file


def _report(file: Any) -> dict[str, Any]:
    holds = _holds(file)
    stacks = [_Stack(file, name) for name in file if layout.frames_path(name) in file]
    stacks.sort(key=lambda stack: stack.name)
    dose = _number(file[layout.DOSE_TOTAL][()]) if layout.DOSE_TOTAL in file else None
    if dose is None:
        dose = _last(_values(file, f"{layout.DOSE}/value"))
    return {
        "title": _text(file, f"{layout.ENTRY}/title"),
        "status": _text(file, layout.STATUS),
        "started": _text(file, f"{layout.ENTRY}/start_time"),
        "software": _text(file, f"{layout.RUN}/software"),
        "frames": sum(stack.recorded for stack in stacks),
        "lost_frames": sum(stack.lost for stack in stacks),
        "dose_e_per_nm2": dose,
        "events": len(_values(file, f"{layout.EVENTS}/time")),
        "holds": holds,
        "series": [stack.report(holds) for stack in stacks if stack.is_series],
    }


class _Stack:
    """One group of frames, as far as it was recorded."""

    def __init__(self, file: Any, name: str) -> None:
        self.name, self._file = name, file
        self.is_series = _text(file, f"/{name}/definition") == "NXtomo"
        there = _values(file, layout.image_key_path(name)) == layout.RECORDED
        stamped = np.isfinite(_values(file, layout.column_path(name, "t_ns")))
        self.recorded, self.lost = int(there.sum()), int((stamped & ~there).sum())
        self._there, self._stamped = there, stamped | there

    def report(self, holds: Sequence[dict[str, Any]]) -> dict[str, Any]:
        temperature = self._column("temperature_c")[self._there]
        temperature = temperature[np.isfinite(temperature)]
        tilt = self._column("tilt_deg")[self._there]
        dose = self._column("dose_e_per_nm2")[self._stamped]
        return {
            "name": self.name,
            "frames": self.recorded,
            "lost_frames": self.lost,
            "tilt_deg": [_number(angle) for angle in tilt],
            "shape": list(self._file[layout.frames_path(self.name)].shape[1:]),
            "temperature_mean_c": float(temperature.mean()) if temperature.size else None,
            "temperature_std_c": float(temperature.std()) if temperature.size else None,
            "dose_e_per_nm2": _sum(dose),
            "hold_total_s": self._hold_total_s(holds),
            "results": self._results(),
        }

    def _column(self, key: str) -> Floats:
        return _values(self._file, layout.column_path(self.name, key))

    def _hold_total_s(self, holds: Sequence[dict[str, Any]]) -> float | None:
        path = f"/{self.name}/frames/holds_before"
        before = int(self._file[path][()]) if path in self._file else 0
        achieved = [hold["achieved_s"] for hold in holds[:before]]
        if None in achieved:
            return None
        return float(sum(achieved))

    def _results(self) -> list[str]:
        """Names of the results of which at least a part was written."""
        stack = self._file[self.name]
        found: list[str] = []
        for process in sorted(name for name in stack if name.startswith("process_")):
            for name, group in stack[process].items():
                is_data = group.attrs.get("NX_class") == "NXdata" and "data" in group
                if is_data and _is_written(group["data"]):
                    found.append(name)
        return found


def _is_written(data: Any) -> bool:
    if data.chunks is None:
        return bool(data.id.get_storage_size())
    return data.id.get_num_chunks() > 0


@dataclass(frozen=True)
class HoldFigures:
    """One hold as the heater's telemetry shows it."""

    achieved_s: float
    median_c: float
    max_c: float
    up_s: float
    down_s: float


def measure_hold(
    time_s: Floats,
    temperature_c: Floats,
    midpoint_c: float,
    up_from_s: float = -np.inf,
    down_from_s: float = -np.inf,
) -> HoldFigures | None:
    """Measure a hold between the crossings of the midpoint, interpolated between samples.

    Parameters
    ----------
    time_s, temperature_c : ndarray of shape (samples,)
        Telemetry of the heater, in order of time and without NaN.
    midpoint_c : float
        Midpoint between standby and processing temperature.
    up_from_s, down_from_s : float
        Where to begin to look for the upward and for the downward crossing.

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
    up_s = _crossing(time_s, temperature_c, midpoint_c, up)
    down_s = _crossing(time_s, temperature_c, midpoint_c, down)
    within = temperature_c[up + 1 : down + 1]
    return HoldFigures(down_s - up_s, float(np.median(within)), float(np.max(within)), up_s, down_s)


def _crossing(time_s: Floats, temperature_c: Floats, level_c: float, index: int) -> float:
    before, after = temperature_c[index], temperature_c[index + 1]
    part = (level_c - before) / (after - before)
    return float(time_s[index] + part * (time_s[index + 1] - time_s[index]))


def _holds(file: Any) -> list[dict[str, Any]]:
    index = _values(file, f"{layout.HOLDS}/index")
    standby, target, requested = (
        _values(file, f"{layout.HOLDS}/{name}") for name in ("standby_c", "target_c", "requested_s")
    )
    commands = [
        _values(file, f"{layout.HOLDS}/{name}") for name in ("commanded_up_ns", "commanded_down_ns")
    ]
    time_s, temperature_c, start_ns = _heater(file)
    any_commanded = bool(len(index)) and bool((commands[0] >= 0).any())
    cursor_s = -np.inf
    holds: list[dict[str, Any]] = []
    for row in range(len(index)):
        up_s, down_s = (
            (column[row] - start_ns) * 1e-9 if column[row] >= 0 else -np.inf for column in commands
        )
        figures = None
        if commands[0][row] >= 0 or not any_commanded:
            midpoint_c = (standby[row] + target[row]) / 2
            from_s = max(up_s, cursor_s)
            figures = measure_hold(time_s, temperature_c, midpoint_c, from_s, down_s)
        if figures is not None:
            cursor_s = figures.down_s
        holds.append(
            {
                "index": int(index[row]),
                "target_c": float(target[row]),
                "requested_s": float(requested[row]),
                "achieved_s": figures.achieved_s if figures else None,
                "median_c": figures.median_c if figures else None,
                "max_c": figures.max_c if figures else None,
            }
        )
    return holds


def _heater(file: Any) -> tuple[Floats, Floats, int]:
    """Time in s, temperature in deg C, and the zero of that time as UTC nanoseconds."""
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


def _text(file: Any, path: str) -> str | None:
    if path not in file:
        return None
    value = file[path][()]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text or None


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sum(values: Floats) -> float | None:
    """Sum of what is known; None if there is something and nothing of it is known."""
    return None if values.size and np.isnan(values).all() else float(np.nansum(values))


def _last(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None


def describe(report: dict[str, Any]) -> RenderableType:
    """Lay out a report for a person at a terminal.

    Parameters
    ----------
    report : dict
        What `inspect_file` returned.

    Returns
    -------
    rich renderable
        A heading with the totals, a table of the holds and one of the series.
    """
    parts: list[RenderableType] = [_heading(report)]
    if report["holds"]:
        table = _table("Holds", ("#", "target", "asked", "achieved", "median", "max"))
        for hold in report["holds"]:
            table.add_row(
                str(hold["index"]),
                _show(hold["target_c"], "{:.0f} °C"),
                _show(hold["requested_s"], "{:g} s"),
                _show(hold["achieved_s"], "{:.3f} s"),
                _show(hold["median_c"], "{:.1f} °C"),
                _show(hold["max_c"], "{:.1f} °C"),
            )
        parts += ["", table]
    begun = [s for s in report["series"] if s["frames"] or s["lost_frames"]]
    if begun:
        # Units in the heads: the table fits a terminal of 80 columns.
        heads = ("", "frames", "lost", "tilt/°", "T/°C", "e/nm²", "held/s", "results")
        table = _table("Tilt series", heads)
        for series in begun:
            angles = [angle for angle in series["tilt_deg"] if angle is not None]
            span = f"{min(angles):+.0f} … {max(angles):+.0f}" if angles else "–"
            spread = _show(series["temperature_std_c"], " ± {:.1f}", "")
            table.add_row(
                series["name"],
                str(series["frames"]),
                str(series["lost_frames"]) if series["lost_frames"] else "",
                span,
                _show(series["temperature_mean_c"], "{:.1f}" + spread),
                _show(series["dose_e_per_nm2"], "{:.1f}"),
                _show(series["hold_total_s"], "{:.3f}"),
                # The slices of a volume go without saying.
                ", ".join(name for name in series["results"] if not name.startswith("slice_")),
            )
        parts += ["", table]
    if missing := len(report["series"]) - len(begun):
        parts.append(Text(f"{missing} planned tilt series not begun", style="dim"))
    return Group(*parts)


def _heading(report: dict[str, Any]) -> Text:
    colour = {"complete": "green", "running": "cyan"}.get(report["status"] or "", "yellow")
    text = Text(report["title"] or "untitled", style="bold")
    text.append(f"  {report['status']}\n", style=f"bold {colour}")
    text.append(f"{report['started']} · {report['software']}\n", style="dim")
    text.append(f"{report['frames']} frames", style="not bold")
    if report["lost_frames"]:
        text.append(f", {report['lost_frames']} lost", style="bold red")
    dose = _show(report["dose_e_per_nm2"], "{:.1f} e/nm²", "dose not known")
    text.append(f" · {dose} · {report['events']} events", style="not bold")
    return text


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for number, head in enumerate(heads):
        last_text = head in {"", "results"}
        table.add_column(head, justify="left" if last_text or number == 0 else "right")
    return table


def _show(value: float | None, form: str, absent: str = "–") -> str:
    return absent if value is None else form.format(value)
