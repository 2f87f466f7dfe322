"""Rules about the heater's readings: stale, implausible, too hot, too fast, off the setpoint."""

from __future__ import annotations

import math
from collections import deque

from ...drivers.base import HeaterSample
from .learned_curve import LearnedCurve
from .observations import Observation, Reading, Tick
from .rules import Check, RuleLimits, SetpointHistory, Violation

ABSOLUTE_ZERO_C, HOTTEST_C = -273.15, 4000.0
OPEN_CIRCUIT_OHM = 1e6
# A reading that is not newer than the last counts as stale; wall seconds that must pass as well.
STALE_WALL_S = 2.0
# Gaps longer than this are attributed to a blocked event loop, not to the instrument.
_OWN_PAUSE_S = 0.3
# Measured channels that must all repeat before a reading counts as repeated.
_REPEATING_CHANNELS = 2
SETTLING_S = 1.0
RATE_WINDOW_S = 1.0
RATE_FACTOR, RATE_EXTRA_C_PER_S = 2.5, 5.0
PROGRESS_C = 2.0
# A power this many times the usual one at a temperature, for so long, heats something else.
POWER_FACTOR, POWER_S, POWER_RISE_C = 3.0, 2.5, 5.0
NEGATIVE_POWER_W = 1e-3


class Stale(Check):
    """No new reading: no reading at all, no later time stamp, or repeated values."""

    takes = (Reading, Tick)

    def __init__(self, limits: RuleLimits, setpoints: SetpointHistory) -> None:
        super().__init__(limits, setpoints)
        self._last: HeaterSample | None = None
        self._looked: tuple[int, float] | None = None
        self._silent_s = self._silent_wall_s = 0.0
        self._repeats = False

    def check(self, observation: Observation) -> Violation | None:
        """Add up the time without a new reading."""
        if self._looked is not None:
            passed_s = max(0, observation.now_ns - self._looked[0]) * 1e-9
            wall_s = max(0.0, observation.wall_s - self._looked[1])
            share = min(1.0, _OWN_PAUSE_S / wall_s) if wall_s > 0 else 1.0
            self._silent_s += passed_s * share
            self._silent_wall_s += wall_s * share
        self._looked = observation.now_ns, observation.wall_s
        if isinstance(observation, Reading):
            self._repeats = self._is_repeated(observation.sample)
            if not self._repeats:
                self._silent_s = self._silent_wall_s = 0.0
            self._last = observation.sample
        bound_s = self.limits.bound
        if self._silent_s <= bound_s or self._silent_wall_s <= STALE_WALL_S:
            return None
        what = "readings repeat" if self._repeats else "no reading has come"
        return Violation(self._silent_s, bound_s, f"{what}, for {self._silent_s:.1f} s now")

    def _is_repeated(self, sample: HeaterSample) -> bool:
        last = self._last
        if last is None:
            return False
        if sample.t_ns <= last.t_ns:
            return True
        if sample.temperature_c != last.temperature_c or sample.setpoint_c != last.setpoint_c:
            return False
        values = sample.values
        # A heater that is off has nothing to measure.
        off = not any(values.get(name) for name in ("power_w", "current_a"))
        return not off and len(values) >= _REPEATING_CHANNELS and values == last.values


