"""Adaptive holds: planned at their longest, chosen by growth, with a fallback; resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyrotome.daemon.schedule.hold_timing import HoldTiming
from pyrotome.daemon.schedule.plan import ChooseHold, Decide, Plan, make_plan
from pyrotome.daemon.schedule.steering_history import SteeringHistory
from pyrotome.daemon.steering.steering import Steering
from pyrotome.protocols.config.pipeline import planned_results
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.journal import Chosen, Measured

TEXT = """\
title: in equal steps
sample: {name: s}
beam: {voltage: 300 kV, current: 2 pA, dwell: 500 ns, frame: [64, 64], pixel_size: 16 nm}
steps:
  - heat: {to: 200 degC}
  - tilt_series: &tilts {from: -20 deg, to: 20 deg, step: 10 deg}
  - cycle:
      standby: 200 degC
      processing: 350 degC
      holds: [5 s, 10 s]
      then: [{tilt_series: *tilts}]
      until: {neck_growth_below: 1 %, max_holds: 4}
  - heat: {to: 25 degC}
analysis:
  - reconstruct: {method: sirt}
  - segment: {}
  - measure: necks
"""

COLUMNS = next(
    result.columns
    for result in planned_results(
        load_model(Recipe, TEXT, "r.yaml").analysis, "series", 5, (64, 64), 16.0
    )
    if result.name == "necks"
)
ADAPTIVE = TEXT.replace(
    "holds: [5 s, 10 s]", "holds: {adaptive: {step: 5 %, max: 1 min, timeout: 0.2 s}}"
).replace("until: {neck_growth_below: 1 %, max_holds: 4}", "until: {neck_growth_below: 1 %}")


def adaptive_plan(**changes: str) -> Plan:
    text = ADAPTIVE
    for old, new in changes.items():
        text = text.replace(old.replace("_", " "), new)
    return make_plan(load_model(Recipe, text, "r.yaml"), simulated_rig())


def test_an_adaptive_cycle_is_planned_at_its_longest() -> None:
    plan = adaptive_plan()
    assert len(plan.holds) == 30
    assert {hold.requested_s for hold in plan.holds} == {60.0}
    assert plan.adaptive_holds == tuple(range(1, 31))
    labels = [operation.label for operation in plan.operations]
    assert "hold 2: adaptive, 0.2 to 60 s at 350 °C" in labels
    chosen = plan.with_hold(2, 7.5, 350.0)
    assert chosen.holds[1].requested_s == 7.5
    assert chosen.duration_s == pytest.approx(plan.duration_s - 52.5)
    assert chosen.is_chosen(2)
    assert not chosen.is_chosen(3)


def test_leaving_an_adaptive_cycle_skips_its_choices() -> None:
    plan = adaptive_plan()
    last = len(plan.operations) - 1
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, Decide):
            assert index + 1 + operation.skip == last
            assert isinstance(plan.operations[index + 1], ChooseHold)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("{adaptive: {step: 5 %, max: 1 min, timeout: 0.2 s}}", "often", "the word 'adaptive'"),
        ("step: 5 %", "step: 0 %", r"holds.adaptive.step: Input should be greater than 0"),
        ("step: 5 %", "steps: 5 %", r"r.yaml:10: .*did you mean 'step'"),
        ("max: 1 min", "max: 0.5 s", "must ascend"),
        ("step: 5 %", "quantity: necks.size", "'necks.size' is not given by the analysis steps"),
        ("step: 5 %", "temperature: [340 degC, 900 degC]", "is beyond the"),
        ("step: 5 %", "temperature: [360 degC, 400 degC]", "hold processing"),
        ("step: 5 %", "temperature: [150 degC, 400 degC]", "must lie above standby"),
        ("1 %}", "1 %, max_holds: 4}", "max_holds of the adaptive holds is 30"),
        ("  - measure: necks\n", "", "needs the analysis step 'measure: necks'"),
        ("then: [{tilt_series: *tilts}]", "then: []", "chosen by tilt series, but 'then' has none"),
    ],
)
def test_adaptive_holds_that_cannot_be_chosen_are_refused(
    right: str, wrong: str, message: str
) -> None:
    assert right in ADAPTIVE
    text = ADAPTIVE.replace(right, wrong)
    with pytest.raises(BadInput, match=message):
        make_plan(load_model(Recipe, text + "limits: {temperature: 600 degC}\n", "r.yaml"), RIG)


RIG = simulated_rig()


class Cycle:
    """An adaptive cycle without an engine: series by series, with the heater's readings."""

    def __init__(self, plan: Plan) -> None:
        self.told: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.plan, self.t_ns = plan, 0
        self.steering = Steering(plan, self.tell, self.rows.append)
        self.choices = [op for op in plan.operations if isinstance(op, ChooseHold)]
        self.measured: list[Measured] = []
        self.chosen: list[Chosen] = []
        self.log: list[tuple[int, float]] = []
        self.series_ns: dict[str, int] = {}
        self.timings: list[HoldTiming] = []

    def tell(self, level: str, source: str, message: str, **more: Any) -> None:
        self.told.append(f"{level}: {message}")

    def heat(self, time_s: float, temperature_c: float) -> None:
        for _ in range(round(time_s * 20)):
            self.t_ns += 50_000_000
            self.log.append((self.t_ns, temperature_c))
            self.steering.heated(self.t_ns, temperature_c)

    def series(self, name: str, ratios: NDArray[np.float64] | None) -> None:
        self.series_ns[name] = self.t_ns
        self.steering.series_begins(name, self.t_ns)
        self.heat(2.0, 200.0)
        if ratios is not None:
            rows = np.full((64, len(COLUMNS)), np.nan)
            k = np.arange(len(ratios))
            rows[: len(k), 0], rows[: len(k), 1] = k, k + 100
            rows[: len(k), COLUMNS.index("neck_to_particle")] = ratios
            self.measured += self.steering.note_result("necks", name, rows)

    async def hold(self, number: int) -> Chosen:
        chosen = await self.steering.choose(self.choices[number - 1])
        self.chosen.append(chosen)
        up_ns = self.t_ns
        self.heat(chosen.hold_s, chosen.temperature_c)
        timing = HoldTiming(up_ns, up_ns, self.t_ns, self.t_ns)
        self.timings.append(timing)
        plan = self.choices[number - 1].hold.model_copy(update={"requested_s": chosen.hold_s})
        self.steering.held(plan, timing)
        self.heat(1.0, 200.0)
        return chosen


