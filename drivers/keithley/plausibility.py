"""Whether readings can be those of the chip: each by itself, and those of a chip at rest."""

from __future__ import annotations

import math
from collections import deque

from ...protocols.config.calibration import ChipCalibration, OutOfCalibration, Verdict
from .dialect import SourceLimits
from .source_unit import SourceReading

OVER_TEMPERATURE_C = 25.0


class ImplausibleReading(Exception):
    """A reading that cannot be what the chip does."""


class ReadingCheck:
    """Judges single readings.

    Parameters
    ----------
    calibration : ChipCalibration
        Of the chip.
    limits : SourceLimits
        As set in the instrument.
    highest_c : float
        The rig's limit of the temperature.
    """

    def __init__(
        self, calibration: ChipCalibration, limits: SourceLimits, highest_c: float
    ) -> None:
        self._calibration, self._limits, self._highest_c = calibration, limits, highest_c

    def temperature_c(self, reading: SourceReading, set_a: float) -> float:
        """Temperature of a reading.

        Parameters
        ----------
        reading : SourceReading
            Of the instrument.
        set_a : float
            Current that was set for it, in A.

        Raises
        ------
        ImplausibleReading
            If it overflows, is in compliance, has another current than was set, a resistance
            outside the calibration, or a temperature well above the rig's limit.
        """
        voltage_v, current_a = reading.voltage_v, reading.current_a
        if not (math.isfinite(voltage_v) and math.isfinite(current_a)):
            raise ImplausibleReading(f"the reading overflows ({voltage_v:g} V, {current_a:g} A)")
        if current_a < 0.97 * set_a or voltage_v > 0.995 * self._limits.compliance_v:
            raise ImplausibleReading(
                f"the unit is in compliance: {current_a * 1e3:.4g} mA of {set_a * 1e3:.4g} mA at "
                f"{voltage_v:.4g} V of {self._limits.compliance_v:.4g} V"
            )
        if current_a > 1.03 * set_a:
            raise ImplausibleReading(
                f"the current is {current_a * 1e3:.4g} mA, {set_a * 1e3:.4g} mA were set"
            )
        try:
            temperature_c = self._calibration.temperature_c(reading.resistance_ohm)
        except OutOfCalibration as error:
            raise ImplausibleReading(str(error)) from None
        if temperature_c > self._highest_c + OVER_TEMPERATURE_C:
            raise ImplausibleReading(
                f"the chip reads {temperature_c:.1f} degC, above the rig's limit of "
                f"{self._highest_c:g} degC"
            )
        return temperature_c


class PlausibilityMonitor:
    """Judges whether the power of a chip at rest is what its temperature takes.

    Only a chip at rest is judged: its readings of the last `window_s` (8 at least) lie close
    together, and their first half agrees with their second. What was found implausible has to
    stay so for `persist_s` before it counts.

    Parameters
    ----------
    calibration : ChipCalibration
        What is plausible.
    window_s, persist_s : float
        Experiment seconds.
    """

    MIN_READINGS = 8
    SPREAD_C = 4.0
    DRIFT_C = 1.0

    def __init__(
        self, calibration: ChipCalibration, window_s: float = 0.4, persist_s: float = 0.6
    ) -> None:
        self.calibration = calibration
        self.window_s, self.persist_s = window_s, persist_s
        self._readings: deque[tuple[float, float, float, float]] = deque()
        self._since_s: float | None = None
        self.latest: Verdict | None = None

    def restart(self) -> None:
        """Forget all readings."""
        self._readings.clear()
        self._since_s = None

    def record(
        self, t_s: float, temperature_c: float, resistance_ohm: float, power_w: float
    ) -> Verdict | None:
        """Record a reading of a chip.

        Returns
        -------
        Verdict or None
            What is implausible, once that has lasted for `persist_s`.
        """
        readings = self._readings
        readings.append((t_s, temperature_c, resistance_ohm, power_w))
        while len(readings) > self.MIN_READINGS and t_s - readings[1][0] >= self.window_s:
            readings.popleft()
        if len(readings) < self.MIN_READINGS or t_s - readings[0][0] < self.window_s:
            return None
        temperatures = [row[1] for row in readings]
        half = len(temperatures) // 2
        drift_c = sum(temperatures[-half:]) / half - sum(temperatures[:half]) / half
        spread_c = max(temperatures) - min(temperatures)
        if abs(drift_c) > self.DRIFT_C or spread_c > self.SPREAD_C:
            self._since_s = None
            return None
        count = len(readings)
        mean_ohm = sum(row[2] for row in readings) / count
        mean_w = sum(row[3] for row in readings) / count
        self.latest = verdict = self.calibration.check_steady(mean_ohm, mean_w)
        if verdict.plausible:
            self._since_s = None
            return None
        if self._since_s is None:
            self._since_s = t_s
        return verdict if t_s - self._since_s >= self.persist_s else None
