"""Fast scans of a crystal that tell what a pixel is worth: how many, how fast, how rotated."""

from __future__ import annotations

from pathlib import Path

from ...protocols.config.recipe import BeamSettings
from ...protocols.config.rig import Rig
from ...protocols.config.scanning.pixel_calibration import load_pixel_calibration
from ...protocols.core.errors import BadInput

# Zhang et al., Nat. Commun. 2024: 20 to 50 frames of 200 to 500 ns a pixel, several rotations.
FAST_DWELL_S = 500e-9
# Turned against that of the rig, in degrees; a distortion of the coils looks otherwise in each.
TURNS_DEG = (0.0, 45.0, 90.0, 135.0)
FRAMES_PER_TURN = 8


def fast_settings(beam: BeamSettings) -> BeamSettings:
    """The recipe's beam and field, scanned fast."""
    return beam.model_copy(update={"dwell_s": min(beam.dwell_s, FAST_DWELL_S)})


def turned_deg(rotation_deg: float, turn_deg: float) -> float:
    """A scan rotation, turned further, within -180 to 180 degrees.

    Examples
    --------
    >>> turned_deg(100.0, 135.0)
    -125.0
    """
    return (rotation_deg + turn_deg + 180.0) % 360.0 - 180.0


def calibration_warnings(beam: BeamSettings, rig: Rig) -> tuple[str, ...]:
    """Why the rig's pixel calibration does not hold for a recipe's beam; nothing if it does.

    A file that is not there yet is no matter.
    """
    name = rig.beam.pixel_calibration_file
    if name is None or not Path(name).exists():
        return ()
    try:
        why = load_pixel_calibration(Path(name)).misfit(beam.voltage_kv, beam.field_nm)
    except BadInput as error:
        return (f"the pixel calibration cannot be used: {error}",)
    return () if why is None else (f"the pixel calibration {name} does not hold: {why}",)
