"""The MEMS heater: heat balance, resistance, and a controller that overshoots.

Plant: ``C dT/dt = P - G (T - T0) - S (T^4 - T0^4)``, with ``C = tau G``; the constants are
illustrative, not a vendor's. Controller: the power that its calibration gives for the setpoint,
plus a trim. A step upwards puts ``overshoot`` times the power step too much into the trim, and a
slow integral of the error takes it out with ``overshoot_decay_s``: a step from 200 to 350 degC
reaches 383 and the medians of holds agree with Ihara et al., Nanoscale 2023, 15, 10133. A step
downwards clears the trim, so that cooling does not undershoot.

A source-measure unit drives the same chip by a current instead: then there is no controller, and
the power is ``I^2 R(T)`` at what current the compliance voltage leaves.
"""
# numba's decorators are untyped.
# pyright: basic

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...protocols.config.simulated import SimulatedChip
from ...protocols.core.units import GAS_CONSTANT_J_PER_MOL_K

AMBIENT_C = 25.0
MAX_TEMPERATURE_C = 1300.0
MELTING_C = 1700.0
MAX_POWER_W = 0.080
CONDUCTANCE_W_PER_K = 3.6e-5
RADIATION_W_PER_K4 = 5.0e-16
R0_OHM, ALPHA_PER_K, BETA_PER_K2 = 150.0, 2.5e-3, -2.0e-7
# The sintering specimen's clock: equivalent seconds at 350 degC, with the activation energy of
# self-diffusion in copper, so that four hours at 200 degC count for 0.04 s.
REFERENCE_C = 350.0
ACTIVATION_J_PER_MOL = 211e3
# The holder around the chip warms slowly; it is what makes the specimen drift.
HOLDER_TIME_CONSTANT_S = 30.0

STEP_S = 1e-3
_TRACE = 1 << 16
_T, _REFERENCE, _SETPOINT, _TARGET, _RATE, _TRIM, _HOLDER, _EQUIVALENT, _POWER = range(9)
# Current that is driven through the chip, NaN while the controller has it; voltage that limits it;
# resistance over that of `resistance_ohm`.
_CURRENT, _LIMIT, _AGED = 9, 10, 11
# Temperature whose holding power a faulty controller gives, NaN without a fault, and how fast
# that rises.
_FAULT, _FAULT_RATE = 12, 13
OPEN_OHM = 1e9  # what a broken wire leaves
RUNAWAY_C_PER_S = 40.0
ALL_IT_CAN_C_PER_S = 500.0


def resistance_ohm(temperature_c: float) -> float:
    """R(T) = R0 (1 + alpha dT + beta dT^2) with dT from 25 degC."""
    rise = temperature_c - AMBIENT_C
    return R0_OHM * (1.0 + ALPHA_PER_K * rise + BETA_PER_K2 * rise * rise)


def holding_power_w(temperature_c: float) -> float:
    """Power that keeps the chip at a temperature."""
    return _loss_w(temperature_c)


@njit(cache=True, nogil=True)
def _loss_w(temperature_c):
    kelvin = temperature_c + 273.15
    ambient_k = AMBIENT_C + 273.15
    return CONDUCTANCE_W_PER_K * (kelvin - ambient_k) + RADIATION_W_PER_K4 * (
        kelvin**4 - ambient_k**4
    )


@njit(cache=True, nogil=True)
def _driven_w(state, temperature_c):
    """Power of the driven current, and how it changes with the temperature in W/K."""
    rise = temperature_c - AMBIENT_C
    cold = R0_OHM * state[_AGED]
    resistance = cold * (1.0 + ALPHA_PER_K * rise + BETA_PER_K2 * rise * rise)
    per_k = cold * (ALPHA_PER_K + 2.0 * BETA_PER_K2 * rise)
    current, limit = state[_CURRENT], state[_LIMIT]
    if current * resistance <= limit:
        return current * current * resistance, current * current * per_k
    power = limit * limit / resistance
    return power, -power / resistance * per_k


