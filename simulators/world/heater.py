"""The heater of the world: its chip behind a controller or a source-measure unit, with faults."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.faults import FaultName
from .chip import ALL_IT_CAN_C_PER_S, AMBIENT_C, RUNAWAY_C_PER_S, HeaterReading, resistance_ohm
from .present import Present

_DENSE_NS = 250_000_000
# Rate at which the power of a faulty controller rises, as the temperature that it would hold.
CONTROLLER_FAULTS: dict[FaultName, float] = {
    "runaway": RUNAWAY_C_PER_S,
    "stuck": 0.0,
    "sensor-off": ALL_IT_CAN_C_PER_S,
}
SENSOR_FALLS_S = 1.0


class Heater:
    """Commands to the heater and readings of it; safe to call from several threads.

    Parameters
    ----------
    present : Present
        Whose chip it heats.

    Attributes
    ----------
    is_driven : bool
        Whether a source-measure unit drives a current now.
    """

    def __init__(self, present: Present) -> None:
        self._present, self._chip = present, present.chip
        self._dense_until_ns = self._dense_from_ns = present.t_ns
        self._faults: frozenset[FaultName] = frozenset()
        self._sensor_off_ns: int | None = None
        self._sensor_off_c = AMBIENT_C
        self._frozen: HeaterReading | None = None
        self.is_driven = False

    # Commands of a controller

    def go_to(self, t_ns: int, temperature_c: float, ramp_s: float = 0.0) -> None:
        """Step or ramp to a temperature; ValueError if the chip cannot go there."""
        with self._present.at(t_ns) as now_ns:
            self._chip.go_to(temperature_c, ramp_s)
            self._log_command(now_ns, "ramp", ramp_s)

    def hold(self, t_ns: int) -> None:
        """Stop a ramp where it is."""
        with self._present.at(t_ns) as now_ns:
            self._chip.hold_here()
            self._log_command(now_ns, "hold", 0.0)

    def is_busy(self, t_ns: int) -> bool:
        """Whether the chip is still on its way to the target."""
        with self._present.at(t_ns) as now_ns:
            return now_ns < self._chip.busy_until_ns

    def reading(self, t_ns: int) -> HeaterReading:
        """What the heater's electronics measure."""
        with self._present.at(t_ns) as now_ns:
            reading = self._chip.reading(self._present.noise)
            if self._faults:
                reading = self._faulty(reading)
            if self._present.truth_log.active:
                self._log_temperature(now_ns)
            return reading

    # A source-measure unit

    def drive(self, t_ns: int, current_a: float, limit_v: float) -> None:
        """Drive a current, less where its voltage would pass a limit.

        A current of 0 leaves the chip unheated; `go_to` gives it back to the controller.
        """
        with self._present.at(t_ns) as now_ns:
            if (current_a != 0.0) != self.is_driven:
                self.is_driven = current_a != 0.0
                self._present.truth_log.write(now_ns, "drive", on=self.is_driven)
            self._chip.drive(current_a, limit_v)

    def resistance_ohm(self, t_ns: int) -> float:
        """True resistance of the heater, now or a short while ago."""
        with self._present.at(t_ns) as now_ns:
            resistance = self._chip.resistance_at(t_ns)
            if self._present.truth_log.active:
                self._log_temperature(now_ns)
            return resistance

    # The truth

    def temperature_c(self, t_ns: int) -> float:
        """True temperature, now or at a moment of the last half minute."""
        with self._present.at(t_ns):
            return self._chip.at(t_ns)[0]

    def history(self, since_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """True temperature since a moment of the last half minute.

        Returns
        -------
        tuple of ndarray
            Times (n,) in ns and temperatures (n,) in degC.
        """
        with self._present.lock:
            times, values = self._chip.trace(since_ns)
            return times.copy(), values[:, 0].copy()

    # Faults

    def inject_fault(self, now_ns: int, name: FaultName, on: bool) -> None:
        """Switch a fault of controller or sensor on or off; the caller holds the lock."""
        switched = frozenset[FaultName]({name})
        self._faults = self._faults | switched if on else self._faults - switched
        if name in CONTROLLER_FAULTS:
            if on:
                self._chip.inject_controller_fault(CONTROLLER_FAULTS[name])
            elif not self._faults & CONTROLLER_FAULTS.keys():
                self._chip.inject_controller_fault(None)
            self._sensor_off_ns = now_ns if "sensor-off" in self._faults else None
            self._sensor_off_c = self._chip.temperature_c
        elif name == "freeze":
            self._frozen = self._chip.reading(self._present.noise) if on else None

    def age(self, t_ns: int, factor: float) -> None:
        """Let the resistance drift to so many times the value of its calibration."""
        with self._present.at(t_ns):
            self._chip.age(factor)

    def break_wire(self, t_ns: int) -> None:
        """Break the heater's wire, for good."""
        with self._present.at(t_ns):
            self._chip.break_wire()

    def _faulty(self, reading: HeaterReading) -> HeaterReading:
        """The reading as faulty electronics give it."""
        if self._frozen is not None:
            return replace(self._frozen, t_ns=reading.t_ns)
        if self._sensor_off_ns is not None:
            fallen = math.exp(-(reading.t_ns - self._sensor_off_ns) * 1e-9 / SENSOR_FALLS_S)
            read_c = AMBIENT_C + (self._sensor_off_c - AMBIENT_C) * fallen
            read_c += reading.temperature_c - self._chip.temperature_c  # the noise
            reading = replace(reading, temperature_c=read_c, resistance_ohm=resistance_ohm(read_c))
        if "implausible" in self._faults:
            reading = replace(reading, resistance_ohm=1.5 * reading.resistance_ohm)
        return reading

    def _log_command(self, t_ns: int, action: str, ramp_s: float) -> None:
        self._present.truth_log.write(
            t_ns,
            "heater",
            action=action,
            target_c=self._chip.target_c,
            ramp_s=ramp_s,
            setpoint_c=self._chip.setpoint_c,
        )
        self._dense_from_ns = max(t_ns, self._dense_from_ns)
        self._dense_until_ns = t_ns + _DENSE_NS

    def _log_temperature(self, t_ns: int) -> None:
        write, setpoint_c = self._present.truth_log.write, self._chip.setpoint_c
        if self._dense_from_ns < self._dense_until_ns:
            times, values = self._chip.trace(self._dense_from_ns)
            for t, row in zip(times.tolist(), values.tolist(), strict=True):
                if self._dense_from_ns < t <= self._dense_until_ns and t < t_ns:
                    write(t, "temperature", temperature_c=row[0], setpoint_c=setpoint_c)
            self._dense_from_ns = t_ns
        true_c = self._chip.temperature_c
        write(t_ns, "temperature", temperature_c=true_c, setpoint_c=setpoint_c)
