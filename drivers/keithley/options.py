"""Options of the Keithley heaters, and the limits of instrument and chip that follow from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.calibration import ChipCalibration
from ...protocols.config.calibration_file import load_calibration
from ...protocols.core.errors import BadInput
from .control_law import UNKNOWN_CONDUCTANCE_W_PER_K, ChipModel
from .dialect import SourceLimits

# Self-heating by the current that keeps the resistance measurable.
PROBE_RISE_C = 1.0
LIMIT_MARGIN = 1.2


class KeithleyOptions(BaseModel):
    """The chip's calibration, hard limits, and how fast to read.

    `max_current_a` and `compliance_v` default to a fifth more than what the rig's highest
    temperature takes by the calibration.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    calibration_file: Path
    max_current_a: float | None = Field(default=None, gt=0, le=1.05)
    compliance_v: float | None = Field(default=None, gt=0, le=210)
    nplc: float = Field(default=0.1, ge=0.01, le=10)
    rate_hz: float = Field(default=100.0, gt=0, le=1000)
    response_s: float = Field(default=0.02, gt=0, le=100)
    headroom_c: float = Field(default=10.0, gt=0, le=200)


class Keithley2400Options(KeithleyOptions):
    """Those of every unit, and the serial port's speed as set in the instrument."""

    baud: Literal[300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600] = 9600


def chip_calibration(options: KeithleyOptions) -> ChipCalibration:
    """The chip's calibration; BadInput, with the option's path, where it cannot be read."""
    try:
        return load_calibration(options.calibration_file)
    except BadInput as error:
        raise BadInput("heater.options.calibration_file", str(error)) from None


def source_limits(
    options: KeithleyOptions, calibration: ChipCalibration, rig_limit_c: float
) -> SourceLimits:
    """Limits to be set in the instrument.

    Parameters
    ----------
    options : KeithleyOptions
        Of the rig.
    calibration : ChipCalibration
        Of the chip.
    rig_limit_c : float
        Highest temperature that the rig allows, in degC.

    Raises
    ------
    BadInput
        If neither the options nor the calibration tell the highest current.
    """
    highest_c = min(rig_limit_c, calibration.range_c[1])
    current_a, compliance_v = options.max_current_a, options.compliance_v
    if current_a is None:
        if calibration.power is None:
            raise BadInput(
                "heater.options.max_current_a",
                f"is needed: the calibration of chip {calibration.chip} holds no power from "
                "which to tell the highest current",
            )
        current_a = LIMIT_MARGIN * ChipModel(calibration).holding_current_a(highest_c)
    if compliance_v is None:
        highest_ohm = calibration.resistance.value(highest_c)
        compliance_v = min(210.0, LIMIT_MARGIN * current_a * highest_ohm)
    return SourceLimits(current_a, compliance_v, options.nplc)


def probe_current_a(calibration: ChipCalibration, limits: SourceLimits) -> float:
    """Current in A that measures the cold chip and heats it by `PROBE_RISE_C` at the most."""
    conductance = UNKNOWN_CONDUCTANCE_W_PER_K
    if calibration.power is not None:
        conductance = calibration.power.slope(calibration.ambient_c, calibration.ambient_c)
    cold_ohm = calibration.resistance.value(calibration.ambient_c)
    return min(math.sqrt(conductance * PROBE_RISE_C / cold_ohm), limits.current_a)
