"""Tables and plots of a run file: necks, shifts, growth, parameter search of the denoiser."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ...protocols.config.pipeline import NECK_COLUMNS, TRIAL_COLUMNS
from ...protocols.core.errors import BadInput
from ...protocols.runfile.reader import Run, Stack
from ..denoise.parameter_search import NoiseChoice, choice_of
from ..io.safe_output import new_file
from ..particles.necks import Neck, write_necks
from .plots import Row, plot_growth, plot_model, plot_tuning

NECKS, SHIFTS, TUNING = "necks", "shifts", "tuning"
_SHIFT_COLUMNS = (
    "series", "view", "nominal_tilt_deg", "shift_y_px", "shift_x_px", "shift_y_nm", "shift_x_nm"
)  # fmt: skip
_LABELS = NECK_COLUMNS.index("particle_a"), NECK_COLUMNS.index("particle_b")

Say = Callable[[str], None]


def neck_rows(run: Run, stacks: Iterable[Stack]) -> list[Row]:
    """Read the necks of the newest measurement of each series.

    Parameters
    ----------
    run : Run
        The run file.
    stacks : iterable of Stack
        Series of the run; series without a measurement are skipped.

    Returns
    -------
    list of (series, hold_total_s, Neck)
        `hold_total_s` is the time at the processing temperature in seconds, NaN if unknown.

    Raises
    ------
    BadInput
        If a table has other columns than this version writes.
    """
    rows: list[Row] = []
    for stack in stacks:
        stored = stack.results.get(NECKS)
        if stored is None:
            continue
        table = stored.data
        if table.shape[1:] != (len(NECK_COLUMNS),):
            columns = ", ".join(NECK_COLUMNS)
            raise BadInput(
                f"{run.path}: {stored.path}",
                f"is a table of shape {table.shape}; the columns {columns} are expected. Another "
                "version may have written it; `pyrotome process` measures the necks again",
            )
        total_s = run.hold_totals_s[stack.name]
        for line in table[np.isfinite(table).all(axis=1)]:
            values: list[Any] = [
                int(value) if column in _LABELS else float(value)
                for column, value in enumerate(line)
            ]
            neck = Neck(**dict(zip(NECK_COLUMNS, values, strict=True)))
            rows.append((stack.name, math.nan if total_s is None else total_s, neck))
    return rows


def write_shifts(path: Path, run: Run, stacks: Iterable[Stack]) -> None:
    """Write the shifts of the newest alignment of each series as CSV.

    Parameters
    ----------
    path : Path
        CSV file; an existing file is replaced. Fields of missing views are empty.
    run : Run
        The run file.
    stacks : iterable of Stack
        Series of the run; series without an alignment are skipped.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_SHIFT_COLUMNS)
        for stack in stacks:
            stored = stack.results.get(SHIFTS)
            if stored is None:
                continue
            table = stored.data
            angles = stack.views_deg if len(stack.views_deg) == len(table) else [""] * len(table)
            for view, (angle, shift) in enumerate(zip(angles, table, strict=True)):
                lengths = (*shift, *(shift * stack.pixel_nm))
                texts = (f"{v:.6g}" if math.isfinite(v) else "" for v in lengths)
                writer.writerow([stack.name, view, angle, *texts])


def with_known_time(rows: Sequence[Row], say: Say) -> list[Row]:
    """Keep the rows whose time at the processing temperature is known.

    Parameters
    ----------
    rows : sequence of (series, hold_total_s, Neck)
        See :func:`neck_rows`.
    say : callable
        Called with a message about the series that are left out.

    Returns
    -------
    list of (series, hold_total_s, Neck)
        The rows with a finite time.

    Examples
    --------
    >>> neck = Neck(1, 2, 10.0, 75.0, 149.0, 149.0, 0.0, 1.0, 0.133, 0.993)
    >>> len(with_known_time([("series_001", 5.0, neck), ("series_002", math.nan, neck)], print))
    the time at processing temperature before series_002 is not known (series imported, or a hold
    not in the heater's log): the plots leave it out
    1
    """
    known = [row for row in rows if math.isfinite(row[1])]
    left_out = dict.fromkeys(name for name, total_s, _ in rows if not math.isfinite(total_s))
    if left_out:
        say(
            f"the time at processing temperature before {', '.join(left_out)} is not known "
            "(series imported, or a hold not in the heater's log): the plots leave it out"
        )
    return known


