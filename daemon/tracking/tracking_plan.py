"""What the file of a run says of its tracking: settings, and the calibration of the beam shift."""

from __future__ import annotations

from pathlib import Path

from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import BeamRig, Rig
from ...protocols.config.shift_calibration import ShiftCalibration, load_shift_calibration
from ...protocols.config.tracking import Track
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import ShiftMatrix, TrackingPlan
from ...protocols.messages.tracking import ShiftCalibrated


def tracking_plan(recipe: Recipe, rig: Rig) -> TrackingPlan | None:
    """The tracking of a run that begins now; None where the specimen is not tracked.

    A calibration that cannot be read is left out: the run is refused for it elsewhere.
    """
    if not recipe.tracked:
        return None
    track = recipe.track or Track()
    settings: dict[str, str | float | None] = {}
    for part, values in (("track", track), ("focus", recipe.focus)):
        for name, value in values.model_dump(mode="json").items():
            known = isinstance(value, (int, float)) and not isinstance(value, bool)
            settings[f"{part}.{name}"] = float(value) if known else str(value)
    return TrackingPlan(
        settings=settings,
        lost_beyond_nm=track.lost_beyond * recipe.beam.field_nm,
        calibration=_calibration(rig.beam),
    )


def calibration_of(beam: BeamRig) -> ShiftCalibration | None:
    """The calibration of the beam shift that a rig names; None where there is none to be read."""
    shift = beam.shift
    if shift is None or shift.calibration_file is None:
        return None
    try:
        return load_shift_calibration(Path(shift.calibration_file))
    except BadInput:
        return None


def calibration_told(beam: BeamRig, t_ns: int) -> ShiftCalibrated | None:
    """What the tracker is told of the calibration that a rig names.

    Parameters
    ----------
    beam : BeamRig
        The rig's beam.
    t_ns : int
        Now.

    Returns
    -------
    ShiftCalibrated or None
        None where there is no calibration.
    """
    if (found := calibration_of(beam)) is None:
        return None
    return ShiftCalibrated(
        t_ns=t_ns, matrix_nm=found.matrix_nm, covariance_nm2=found.covariance_nm2
    )


def _calibration(beam: BeamRig) -> ShiftMatrix | None:
    if (found := calibration_of(beam)) is None:
        return None
    return ShiftMatrix(
        unit=found.unit,
        matrix_nm=found.matrix_nm,
        covariance_nm2=found.covariance_nm2,
        date=found.date.isoformat(),
        largest_nm=found.largest_nm,
    )
