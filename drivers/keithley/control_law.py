"""The control law of a heater that is driven by a current: pure, without clock or instrument.

The chip answers within milliseconds, a source-measure unit on a serial line within tens of them.
So the law predicts: from the latest reading and the current that flows, a model of the chip
(R(T) and holding power of its calibration, one time constant) gives the temperature at which the
next current will take effect, and the next current is the one that brings the error down to
``exp(-cycle / response)`` of itself one cycle later. That is feed-forward from P(T) with a
proportional part whose gain follows the rate that the line allows. The integral part is what is
learned from how far predictions were off, by a Kalman filter: the chip's loss and heat capacity
over those of the calibration, and how much warmer its surroundings are. At rest it can be the loss
where the chip is hot, the surroundings where it is not; in a step it is the heat capacity, which a
calibration seldom knows well.

A current stays on until the next one, and on a busy computer that can come late. So a current is
bounded by what the latest reading confirms: were nothing sent for `late_s` more, the chip would
pass the setpoint by no more than `late_error_c`, upwards and downwards, and were nothing sent ever
again, by no more than a headroom. The bound is for a chip that loses as little as it may: at
constant current a chip that loses less than believed does not stop a little above its setpoint but
far, because its resistance rises. A loss that is not well known makes the first steps slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ...protocols.config.calibration import ChipCalibration

# Without a holding power in the calibration: a conductance at the low end of MEMS heaters
# (wire card A4, from memory), so that what is not yet learned errs towards too little current.
UNKNOWN_CONDUCTANCE_W_PER_K = 1e-5
_SPREAD_UNKNOWN = 1.0
_SPREAD_INERTIA = 0.5
_INERTIA = (0.1, 10.0)
_AT_REST_C = 1.0
_FACTOR_KNOWN, _FACTOR_UNKNOWN = (0.5, 2.0), (0.2, 50.0)


@dataclass(frozen=True)
class RegulatorSettings:
    """Constants of the law.

    Attributes
    ----------
    min_current_a, max_current_a : float
        Hard limits. The lower one keeps the resistance measurable.
    response_s : float
        Time constant with which an error is brought down, where the line is fast enough.
    headroom_c : float
        A current may hold so much above the setpoint, and no more.
    late_s : float
        By which the next current may be late, beyond two cycles.
    late_error_c : float
        By which the chip may then have passed the setpoint.
    noise_c : float
        Of a reading, and of what the model misses at rest.
    transient_error : float
        Fraction of a predicted change by which the model may be wrong.
    wander_per_root_s : float
        How fast the factors are expected to change.
    """

    min_current_a: float
    max_current_a: float
    response_s: float = 0.02
    headroom_c: float = 10.0
    late_s: float = 0.2
    late_error_c: float = 1.0
    noise_c: float = 0.2
    transient_error: float = 0.05
    wander_per_root_s: float = 0.01


@dataclass(frozen=True)
class ChipReading:
    """One reading: when it was taken, temperature, and the current that flowed then.

    `is_timed`: whether the moment is known well; not where the answer came late.
    """

    t_s: float
    temperature_c: float
    current_a: float
    is_timed: bool = True


@dataclass(frozen=True)
class Learned:
    """How a chip differs from its calibration.

    Attributes
    ----------
    factor, inertia : float
        Its loss and heat capacity over those of the calibration.
    warmer_c : float
        Its surroundings over the calibration's ambient temperature.
    """

    factor: float = 1.0
    inertia: float = 1.0
    warmer_c: float = 0.0


class ChipModel:
    """The chip as its calibration has it: ``C dT/dt = I^2 R(T) - loss(T)``."""

    def __init__(self, calibration: ChipCalibration) -> None:
        self.calibration = calibration
        ambient_c = calibration.ambient_c
        self._ambient_c = ambient_c
        power = calibration.power
        conductance = (
            UNKNOWN_CONDUCTANCE_W_PER_K if power is None else power.slope(ambient_c, ambient_c)
        )
        self._conductance = conductance
        self._capacity = calibration.time_constant_s * conductance
        self._low_c, self._high_c = calibration.range_c

    def loss_w(self, temperature_c: float) -> float:
        """Power that the chip loses, by the calibration alone."""
        power = self.calibration.power
        if power is None:
            return self._conductance * (temperature_c - self._ambient_c)
        return power.value(temperature_c, self._ambient_c)

    def _lost_w(self, temperature_c: float, learned: Learned) -> float:
        return learned.factor * (self.loss_w(temperature_c) - self._conductance * learned.warmer_c)

    def holding_current_a(self, temperature_c: float, learned: Learned = Learned()) -> float:
        """Current that holds a temperature within the calibration's range."""
        held_c = min(max(temperature_c, self._low_c), self._high_c)
        lost_w = max(0.0, self._lost_w(held_c, learned))
        return math.sqrt(lost_w / self.calibration.resistance.value(held_c))

    def time_constants_s(self, temperature_c: float, ratio: float) -> tuple[float, float]:
        """Time constants around a temperature: at the current that holds it, and at none.

        `ratio` is that of learned inertia to learned factor. The first is the longer one: at a
        constant current, power rises with the resistance.
        """
        held_c = min(max(temperature_c, self._low_c), self._high_c)
        power, resistance = self.calibration.power, self.calibration.resistance
        slope = self._conductance if power is None else power.slope(held_c, self._ambient_c)
        per_ohm = max(0.0, self.loss_w(held_c)) / resistance.value(held_c)
        net = max(slope - per_ohm * resistance.slope(held_c), 0.1 * slope)
        return self._capacity * ratio / net, self._capacity * ratio / slope

    def advance(
        self,
        temperature_c: float,
        current_a: float,
        duration_s: float,
        learned: Learned = Learned(),
    ) -> float:
        """Temperature after a time at constant current; kept within the calibration's range."""
        resistance = self.calibration.resistance
        power = self.calibration.power
        square, left_s = current_a * current_a, max(0.0, duration_s)
        factor, inertia = learned.factor, learned.inertia
        capacity = self._capacity * inertia
        while left_s > 0.0:
            slope = self._conductance
            if power is not None:
                slope = power.slope(temperature_c, self._ambient_c)
            net = factor * slope - square * resistance.slope(temperature_c)
            made_w = square * resistance.value(temperature_c)
            surplus = made_w - self._lost_w(temperature_c, learned)
            # Exact for the balance made linear here; steps short enough that it stays nearly so.
            step_s = min(left_s, 0.25 * self.calibration.time_constant_s * inertia / factor)
            x = net * step_s / capacity
            weight = 1.0 - 0.5 * x if abs(x) < 1e-6 else -math.expm1(-x) / x
            moved_c = temperature_c + surplus * step_s / capacity * weight
            temperature_c = min(max(moved_c, self._low_c), self._high_c)
            if abs(surplus) < 1e-9 * self._conductance:
                break
            left_s -= step_s
        return temperature_c