class Implausible(Check):
    """Resistance, power and temperature that cannot belong to one chip."""

    LEARN_EVERY_NS = 100_000_000
    QUIET_C = 1.0
    BEYOND = 0.15  # of the way beyond what was learned is granted

    def __init__(self, limits: RuleLimits, setpoints: SetpointHistory) -> None:
        super().__init__(limits, setpoints)
        self.forget()

    def forget(self) -> None:
        """Learn the curves again."""
        self._resistance, self._power = LearnedCurve(), LearnedCurve()
        self._mark_c = math.nan
        self._mark_ns = 0
        self._too_much: tuple[int, float] | None = None

    def check(self, observation: Observation) -> Violation | None:
        """Compare with physical limits and with the learned curves."""
        assert isinstance(observation, Reading)
        sample = observation.sample
        read_c = sample.temperature_c
        resistance, power_w = (sample.values.get(k) for k in ("resistance_ohm", "power_w"))
        found = self._cannot_be(read_c, resistance, power_w)
        if found is not None:
            return found
        found = self._resistance_does_not_fit(read_c, resistance)
        if found is not None:
            return found
        found = self._heats_something_else(sample.t_ns, read_c, power_w)
        if found is not None:
            return found
        if sample.t_ns - self._mark_ns >= self.LEARN_EVERY_NS:
            # What changes fast may have been measured at different moments.
            quiet = abs(read_c - self._mark_c) < self.QUIET_C and self._too_much is None
            self._mark_ns, self._mark_c = sample.t_ns, read_c
            if quiet and resistance is not None:
                self._resistance.learn(read_c, resistance)
            if quiet and power_w is not None:
                self._power.learn(read_c, power_w)
        return None

    def _cannot_be(
        self, read_c: float, resistance: float | None, power_w: float | None
    ) -> Violation | None:
        if not ABSOLUTE_ZERO_C <= read_c <= HOTTEST_C:
            text = f"a temperature of {read_c:g} degC"
            return Violation(read_c, HOTTEST_C, text, at_once=True, unit="degC")
        if resistance is not None and not 0.0 < resistance < OPEN_CIRCUIT_OHM:
            text = f"a resistance of {resistance:g} ohm: the circuit is open or shorted"
            return Violation(resistance, OPEN_CIRCUIT_OHM, text, unit="ohm")
        if power_w is not None and not -NEGATIVE_POWER_W <= power_w < math.inf:
            return Violation(power_w, -NEGATIVE_POWER_W, f"a power of {power_w:g} W", unit="W")
        return None

    def _resistance_does_not_fit(self, read_c: float, resistance: float | None) -> Violation | None:
        relation = self._resistance
        if resistance is None or not relation.armed:
            return None
        expected, beyond_c = relation.expected(read_c)
        slope = relation.slope
        if abs(slope) * 100.0 < 0.02 * abs(expected):
            return None  # this resistance hardly tells temperatures apart
        off_c = abs((resistance - expected) / slope)
        bound_c = self.limits.bound + self.BEYOND * beyond_c
        if off_c <= bound_c:
            return None
        return Violation(
            off_c,
            bound_c,
            f"{resistance:.4g} ohm at {read_c:.1f} degC, where {expected:.4g} ohm were seen "
            f"before: {off_c:.0f} K off",
        )

    def _heats_something_else(
        self, t_ns: int, read_c: float, power_w: float | None
    ) -> Violation | None:
        relation = self._power
        if power_w is None or not relation.largest > NEGATIVE_POWER_W:
            return None
        # A lower power was enough for a higher temperature: one learned temperature suffices.
        expected = relation.expected(read_c)[0] if relation.armed else relation.above(read_c)
        if expected is None:
            return None
        largest = POWER_FACTOR * max(0.0, expected) + 0.1 * relation.largest
        if power_w <= largest:
            self._too_much = None
            return None
        if self._too_much is None or read_c - self._too_much[1] > POWER_RISE_C:
            self._too_much = t_ns, read_c
        if (t_ns - self._too_much[0]) * 1e-9 < POWER_S:
            return None
        return Violation(
            power_w,
            largest,
            f"{power_w:.3g} W do not heat it beyond {read_c:.1f} degC, where {expected:.3g} W were "
            "enough before: has the sensor fallen off?",
            unit="W",
        )


class OverTemperature(Check):
    """Temperature above the limit of the rig, or of the recipe that runs."""

    def __init__(self, limits: RuleLimits, setpoints: SetpointHistory) -> None:
        super().__init__(limits, setpoints)
        self._recipe_c: float | None = None
        self._engaged = False

    def check(self, observation: Observation) -> Violation | None:
        """Compare with the limit plus the overshoot of the controller."""
        assert isinstance(observation, Reading)
        read_c, setpoints, limits = (
            observation.sample.temperature_c,
            self.setpoints,
            self.limits.heater,
        )
        if self._recipe_c != setpoints.limit_c:
            self._recipe_c, self._engaged = setpoints.limit_c, False
        # A chip that still cools from an earlier run is hotter than a colder recipe allows.
        self._engaged = self._engaged or (self._recipe_c is not None and read_c <= self._recipe_c)
        limit_c, whose = limits.temperature_c, "rig"
        if self._engaged and self._recipe_c is not None and self._recipe_c < limit_c:
            limit_c, whose = self._recipe_c, "recipe"
        granted_c = min(observation.sample.setpoint_c, limit_c) + setpoints.excess_c
        bound_c = max(limit_c, granted_c) + self.limits.bound
        if not read_c > bound_c:
            return None
        highest_c = limits.temperature_c + self.limits.supervisor.overshoot * (
            limits.temperature_c - limits.safe_c
        )
        return Violation(
            read_c,
            bound_c,
            f"heater reads {read_c:.1f} degC, the {whose} allows {limit_c:g} degC",
            at_once=read_c > highest_c + self.limits.bound,
        )


