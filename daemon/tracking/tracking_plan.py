"""What the file of a run says of its tracking: settings, and the calibration of the beam shift."""

from __future__ import annotations

from pathlib import Path

from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import Rig
from ...protocols.config.shift_calibration import load_shift_calibration
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import ShiftMatrix, TrackingPlan


def tracking_plan(recipe: Recipe, rig: Rig) -> TrackingPlan | None:
    """The tracking of a run that begins now; None where the specimen is not tracked.

    A calibration that cannot be read is left out: the run is refused for it elsewhere.
    """
    if recipe.track is None or not recipe.tracked:
        return None
    settings: dict[str, str | float | None] = {}
    for part, values in (("track", recipe.track), ("focus", recipe.focus)):
        for name, value in values.model_dump(mode="json").items():
            known = isinstance(value, (int, float)) and not isinstance(value, bool)
            settings[f"{part}.{name}"] = float(value) if known else str(value)
    return TrackingPlan(
        settings=settings,
        lost_beyond_nm=recipe.track.lost_beyond * recipe.beam.field_nm,
        calibration=_calibration(rig),
    )


def _calibration(rig: Rig) -> ShiftMatrix | None:
    shift = rig.beam.shift
    if shift is None or shift.calibration_file is None:
        return None
    try:
        found = load_shift_calibration(Path(shift.calibration_file))
    except BadInput:
        return None
    return ShiftMatrix(
        unit=found.unit,
        matrix_nm=found.matrix_nm,
        covariance_nm2=found.covariance_nm2,
        date=found.date.isoformat(),
        largest_nm=found.largest_nm,
    )
