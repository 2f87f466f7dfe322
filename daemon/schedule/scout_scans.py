"""Sparse scans that tell where the specimen is: of the field of a frame, or of a wider one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...protocols.config.recipe import BeamSettings
from ...protocols.messages.manifest import ScoutGrid
from .switching import LEAST_ON_S, SWITCHING_S

# Width of a search, in widths of the field.
WIDE = 3
# Angles at which the height of the specimen is measured, the largest one last.
HEIGHT_TILTS_DEG = (0.0, 2.0, 5.0, 10.0, 16.0, 8.0, 0.0, -8.0)
# Where it is looked at again once the stage has moved.
HEIGHT_CHECK_DEG = (0.0, 16.0)
# Deflections that tell what the beam shift does, in steps from where the deflectors stand; the
# middle is seen at both ends, for the drift.
SHIFT_PATTERN: tuple[tuple[float, float], ...] = (
    (0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (0, 0),
)  # fmt: skip


@dataclass(frozen=True)
class ScoutScan:
    """How a scout is scanned.

    Attributes
    ----------
    columns : int
        Positions along a row, in the width of a frame's field.
    at_once : bool
        Whether the beam is blanked without waiting for the end of the scan: what would be received
        by one spot while the commands travel goes into the picture, whose last rows may be dark.
    """

    columns: int
    at_once: bool = False


# Many positions where there is dose for them, few where a small budget has to do for every frame.
# The specimen is found to some 1, 2 and 3 nm.
_WAITED_FOR = (ScoutScan(64), ScoutScan(48))
# Of those that end at once the longest is taken that is over before the beam goes off.
_AT_ONCE = tuple(ScoutScan(columns, at_once=True) for columns in (128, 96, 64, 48, 32))
SCOUT_SCANS = (*_WAITED_FOR, *_AT_ONCE)


@dataclass(frozen=True)
class BeamOnTimes:
    """For how long blanker and trigger keep the beam on, in wall seconds.

    Attributes
    ----------
    parked_s : float
        Beside a scan whose end is waited for.
    least_s : float
        In all, where the command that blanks follows the trigger at once.
    speed : float
        How much faster than a wall clock the experiment runs.
    """

    parked_s: float = SWITCHING_S
    least_s: float = LEAST_ON_S
    speed: float = 1.0


def scout_settings(
    beam: BeamSettings,
    *,
    columns: int = SCOUT_SCANS[0].columns,
    wide: bool = False,
    most: tuple[int, int] | None = None,
) -> BeamSettings:
    """Beam and scan of a scout: the probe and dwell time of a frame at far fewer positions.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    columns : int
        Positions along a row, in the width of a frame's field.
    wide : bool
        Whether the scan is a search: of a field `WIDE` times as large, at the same density.
    most : tuple of int, optional
        Rows and columns that the detector can deliver.

    Returns
    -------
    BeamSettings

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [512, 1024],
    ...      "pixel_size": "1 nm"}
    ... )
    >>> scout = scout_settings(beam)
    >>> scout.frame, scout.field_nm, scout.dose_per_frame_e_per_nm2 / beam.dose_per_frame_e_per_nm2
    ((32, 64), 1024.0, 0.00390625)
    >>> scout_settings(beam, wide=True).frame
    (96, 192)
    """
    tall, across = beam.frame
    times = WIDE if wide else 1
    along = times * min(columns, across)
    if most is not None:
        along = min(along, most[1], max(1, most[0] * across // tall))
    down = max(1, round(along * tall / across))
    pixel_nm = times * beam.field_nm / along
    return beam.model_copy(update={"frame": (down, along), "pixel_nm": pixel_nm})


def scout_grids(beam: BeamSettings, most: tuple[int, int] | None) -> tuple[ScoutGrid, ...]:
    """Grids of positions of all scouts that a run may take, for its file.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    most : tuple of int or None
        Rows and columns that the detector can deliver.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [512, 1024],
    ...      "pixel_size": "1 nm"}
    ... )
    >>> grids = scout_grids(beam, (128, 128))
    >>> [grid.name for grid in grids]
    ['field_128', 'field_96', 'field_64', 'field_48', 'field_32', 'search']
    >>> grids[-1].shape, grids[-1].pixel_nm
    ((64, 128), 24.0)
    """
    scans: dict[str, tuple[Literal["scout", "wide"], BeamSettings]] = {}
    for columns in sorted({scan.columns for scan in SCOUT_SCANS}, reverse=True):
        scan = scout_settings(beam, columns=columns, most=most)
        scans[f"field_{scan.frame[1]}"] = "scout", scan  # alike where the detector is small
    scans["search"] = "wide", scout_settings(beam, wide=True, most=most)
    return tuple(
        ScoutGrid(name=name, kind=kind, shape=scan.frame, pixel_nm=scan.pixel_nm)
        for name, (kind, scan) in scans.items()
    )


def scout_dose_e_per_nm2(beam: BeamSettings, scan: ScoutScan, on: BeamOnTimes) -> float:
    """Fluence of a scout, with that while blanker and trigger work.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    scan : ScoutScan
        How it is scanned.
    on : BeamOnTimes
        What the blanker takes.

    Returns
    -------
    float
        In e/nm^2, averaged over the field.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
    ...      "pixel_size": "1.04 nm"}
    ... )
    >>> on = BeamOnTimes(parked_s=5e-3, least_s=2e-3)
    >>> [round(scout_dose_e_per_nm2(beam, scan, on), 4) for scan in SCOUT_SCANS]
    [0.0776, 0.0677, 0.022, 0.022, 0.022, 0.022, 0.022]
    """
    dose = scout_settings(beam, columns=scan.columns).dose_per_frame_e_per_nm2
    if not scan.at_once:
        return dose + beam.parked_dose_e_per_nm2(on.parked_s)
    scan_s = _scan_s(beam, scan, on)
    parked_s = max(0.0, on.least_s - scan_s)
    return dose * min(1.0, on.least_s / scan_s) + beam.parked_dose_e_per_nm2(parked_s)


def _scan_s(beam: BeamSettings, scan: ScoutScan, on: BeamOnTimes) -> float:
    """Wall seconds of a scan."""
    return scout_settings(beam, columns=scan.columns).exposure_s / on.speed


def scout_for(
    beam: BeamSettings, frames: int, budget_e_per_nm2: float, on: BeamOnTimes
) -> ScoutScan:
    """How a scout before every frame of a series is scanned, so that the dose suffices.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    frames : int
        Of the series.
    budget_e_per_nm2 : float
        What the scouts of the series may take.
    on : BeamOnTimes
        What the blanker takes.

    Returns
    -------
    ScoutScan
        The first of `SCOUT_SCANS` that the budget allows and, if it ends at once, that is over
        before the beam goes off; the one that costs least where there is none.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
    ...      "pixel_size": "1.04 nm"}
    ... )
    >>> on = BeamOnTimes(parked_s=5e-3, least_s=2e-3)
    >>> scout_for(beam, 41, 4.0, on), scout_for(beam, 41, 1.0, on)
    (ScoutScan(columns=64, at_once=False), ScoutScan(columns=48, at_once=True))
    """
    last = SCOUT_SCANS[-1]
    possible = [
        scan
        for scan in SCOUT_SCANS
        if not scan.at_once or scan == last or _scan_s(beam, scan, on) <= on.least_s
    ]
    # Costs that differ by rounding alone are the same.
    costs = [round(scout_dose_e_per_nm2(beam, scan, on), 9) for scan in possible]
    allowed = (n for n, cost in enumerate(costs) if frames * cost <= budget_e_per_nm2)
    return possible[next(allowed, costs.index(min(costs)))]