PLOTS: dict[str, Callable[[Path, Iterable[Row]], None]] = {
    "growth": plot_growth,
    "model": plot_model,
}


def tuning_of(run: Run, stack: Stack) -> NoiseChoice | None:
    """Read the newest parameter search by the frames of an image stack.

    Parameters
    ----------
    run : Run
        The run file.
    stack : Stack
        An image stack of the run, usually of reference frames.

    Returns
    -------
    Choice or None
        None if there was no parameter search.

    Raises
    ------
    BadInput
        If the table cannot be read.
    """
    stored = stack.results.get(TUNING)
    if stored is None:
        return None
    try:
        return choice_of(stored.data)
    except ValueError as error:
        raise BadInput(f"{run.path}: {stored.path}", str(error)) from None


def write_tuning(path: Path, choices: Mapping[str, NoiseChoice]) -> None:
    """Write the trials of parameter searches as CSV.

    Parameters
    ----------
    path : Path
        CSV file; an existing file is replaced. A row without noise type is the noisy frame.
    choices : mapping of str to Choice
        Results of parameter searches by the name of the image stack.

    Examples
    --------
    >>> import tempfile
    >>> choice = NoiseChoice("white", 4.0, 30.0, 20.0, ())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tuning(Path(folder) / "t.csv", {"reference_001": choice})
    ...     print((Path(folder) / "t.csv").read_text().splitlines()[1])
    reference_001,,,20.0000
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stack", *TRIAL_COLUMNS])
        for name, choice in choices.items():
            for trial in choice.trials:
                variance = trial.variance if trial.variance == "auto" else f"{trial.variance:.6g}"
                writer.writerow([name, trial.noise, variance, f"{trial.psnr_db:.4f}"])
            writer.writerow([name, "", "", f"{choice.noisy_psnr_db:.4f}"])


def write_beside(run: Run, names: Sequence[str], folder: Path, say: Say) -> list[Path]:
    """Write tables and plots of the processed stacks of a run file ``X.nxs``.

    For tilt series these are ``X_necks.csv``, ``X_growth.png`` and ``X_model.png``; for reference
    frames with a parameter search ``X_tuning.png``.

    Parameters
    ----------
    run : Run
        The run file.
    names : sequence of str
        Names of the image stacks.
    folder : Path
        Folder of the files. Files are not overwritten: if a name is taken, all get a number.
    say : callable
        Called with a message about what is left out.

    Returns
    -------
    list of Path
        The files written; without necks there are no plots.
    """
    stacks = [run.stacks[name] for name in names]
    measured = [stack for stack in stacks if stack.kind == "series"]
    choices = [choice for stack in stacks if (choice := tuning_of(run, stack)) is not None]
    rows = neck_rows(run, measured)
    plotted = with_known_time(rows, say)
    if measured and not rows:
        say("no pair of particles with a neck is found: the table is empty and there are no plots")
    target = next(
        paths
        for paths in _candidates(folder, run.path.stem)
        if not any(path.exists() for path in paths.values())
    )
    written: list[Path] = []
    with ExitStack() as files:
        if measured:
            write_necks(files.enter_context(new_file(target[NECKS])), rows)
            written.append(target[NECKS])
        if choices:
            plot_tuning(files.enter_context(new_file(target[TUNING])), choices[-1])
            written.append(target[TUNING])
        for kind, plot in PLOTS.items() if plotted else ():
            plot(files.enter_context(new_file(target[kind])), plotted)
            written.append(target[kind])
    return written


def _candidates(folder: Path, stem: str) -> Iterator[dict[str, Path]]:
    number = 1
    while True:
        begin = stem if number == 1 else f"{stem}_{number}"
        yield {NECKS: folder / f"{begin}_necks.csv"} | {
            kind: folder / f"{begin}_{kind}.png" for kind in (*PLOTS, TUNING)
        }
        number += 1


def export_table(run: Run, target: Path, what: str, number: int | None, say: Say) -> list[Path]:
    """Export a table as CSV, or a plot as PNG, of one series or of all.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        The new file; it must not exist.
    what : str
        ``necks``, ``shifts``, ``growth``, ``model`` or ``tuning`` (table or plot).
    number : int or None
        Number of the tilt series; None for all.
    say : callable
        Called with a message about what is left out.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    BadInput
        If the run has no such result, or the file exists.
    """
    if what == TUNING:
        return _export_tuning(run, target)
    wanted = ".png" if what in PLOTS else ".csv"
    if target.suffix.lower() != wanted:
        kind = "plot" if what in PLOTS else "table"
        raise BadInput("--to", f"{target}: '{what}' is a {kind}; give a {wanted} file")
    stacks = _stacks_with(run, SHIFTS if what == SHIFTS else NECKS, number)
    if what == SHIFTS:
        with new_file(target) as partial:
            write_shifts(partial, run, stacks)
        return [target]
    _say_if_mixed(run, stacks, say)
    rows = neck_rows(run, stacks)
    if what in PLOTS:
        rows = with_known_time(rows, say)
        if not rows:
            raise BadInput(
                "--what",
                f"{run.path} has no neck at a known time at processing temperature: nothing to "
                f"plot; `--what {NECKS} --to FILE.csv` writes the table",
            )
    with new_file(target) as partial:
        if what in PLOTS:
            PLOTS[what](partial, rows)
        else:
            write_necks(partial, rows)
    return [target]


def _stacks_with(run: Run, needed: str, number: int | None) -> list[Stack]:
    """The requested series that have a result; an error if there are none."""
    requested = run.every_series() if number is None else [run.one_series(number)]
    stacks = [stack for stack in requested if stack.results.get(needed) is not None]
    if not stacks:
        there = dict.fromkeys(r.name for stack in requested for r in stack.all_results())
        of = str(run.path) if number is None else f"{requested[0].name} of {run.path}"
        step = "align" if needed == SHIFTS else "measure"
        raise BadInput(
            "--what",
            f"{of} holds no '{needed}'; it has {', '.join(['frames', *there])} "
            f"(`pyrotome process` with a step '{step}' makes them)",
        )
    return stacks


def _export_tuning(run: Run, target: Path) -> list[Path]:
    if target.suffix.lower() not in (".csv", ".png"):
        raise BadInput("--to", f"{target}: '{TUNING}' is a table or a plot; give a .csv or .png")
    choices = {
        name: choice
        for name, stack in run.stacks.items()
        if (choice := tuning_of(run, stack)) is not None
    }
    if not choices:
        raise BadInput(
            "--what",
            f"{run.path} holds no '{TUNING}': its pipeline has no `denoise: {{noise: auto}}`, or "
            "it has no reference frames",
        )
    with new_file(target) as partial:
        if target.suffix.lower() == ".csv":
            write_tuning(partial, choices)
        else:
            plot_tuning(partial, list(choices.values())[-1])
    return [target]


def _say_if_mixed(run: Run, stacks: Sequence[Stack], say: Say) -> None:
    groups = {
        stack.name: stored.process
        for stack in stacks
        if (stored := stack.results.get(NECKS)) is not None
    }
    if len(set(groups.values())) > 1:
        told = ", ".join(f"{name} process_{process:03d}" for name, process in groups.items())
        say(
            f"the newest necks may come from different processings ({told}); "
            "particles keep their numbers only within one"
        )
