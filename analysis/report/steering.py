"""The choices of a run with adaptive holds, as a table and as a plot."""
# matplotlib is imported when a picture is drawn, for it takes a second.
# pyright: basic

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ...protocols.core.errors import BadInput
from ...protocols.runfile.reader import Run
from ...protocols.runfile.steering_table import COLUMNS
from ..io.safe_output import check_table_or_plot, new_file

STEERING = "steering"
_DPI = 150


def export_steering(run: Run, target: Path) -> list[Path]:
    """Write what was chosen, predicted and measured: a CSV, or a plot as PNG.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        Where; nothing may be there. One row a choice, the last series without a hold.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    BadInput
        If the run has no adaptive holds, none was chosen yet, or `target` is neither.
    """
    check_table_or_plot(target, STEERING)
    table = run.steering
    if table is None:
        raise BadInput("--what", f"{run.path} has no adaptive holds: nothing steered it")
    if not len(table["time"]):
        raise BadInput("--what", f"{run.path} holds no choice yet")
    with new_file(target) as partial:
        if target.suffix.lower() == ".csv":
            _write(partial, table)
        else:
            plot_steering(partial, table)
    return [target]


def _write(path: Path, table: dict[str, Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = ["time_s" if name == "time" else name for name in COLUMNS]
        writer.writerow(names)
        for row in zip(*(table[name] for name in COLUMNS), strict=True):
            writer.writerow([_shown(value) for value in row])


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not np.isfinite(value):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def plot_steering(path: Path, table: dict[str, Any]) -> None:
    """Draw what was predicted of each series, with its 68 % interval, and what was measured.

    Parameters
    ----------
    path : Path
        The PNG; what is there is replaced.
    table : dict
        Columns of the table of adaptive holds, each of shape (rows,).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    growth, lengths = figure.subplots(1, 2)
    number = np.arange(1, len(table["time"]) + 1)
    quantity, statistic = table["quantity"][-1], table["statistic"][-1]
    column = "." in quantity
    label = f"{statistic} of {quantity}" if column else quantity
    growth.fill_between(
        number + 1, table["predicted_low"], table["predicted_high"], alpha=0.3, label="68 %"
    )
    growth.plot(number + 1, table["predicted"], "o--", ms=3, label="predicted before")
    error = np.nan_to_num(table["measured_error"])
    growth.errorbar(number, table["measured"], error, fmt="ks", ms=4, label="measured")
    growth.set(xlabel="series", ylabel=label)
    growth.legend(frameon=False)
    held = table["hold"] > 0
    lengths.semilogy(table["hold"][held], table["hold_s"][held], "ko-", ms=4)
    lengths.set(xlabel="hold", ylabel="chosen length in s")
    if np.ptp(table["temperature_c"][held]) > 0:
        other = lengths.twinx()
        other.plot(table["hold"][held], table["temperature_c"][held], "r^", ms=4)
        other.set_ylabel("chosen temperature in °C", color="r")
    figure.savefig(path, dpi=_DPI, format="png")
