"""Sparse scans that tell where the specimen is: of the field of a frame, or of a wider one."""

from __future__ import annotations

from typing import Literal

from ...protocols.config.recipe import BeamSettings
from ...protocols.messages.manifest import ScoutGrid

# Positions along a row of a scout: many where there is dose for them, few where a small budget has
# to do for every frame. The specimen is found to some 1, 2 and 3 nm.
SCOUT_COLUMNS = (64, 48, 32)
# Width of a search, in widths of the field.
WIDE = 3
# Angles at which the height of the specimen is measured, the largest one last.
HEIGHT_TILTS_DEG = (0.0, 2.0, 5.0, 10.0, 16.0, 8.0, 0.0, -8.0)
# Where it is looked at again once the stage has moved.
HEIGHT_CHECK_DEG = (0.0, 16.0)


def scout_settings(
    beam: BeamSettings,
    *,
    columns: int = SCOUT_COLUMNS[0],
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
    ['field_64', 'field_48', 'field_32', 'search']
    >>> grids[-1].shape, grids[-1].pixel_nm
    ((64, 128), 24.0)
    """
    scans: dict[str, tuple[Literal["scout", "wide"], BeamSettings]] = {}
    for columns in SCOUT_COLUMNS:
        scan = scout_settings(beam, columns=columns, most=most)
        scans[f"field_{scan.frame[1]}"] = "scout", scan  # alike where the detector is small
    scans["search"] = "wide", scout_settings(beam, wide=True, most=most)
    return tuple(
        ScoutGrid(name=name, kind=kind, shape=scan.frame, pixel_nm=scan.pixel_nm)
        for name, (kind, scan) in scans.items()
    )


def scout_dose_e_per_nm2(beam: BeamSettings, columns: int, parked: float) -> float:
    """Fluence of a scout of so many positions along a row, with that while the blanker works.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
    ...      "pixel_size": "1.04 nm"}
    ... )
    >>> round(scout_dose_e_per_nm2(beam, 64, 0.05), 4)
    0.0725
    """
    return scout_settings(beam, columns=columns).dose_per_frame_e_per_nm2 + parked


def scout_for(beam: BeamSettings, frames: int, budget_e_per_nm2: float, parked: float) -> int:
    """Positions along a row of a scout before every frame of a series, so that the dose suffices.

    Parameters
    ----------
    beam : BeamSettings
        Of the frames.
    frames : int
        Of the series.
    budget_e_per_nm2 : float
        What the scouts of the series may take.
    parked : float
        Fluence of one scout while the blanker works, in e/nm^2.

    Returns
    -------
    int
        The most that the budget allows, the fewest where it does not suffice.

    Examples
    --------
    >>> beam = BeamSettings.model_validate(
    ...     {"voltage": "300 kV", "current": "2 pA", "dwell": "500 ns", "frame": [1024, 1024],
    ...      "pixel_size": "1.04 nm"}
    ... )
    >>> scout_for(beam, 41, 4.0, 0.02), scout_for(beam, 41, 1.0, 0.02)
    (64, 32)
    """
    for columns in SCOUT_COLUMNS:
        if frames * scout_dose_e_per_nm2(beam, columns, parked) <= budget_e_per_nm2:
            return columns
    return SCOUT_COLUMNS[-1]
