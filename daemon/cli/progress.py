"""What an operator sees in the terminal: live progress, and the plan of a recipe."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...protocols.core.units import fluence_unit
from ..schedule.plan import CalibratePixel, Plan
from .tracking_pane import tracking_lines

# Where there is no terminal, a line of status comes at least this often (wall seconds).
_LINE_INTERVAL_S = 10.0


def clock_text(seconds: float | None) -> str:
    """A duration as people read it: ``4 s``, ``12 min 05 s``, ``2 h 03 min``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _value(value: float | None, pattern: str) -> str:
    return pattern.format(value) if value is not None else "–"


def status_lines(status: dict[str, Any], speed: float = 1.0) -> list[tuple[str, str]]:
    """Label and text of each line of the live view."""
    analysis = status.get("analysis") or {}
    frames, done = status.get("frames"), status.get("frames_done")
    lines = [
        ("state", status["state"] + (" (pausing)" if _pausing(status) else "")),
        ("temperature", _value(status.get("temperature_c"), "{:.1f} °C")),
    ]
    if frames is None:
        return lines + _notes(status)
    lost = status.get("frames_lost") or 0
    step = status.get("step") or (
        "preparing" if not status["step_index"] else "all frames acquired"
    )
    limit = status.get("dose_limit_e_per_nm2")
    unit = fluence_unit(limit or status["dose_e_per_nm2"])
    budget = f" of {unit.of(limit):.5g}" if limit else ""
    lines[1:1] = [("step", f"{status['step_index']}/{status['steps']}  {step}")]
    lines += [
        ("tilt", _value(status.get("tilt_deg"), "{:+.2f}°")),
        ("frames", f"{done} of {frames}" + (f", {lost} lost" if lost else "")),
        ("dose", f"{unit.of(status['dose_e_per_nm2']):.1f}{budget} {unit.typeset}"),
        ("left", clock_text(status["eta_s"] / speed)),
        *tracking_lines(status),
    ]
    if analysis:
        backlog = analysis.get("backlog", 0)
        text = f"{backlog} frames behind" if backlog else "up to date"
        pending = analysis.get("pending")
        if pending:
            text += f", {pending}"
        lines.append(("analysis", text if analysis.get("alive") else "died"))
    return lines + _notes(status)


# Text for each kind of loss. Lost frames are shown beside the frames.
_LOSSES = {
    ("analysis", "headers_only"): "frames that the analysis read from the file",
    ("views", "not_shown"): "frames not shown",
    ("monitor", "held_back"): "large messages not sent to monitors",
    ("monitor", "cut"): "monitors disconnected",
}


