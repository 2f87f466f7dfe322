"""Tracking of a run's tilt series: a table of all frames, and a picture."""
# matplotlib is imported when a picture is drawn, for it takes a second.
# pyright: basic

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...protocols.core.errors import BadInput
from ...protocols.runfile.reader import Run, Stack
from ...protocols.runfile.tracking_columns import SeriesTracking
from ..io.safe_output import check_table_or_plot, new_file

TRACKING = "tracking"
_DPI = 150
# So many series are drawn with lines, and with a band each of the focus; of more, the offsets are
# points, and the last series has the band.
_FEW = 3
_COLUMNS = (
    "series", "index", "tilt_deg", "predicted_y_nm", "predicted_x_nm", "sd_nm", "measured_y_nm",
    "measured_x_nm", "applied_y_nm", "applied_x_nm", "defocus_nm", "stage_x_nm", "stage_y_nm",
    "stage_z_nm",
)  # fmt: skip

Tracked = Mapping[str, tuple[Stack, SeriesTracking]]


def export_tracking(run: Run, target: Path, number: int | None) -> list[Path]:
    """Write what was applied, expected and measured in each frame: a CSV, or a picture as PNG.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        Where; nothing may be there.
    number : int or None
        Number of the tilt series; None for all.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    BadInput
        If the run did not track, no frame was taken yet, or `target` is neither.
    """
    check_table_or_plot(target, TRACKING)
    stacks = run.every_series() if number is None else [run.one_series(number)]
    tracked = {s.name: (s, told) for s in stacks if (told := s.tracking) is not None}
    if not tracked:
        raise BadInput("--what", f"{run.path} did not track: its recipe has no `track: model`")
    tracked = {
        name: one for name, one in tracked.items() if np.isfinite(one[1].shift_applied_nm).any()
    }
    if not tracked:
        raise BadInput("--what", f"{run.path} holds no tracked frame yet")
    with new_file(target) as partial:
        if target.suffix.lower() == ".csv":
            _write(partial, tracked)
        else:
            plot_tracking(partial, tracked, run.title or run.path.name)
    return [target]


