"""Show the content of a run file in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...protocols.core.clock import iso_utc
from ...protocols.core.units import FluenceUnit, fluence_unit
from ...protocols.runfile.file_state import is_left_open
from ...protocols.runfile.summary import SeriesFigures, inspect_closely
from ..schedule.tilt_angles import angles_text

_MOST_GAPS = 8  # that are shown by their angles
_MOST_WARNINGS = 5  # of one series
_STAGE_MOVED_NM = 50.0  # along x, y or z within a series; less is read-back


def describe_file(path: Path) -> RenderableType:
    """Describe a run file.

    Parameters
    ----------
    path : Path
        A file of this software, complete, cut short or still growing.

    Returns
    -------
    rich renderable
        As :func:`describe`.

    Raises
    ------
    BadInput
        If the file is missing, cannot be read, or is not a run file.
    """
    described = describe(*inspect_closely(path))
    if not is_left_open(path):
        return described
    hint = f"{path} was left open by a killed program: run `pyrotome recover {path}`"
    return Group(described, Text(hint, style="yellow"))


def describe(report: dict[str, Any], figures: Sequence[SeriesFigures] = ()) -> RenderableType:
    """Lay out the report of a run file for a terminal.

    Parameters
    ----------
    report : dict
        What `inspect.inspect_file` returned.
    figures : sequence of SeriesFigures
        More of its series.

    Returns
    -------
    rich renderable
        A heading with the totals, and tables of the holds, the series and their results.
    """
    parts: list[RenderableType] = [_heading(report)]
    parts += [_gap_in_time(interruption) for interruption in report["interruptions"]]
    if report["holds"]:
        table = _table("Holds", ("#", "target", "requested", "achieved", "median", "max"))
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
    if (steering := report.get("steering")) is not None:
        text = f"{steering['chosen']} adaptive holds chosen, {steering['by_model']} by the model"
        parts.append(Text(text, style="dim"))
    planned = {f.series: f.planned for f in figures}
    begun = [s for s in report["series"] if s["frames"] or s["lost_frames"]]
    if begun:
        # Units in the heads: the table fits a terminal of 80 columns.
        unit = fluence_unit(report["dose_e_per_nm2"] or 0.0)
        heads = ("", "frames", "lost", "tilt/°", "T/°C", unit.typeset, "held/s")
        table = _table("Tilt series", heads)
        for series in begun:
            angles = [angle for angle in series["tilt_deg"] if angle is not None]
            span = f"{min(angles):+.0f} … {max(angles):+.0f}" if angles else "–"
            spread = _show(series["temperature_std_c"], " ± {:.1f}", "")
            table.add_row(
                series["name"],
                _of(series["frames"], planned.get(series["name"])),
                str(series["lost_frames"]) if series["lost_frames"] else "",
                span,
                _show(series["temperature_mean_c"], "{:.1f}" + spread),
                _show(_in(unit, series["dose_e_per_nm2"]), "{:.1f}"),
                _show(series["hold_total_s"], "{:.3f}"),
            )
        parts += ["", table]
        names = {series["name"] for series in begun}
        parts += [_gaps(f) for f in figures if f.series in names and f.missing_deg]
        parts += [_tracking(one["name"], one["tracking"]) for one in begun if one.get("tracking")]
        parts += [_atoms(one["name"], one["atoms"]) for one in begun if one.get("atoms")]
    parts += _results(report["series"], figures)
    if missing := len(report["series"]) - len(begun):
        parts.append(Text(f"{missing} planned tilt series not begun", style="dim"))
    return Group(*parts)


def _gap_in_time(interruption: dict[str, Any]) -> Text:
    begun_ns, ended_ns = interruption["from_ns"], interruption["until_ns"]
    text = f"interrupted {iso_utc(begun_ns)}, resumed after {(ended_ns - begun_ns) * 1e-9:.1f} s"
    if interruption["hot_s"]:
        text += f", {interruption['hot_s']:.1f} s of them at processing temperature"
    return Text(text + (f": {interruption['reason']}" if interruption["reason"] else ""), "yellow")


def _of(count: int, planned: int | None) -> str:
    return str(count) if planned in (count, None) else f"{count} of {planned}"


def _gaps(figures: SeriesFigures) -> Text:
    shown = angles_text(figures.missing_deg, _MOST_GAPS)
    return Text(f"{figures.series} lacks {shown}", style="yellow")


def _tracking(name: str, told: dict[str, Any]) -> Text:
    """How well the specimen of a series was kept in the frame, in one line."""
    rms, largest = (
        " ".join(_show(value, "{:.0f}") for value in told[key])
        for key in ("offset_rms_nm", "offset_largest_nm")
    )
    text = f"{name} tracked: rms {rms} nm (y x), largest {largest} nm"
    if told["frames_not_believed"]:
        text += f", {told['frames_not_believed']} frames not found"
    if told["scouts"]:
        text += f", {told['scouts']} scouts{_show(told['scout_dose_e_per_nm2'], ' ({:.2g} e/nm²)')}"
    moved = {axis: span[1] - span[0] for axis, span in told["stage_nm"].items() if span}
    if any(way_nm > _STAGE_MOVED_NM for way_nm in moved.values()):
        ways = ", ".join(f"{axis} {way_nm:.0f}" for axis, way_nm in moved.items())
        text += f", the stage moved by {ways} nm"
    return Text(text, style="dim")


def _atoms(name: str, told: dict[str, Any]) -> Text:
    """The atoms of a series, in one line."""
    error_nm, unsure = told["position_error_median_nm"], told["below_95_percent"]
    text = f"{name}: {told['count']} atoms of {'/'.join(told['species'])}"
    if error_nm is not None:
        text += f", position error {1000 * error_nm:.1f} pm (median), {unsure} below 95 %"
    if doubts := len(told["doubts"]):
        text += f", {doubts} doubt{'' if doubts == 1 else 's'}"
    return Text(text, style="yellow" if told["doubts"] else "default")


def _results(
    series: Sequence[dict[str, Any]], figures: Sequence[SeriesFigures]
) -> Iterator[RenderableType]:
    shown = [f for f in figures if f.volume_px is not None or f.pairs is not None]
    if shown:
        yield ""
        heads = ("", "volume (y z x)", "voxel/nm", "pairs", "r_n/r_p", "d/2r_p")
        table = _table("Results (medians of the pairs)", heads)
        for one in shown:
            table.add_row(
                one.series,
                " x ".join(str(side) for side in one.volume_px or ()),
                _show(one.voxel_nm, "{:.4g}"),
                _show(one.pairs, "{}"),
                _show(one.neck_to_particle, "{:.3f}"),
                _show(one.distance_to_diameter, "{:.3f}"),
            )
        yield table
    if any(one["results"] for one in series):
        yield ""
    # Every volume has slices: they are not listed.
    for names, alike in groupby(
        series, lambda one: ", ".join(n for n in one["results"] if not n.startswith("slice_"))
    ):
        first, *others = (one["name"] for one in alike)
        if names:
            yield Text(f"{first}{f' to {others[-1]}' if others else ''}: {names}", style="dim")
    for one in series:
        said = one.get("warnings", [])
        yield from (Text(text, style="yellow") for text in said[:_MOST_WARNINGS])
        if (more := len(said) - _MOST_WARNINGS) > 0:
            yield Text(f"{one['name']}: {more} more warnings (--json shows them)", style="yellow")


def _heading(report: dict[str, Any]) -> Text:
    colour = {"complete": "green", "running": "cyan"}.get(report["status"] or "", "yellow")
    text = Text(report["title"] or "untitled", style="bold")
    text.append(f"  {report['status']}\n", style=f"bold {colour}")
    text.append(f"{report['started']} · {report['software']}\n", style="dim")
    text.append(f"{report['frames']} frames", style="not bold")
    if report["lost_frames"]:
        text.append(f", {report['lost_frames']} lost", style="bold red")
    dose = _dose(report["dose_e_per_nm2"])
    text.append(f" · {dose} · {report['events']} events", style="not bold")
    return text


def _in(unit: FluenceUnit, e_per_nm2: float | None) -> float | None:
    return None if e_per_nm2 is None else unit.of(e_per_nm2)


def _dose(e_per_nm2: float | None) -> str:
    if e_per_nm2 is None:
        return "dose not known"
    unit = fluence_unit(e_per_nm2)
    return f"{unit.of(e_per_nm2):.1f} {unit.typeset}"


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
        table.add_column(head, justify="left" if number == 0 else "right")
    return table


def _show(value: float | None, form: str, absent: str = "–") -> str:
    return absent if value is None else form.format(value)