def _notes(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Holder of the control lease, and what was lost on the way to the consumers."""
    lines: list[tuple[str, str]] = []
    lease = status.get("lease")
    if lease:
        lines.append(("control", f"{lease['holder']}, for {lease['left_s']:.0f} s"))
    losses = status.get("losses") or {}
    lost = [
        f"{count} {text}"
        for (consumer, kind), text in _LOSSES.items()
        if (count := (losses.get(consumer) or {}).get(kind))
    ]
    if lost:
        lines.append(("losses", "; ".join(lost)))
    return lines


def _pausing(status: dict[str, Any]) -> bool:
    return bool(status.get("pause_requested")) and status["state"] == "running"


class ProgressView:
    """Shows a run live in the terminal, or in plain lines where there is none.

    Parameters
    ----------
    console : Console
        Where to write; plain lines if it is not a terminal.
    speed : float
        Experiment seconds per wall second, for the time left.
    """

    def __init__(self, console: Console, speed: float) -> None:
        self._console, self._speed = console, speed
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._last_state = ""
        self._last_time = 0.0

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, status: dict[str, Any]) -> None:
        """Show the latest status."""
        if self._console.is_terminal:
            self._live.update(self._render(status), refresh=True)
            return
        now = time.monotonic()
        if status["state"] != self._last_state or now - self._last_time > _LINE_INTERVAL_S:
            self._last_state, self._last_time = status["state"], now
            text = "  ".join(f"{name} {value}" for name, value in status_lines(status, self._speed))
            self._console.print(text, soft_wrap=True, highlight=False)

    def event(self, header: dict[str, Any]) -> None:
        """Show an event for the operator: a warning, an error, a hold, a new step."""
        level = header.get("level")
        if "step" in header and not self._console.is_terminal:
            text = f"step {header['step']} of {header.get('steps')}: {header.get('message')}"
            self._console.print(text, soft_wrap=True, highlight=False)
        if level in ("warning", "error") or "hold" in header:
            style = {"warning": "yellow", "error": "red"}.get(str(level), "")
            text = Text(f"{header.get('source')}: {header.get('message')}", style=style)
            self._console.print(text, soft_wrap=True)

    def _render(self, status: dict[str, Any]) -> Group:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        for name, value in status_lines(status, self._speed):
            table.add_row(name, value)
        frames = status.get("frames")
        if not frames:
            return Group(table)
        bar = ProgressBar(total=frames, completed=status.get("frames_done") or 0, width=60)
        return Group(Text(str(status.get("title", "")), style="bold"), table, bar)


def _number(value: float, digits: int = 3) -> str:
    """A number with so many digits at least, without a power of ten."""
    return f"{value:.0f}" if value >= 10**digits else f"{value:.{digits}g}"


def plan_table(plan: Plan) -> Group:
    """The plan for people, as ``pyrotome check`` prints it."""
    table = Table(title=plan.recipe.title, title_style="bold", title_justify="left")
    table.add_column("#", justify="right", style="dim")
    table.add_column("step")
    table.add_column("about", justify="right")
    unit = fluence_unit(max(plan.dose_e_per_nm2, plan.pixel_dose_e_per_nm2))
    table.add_column(f"dose, {unit.typeset}", justify="right")
    per_frame = plan.recipe.beam.dose_per_frame_e_per_nm2
    rows = zip(plan.operations, plan.durations_s, strict=True)
    for number, (operation, duration_s) in enumerate(rows, 1):
        stack = getattr(operation, "stack", None)
        frames = 0 if stack is None or stack.is_dark else stack.frames
        dose = f"{unit.of(frames * per_frame):.1f}" if stack is not None else ""
        if scans := getattr(operation, "scans", getattr(operation, "scouts", 0)):
            dose = f"{unit.of(scans * plan.scout_dose_e_per_nm2):.2g}"
        if isinstance(operation, CalibratePixel):
            dose = f"{unit.of(plan.pixel_dose_e_per_nm2):.2g}"
        table.add_row(str(number), operation.label, clock_text(duration_s), dose)
    total = Text.assemble(
        (f"{plan.frames} frames", "bold"),
        f" of {plan.recipe.beam.exposure_s:.3g} s, {_number(unit.of(per_frame))} "
        f"{unit.typeset} each; ",
        (f"{unit.of(plan.dose_e_per_nm2):.1f} {unit.typeset}", "bold"),
        f" in all, and up to {_number(unit.of(plan.parked_dose_e_per_nm2), 2)} while the blanker "
        "works",
        f" and {unit.of(plan.scouts_dose_e_per_nm2):.2g} by scouts"
        if plan.scouts_dose_e_per_nm2
        else "",
        f" and {unit.of(plan.pixel_dose_e_per_nm2):.2g} by the pixel calibration"
        if plan.pixel_dose_e_per_nm2
        else "",
        "; about ",
        (clock_text(plan.duration_s), "bold"),
        f"; at most {size_text(plan.bytes_uncompressed)} on disk",
        f"; {plan.worst_case}" if plan.worst_case else "",
    )
    return Group(table, total)


def tracking_table(told: dict[str, Any]) -> Group:
    """What tracking is to be expected to achieve, for people; series that are alike in one row.

    Parameters
    ----------
    told : dict
        As `expected_tracking` returns it.
    """
    table = Table(
        title="Tracking to expect, by recorded frames alone (nm)",
        title_style="bold",
        title_justify="left",
    )
    heads = (
        "series", "rms", "first", "beam shift", "focus", "depth", "scouts", "e/nm²",
    )  # fmt: skip
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    alike: list[tuple[tuple[str, ...], list[str]]] = []
    for one in told["series"]:
        shift = f"{one['largest_shift_nm']} of {told['shift_limit_nm']:.0f}"
        figures = (
            _value(one["expected_rms_nm"], "{:.0f}"),
            _value(one["first_frame_sd_nm"], "{:.0f}"),
            shift,
            _value(one["focus_sd_nm"], "{:.0f}"),
            _value(one["depth_of_focus_nm"], "±{:.0f}"),
            f"{one['scouts']}" if one["scouts"] else "",
            f"{one['scouts_dose_e_per_nm2']:.2g}" if one["scouts"] else "",
        )
        if not alike or alike[-1][0] != figures:
            alike.append((figures, []))
        alike[-1][1].append(one["name"])
    for figures, names in alike:
        table.add_row(names[0] + (f" to {names[-1]}" if len(names) > 1 else ""), *figures)
    known = "as learned, in the goniometer file" if told["basis"] != "assumptions" else "assumed"
    notes = Text(
        f"1 sd of one axis, before scouts; beam shift: the largest, of its limit; stage jitter "
        f"{told['jitter_nm']:.0f} nm ({known}); a frame counts as off from "
        f"{told['lost_beyond_nm']:.0f} nm",
        style="dim",
    )
    parts: list[Table | Text] = [table, notes]
    if rests := told["not_tracked"]:
        parts.append(Text(f"not tracked: {', '.join(rests)}", style="dim"))
    if most := max((one["focus_dose_e_per_nm2"] for one in told["series"]), default=0.0):
        count = max(one["focus_series"] for one in told["series"])
        text = (
            f"Focus series: up to {count} a tilt series, {most:g} e/nm\u00b2 at most (focus.dose)"
        )
        parts.append(Text(text, style="dim"))
    if any(one["beyond_shift_limit"] for one in told["series"]):
        parts.append(
            Text(
                "The beam shift may reach its limit where the specimen stands 2 um off the tilt "
                "axis: bring it to the axis first, or let the stage do it (limits of z in the rig)",
                style="yellow",
            )
        )
    return Group(*parts)