def _write(path: Path, tracked: Tracked) -> None:
    """One row for each frame that was taken; a field that is not known is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for name, (stack, told) in tracked.items():
            numbers = np.column_stack(
                [
                    _tilt_deg(stack),
                    told.offset_predicted_nm,
                    told.shift_predicted_sd_nm.max(axis=1),
                    told.offset_measured_nm,
                    told.shift_applied_nm,
                    told.defocus_applied_nm,
                    told.stage_nm,
                ]
            )
            for index in np.flatnonzero(stack.exposed):
                texts = (f"{v:.6g}" if np.isfinite(v) else "" for v in numbers[index].tolist())
                writer.writerow([name, int(index), *texts])


def _tilt_deg(stack: Stack) -> Any:
    tilt_deg = stack.tilt_deg
    return np.where(np.isfinite(tilt_deg), tilt_deg, stack.nominal_tilt_deg)


# --- picture --------------------------------------------------------------------------------------


def plot_tracking(path: Path, tracked: Tracked, title: str) -> None:
    """Draw beam shift, measured offset and focus against the tilt, and the offset of each series.

    Parameters
    ----------
    path : Path
        The PNG; what is there is replaced.
    tracked : mapping
        Stack and tracking of each series by its name, in order.
    title : str
        Of the run.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 10.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 2)
    count = len(tracked)
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, max(2, count)))[:count]
    for axis, name in enumerate(("y, along the tilt axis", "x, across it")):
        _draw_shift(panels[0, axis], tracked, colours, axis)
        _draw_offset(panels[1, axis], tracked, colours, axis)
        panels[0, axis].set_title(f"Beam shift applied: {name}", fontsize="medium")
        panels[1, axis].set_title(f"Measured offset: {name}", fontsize="medium")
    _draw_focus(panels[2, 0], tracked, colours)
    _draw_series(panels[2, 1], tracked)
    for panel in (*panels[:2].flat, panels[2, 0]):
        panel.set_xlabel("tilt (°)")
        panel.axhline(0.0, color="0.75", lw=0.8, zorder=0)
    if count > 1:
        bounds = np.arange(count + 1) + 0.5
        mapped = ScalarMappable(BoundaryNorm(bounds, count), ListedColormap(colours))
        ticks = range(1, count + 1, -(-count // 10))
        bar = figure.colorbar(mapped, ax=panels[:2], ticks=ticks, label="series", fraction=0.03)
        bar.ax.minorticks_off()
        bar.ax.set_yticklabels([list(tracked)[int(t) - 1].removeprefix("series_") for t in ticks])
    figure.suptitle(title)
    figure.savefig(path, dpi=_DPI, format="png")


def _in_order(stack: Stack, *values: Any) -> list[Any]:
    """Tilt and other columns of the frames that were taken, by rising tilt."""
    tilt = _tilt_deg(stack)
    order = np.argsort(tilt, kind="stable")
    order = order[stack.exposed[order]]
    return [column[order] for column in (tilt, *values)]


def _draw_shift(panel: Any, tracked: Tracked, colours: Any, axis: int) -> None:
    for (stack, told), colour in zip(tracked.values(), colours, strict=True):
        tilt, shift = _in_order(stack, told.shift_applied_nm[:, axis])
        panel.plot(tilt, shift, ".-", color=colour, lw=1.0, ms=4)
    panel.set_ylabel("beam shift (nm)")


def _draw_offset(panel: Any, tracked: Tracked, colours: Any, axis: int) -> None:
    """Offsets over the band that was expected, and marks where the specimen was not found."""
    expected: dict[float, list[float]] = {}
    missed: list[float] = []
    for (stack, told), colour in zip(tracked.values(), colours, strict=True):
        tilt, offset, error, sd, score = _in_order(
            stack,
            told.offset_measured_nm[:, axis],
            told.offset_measured_sd_nm[:, axis],
            told.shift_predicted_sd_nm[:, axis],
            told.registration_score,
        )
        style = ".-" if len(tracked) <= _FEW else "."
        panel.errorbar(tilt, offset, error, fmt=style, color=colour, lw=1.0, ms=4, elinewidth=0.8)
        for angle, value in zip(tilt.round(1).tolist(), sd.tolist(), strict=True):
            if np.isfinite(value):
                expected.setdefault(angle, []).append(value)
        missed += tilt[np.isnan(offset) & np.isfinite(score)].tolist()
    if expected:
        angles = sorted(expected)
        band = np.array([np.sqrt(np.mean(np.square(expected[angle]))) for angle in angles])
        label = "±1 sd expected" + (", rms of the series" if len(tracked) > 1 else "")
        panel.fill_between(angles, -band, band, color="0.85", zorder=0, label=label)
        for edge in (-band, band):
            panel.plot(angles, edge, color="0.4", lw=0.8, zorder=3)
    lost_nm = next(iter(tracked.values()))[1].lost_beyond_nm
    widest = max(np.abs(panel.get_ylim()))
    if widest > 0.5 * lost_nm:
        widest = max(widest, 1.1 * lost_nm)
        for side, label in ((lost_nm, "counts as off beyond this"), (-lost_nm, None)):
            panel.axhline(side, color="tab:red", ls="--", lw=1.0, label=label)
    panel.set_ylim(-widest, 1.5 * widest)  # room for the legend
    if missed:
        across = panel.get_xaxis_transform()
        panel.plot(
            missed, [0.03] * len(missed), "x", color="tab:red", transform=across, label="not found"
        )
    panel.set_ylabel("offset (nm)")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize="small", frameon=False, loc="upper left")


def _draw_focus(panel: Any, tracked: Tracked, colours: Any) -> None:
    last = len(tracked) - 1
    bands = 0
    reach: list[float] = []
    for place, (stack, told) in enumerate(tracked.values()):
        tilt, focus, sd = _in_order(stack, told.defocus_applied_nm, told.defocus_sd_nm)
        panel.plot(tilt, focus, ".-", color=colours[place], lw=1.0, ms=4)
        usual = np.nanmedian(sd) if np.isfinite(sd).any() else 0.0
        reach += [float(np.nanmin(focus) - 2 * usual), float(np.nanmax(focus) + 2 * usual)]
        if (last < _FEW or place == last) and np.isfinite(sd).any():
            label = "±1 sd expected" + ("" if last < _FEW else ", last series")
            label = None if bands else label
            bands += 1
            panel.fill_between(
                tilt, focus - sd, focus + sd, color=colours[place], alpha=0.15, lw=0, label=label
            )
    # Before the height is known, the band is far wider than all the rest.
    if np.ptp(reach) > 0:
        panel.set_ylim(min(reach), max(reach))
    panel.set_title("Change of the focus applied", fontsize="medium")
    panel.set_ylabel("defocus (nm)")
    if bands:
        panel.legend(fontsize="small", frameon=False, loc="best")


def _draw_series(panel: Any, tracked: Tracked) -> None:
    """Rms and largest offset of each series."""
    numbers = [int(name.rsplit("_", 1)[-1]) for name in tracked]
    figures = [told.figures for _, told in tracked.values()]
    for axis, (name, colour) in enumerate((("y", "tab:blue"), ("x", "tab:orange"))):
        rms = [one.offset_rms[axis] for one in figures]
        largest = [one.offset_largest[axis] for one in figures]
        panel.plot(numbers, rms, "o-", color=colour, ms=4, label=f"{name}, rms")
        panel.plot(numbers, largest, "^:", color=colour, ms=4, lw=0.8, label=f"{name}, largest")
    panel.set_title("Measured offset of each series", fontsize="medium")
    panel.set(xlabel="series", ylabel="offset (nm)", ylim=(0, 1.3 * panel.get_ylim()[1]))
    panel.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    panel.set_xticks(numbers[:: -(-len(numbers) // 10)])
    panel.legend(fontsize="small", frameon=False, ncols=2)
