"""The supervisor on recorded and made-up courses: what trips, when, and what never may."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyrotome.daemon.safety.learned_curve import LearnedCurve
from pyrotome.daemon.safety.observations import (
    BeamObservation,
    Observation,
    Reading,
    StageObservation,
    Tick,
)
from pyrotome.daemon.safety.supervisor import RULES, Supervisor, Trip
from pyrotome.drivers.base import BeamState, HeaterSample, StagePosition
from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.config.simulated import SimulatedChip
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput
from pyrotome.simulators.world.chip import Chip, HeaterReading

START_NS = 1_800_000_000_000_000_000
S = 1_000_000_000
OHM_PER_K, W_PER_K = 0.4, 3e-5


def rig(**changes: Any) -> Rig:
    """The simulated rig with changes, as a person writes them."""
    body = simulated_rig().model_dump(by_alias=True)
    limits = changes.pop("limits", {})
    body["heater"]["limits"] = {**body["heater"]["limits"], **limits}
    return load_model(Rig, yaml.safe_dump({**body, **changes}), "rig.yaml")


class Course:
    """Observations on a time of its own; wall time runs `speed` times slower."""

    def __init__(self, supervisor: Supervisor, speed: float = 1.0, every_s: float = 0.05) -> None:
        self.supervisor, self.speed, self.every_s = supervisor, speed, every_s
        self.t_s = 0.0
        self.trips: list[Trip] = []
        self._wiggle = itertools.cycle((0.02, -0.03, 0.01, 0.04, -0.02, -0.01))

    @property
    def now(self) -> dict[str, Any]:
        return {"now_ns": START_NS + int(self.t_s * S), "wall_s": self.t_s / self.speed}

    def see(self, seen: Observation) -> None:
        self.trips += self.supervisor.see(seen)

    def sample(self, read_c: float, setpoint_c: float, **values: float) -> HeaterSample:
        power_w = max(0.0, W_PER_K * (read_c - 25.0))
        ohm = 150.0 + OHM_PER_K * (read_c - 25.0)
        known = {"power_w": power_w, "resistance_ohm": ohm, "current_a": math.sqrt(power_w / ohm)}
        return HeaterSample(self.now["now_ns"], read_c, setpoint_c, known | values)

    def read(
        self, seconds: float, course: Callable[[float], float] | float, setpoint_c: float,
        **values: float,
    ) -> None:  # fmt: skip
        """Readings for so long, of a course over their time, with a little noise."""
        begin_s = self.t_s
        while self.t_s < begin_s + seconds:
            self.t_s += self.every_s
            read_c = course(self.t_s - begin_s) if callable(course) else course
            sample = self.sample(read_c + next(self._wiggle), setpoint_c, **values)
            self.see(Tick(**self.now))
            self.see(Reading(**self.now, sample=sample))

    def repeat(self, seconds: float, sample: HeaterSample, new_times: bool = True) -> None:
        """One reading again and again."""
        end_s = self.t_s + seconds
        while self.t_s < end_s:
            self.t_s += self.every_s
            now_ns = self.now["now_ns"]
            again = replace(sample, t_ns=now_ns) if new_times else sample
            self.see(Reading(**self.now, sample=again))

    def wait(self, seconds: float, step_s: float = 0.1) -> None:
        """Nothing comes."""
        end_s = self.t_s + seconds
        while self.t_s < end_s:
            self.t_s += step_s
            self.see(Tick(**self.now))

    def beam(self, state: BeamState, may_be_open: bool = False, wanted: bool = False) -> None:
        self.t_s += 0.5
        self.see(BeamObservation(**self.now, state=state, may_be_open=may_be_open, wanted=wanted))

    def stage(self, before: StagePosition, after: StagePosition) -> None:
        self.t_s += 0.5
        self.see(
            StageObservation(**self.now, before=before, after=after, frames="frame 3 of series_001")
        )

    def names(self) -> list[str]:
        return [trip.rule for trip in self.trips if not trip.over]


def warm(course: Course) -> None:
    """From the cold to 200 degC, and there until nothing of the step is left."""
    course.read(2.0, 25.0, 25.0)
    course.read(60.0, 200.0, 200.0)


# For each rule a course on which it trips, and no other.


def _stale(course: Course) -> None:
    warm(course)
    course.wait(8.0)


def _implausible(course: Course) -> None:
    warm(course)
    course.read(3.0, 200.0, 200.0, resistance_ohm=330.0)


def _over_temperature(course: Course) -> None:
    # It follows a setpoint that somebody else has set beyond the limit.
    warm(course)
    for k in range(900):
        course.read(0.1, 200.0 + k, 200.0 + k)
        if course.trips:
            break


def _rate(course: Course) -> None:
    warm(course)
    course.read(1.5, 240.0, 200.0)
    course.read(3.0, 200.0, 200.0)


def _progress(course: Course) -> None:
    warm(course)
    course.read(15.0, 200.0, 350.0)


def _unblanked(course: Course) -> None:
    for _ in range(4):
        course.beam(BeamState(blanked=False))


def _moving(course: Course) -> None:
    course.stage(StagePosition(0, 10.0), StagePosition(1, 10.2))


def _vacuum(course: Course) -> None:
    for _ in range(4):
        course.beam(BeamState(blanked=True, valves_open=False), wanted=True)


ALONE: dict[str, Callable[[Course], None]] = {
    "stale": _stale,
    "implausible": _implausible,
    "over-temperature": _over_temperature,
    "rate": _rate,
    "progress": _progress,
    "unblanked": _unblanked,
    "moving": _moving,
    "vacuum": _vacuum,
}


def test_every_rule_has_its_course() -> None:
    assert set(ALONE) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_each_rule_alone_sees_its_course_and_nobody_does_without_it(name: str) -> None:
    course = Course(Supervisor(rig()))
    ALONE[name](course)
    assert set(course.names()) == {name}
    without = {rule: body for rule, body in RULES.items() if rule != name}
    course = Course(Supervisor(rig(), without))
    ALONE[name](course)
    assert course.names() == []


@pytest.mark.parametrize("name", RULES)
def test_a_rig_may_soften_a_rule(name: str) -> None:
    key = name.replace("-", "_")
    course = Course(Supervisor(rig(supervisor={key: {"action": "warn"}})))
    ALONE[name](course)
    (trip, *_) = course.trips
    assert (trip.rule, trip.action, trip.level) == (name, "warn", "warning")
    assert str(trip).endswith(", warn")


def test_a_rig_may_change_bound_and_delay() -> None:
    changed = {"progress": {"bound": "200 K", "delay": "1 s"}, "stale": {"bound": "1 min"}}
    course = Course(Supervisor(rig(supervisor=changed)))
    _progress(course)
    _stale(course)
    assert course.names() == []
    quick = Course(Supervisor(rig(supervisor={"progress": {"delay": "1 s"}})))
    _progress(quick)
    assert (quick.trips[0].t_ns - quick.trips[0].since_ns) / S == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"progress": {"bound": "3 s"}}, "supervisor.progress.bound: .* wrong dimension"),
        ({"progress": {"action": "ignore"}}, "supervisor.progress.action: "),
        ({"progres": {}}, "supervisor.progres: unknown key; did you mean 'progress'?"),
        ({"unblanked": {"bound": "1 s"}}, "supervisor.unblanked.bound: unknown key"),
        ({"stale": None}, "supervisor.stale: "),
    ],
)
def test_a_rule_cannot_be_removed_or_written_wrongly(changes: Any, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        rig(supervisor=changes)


# Stale.


@pytest.mark.parametrize("speed", [1.0, 20.0, 1000.0])
def test_silence_counts_on_both_clocks(speed: float) -> None:
    course = Course(Supervisor(rig()), speed, every_s=0.05 * speed)
    course.read(60.0 * speed, 25.0, 25.0)
    silent_s = course.t_s
    while not course.trips:
        course.wait(0.05 * speed, 0.05 * speed)
    (trip,) = course.trips
    lasted_s = course.t_s - silent_s
    assert lasted_s >= 5.0
    assert lasted_s / speed >= 2.0
    assert lasted_s < max(5.5, 2.5 * speed)
    assert trip.rule == "stale"
    course.read(1.5 * speed, 25.0, 25.0)
    assert course.trips[-1].over


def test_a_pause_of_the_daemon_itself_is_nobodys_silence() -> None:
    course = Course(Supervisor(rig()))
    course.read(10.0, 25.0, 25.0)
    for _ in range(10):
        course.wait(30.0, 30.0)
        course.read(0.1, 25.0, 25.0)
    assert course.trips == []


def test_readings_that_repeat_are_none() -> None:
    course = Course(Supervisor(rig()))
    warm(course)
    course.repeat(8.0, course.sample(200.0, 200.0))
    assert course.names() == ["stale"]
    assert "readings repeat" in course.trips[0].message


def test_readings_whose_time_stands_still_are_none() -> None:
    course = Course(Supervisor(rig()))
    warm(course)
    course.repeat(8.0, HeaterSample(course.now["now_ns"], 200.0, 200.0), new_times=False)
    assert course.names() == ["stale"]


@pytest.mark.parametrize("values", [{}, {"power_w": 0.0, "current_a": 0.0}])
def test_an_instrument_that_tells_little_may_repeat_itself(values: dict[str, float]) -> None:
    course = Course(Supervisor(rig()))
    course.repeat(600.0, HeaterSample(0, 25.0, 25.0, values))
    assert course.trips == []


# Implausible.


@pytest.mark.parametrize(
    "values",
    [
        {"resistance_ohm": 0.0}, {"resistance_ohm": -1.0}, {"resistance_ohm": 1e9},
        {"resistance_ohm": math.inf}, {"power_w": -0.1}, {"power_w": math.nan},
    ],
)  # fmt: skip
def test_what_cannot_be_trips_without_anything_learned(values: dict[str, float]) -> None:
    course = Course(Supervisor(rig()))
    course.read(0.3, 25.0, 25.0, **values)
    assert course.names() == [], "one odd reading is not enough"
    course.read(0.5, 25.0, 25.0, **values)
    assert course.names() == ["implausible"]


@pytest.mark.parametrize("read_c", [math.nan, math.inf, -300.0, 1e5])
def test_temperatures_that_cannot_be_trip_at_once(read_c: float) -> None:
    course = Course(Supervisor(rig()))
    course.read(0.05, read_c, 25.0)
    assert "implausible" in course.names()


def test_power_that_heats_nothing_is_a_sensor_that_fell_off() -> None:
    # The reading falls slowly enough for every other rule, and no resistance is told.
    body = {"rate": {"action": "warn"}, "progress": {"delay": "1 h"}}
    course = Course(Supervisor(rig(supervisor=body)))
    warm(course)
    course.read(20.0, lambda t: 200.0 - 7.0 * t, 200.0, power_w=0.08)
    (trip, *_) = course.trips
    assert trip.rule == "implausible"
    assert "has the sensor fallen off?" in trip.message
    assert trip.unit == "W"


def test_the_relation_is_not_talked_out_of_what_it_has_learned() -> None:
    course = Course(Supervisor(rig()))
    warm(course)
    # Wrong by a little more every second, up to 60 K at the end.
    for k in range(120):
        course.read(1.0, 200.0, 200.0, resistance_ohm=220.0 + 0.2 * k)
        if course.trips:
            break
    (trip,) = course.trips
    assert trip.rule == "implausible"
    assert 25.0 < trip.value < 27.0


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-1e3, 1e3)), max_size=200))
@example([*[(0.0, 1.0)] * 3, (46.0, 1e-30), (50.0, 1.0), (50.0, 1e-30)])
def test_a_relation_never_fails(pairs: list[tuple[float, float]]) -> None:
    relation = LearnedCurve()
    for at_c, value in pairs:
        relation.learn(at_c, value)
        if relation.armed:
            low, high = min(v for _, v in pairs), max(v for _, v in pairs)
            rounding = 1e-9 * max(abs(low), abs(high))
            for asked in (at_c, 500.0):
                expected, beyond_c = relation.expected(asked)
                assert math.isfinite(expected)
                assert beyond_c > 0 or low - rounding <= expected <= high + rounding


# What the chip itself does is no reason to trip, and heat that cannot be is one at once.


def follow(
    supervisor: Supervisor, steps: list[tuple[float, float, float]], config: SimulatedChip,
    every_s: float = 0.01, seed: int = 1,
) -> list[Trip]:  # fmt: skip
    """Trips on a simulated chip that is led through (temperature, ramp time, stay)."""
    chip, rng = Chip(config, START_NS), np.random.default_rng(seed)
    trips: list[Trip] = []
    t_ns = START_NS
    for target_c, ramp_s, stay_s in [(25.0, 0.0, 1.0), *steps]:
        chip.go_to(target_c, ramp_s)
        end_ns = t_ns + int((ramp_s + stay_s) * S)
        while t_ns < end_ns:
            t_ns += int(every_s * S)
            chip.advance_to(t_ns)
            trips += supervisor.see(reading(chip.reading(rng), t_ns))
    return trips


def reading(found: HeaterReading, t_ns: int) -> Reading:
    names = ("power_w", "resistance_ohm", "voltage_v", "current_a")
    values = {name: getattr(found, name) for name in names}
    sample = HeaterSample(t_ns, found.temperature_c, found.setpoint_c, values)
    return Reading(t_ns, t_ns / S, sample)


temperatures = st.floats(25.0, 1000.0)
courses = st.lists(
    st.tuples(temperatures, st.just(0.0) | st.floats(0.1, 20.0), st.floats(0.05, 8.0)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(courses, st.sampled_from([0.01, 0.04, 0.5]), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_nothing_that_the_simulated_chip_does_trips(
    steps: list[tuple[float, float, float]], every_s: float, seed: int
) -> None:
    supervisor = Supervisor(rig(limits={"temperature": "1000 degC"}))
    supervisor.run(max(25.0, *(target for target, *_ in steps)))
    assert follow(supervisor, steps, SimulatedChip(), every_s, seed) == []


def test_the_overshoot_of_the_largest_step_is_granted_and_no_more() -> None:
    steps = [(200.0, 0.0, 30.0), (350.0, 0.0, 5.0), (200.0, 0.0, 10.0), (900.0, 0.0, 60.0)]
    supervisor = Supervisor(rig())
    supervisor.run(900.0)
    assert follow(supervisor, steps, SimulatedChip()) == []
    wild = SimulatedChip.model_validate({"overshoot": 0.6})
    tripped = {trip.rule for trip in follow(Supervisor(rig()), steps, wild)}
    assert "over-temperature" in tripped


def test_impossible_heat_trips_at_once_whatever_the_delay() -> None:
    changed = {"over_temperature": {"delay": "1 h"}}
    course = Course(Supervisor(rig(supervisor=changed)))
    warm(course)
    course.read(0.1, 1500.0, 200.0)
    (trip,) = (t for t in course.trips if t.rule == "over-temperature")
    assert (trip.value, trip.action) == (pytest.approx(1500, abs=1), "safe")


def test_a_recipes_limit_counts_once_the_chip_is_below_it() -> None:
    supervisor = Supervisor(rig())
    course = Course(supervisor)
    course.read(2.0, 25.0, 25.0)
    course.read(60.0, 500.0, 500.0)
    supervisor.run(300.0)
    course.read(2.0, 500.0, 500.0)
    assert course.names() == [], "still hot from what was before"
    course.read(20.0, lambda t: 500.0 - 15.0 * t, 200.0)
    course.read(10.0, 200.0, 200.0)
    course.read(2.0, lambda t: 345.0 + t, 320.0)
    assert "over-temperature" in course.names()
    supervisor.run(None)
    course.read(3.0, 320.0, 320.0)
    assert [t.rule for t in course.trips if t.over] == ["over-temperature"]


def test_a_rigs_rate_holds_while_the_setpoint_moves() -> None:
    slow = rig(limits={"rate": "2 delta_degC/s"})
    course = Course(Supervisor(slow))
    course.read(5.0, 25.0, 25.0)
    ramp = Course(Supervisor(slow))
    for k in range(600):
        ramp.read(0.1, 25.0 + 0.2 * k, 25.0 + 0.2 * k)
    assert ramp.names() == []
    for k in range(100):
        course.read(0.1, 25.0 + 2.0 * k, 25.0 + 2.0 * k)
    assert course.names() == ["rate"]


@given(st.floats(1.0, 30.0), st.floats(5.0, 60.0))
def test_a_slow_heater_that_comes_nearer_makes_progress(tau_s: float, stay_s: float) -> None:
    course = Course(Supervisor(rig()), every_s=0.2)
    course.read(5.0, 25.0, 25.0)
    course.read(stay_s, lambda t: 300.0 - 275.0 * math.exp(-t / tau_s), 300.0)
    assert [n for n in course.names() if n == "progress"] == []


# Column and stage.


def test_the_beam_may_be_on_where_an_exposure_is_under_way() -> None:
    course = Course(Supervisor(rig()))
    for _ in range(10):
        course.beam(BeamState(blanked=False), may_be_open=True)
    assert course.trips == []


def test_valves_may_be_closed_where_no_frames_are_taken_but_the_vacuum_matters() -> None:
    course = Course(Supervisor(rig()))
    course.beam(BeamState(blanked=True, valves_open=False))
    course.beam(BeamState(blanked=True, valves_open=None, vacuum_ok=None), wanted=True)
    assert course.trips == []
    course.beam(BeamState(blanked=True, vacuum_ok=False))
    assert course.names() == ["vacuum"]
    assert course.trips[0].action == "pause"


def test_a_stage_that_shifts_is_moving_too_and_the_frames_are_named() -> None:
    course = Course(Supervisor(rig()))
    still = StagePosition(0, 10.0, 0.0, 0.0)  # it does not tell z
    course.stage(still, StagePosition(1, 10.04, 100.0, 100.0))
    assert course.trips == []
    course.stage(still, StagePosition(1, 10.0, 300.0, 0.0))
    (trip,) = course.trips
    assert "300 nm during frame 3 of series_001" in trip.message
    course.stage(StagePosition(0, 10.0), StagePosition(1, 10.0))
    assert course.trips[-1].over


# In general.


def test_it_is_said_once_and_once_that_it_is_over() -> None:
    course = Course(Supervisor(rig(supervisor={"progress": {"action": "warn"}})))
    warm(course)
    course.read(30.0, 200.0, 350.0)
    course.read(5.0, 350.0, 350.0)
    said = [t for t in course.trips if t.rule == "progress"]
    assert [t.over for t in said] == [False, True]
    assert course.supervisor.persisting == []
    body = said[0].body()
    assert set(body) == {"rule", "action", "value", "bound", "unit", "since_ns", "over"}
    assert "over, after 3" in str(said[1])


def test_what_persists_is_known() -> None:
    course = Course(Supervisor(rig()))
    _unblanked(course)
    assert [t.rule for t in course.supervisor.persisting] == ["unblanked"]
    for _ in range(4):
        course.beam(BeamState(blanked=True))
    assert course.supervisor.persisting == []


def observations() -> st.SearchStrategy[list[tuple[float, Any]]]:
    numbers = st.floats(allow_nan=True, allow_infinity=True)
    values = st.dictionaries(
        st.sampled_from(["power_w", "resistance_ohm", "current_a", "voltage_v"]), numbers
    )
    readings = st.tuples(st.just("read"), st.integers(0, 2**63 - 1), numbers, numbers, values)
    beams = st.tuples(
        st.just("beam"), st.booleans(), st.sampled_from([None, True, False]), st.booleans()
    )
    stages = st.tuples(st.just("stage"), numbers, numbers)
    kinds = readings | beams | stages | st.just(("tick",))
    return st.lists(st.tuples(st.floats(0.0, 100.0), kinds), max_size=60)


@given(observations(), st.sampled_from([1.0, 20.0]))
@example(
    [
        (0.0, ("read", START_NS + 1, 0.0, math.nan, {})),
        (0.0, ("stage", 0.0, 0.0)),
        (0.0, ("read", 0, 16.0, 0.0, {})),
    ],
    1.0,
)
@settings(deadline=None)
def test_whatever_is_observed_is_judged(seen: list[tuple[float, Any]], speed: float) -> None:
    supervisor = Supervisor(rig())
    t_s = 0.0
    active: set[str] = set()
    for step_s, (kind, *rest) in seen:
        t_s += step_s
        now = {"now_ns": START_NS + int(t_s * S), "wall_s": t_s / speed}
        made: Observation
        if kind == "read":
            made = Reading(**now, sample=HeaterSample(*rest))
        elif kind == "beam":
            made = BeamObservation(**now, state=BeamState(rest[0], rest[1]), may_be_open=False,
                            wanted=rest[2])  # fmt: skip
        elif kind == "stage":
            made = StageObservation(**now, before=StagePosition(0, rest[0]),
                             after=StagePosition(0, rest[1]), frames="f")  # fmt: skip
        else:
            made = Tick(**now)
        for trip in supervisor.see(made):
            # Each occurrence is told once, then that it is over.
            assert (trip.rule in active) is trip.over
            active ^= {trip.rule}
            assert trip.since_ns <= trip.t_ns == now["now_ns"]
        assert {trip.rule for trip in supervisor.persisting} == active


def readings_of_an_hour() -> Iterator[Reading]:
    course = Course(Supervisor(rig()))
    for k in range(20_000):
        course.t_s = 0.01 * k
        yield Reading(**course.now, sample=course.sample(200.0 + 0.03 * (k % 7), 200.0))


def test_a_reading_costs_little() -> None:
    import time

    supervisor, seen = Supervisor(rig()), list(readings_of_an_hour())
    began_s = time.process_time()
    for observation in seen:
        supervisor.see(observation)
    each_us = (time.process_time() - began_s) / len(seen) * 1e6
    assert each_us < 500, "at 100 readings a second that is 5 % of a processor"
