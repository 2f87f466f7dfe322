"""What the file of a run says of its tracking: settings, and the calibration of the beam shift."""

from __future__ import annotations

from pathlib import Path

from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import Rig
from ...protocols.config.shift_calibration import ShiftCalibration, load_shift_calibration
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import TrackingPlan


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


def _calibration(rig: Rig) -> ShiftCalibration | None:
    shift = rig.beam.shift
    if shift is None or shift.calibration_file is None:
        return None
    try:
        return load_shift_calibration(Path(shift.calibration_file))
    except BadInput:
        return None
