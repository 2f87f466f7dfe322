"""One heating chip: its R(T), the power that holds a temperature, and which readings are plausible.

A calibration file belongs to one chip. JSON holds either the polynomial
``R(T) = R0 (1 + alpha dT + beta dT^2)``, inverted analytically, or a table; CSV holds a table
(columns ``temperature_c``, ``resistance_ohm`` and optionally ``power_w``, values such as the
chip's name in lines that begin with ``#``). Tables are interpolated monotonically (PCHIP). The
vendors' own formulae are not public (wire card A4): a log with four constants must be turned into
a table by its owner.

A wrong R(T) cannot be seen in the resistance alone. It is seen cold, where the chip must read the
ambient temperature, and hot at rest, where the power must be what the chip loses at the
temperature that is read: 1 % in R is 3 to 7 degC cold and 2 to 3 % of the power hot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field, model_validator

from ..core.documents import Strict
from .chip_curves import BalancePower, Celsius, PolynomialResistance, TablePower, TableResistance

# Relative to the ends of a range: what floating point may have lost on the way.
_ROUNDING = 1e-12


class OutOfCalibration(ValueError):
    """A temperature or resistance that the calibration does not reach."""


@dataclass(frozen=True)
class Verdict:
    """Whether a reading can be true.

    Attributes
    ----------
    plausible : bool
        Whether it can.
    deviation : float
        How far off it is, in units of what is tolerated; with its sign.
    reason : str
        In words, for the operator.
    """

    plausible: bool
    deviation: float
    reason: str


class ChipCalibration(Strict):
    """Calibration of one chip.

    Attributes
    ----------
    chip : str
        Its name or serial number.
    resistance : PolynomialResistance or TableResistance
        R(T).
    power : BalancePower or TablePower, optional
        Power that holds a temperature in vacuum. Without it the regulation has to learn, and a
        hot reading cannot be checked.
    ambient_c, ambient_tolerance_c : float
        Temperature of the chip without power, and how well it is known.
    power_tolerance : float
        How well `power` is known, as a fraction of it. Gas around the chip changes the power by
        far more; a chip used in gas needs a calibration for it.
    time_constant_s : float
        Of the chip near ambient temperature, at constant power.
    """

    chip: Annotated[str, Field(min_length=1, max_length=200)]
    note: Annotated[str, Field(max_length=2000)] = ""
    resistance: Annotated[PolynomialResistance | TableResistance, Field(discriminator="kind")]
    power: Annotated[BalancePower | TablePower, Field(discriminator="kind")] | None = None
    ambient_c: Celsius = 25.0
    ambient_tolerance_c: Annotated[float, Field(gt=0, le=50)] = 2.0
    power_tolerance: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    time_constant_s: Annotated[float, Field(gt=0, le=60)] = 0.01

    @model_validator(mode="after")
    def _ambient_is_inside(self) -> ChipCalibration:
        low_c, high_c = self.resistance.range_c
        if not low_c <= self.ambient_c <= high_c:
            raise ValueError(
                f"ambient_c {self.ambient_c:g} is outside the range of the resistance, "
                f"{low_c:g} to {high_c:g} degC"
            )
        return self

    @property
    def range_c(self) -> tuple[float, float]:
        """Lowest and highest temperature."""
        return self.resistance.range_c

    @cached_property
    def range_ohm(self) -> tuple[float, float]:
        """Lowest and highest resistance."""
        low_c, high_c = self.range_c
        return self.resistance.value(low_c), self.resistance.value(high_c)

    def resistance_ohm(self, temperature_c: float) -> float:
        """Resistance at a temperature.

        Raises
        ------
        OutOfCalibration
            If the temperature is outside `range_c`.
        """
        low, high = self.range_c
        slack = _ROUNDING * max(abs(low), abs(high))
        if not low - slack <= temperature_c <= high + slack:  # false for NaN too
            raise OutOfCalibration(
                f"{temperature_c:g} degC is outside the calibration of chip {self.chip}, "
                f"which reaches from {low:g} to {high:g} degC"
            )
        return self.resistance.value(min(max(temperature_c, low), high))

    def temperature_c(self, resistance_ohm: float) -> float:
        """Temperature at which the chip has a resistance.

        Raises
        ------
        OutOfCalibration
            If the resistance is outside `range_ohm`.
        """
        low, high = self.range_ohm
        slack = _ROUNDING * high  # an end of the range that was computed may miss it by a bit
        if not low - slack <= resistance_ohm <= high + slack:
            low_c, high_c = self.range_c
            raise OutOfCalibration(
                f"{resistance_ohm:.6g} ohm is outside the calibration of chip {self.chip}, "
                f"which reaches from {low:.6g} to {high:.6g} ohm ({low_c:g} to {high_c:g} degC)"
            )
        found_c = self.resistance.solve(min(max(resistance_ohm, low), high))
        return min(max(found_c, self.range_c[0]), self.range_c[1])

    def holding_power_w(self, temperature_c: float) -> float | None:
        """Power that holds a temperature; None where the calibration does not say."""
        return None if self.power is None else self.power.value(temperature_c, self.ambient_c)

    def check_cold(self, resistance_ohm: float, power_w: float = 0.0) -> Verdict:
        """Judge a reading of the chip at rest, without heating.

        Parameters
        ----------
        resistance_ohm : float
            As measured.
        power_w : float
            Of the measurement itself; what it warms the chip is taken off.
        """
        try:
            read_c = self.temperature_c(resistance_ohm)
        except OutOfCalibration as error:
            return Verdict(False, math.inf, str(error))
        warmed_c = 0.0
        if self.power is not None:
            warmed_c = power_w / self.power.slope(self.ambient_c, self.ambient_c)
        off_c = read_c - warmed_c - self.ambient_c
        percent = 100.0 * (resistance_ohm / self.resistance.value(self.ambient_c + warmed_c) - 1.0)
        reason = (
            f"cold it reads {resistance_ohm:.5g} ohm, {read_c - warmed_c:.1f} degC, at an ambient "
            f"temperature of {self.ambient_c:g} +- {self.ambient_tolerance_c:g} degC: "
            f"{percent:+.2f} % in resistance from the calibration of chip {self.chip}"
        )
        deviation = off_c / self.ambient_tolerance_c
        return Verdict(abs(deviation) <= 1.0, deviation, reason)

    def check_steady(self, resistance_ohm: float, power_w: float) -> Verdict:
        """Judge a reading of the chip at rest at any temperature: its power against its loss.

        Parameters
        ----------
        resistance_ohm, power_w : float
            Means over a time in which the temperature stood still.
        """
        try:
            read_c = self.temperature_c(resistance_ohm)
        except OutOfCalibration as error:
            return Verdict(False, math.inf, str(error))
        if self.power is None:
            return Verdict(True, 0.0, f"the calibration of chip {self.chip} holds no power")
        expected_w = self.power.value(read_c, self.ambient_c)
        tolerated_w = math.hypot(
            self.power_tolerance * expected_w,
            self.ambient_tolerance_c * self.power.slope(self.ambient_c, self.ambient_c),
        )
        deviation = (power_w - expected_w) / tolerated_w
        reason = (
            f"{resistance_ohm:.5g} ohm reads as {read_c:.1f} degC, which takes "
            f"{expected_w * 1e3:.3f} +- {tolerated_w * 1e3:.3f} mW, and it takes "
            f"{power_w * 1e3:.3f} mW: resistance, power and temperature do not belong together"
        )
        return Verdict(abs(deviation) <= 1.0, deviation, reason)
