"""The control law on a model chip: settles, does not overshoot, forgives a wrong calibration."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.drivers.keithley.control_law import (
    ChipModel,
    ChipReading,
    Learned,
    Regulator,
    RegulatorSettings,
)
from pyrotome.drivers.keithley.plausibility import PlausibilityMonitor
from pyrotome.drivers.keithley.setpoint import SetpointProfile
from pyrotome.drivers.keithley.source_unit import ReadingTime
from pyrotome.protocols.config.calibration_file import load_calibration

ROOT = Path(__file__).resolve().parents[3]
CALIBRATION = load_calibration(ROOT / "examples" / "rigs" / "chip_calibration.json")
TUNING = RegulatorSettings(min_current_a=5e-4, max_current_a=0.0104)
# Cycles of 9600, 19200 and 57600 baud, and TCP.
CYCLES = [0.064, 0.034, 0.0145, 0.01]


def with_power(factor):
    power = CALIBRATION.power
    changed = power.model_copy(
        update={
            "conductance_w_per_k": power.conductance_w_per_k * factor,
            "radiation_w_per_k4": power.radiation_w_per_k4 * factor,
        }
    )
    return CALIBRATION.model_copy(update={"power": changed})


class Bench:
    """A chip under the law, stepped by hand; readings come a little after each current's start."""

    def __init__(self, cycle_s, known=CALIBRATION, true=CALIBRATION, noise_c=0.03, seed=1):
        self.plant, self.known = ChipModel(true), known
        self.cycle_s, self.lead_s, self.noise_c = cycle_s, 0.001, noise_c
        self.rng = np.random.default_rng(seed)
        self.regulator = Regulator(known, TUNING, cycle_s, self.lead_s)
        self.t_s, self.temperature_c = 0.0, true.ambient_c
        self.current_a = TUNING.min_current_a
        self.readings = []

    def _pass(self, seconds):
        count = max(1, round(seconds / 1e-3))
        for _ in range(count):
            self.temperature_c = self.plant.advance(
                self.temperature_c, self.current_a, seconds / count
            )
            self.t_s += seconds / count
            self.course.append((self.t_s, self.temperature_c))

    def follow(self, course, seconds):
        """Times from the start in s, and true temperatures."""
        self.course = []
        start_s = self.t_s
        while self.t_s < start_s + seconds:
            self._pass(self.lead_s)
            read_c = self.temperature_c + self.noise_c * self.rng.standard_normal()
            now = ChipReading(self.t_s, read_c, self.current_a)
            ohm = self.known.resistance.value(read_c)
            self.readings.append((self.t_s, read_c, ohm, self.current_a**2 * ohm))
            self.regulator.record(now)
            following_a = self.regulator.next_current_a(course.at)
            self._pass(self.cycle_s - self.lead_s)
            self.current_a = following_a
        times, values = np.array(self.course).T
        return times - start_s, values

    def step(self, to_c, seconds=1.5):
        """Settling time within 1 degC in s, and overshoot in degC."""
        from_c = self.temperature_c
        times, values = self.follow(SetpointProfile(to_c), seconds)
        outside = np.flatnonzero(np.abs(values - to_c) > 1.0)
        beyond = (values - to_c) * (1 if to_c > from_c else -1)
        return (times[outside[-1]] if len(outside) else 0.0), beyond.max()


@pytest.mark.parametrize("cycle_s", CYCLES)
def test_steps_settle_without_overshoot(cycle_s):
    bench = Bench(cycle_s)
    for to_c in (200.0, 350.0, 200.0, 900.0, 60.0):
        settled_s, overshoot_c = bench.step(to_c)
        assert settled_s < 0.45
        assert overshoot_c < 1.0


@pytest.mark.parametrize("cycle_s", CYCLES)
def test_a_ramp_is_followed(cycle_s):
    bench = Bench(cycle_s)
    bench.step(200.0)
    times, values = bench.follow(SetpointProfile(400.0, 200.0, bench.t_s, 2.0), 1.9)
    late = times > 0.4
    error_c = (values - (200.0 + 100.0 * times))[late]
    # The current is constant within a cycle, the ramp is not.
    assert np.abs(error_c).max() < 0.3 + 35.0 * cycle_s


@pytest.mark.parametrize("factor", [0.9, 0.97, 1.03, 1.3])
@pytest.mark.parametrize("cycle_s", CYCLES)
def test_a_wrong_loss_is_learned_and_carried_to_the_next_step(cycle_s, factor):
    known = CALIBRATION.model_copy(update={"power_tolerance": max(0.01, abs(factor - 1.0) / 2)})
    bench = Bench(cycle_s, known=known, true=with_power(factor))
    bench.step(200.0, 2.5)
    # At one temperature, part of it may be a warmer or colder room.
    assert bench.regulator.learned.factor == pytest.approx(factor, rel=0.06)
    settled_s, overshoot_c = bench.step(350.0)
    assert settled_s < 0.5
    assert overshoot_c < (4.0 if abs(factor - 1.0) < 0.2 else 6.0)


