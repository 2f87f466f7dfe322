"""What a run file holds, measured from what was recorded; also while the file grows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.pipeline import NECK_COLUMNS
from ..core.errors import BadInput
from .holds import Hold
from .logs import warnings_of
from .reader import Floats, Run, Stack, open_run
from .recorded_atoms import ATOMS

# Part of the frames of a series that may be off before it is worth a warning.
_MOST_OFF = 0.1
# An atom of less probability is counted by itself.
_SURE = 0.95


def inspect_file(path: Path) -> dict[str, Any]:
    """Report what a run file holds.

    Parameters
    ----------
    path : Path
        A run file: complete, cut short or still growing.

    Returns
    -------
    dict
        The object that ``inspect --json`` prints; absent things are None.

    Raises
    ------
    BadInput
        If the file is missing, cannot be read, or is not a run file.
    """
    with open_run(path, growing=True) as run, run.reading():
        return report_of(run)


def inspect_closely(path: Path) -> tuple[dict[str, Any], list[SeriesFigures]]:
    """Report what a run file holds, with more about its series.

    Parameters
    ----------
    path : Path
        As for :func:`inspect_file`.

    Returns
    -------
    report : dict
        As :func:`inspect_file`.
    figures : list of SeriesFigures
        In the order of the series.

    Raises
    ------
    BadInput
        As :func:`inspect_file`.
    """
    with open_run(path, growing=True) as run, run.reading():
        return report_of(run), [SeriesFigures.of(stack) for stack in run.series]


def report_of(run: Run) -> dict[str, Any]:
    """Report what an open run file holds.

    Parameters
    ----------
    run : Run
        The open file.

    Returns
    -------
    dict
        As :func:`inspect_file`.
    """
    holds, totals_s = run.holds, run.hold_totals_s
    counts = [_counts(stack) for stack in run.stacks.values()]
    events = run.events
    return {
        "title": run.title,
        "status": run.status,
        "started": run.started,
        "software": run.software,
        "frames": sum(recorded for recorded, _ in counts),
        "lost_frames": sum(lost for _, lost in counts),
        "dose_e_per_nm2": run.dose_e_per_nm2,
        "events": run.event_count,
        "holds": [_hold_report(hold) for hold in holds],
        "series": [
            _series_report(stack, totals_s[stack.name])
            | _tracking_report(stack, warnings_of(events, stack.name))
            for stack in run.series
        ],
        "results": list(run.results),
        "interruptions": [
            interruption.model_dump(include={"from_ns", "until_ns", "hot_s", "reason"})
            for interruption in run.interruptions
        ],
        **_steering_report(run),
    }


def _steering_report(run: Run) -> dict[str, Any]:
    """How many holds were chosen, and by what; nothing for a run without adaptive holds."""
    table = run.steering
    if table is None:
        return {}
    chosen = table["hold"] > 0
    return {
        "steering": {
            "quantity": str(table["quantity"][0]) if chosen.any() else None,
            "chosen": int(chosen.sum()),
            "by_model": int((table["chosen_by"] == "model").sum()),
        }
    }


def _counts(stack: Stack) -> tuple[int, int]:
    """Frames recorded, and frames exposed but not in the file."""
    recorded = stack.recorded
    return int(recorded.sum()), int((stack.exposed & ~recorded).sum())


def _series_report(stack: Stack, hold_total_s: float | None) -> dict[str, Any]:
    there = stack.recorded  # before the columns: a growing file may get more between two reads
    exposed = there | stack.exposed
    temperature = stack.temperature_c[there]
    temperature = temperature[np.isfinite(temperature)]
    return {
        "name": stack.name,
        "frames": int(there.sum()),
        "lost_frames": int((exposed & ~there).sum()),
        "tilt_deg": [_number(angle) for angle in stack.tilt_deg[there]],
        "shape": list(stack.frame_shape),
        "temperature_mean_c": float(temperature.mean()) if temperature.size else None,
        "temperature_std_c": float(temperature.std()) if temperature.size else None,
        "dose_e_per_nm2": _sum(stack.dose_e_per_nm2[exposed]),
        "hold_total_s": hold_total_s,
        "results": list(stack.results),
        **_atoms_report(stack),
    }


def _atoms_report(stack: Stack) -> dict[str, Any]:
    """How many atoms were found and how well they are known; nothing where none were looked for."""
    if ATOMS not in stack.results:
        return {}
    try:
        atoms = stack.atoms
    except BadInput:
        return {}  # of another version; the name stands among the results
    assert atoms is not None
    error_nm = atoms.position_error_nm
    known = error_nm[np.isfinite(error_nm)]
    return {
        "atoms": {
            "count": len(atoms),
            "species": sorted(set(atoms.species)),
            "position_error_median_nm": float(np.median(known)) if known.size else None,
            "below_95_percent": int((atoms.probability < _SURE).sum()),
            "doubts": list(atoms.doubts),
        }
    }


def _tracking_report(stack: Stack, warnings: list[str]) -> dict[str, Any]:
    """How well the specimen was kept in the frame, and the warnings of the series."""
    tracking = stack.tracking
    if tracking is None:
        return {"warnings": warnings, "tracking": None}
    figures = tracking.figures
    seen = figures.frames_measured + figures.frames_not_believed
    off = figures.frames_off + figures.frames_not_believed
    if off > _MOST_OFF * max(1, seen):
        warnings = [
            *warnings,
            f"{stack.name}: {off} of {seen} frames were off by more than "
            f"{tracking.lost_beyond_nm:.0f} nm, or did not show the specimen where it was expected",
        ]
    return {
        "warnings": warnings,
        "tracking": {
            "frames_measured": figures.frames_measured,
            "frames_not_believed": figures.frames_not_believed,
            "frames_off": figures.frames_off,
            "lost_beyond_nm": tracking.lost_beyond_nm,
            "offset_rms_nm": [_number(value) for value in figures.offset_rms],
            "offset_largest_nm": [_number(value) for value in figures.offset_largest],
            "scouts": figures.scouts,
            "scout_dose_e_per_nm2": _number(figures.scout_dose),
            "scout_pictures": 0 if (scouts := stack.scouts) is None else len(scouts),
            "stage_nm": {
                axis: _range(tracking.stage_nm[:, place]) for place, axis in enumerate("xyz")
            },
        },
    }


def _hold_report(hold: Hold) -> dict[str, Any]:
    figures = hold.figures
    return {
        "index": hold.index,
        "target_c": hold.target_c,
        "requested_s": _number(hold.requested_s),
        "achieved_s": figures.achieved_s if figures else None,
        "median_c": figures.median_c if figures else None,
        "max_c": figures.max_c if figures else None,
    }


@dataclass(frozen=True)
class SeriesFigures:
    """More of one series than its report: its gaps, and what its newest results show.

    Attributes
    ----------
    series : str
        Its name.
    planned : int
        Frames that were planned.
    missing_deg : list of float
        Requested angles of those that are not in the file.
    volume_px : tuple of int or None
        Shape of the volume, (y, z, x).
    voxel_nm : float or None
        Side of its voxels.
    pairs : int or None
        Pairs of particles with a neck.
    neck_to_particle, distance_to_diameter : float or None
        Medians of r_n/r_p and d/2r_p over the pairs; None, as the others, where there is no result.
    """

    series: str
    planned: int
    missing_deg: list[float]
    volume_px: tuple[int, ...] | None = None
    voxel_nm: float | None = None
    pairs: int | None = None
    neck_to_particle: float | None = None
    distance_to_diameter: float | None = None

    @classmethod
    def of(cls, stack: Stack) -> SeriesFigures:
        """Read them from the file."""
        found: dict[str, Any] = {}
        results = stack.results
        volume, necks = results.get("volume"), results.get("necks")
        if volume is not None:
            found["volume_px"] = volume.shape
            along = next((axis.values for axis in volume.axes if axis.name == "x"), ())
            found["voxel_nm"] = float(along[1] - along[0]) if len(along) > 1 else None
        if necks is not None and necks.shape[1:] == (len(NECK_COLUMNS),):
            table = necks.data
            table = table[np.isfinite(table[:, 0])]
            found["pairs"] = len(table)
            for name in ("neck_to_particle", "distance_to_diameter") if len(table) else ():
                found[name] = float(np.median(table[:, NECK_COLUMNS.index(name)]))
        missing_deg = [float(angle) for angle in stack.nominal_tilt_deg[~stack.recorded]]
        return cls(stack.name, stack.frame_count, missing_deg, **found)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _range(values: Floats) -> list[float] | None:
    """Lowest and highest of what is known; None if nothing is."""
    known = values[np.isfinite(values)]
    return [float(known.min()), float(known.max())] if known.size else None


def _sum(values: Floats) -> float | None:
    """Sum of what is known; None if there is something and nothing of it is known."""
    return None if values.size and np.isnan(values).all() else float(np.nansum(values))