class Regulator:
    """From readings to currents.

    Parameters
    ----------
    calibration : ChipCalibration
        Of the chip.
    settings : RegulatorSettings
        Constants of the law.
    cycle_s : float
        Time between readings, as the line's speed lets expect it; followed afterwards.
    lead_s : float
        Time from the start of a current to the centre of the reading that follows it.

    Attributes
    ----------
    learned : Learned
        What the chip has been found to be.
    """

    def __init__(
        self,
        calibration: ChipCalibration,
        settings: RegulatorSettings,
        cycle_s: float,
        lead_s: float = 0.0,
    ) -> None:
        self.model = ChipModel(calibration)
        self.settings = settings
        self.cycle_s, self.lead_s = cycle_s, lead_s
        self.learned = Learned()
        known = calibration.power is not None
        spread = calibration.power_tolerance if known else _SPREAD_UNKNOWN
        # Covariance of the logarithms of factor and inertia, and of warmer_c. Where the loss is
        # not known, neither is the heat capacity behind a time constant.
        both = 0.0 if known else spread**2
        self._covariance = [
            [spread**2, both, 0.0],
            [both, both + _SPREAD_INERTIA**2, 0.0],
            [0.0, 0.0, (0.5 * calibration.ambient_tolerance_c) ** 2],
        ]
        self._bounds = _FACTOR_KNOWN if known else _FACTOR_UNKNOWN
        self._inertia_bounds = (_INERTIA[0] * self._bounds[0], _INERTIA[1] * self._bounds[1])
        self._before: ChipReading | None = None

    def forget_reading(self) -> None:
        """Make no use of the reading before: something else has driven the chip since."""
        self._before = None

    def record(self, now: ChipReading) -> None:
        """Record a reading, and learn from it."""
        if self._before is not None:
            self._learn(self._before, now)
        self._before = now

    def next_current_a(
        self, setpoint_c: Callable[[float], float], earliest_s: float = -math.inf
    ) -> float:
        """Current to set next, from the latest reading.

        Parameters
        ----------
        setpoint_c : callable
            Setpoint at a moment, given in the time of the readings.
        earliest_s : float
            Moment before which the current cannot take effect, in that time; later than one cycle
            after the reading where the computer is late.

        Returns
        -------
        float
            Current in ampere, within the limits; the lowest where there is no reading.
        """
        now = self._before
        if now is None:
            return self.settings.min_current_a
        model, cycle_s = self.model, self.cycle_s
        effect_s = max(now.t_s + cycle_s - self.lead_s, earliest_s)
        start_c = model.advance(now.temperature_c, now.current_a, effect_s - now.t_s, self.learned)
        error_c = start_c - setpoint_c(effect_s)
        end_c = setpoint_c(effect_s + cycle_s)
        goal_c = end_c + error_c * math.exp(-cycle_s / self.settings.response_s)
        low_a, high_a = self._bounds_a(start_c, effect_s, setpoint_c)
        return self._current_towards(start_c, goal_c, low_a, high_a)

    def _bounds_a(
        self, start_c: float, effect_s: float, setpoint_c: Callable[[float], float]
    ) -> tuple[float, float]:
        """Lowest and highest current for the next cycle: harmless also when it lasts too long."""
        settings, model = self.settings, self.model
        late_s = settings.late_s + 2.0 * self.cycle_s
        # The setpoint goes on where a ramp is late; a ramp is monotonic.
        ends = setpoint_c(effect_s), setpoint_c(effect_s + late_s)
        top_c, bottom_c = max(ends) + settings.late_error_c, min(ends) - settings.late_error_c
        near = start_c > max(ends) - settings.headroom_c
        # The chip goes towards what a current holds as e^(-t/tau), so that a slow one may be
        # driven harder: after `late_s` it is still far from there.
        heated_s, unheated_s = model.time_constants_s(max(ends), self._least_ratio)
        reach_c = top_c + max(0.0, top_c - start_c) / math.expm1(late_s / heated_s)
        reach_c = min(reach_c, max(ends) + settings.headroom_c)
        high_a = model.holding_current_a(reach_c, self._with_loss_less_by(2.0))
        if near:  # what holds the setpoint is no longer a matter of what the chip may be
            high_a = max(high_a, model.holding_current_a(top_c, self.learned))
        reach_c = bottom_c - max(0.0, start_c - bottom_c) / math.expm1(late_s / unheated_s)
        low_a = model.holding_current_a(reach_c, self._with_loss_less_by(1.0))
        lowest_a = settings.min_current_a
        high_a = max(lowest_a, min(settings.max_current_a, high_a))
        return min(max(lowest_a, low_a), high_a), high_a

    def _with_loss_less_by(self, sigmas: float) -> Learned:
        """The chip as it may be, its loss less than the most likely one."""
        spread = math.sqrt(self._covariance[0][0])
        factor = self.learned.factor * math.exp(-sigmas * spread)
        return replace(self.learned, factor=max(self._bounds[0], factor))

    @property
    def _least_ratio(self) -> float:
        """Inertia over factor, and so the time constant, that the chip may have at the least."""
        (loss, both, _), (_, inertia, _), _ = self._covariance
        spread = math.sqrt(max(0.0, loss + inertia - 2.0 * both))
        return self.learned.inertia / self.learned.factor * math.exp(-2.0 * spread)

    def _current_towards(self, start_c: float, goal_c: float, low_a: float, high_a: float) -> float:
        """Current within limits that leads from a temperature to another within one cycle."""

        def reached_c(square: float) -> float:
            return self.model.advance(start_c, math.sqrt(square), self.cycle_s, self.learned)

        low, high = low_a * low_a, high_a * high_a
        off_low, off_high = reached_c(low) - goal_c, reached_c(high) - goal_c
        if off_low >= 0.0:
            return low_a
        if off_high <= 0.0:
            return high_a
        square = high
        # Regula falsi (Illinois); what is reached is nearly linear in the current's square.
        side = 0
        for _ in range(20):
            square = (low * off_high - high * off_low) / (off_high - off_low)
            off = reached_c(square) - goal_c
            if abs(off) < 1e-3:
                break
            if off > 0.0:
                high, off_high = square, off
                off_low *= 0.5 if side > 0 else 1.0
                side = 1
            else:
                low, off_low = square, off
                off_high *= 0.5 if side < 0 else 1.0
                side = -1
        return math.sqrt(square)

    def _learn(self, before: ChipReading, now: ChipReading) -> None:
        """Compare a reading with what was predicted for it."""
        elapsed_s = now.t_s - before.t_s
        if not 0.0 < elapsed_s < 10.0 * max(self.cycle_s, self.model.calibration.time_constant_s):
            return  # nothing can be said of a gap
        # A single cycle that took long says little of those that follow.
        self.cycle_s += 0.1 * (min(elapsed_s, 2.0 * self.cycle_s) - self.cycle_s)
        model, settings = self.model, self.settings
        moved_c = abs(now.temperature_c - before.temperature_c)
        if moved_c > _AT_REST_C and not (before.is_timed and now.is_timed):
            return  # how fast it moves is not known
        lead_s = min(self.lead_s, elapsed_s)

        def predicted_c(learned: Learned) -> float:
            switched_c = model.advance(
                before.temperature_c, before.current_a, elapsed_s - lead_s, learned
            )
            return model.advance(switched_c, now.current_a, lead_s, learned)

        # Extended Kalman filter: sensitivities by small changes, then gain and covariance.
        known = self.learned
        expected_c = predicted_c(known)
        by = (
            (predicted_c(replace(known, factor=known.factor * 1.01)) - expected_c) / 0.01,
            (predicted_c(replace(known, inertia=known.inertia * 1.01)) - expected_c) / 0.01,
            (predicted_c(replace(known, warmer_c=known.warmer_c + 0.1)) - expected_c) / 0.1,
        )
        covariance = self._covariance
        wander = settings.wander_per_root_s**2 * elapsed_s
        for k in range(3):
            covariance[k][k] += wander
        change_c = expected_c - before.temperature_c
        # Where the loss is far from known, the model is not linear enough over a large change.
        wrong = settings.transient_error + math.sqrt(covariance[0][0])
        doubt = settings.noise_c**2 + (wrong * change_c) ** 2
        towards = [sum(row[k] * by[k] for k in range(3)) for row in covariance]
        spread = sum(by[k] * towards[k] for k in range(3)) + doubt
        self._covariance = [
            [covariance[i][k] - towards[i] * towards[k] / spread for k in range(3)]
            for i in range(3)
        ]
        for k in range(3):
            self._covariance[k][k] = max(self._covariance[k][k], 0.0)
        surprise = (now.temperature_c - expected_c) / spread
        most_c = 5.0 * model.calibration.ambient_tolerance_c
        self.learned = Learned(
            _moved(known.factor, towards[0] * surprise, self._bounds),
            _moved(known.inertia, towards[1] * surprise, self._inertia_bounds),
            min(max(known.warmer_c + towards[2] * surprise, -most_c), most_c),
        )


def _moved(value: float, by: float, bounds: tuple[float, float]) -> float:
    """A factor after a change of its logarithm, not more than threefold at a time."""
    return min(max(value * math.exp(min(max(by, -1.0), 1.0)), bounds[0]), bounds[1])