async def grow(cycle: Cycle, holds: int, *, silent: int = 0) -> list[float]:
    """Holds of pairs that approach 0.5 with a time constant of 20 s; medians of the series."""
    rng = np.random.default_rng(3)
    pair = 1 + 0.03 * rng.standard_normal(20)
    hot_s, medians = 0.0, [0.2]
    cycle.series("series_001", 0.2 * pair)
    for number in range(1, holds + 1):
        hot_s += (await cycle.hold(number)).hold_s
        ratios = (0.5 - 0.3 * np.exp(-hot_s / 20.0)) * pair + 0.002 * rng.standard_normal(20)
        cycle.series(f"series_{number + 1:03d}", None if number == silent else ratios)
        medians.append(float(np.median(ratios)))
    return medians


async def test_holds_are_chosen_so_that_growth_has_equal_steps() -> None:
    cycle = Cycle(adaptive_plan())
    medians = await grow(cycle, 7)
    assert [row["chosen_by"] for row in cycle.rows] == ["first"] + ["model"] * 6
    assert [row["hold"] for row in cycle.rows] == [1, 2, 3, 4, 5, 6, 7]
    lengths = [chosen.hold_s for chosen in cycle.chosen]
    assert lengths[0] == 1.0, "the first hold is the recipe's"
    assert lengths[-1] > 2 * lengths[2], "growth slows down, so that holds get longer"
    steps = np.diff(medians)[3:]
    assert np.median(np.abs(steps / 0.05 - 1)) < 0.35
    assert "should go from" in cycle.told[-1]


async def test_without_a_measurement_the_fallback_is_said_and_taken() -> None:
    cycle = Cycle(adaptive_plan())
    await grow(cycle, 4, silent=3)
    assert cycle.chosen[3].hold_s == cycle.chosen[2].hold_s
    warning = next(text for text in cycle.told if "not known within" in text)
    assert "of series_004 was not known within 0.2 s: hold 4 is the last one" in warning
    first = Cycle(adaptive_plan(**{"step:_5_%": "step: 5 %, otherwise: first"}))
    await grow(first, 4, silent=3)
    assert first.chosen[3].hold_s == 1.0


async def test_the_end_of_growth_takes_the_longest_hold_and_says_so() -> None:
    cycle = Cycle(adaptive_plan())
    ratios = 0.45 + 0.002 * np.random.default_rng(2).standard_normal((10, 20))
    cycle.series("series_001", ratios[0])
    for number in range(1, 9):
        await cycle.hold(number)
        cycle.series(f"series_{number + 1:03d}", ratios[number])
    assert cycle.chosen[-1].hold_s == pytest.approx(60.0)
    assert any("out of reach" in text for text in cycle.told)


async def test_a_resumed_cycle_chooses_what_an_unbroken_one_does() -> None:
    unbroken, half, again = (Cycle(adaptive_plan()) for _ in range(3))
    await grow(unbroken, 5)
    await grow(half, 4)
    plan = half.plan
    for one in half.chosen:
        plan = plan.with_hold(one.hold, one.hold_s, one.temperature_c)
    times_ns, celsius = zip(*half.log, strict=True)
    history = SteeringHistory(
        measured=tuple(half.measured),
        chosen=tuple(half.chosen),
        series_ns=half.series_ns,
        holds=tuple(zip(plan.holds, half.timings, strict=False)),
        heater_ns=np.array(times_ns, np.int64),
        heater_c=np.array(celsius),
    )
    again.steering.restore(history)
    chosen = await again.steering.choose(again.choices[4])
    assert chosen == unbroken.chosen[4]