@njit(cache=True, nogil=True)
def _integrate(state, t_ns, until_ns, tau_s, decay_s, activation_k, trace_t, trace, cursor):
    """Advance the state to a moment in steps of at most 1 ms; each lands in the ring `trace`."""
    while t_ns < until_ns:
        step_ns = min(np.int64(STEP_S * 1e9), until_ns - t_ns)
        dt = step_ns * 1e-9
        before = state[_SETPOINT]
        rate = state[_RATE]
        if rate != 0.0:
            moved = before + rate * dt
            if (rate > 0.0) == (moved >= state[_TARGET]):
                moved = state[_TARGET]
                state[_RATE] = 0.0
            state[_SETPOINT] = moved
        setpoint = state[_SETPOINT]
        temperature = state[_T]
        kelvin = temperature + 273.15
        slope = CONDUCTANCE_W_PER_K + 4.0 * RADIATION_W_PER_K4 * kelvin**3
        wanted = (
            _loss_w(setpoint)
            + state[_TRIM]
            + tau_s * CONDUCTANCE_W_PER_K * (setpoint - before) / dt * (rate != 0.0)
        )
        if not math.isnan(state[_FAULT]):
            state[_FAULT] = min(state[_FAULT] + state[_FAULT_RATE] * dt, MELTING_C)
            power = min(_loss_w(state[_FAULT]), MAX_POWER_W)
            wanted = math.nan
        else:
            power = min(max(wanted, 0.0), MAX_POWER_W)
        driven = not math.isnan(state[_CURRENT])
        if driven:
            power, per_k = _driven_w(state, temperature)
            slope -= per_k
            wanted = math.nan
        # Exact for the equation linearised at this temperature, whatever the step; the slope of
        # a driven chip may vanish, and is negative where it runs away.
        x = dt * slope / (tau_s * CONDUCTANCE_W_PER_K)
        gain = 1.0 - 0.5 * x if abs(x) < 1e-6 else -math.expm1(-x) / x
        surplus = power - _loss_w(temperature)
        state[_T] = temperature + surplus * dt / (tau_s * CONDUCTANCE_W_PER_K) * gain
        if driven:
            state[_T] = min(state[_T], MELTING_C)
            state[_SETPOINT] = state[_TARGET] = state[_T]
            setpoint = state[_T]
        state[_REFERENCE] = setpoint + (state[_REFERENCE] - before) * math.exp(-dt / tau_s)
        if power == wanted:
            state[_TRIM] -= slope / decay_s * (state[_T] - state[_REFERENCE]) * dt
        state[_POWER] = power
        state[_HOLDER] += (state[_T] - state[_HOLDER]) * -math.expm1(-dt / HOLDER_TIME_CONSTANT_S)
        mean_k = 0.5 * (temperature + state[_T]) + 273.15
        state[_EQUIVALENT] += (
            math.exp(-activation_k * (1.0 / mean_k - 1.0 / (REFERENCE_C + 273.15))) * dt
        )
        t_ns += step_ns
        place = cursor % len(trace_t)
        trace_t[place] = t_ns
        trace[place, 0] = state[_T]
        trace[place, 1] = state[_EQUIVALENT]
        trace[place, 2] = state[_HOLDER]
        cursor += 1
    return cursor


@dataclass(frozen=True)
class HeaterReading:
    """One reading of the chip's electronics; R, P, V and I agree with one another and with T."""

    t_ns: int
    temperature_c: float
    setpoint_c: float
    power_w: float
    resistance_ohm: float
    voltage_v: float
    current_a: float