@pytest.mark.parametrize("cycle_s", CYCLES)
def test_no_power_in_the_calibration(cycle_s):
    bench = Bench(cycle_s, known=CALIBRATION.model_copy(update={"power": None}))
    _, overshoot_c = bench.step(200.0, 3.0)
    assert overshoot_c < 3.0
    assert abs(bench.temperature_c - 200.0) < 0.5
    settled_s, overshoot_c = bench.step(350.0)
    assert settled_s < 1.0
    assert overshoot_c < 2.0


@pytest.mark.parametrize("ratio", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("cycle_s", CYCLES)
def test_a_wrong_time_constant_is_learned(cycle_s, ratio):
    true = CALIBRATION.model_copy(update={"time_constant_s": CALIBRATION.time_constant_s * ratio})
    bench = Bench(cycle_s, true=true)
    _, overshoot_c = bench.step(200.0, 2.0)
    assert overshoot_c < 8.0
    _, overshoot_c = bench.step(350.0, 2.0)
    assert overshoot_c < 6.0
    assert abs(bench.temperature_c - 350.0) < 0.5
    bench.step(200.0)
    settled_s, overshoot_c = bench.step(350.0)
    assert settled_s < 0.5
    assert overshoot_c < 4.0
    assert bench.regulator.learned.inertia == pytest.approx(ratio, rel=0.35)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(CYCLES),
    st.floats(0.8, 1.25),
    st.floats(0.5, 2.0),
    st.lists(st.floats(25.0, 1000.0), min_size=1, max_size=3),
    st.floats(0.0, 0.3),
    st.integers(0, 100),
)
def test_whatever_the_chip_it_arrives_within_limits(cycle_s, loss, tau, targets, noise_c, seed):
    known = CALIBRATION.model_copy(update={"power_tolerance": 0.12})
    true = with_power(loss).model_copy(
        update={"time_constant_s": CALIBRATION.time_constant_s * tau}
    )
    bench = Bench(cycle_s, known=known, true=true, noise_c=noise_c, seed=seed)
    highest_c = 25.0
    for to_c in targets:
        _, values = bench.follow(SetpointProfile(to_c), 2.5)
        highest_c = max(highest_c, to_c)
        assert values.max() < highest_c + TUNING.headroom_c + 0.25 * (highest_c - 25.0) + 5.0
        assert abs(values[-300:].mean() - to_c) < 1.5 + 5 * noise_c


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-20, 1300), st.floats(0, 0.02), st.floats(1e-4, 1.0)),
        min_size=1,
        max_size=12,
    ),
    st.floats(-20, 1300),
)
def test_never_outside_the_limits_whatever_is_read(readings, to_c):
    regulator = Regulator(CALIBRATION, TUNING, 0.01, 0.001)
    t_s = 0.0
    for temperature_c, current_a, elapsed_s in readings:
        t_s += elapsed_s
        regulator.record(ChipReading(t_s, temperature_c, current_a))
        current = regulator.next_current_a(SetpointProfile(to_c).at)
        assert math.isfinite(current)
        assert TUNING.min_current_a <= current <= TUNING.max_current_a
        held_a = regulator.model.holding_current_a(to_c + TUNING.headroom_c, regulator.learned)
        assert current <= max(held_a, TUNING.min_current_a) + 1e-12


@pytest.mark.parametrize("known_s", [0.02, 0.07, 0.2])
def test_a_silent_line_leaves_the_chip_near_its_setpoint(known_s):
    bench = Bench(0.01)
    bench.step(200.0)
    bench.follow(SetpointProfile(350.0), known_s)  # then the line falls silent
    bench._pass(5.0)
    # Not far below either: what is not known of its loss.
    assert 340.0 < bench.temperature_c < 350.0 + TUNING.late_error_c + 0.5


@pytest.mark.parametrize("is_timed", [True, False])
def test_a_moving_chip_teaches_nothing_where_the_moment_is_not_known(is_timed):
    regulator = Regulator(CALIBRATION, TUNING, 0.01, 0.001)
    regulator.record(ChipReading(0.0, 200.0, 0.0065))
    # Much warmer than 10 ms can make it: it was read later, or it is another chip.
    regulator.record(ChipReading(0.01, 300.0, 0.0065, is_timed=is_timed))
    assert (regulator.learned != Learned()) is is_timed


