"""What the heater's readings say of the heat that the specimen has received; pure."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.units import GAS_CONSTANT_J_PER_MOL_K, ZERO_CELSIUS_K

Floats = NDArray[np.float64]

# A reading is kept where it differs by so much from the last one kept, or so long after it.
_KEPT_C, _KEPT_S = 0.3, 0.25
# A longer silence is an interruption: nothing is known of the temperature between.
_SILENCE_S = 5.0
# Readings at most, of a tail of a hold that is fitted.
_TAIL_POINTS = 200


@dataclass(frozen=True)
class Dwell:
    """Time spent at temperatures.

    Parameters
    ----------
    temperature_c : ndarray, shape (n,)
        Temperatures in deg C.
    seconds : ndarray, shape (n,)
        Time at each of them.
    """

    temperature_c: Floats
    seconds: Floats

    def equivalent_s(self, activation_j_per_mol: Floats, reference_c: float) -> Floats:
        """Time at the reference temperature that changes the specimen as much.

        The integral of exp(-Q/R (1/T - 1/T_ref)) over the time.

        Parameters
        ----------
        activation_j_per_mol : ndarray, shape (q,)
            Activation energies Q.
        reference_c : float
            Reference temperature in deg C.

        Returns
        -------
        ndarray, shape (q,)
            Seconds.
        """
        inverse = 1.0 / (self.temperature_c + ZERO_CELSIUS_K) - 1.0 / (reference_c + ZERO_CELSIUS_K)
        exponent = -np.outer(activation_j_per_mol / GAS_CONSTANT_J_PER_MOL_K, inverse)
        # Far below the reference nothing happens; far above, a number must remain.
        return np.exp(np.clip(exponent, -700.0, 50.0)) @ self.seconds


@dataclass(frozen=True)
class HoldShape:
    """How the temperature of holds runs: part of the step from standby to target, over time.

    Parameters
    ----------
    time_s : ndarray, shape (n,)
        Time since the crossing of the midpoint upwards; ascending, from before 0.
    part : ndarray, shape (n,)
        (T - T_standby) / (T_target - T_standby): above 1 where it overshoots.
    tail_s : float
        Time constant with which the last deviation from 1 fades.
    """

    time_s: Floats
    part: Floats
    tail_s: float

    def dwell(self, hold_s: float, standby_c: float, target_c: float) -> Dwell:
        """Expected temperatures of a hold of some length; beyond the shape its end fades out."""
        end_s = float(self.time_s[-1])
        fine = np.linspace(min(float(self.time_s[0]), 0.0), hold_s, 400)
        part = np.interp(fine, self.time_s, self.part)
        late = fine > end_s
        part[late] = 1.0 + (self.part[-1] - 1.0) * np.exp(-(fine[late] - end_s) / self.tail_s)
        step_s = (fine[-1] - fine[0]) / (len(fine) - 1)
        seconds = np.full(len(fine), step_s)
        seconds[[0, -1]] *= 0.5
        return Dwell(standby_c + (target_c - standby_c) * part, seconds)


def flat_shape() -> HoldShape:
    """The shape of a hold of which nothing is known: at its target from the first moment on."""
    return HoldShape(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 1.0)


class ThermalHistory:
    """The heater's readings since the run began, thinned out where nothing changes."""

    def __init__(self) -> None:
        self._t_ns, self._c = array("q"), array("d")
        # The latest reading, which may not be kept: one before a change must be.
        self._latest: tuple[int, float] | None = None

    def add(self, t_ns: int, temperature_c: float) -> None:
        """Take in a reading; one out of order or without a number is left out."""
        if math.isnan(temperature_c) or (self._latest and t_ns <= self._latest[0]):
            return
        before, self._latest = self._latest, (t_ns, temperature_c)
        if before is not None and self._c:
            changed = abs(temperature_c - self._c[-1]) >= _KEPT_C
            if not changed and t_ns - self._t_ns[-1] < _KEPT_S * 1e9:
                return
            if changed and before[0] > self._t_ns[-1]:
                self._keep(*before)
        self._keep(t_ns, temperature_c)

    @classmethod
    def of(
        cls, t_ns: NDArray[np.int64], temperature_c: Floats, later: ThermalHistory
    ) -> ThermalHistory:
        """History of a heater's log, and of the readings that came after it.

        Parameters
        ----------
        t_ns, temperature_c : ndarray, shape (n,)
            The log, in order of time.
        later : ThermalHistory
            What follows; readings that are not later than the log are left out.
        """
        made = cls()
        for times, celsius in ((t_ns.tolist(), temperature_c.tolist()), (later._t_ns, later._c)):
            for one_ns, one_c in zip(times, celsius, strict=True):
                made.add(int(one_ns), float(one_c))
        return made

    def _keep(self, t_ns: int, temperature_c: float) -> None:
        self._t_ns.append(t_ns)
        self._c.append(temperature_c)

    def readings(self, from_ns: int, until_ns: int) -> tuple[Floats, Floats]:
        """Kept readings of a time: seconds since its beginning, and deg C; each shape (n,)."""
        times, values = np.array(self._t_ns, np.int64), np.array(self._c, np.float64)
        if self._latest is not None and self._latest[0] > (times[-1] if len(times) else -1):
            times, values = np.append(times, self._latest[0]), np.append(values, self._latest[1])
        first, last = np.searchsorted(times, [from_ns, until_ns + 1])
        seconds: Floats = (times[first:last] - from_ns).astype(np.float64) * 1e-9
        return seconds, values[first:last]

    def dwell(self, from_ns: int, until_ns: int) -> Dwell:
        """Time spent at temperatures, with the means between neighbouring readings.

        Over a silence the cooler of its two ends counts: a heater that is not followed is off.
        """
        seconds, celsius = self.readings(from_ns, until_ns)
        if len(seconds) < 2:
            return Dwell(np.empty(0), np.empty(0))
        lasted = np.diff(seconds)
        mean = 0.5 * (celsius[1:] + celsius[:-1])
        cooler = np.minimum(celsius[1:], celsius[:-1])
        return Dwell(np.where(lasted > _SILENCE_S, cooler, mean), lasted)

    def hold_shape(
        self, crossed_up_ns: int, crossed_down_ns: int, standby_c: float, target_c: float
    ) -> HoldShape | None:
        """How the temperature ran in a hold; None where too few readings say it.

        Parameters
        ----------
        crossed_up_ns, crossed_down_ns : int
            Crossings of the midpoint.
        standby_c, target_c : float
            Temperatures of the hold in deg C.
        """
        seconds, celsius = self.readings(crossed_up_ns, crossed_down_ns)
        inside = celsius > 0.5 * (standby_c + target_c)
        seconds, celsius = seconds[inside], celsius[inside]
        # The fall belongs to the end of every hold, not to this time of it.
        lasted_s = (crossed_down_ns - crossed_up_ns) * 1e-9
        early = seconds < lasted_s - min(0.1, 0.2 * lasted_s)
        seconds, celsius = seconds[early], celsius[early]
        if len(seconds) < 3:
            return None
        part = (celsius - standby_c) / (target_c - standby_c)
        return HoldShape(seconds, part, _tail_s(seconds, part))


def _tail_s(seconds: Floats, part: Floats) -> float:
    """Time constant of the deviation from the target, from its later half."""
    late = seconds >= 0.5 * seconds[-1]
    time_s, away = seconds[late][-_TAIL_POINTS:], np.abs(part[late][-_TAIL_POINTS:] - 1.0)
    usable = away > 2e-3
    if usable.sum() < 3:
        return 1.0
    slope = np.polyfit(time_s[usable], np.log(away[usable]), 1)[0]
    return float(np.clip(-1.0 / slope, 0.1, 60.0)) if slope < 0 else 60.0