class Chip:
    """The chip at one moment; moves on by :meth:`advance_to` alone.

    Parameters
    ----------
    config : SimulatedChip
        Time constant, overshoot and noise.
    t_ns : int
        The moment at which it is at room temperature with the heater at 25 degC.
    """

    def __init__(self, config: SimulatedChip, t_ns: int) -> None:
        self.config = config
        self.t_ns = t_ns
        self._state = np.zeros(14)
        self._state[[_CURRENT, _FAULT]] = math.nan
        self._state[_AGED] = 1.0
        self._state[[_T, _REFERENCE, _SETPOINT, _TARGET, _HOLDER]] = AMBIENT_C
        self._trace_t = np.full(_TRACE, t_ns, np.int64)
        self._trace = np.tile([AMBIENT_C, 0.0, AMBIENT_C], (_TRACE, 1))
        self._cursor = 1
        self._broken = False
        self.busy_until_ns = t_ns

    @property
    def temperature_c(self) -> float:
        """True temperature."""
        return float(self._state[_T])

    @property
    def setpoint_c(self) -> float:
        """Where the controller wants the chip to be now."""
        return float(self._state[_SETPOINT])

    @property
    def target_c(self) -> float:
        """Where the ramp under way ends."""
        return float(self._state[_TARGET])

    def advance_to(self, t_ns: int) -> None:
        """Integrate up to a moment; a moment already past changes nothing."""
        if t_ns <= self.t_ns:
            return
        self._cursor = int(
            _integrate(
                self._state,
                self.t_ns,
                t_ns,
                self.config.time_constant_s,
                self.config.overshoot_decay_s,
                ACTIVATION_J_PER_MOL / GAS_CONSTANT_J_PER_MOL_K,
                self._trace_t,
                self._trace,
                self._cursor,
            )
        )
        self.t_ns = t_ns

    def go_to(self, temperature_c: float, ramp_s: float) -> None:
        """Step (`ramp_s` 0) or ramp to a temperature.

        Raises
        ------
        ValueError
            If the temperature is not one that the chip survives.
        """
        if not AMBIENT_C - 50.0 <= temperature_c <= MAX_TEMPERATURE_C:
            raise ValueError(
                f"temperature {temperature_c:g} degC is not within "
                f"{AMBIENT_C - 50:g} to {MAX_TEMPERATURE_C:g}"
            )
        if not 0.0 <= ramp_s <= 1e7:
            raise ValueError(f"ramp time {ramp_s:g} s is not within 0 to 1e7")
        state = self._state
        if not math.isnan(state[_CURRENT]):  # the controller takes the chip over as it is
            state[_CURRENT] = math.nan
            state[_TRIM] = state[_RATE] = 0.0
            state[_REFERENCE] = state[_SETPOINT] = state[_T]
        state[_TARGET] = temperature_c
        step_c = temperature_c - state[_SETPOINT]
        if ramp_s > 0.0 and step_c != 0.0:
            state[_RATE] = step_c / ramp_s
        else:
            step_w = _loss_w(temperature_c) - _loss_w(state[_SETPOINT])
            state[_TRIM] = state[_TRIM] + self.config.overshoot * step_w if step_w > 0 else 0.0
            state[_SETPOINT] = temperature_c
            state[_RATE] = 0.0
        self.busy_until_ns = self.t_ns + int((ramp_s + 6.0 * self.config.time_constant_s) * 1e9)

    def drive(self, current_a: float, limit_v: float) -> None:
        """Drive a current through the heater, from now on and without a controller.

        Parameters
        ----------
        current_a : float
            As set; its sign does not matter to the chip.
        limit_v : float
            Voltage across the heater above which less current flows.
        """
        self._state[_CURRENT] = 0.0 if self._broken else abs(current_a)
        self._state[_LIMIT] = abs(limit_v)
        self._state[_RATE] = self._state[_TRIM] = 0.0

    def inject_controller_fault(self, rate_c_per_s: float | None) -> None:
        """Let the controller ignore its setpoint, or follow it again.

        Parameters
        ----------
        rate_c_per_s : float or None
            The faulty controller gives the holding power of a temperature that rises so fast
            from the present one; None ends the fault, without a trim.
        """
        state = self._state
        if rate_c_per_s is None:
            state[_FAULT] = math.nan
            state[_TRIM] = 0.0
            state[_REFERENCE] = state[_SETPOINT]
        else:
            state[_FAULT], state[_FAULT_RATE] = state[_T], rate_c_per_s

    def age(self, factor: float) -> None:
        """Let the heater's resistance be so many times what its calibration says, as films drift.

        Seen where a current is driven; the controller has its own thermometer.
        """
        self._state[_AGED] = factor

    def break_wire(self) -> None:
        """Break the heater's wire, for good."""
        self._broken = True
        self.drive(0.0, 0.0)

    def resistance_at(self, t_ns: int) -> float:
        """Resistance now, or at a moment of the last half minute."""
        return OPEN_OHM if self._broken else self._state[_AGED] * resistance_ohm(self.at(t_ns)[0])

    def hold_here(self) -> None:
        """Stop a ramp at the setpoint that it has reached."""
        self._state[_TARGET] = self._state[_SETPOINT]
        self._state[_RATE] = 0.0
        self.busy_until_ns = self.t_ns

    def reading(self, rng: np.random.Generator) -> HeaterReading:
        """What the electronics measure now, with noise in the temperature."""
        measured_c = self.temperature_c + self.config.noise_c * float(rng.standard_normal())
        resistance, power = resistance_ohm(measured_c), float(self._state[_POWER])
        current = math.sqrt(power / resistance)
        return HeaterReading(
            self.t_ns,
            measured_c,
            self.setpoint_c,
            power,
            resistance,
            current * resistance,
            current,
        )

    def at(self, t_ns: int) -> tuple[float, float, float]:
        """True temperature, equivalent time and holder temperature, of the last half minute.

        Returns
        -------
        tuple of float
            degC, s, degC; a moment outside the memory gives its nearest end.
        """
        times, trace = self.trace(t_ns - 2_000_000)
        x = (times - t_ns).astype(np.float64)
        return (
            float(np.interp(0.0, x, trace[:, 0])),
            float(np.interp(0.0, x, trace[:, 1])),
            float(np.interp(0.0, x, trace[:, 2])),
        )

    def trace(self, since_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """True course since a moment, as far as it is remembered: at least half a minute.

        Returns
        -------
        tuple of ndarray
            Times (n,) in ns and values (n, 3): temperature in degC, equivalent time in s, holder
            temperature in degC; steps of 1 ms or finer, n at least 1.
        """
        count = min(self._cursor, _TRACE)
        step = 64
        # Walk back until the moment is covered: requests are nearly always recent.
        while step < count and self._trace_t[(self._cursor - step) % _TRACE] > since_ns:
            step *= 4
        places = np.arange(self._cursor - min(step, count), self._cursor) % _TRACE
        times = self._trace_t[places]
        first = max(0, min(int(np.searchsorted(times, since_ns)), len(places) - 1))
        return times[first:], self._trace[places[first:]]