class Rate(Check):
    """Change faster than the rate of the rig, or away from a setpoint that does not move."""

    def __init__(self, limits: RuleLimits, setpoints: SetpointHistory) -> None:
        super().__init__(limits, setpoints)
        self._recent: deque[tuple[int, float, float]] = deque()

    def forget(self) -> None:
        """Forget earlier readings."""
        self._recent.clear()

    def check(self, observation: Observation) -> Violation | None:
        """Compare with the reading of a second ago."""
        assert isinstance(observation, Reading)
        sample, recent = observation.sample, self._recent
        if recent and sample.t_ns <= recent[-1][0]:
            return None
        recent.append((sample.t_ns, sample.temperature_c, sample.setpoint_c))
        window_ns = int(RATE_WINDOW_S * 1e9)
        while len(recent) > 2 and sample.t_ns - recent[1][0] >= window_ns:
            recent.popleft()
        then_ns, then_c, setpoint_c = recent[0]
        passed_s = (sample.t_ns - then_ns) * 1e-9
        if passed_s < RATE_WINDOW_S:
            return None
        setpoints, rate = self.setpoints, self.limits.heater.rate_c_per_s
        read_c = sample.temperature_c
        if rate is not None:
            found = abs(read_c - then_c) / passed_s
            bound = RATE_FACTOR * rate + RATE_EXTRA_C_PER_S + setpoints.decay_c_per_s
            if found > bound:
                text = f"heater changes by {found:.0f} K/s, the rig allows {rate:g} K/s"
                return Violation(found, bound, text)
        settled = then_ns >= setpoints.moved_ns + int(SETTLING_S * 1e9)
        arrived_c = self.limits.bound * RATE_WINDOW_S + setpoints.excess_c
        if not settled or abs(then_c - setpoint_c) > arrived_c:
            return None
        # Only what leads away: an excess that goes back to the setpoint may do so at any speed.
        above, before = read_c - setpoint_c, then_c - setpoint_c
        away_c = abs(above) if above * before < 0 else abs(above) - abs(before)
        found, bound = away_c / passed_s, self.limits.bound + setpoints.decay_c_per_s
        if not found > bound:
            return None
        text = f"heater changes by {found:.0f} K/s while the setpoint stands still at "
        return Violation(found, bound, f"{text}{setpoint_c:g} degC")


class NoProgress(Check):
    """Temperature off the setpoint that does not approach it."""

    def __init__(self, limits: RuleLimits, setpoints: SetpointHistory) -> None:
        super().__init__(limits, setpoints)
        self.forget()

    def forget(self) -> None:
        """Forget earlier readings."""
        self._since: tuple[int, float] | None = None
        self._setpoint_c = math.nan

    def check(self, observation: Observation) -> Violation | None:
        """Compare with the setpoint, and with the last reading that was an approach to it."""
        assert isinstance(observation, Reading)
        sample, bound_c = observation.sample, self.limits.bound
        stepped = abs(sample.setpoint_c - self._setpoint_c) > bound_c
        self._setpoint_c = sample.setpoint_c
        above_c = sample.temperature_c - sample.setpoint_c
        allowed_c = bound_c + (self.setpoints.excess_c if above_c > 0 else 0.0)
        if abs(above_c) <= allowed_c:
            self._since = None
            return None
        if self._since is None or stepped:
            self._since = sample.t_ns, sample.temperature_c
        came_c = (self._since[1] - sample.temperature_c) * math.copysign(1.0, above_c)
        if came_c > max(PROGRESS_C, 0.05 * abs(above_c)):
            self._since = sample.t_ns, sample.temperature_c
        return Violation(
            abs(above_c),
            allowed_c,
            f"heater reads {sample.temperature_c:.1f} degC at a setpoint of "
            f"{sample.setpoint_c:.1f} degC and does not come nearer",
            # On its own way from the setpoint it would be far by the time that a delay is over.
            at_once=-came_c > bound_c,
            since_ns=self._since[0],
        )