def test_an_answer_that_comes_late_leaves_its_moment_unknown():
    times = ReadingTime()
    for took_s, known in ((0.006, True), (0.0062, True), (0.05, False), (0.006, True)):
        stamp_ns = times.stamp_ns(0, int(took_s * 1e9), 0.0, 0.0, 0.002, 2)
        assert times.is_known is known
        assert 1e6 <= stamp_ns < 3e6  # as at the quickest, however late the answer


@pytest.mark.parametrize("warmer_c", [-2.0, 2.0])
@pytest.mark.parametrize("cycle_s", CYCLES)
def test_surroundings_are_not_taken_for_the_loss(cycle_s, warmer_c):
    true = CALIBRATION.model_copy(update={"ambient_c": CALIBRATION.ambient_c + warmer_c})
    bench = Bench(cycle_s, true=true)
    # Where the chip is hardly heated, a wrong ambient temperature looks like a wrong loss.
    bench.follow(SetpointProfile(29.0), 10.0)
    assert bench.regulator.learned.factor == pytest.approx(1.0, abs=0.05)
    settled_s, overshoot_c = bench.step(350.0)
    assert settled_s < 0.5
    assert overshoot_c < 3.0


def test_course():
    course = SetpointProfile(400.0, 200.0, 10.0, 2.0)
    assert [course.at(t) for t in (9.0, 10.0, 11.0, 12.0, 20.0)] == [200, 200, 300, 400, 400]
    step = SetpointProfile(350.0, 200.0, 10.0)
    assert (step.at(9.99), step.at(10.0)) == (200.0, 350.0)


# Plausibility.


def wrong_by(fraction):
    resistance = CALIBRATION.resistance
    changed = resistance.model_copy(update={"r0_ohm": resistance.r0_ohm / (1.0 + fraction)})
    return CALIBRATION.model_copy(update={"resistance": changed})


def watch(readings, calibration=CALIBRATION):
    monitor = PlausibilityMonitor(calibration)
    for reading in readings:
        verdict = monitor.record(*reading)
        if verdict is not None:
            return reading[0]
    return None


@pytest.mark.parametrize("noise_c", [0.03, 0.3])
@pytest.mark.parametrize("cycle_s", CYCLES)
def test_normal_operation_is_never_implausible(cycle_s, noise_c):
    bench = Bench(cycle_s, noise_c=noise_c)
    for to_c in (200.0, 350.0, 200.0, 25.0, 600.0, 1000.0):
        bench.step(to_c, 2.0)
    for to_c, duration_s in ((200.0, 2.0), (900.0, 3.0), (300.0, 30.0)):
        bench.follow(
            SetpointProfile(to_c, bench.temperature_c, bench.t_s, duration_s), duration_s + 0.5
        )
    for k in range(20):  # holds as short as they come
        bench.step(350.0 if k % 2 else 200.0, 0.25)
    assert watch(bench.readings) is None


@pytest.mark.parametrize("fraction", [0.01, -0.01])
@pytest.mark.parametrize("to_c", [100.0, 200.0, 350.0, 600.0, 1000.0])
def test_one_percent_in_resistance_is_found_while_it_heats(to_c, fraction):
    known = wrong_by(fraction)
    bench = Bench(0.01, known=known)
    found_s = None
    bench.course = []
    # Readings are R of the true chip, turned into a temperature by the wrong file.
    while bench.t_s < 3.0 and found_s is None:
        bench._pass(0.001)
        ohm = CALIBRATION.resistance.value(bench.temperature_c)
        read_c = known.temperature_c(ohm)
        bench.readings.append((bench.t_s, read_c, ohm, bench.current_a**2 * ohm))
        bench.regulator.record(ChipReading(bench.t_s, read_c, bench.current_a))
        following_a = bench.regulator.next_current_a(SetpointProfile(to_c).at)
        bench._pass(0.009)
        bench.current_a = following_a
        found_s = watch(bench.readings[-400:], known) if len(bench.readings) % 10 == 0 else None
    assert found_s is not None
    assert found_s < 2.0
    assert watch(bench.readings, CALIBRATION) is None


def test_implausibility_has_to_last():
    monitor = PlausibilityMonitor(CALIBRATION)
    ohm = CALIBRATION.resistance_ohm(350.0)
    right_w = CALIBRATION.holding_power_w(350.0)

    def feed(start_s, seconds, power_w):
        return [
            monitor.record(start_s + 0.01 * k, 350.0, ohm, power_w)
            for k in range(round(100 * seconds))
        ]

    assert not any(feed(0.0, 1.0, right_w))
    assert not any(feed(1.0, 0.15, 1.1 * right_w))
    assert not any(feed(1.15, 1.0, right_w))
    assert any(feed(2.5, 2.0, 1.1 * right_w))
    monitor.restart()
    assert not any(feed(4.5, 0.9, 1.1 * right_w))
