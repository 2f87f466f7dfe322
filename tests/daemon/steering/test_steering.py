"""Steering: a cycle ends when the necks no longer grow; what is not known has a fallback."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyrotome.daemon.schedule.plan import AcquireStack, ChooseHold, Decide, HoldAt, Plan, make_plan
from pyrotome.daemon.steering.steering import Steering
from pyrotome.protocols.config.pipeline import ResultPlan
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.config.steering import Until
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import StackPlan

TEXT = """\
title: until the necks stop growing
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


def test_a_steered_cycle_is_planned_to_its_end_with_a_decision_after_each_round() -> None:
    plan = make_plan(load_model(Recipe, TEXT, "r.yaml"), simulated_rig())
    assert [h.requested_s for h in plan.holds] == [5, 10, 10, 10]
    decisions = [(i, op) for i, op in enumerate(plan.operations) if isinstance(op, Decide)]
    assert [(op.before, op.series) for _, op in decisions] == [
        ("series_001", "series_002"), ("series_002", "series_003"), ("series_003", "series_004"),
    ]  # fmt: skip
    last = len(plan.operations) - 1
    for index, decision in decisions:
        assert index + 1 + decision.skip == last, "what is skipped ends where the cycle ends"
        assert isinstance(plan.operations[index + 1], HoldAt)
    assert isinstance(plan.operations[last - 1], AcquireStack)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("max_holds: 4", "max_holds: 1", "2 holds are written, until.max_holds is 1"),
        ("1 %", "1 nm", "wrong dimension"),
        ("1 %", "0 %", "greater than 0"),
        ("  - measure: necks\n", "", "needs the analysis step 'measure: necks'"),
        ("neck_growth_below: 1 %, ", "", "takes exactly one of growth_below, above, below, neck"),
        ("1 %,", "1 %, above: 0.4,", "this one has above, neck_growth_below"),
        ("neck_growth_below: 1 %", "above: 0.4", "'above' needs a 'quantity'"),
        ("1 %,", "1 %, statistic: mean,", "with 'quantity' or 'statistic' write 'growth_below'"),
        (", max_holds: 4", "", r"r.yaml:12: .*until.max_holds: required key is missing"),
        ("neck_growth_below: 1 %", "quantity: necks.r, above: 1", "'necks.r' is not given by the"),
        ("neck_growth_below: 1 %", "quantity: labels, above: 1", r"they give necks.particle_a, "),
        ("neck_growth_below: 1 %", "quantity: n.x, above: 1 nm", "in the unit of the quantity"),
        ("then: [{tilt_series: *tilts}]", "then: []", "'then' has none"),
    ],
)
def test_a_decision_that_cannot_be_made_is_refused(right: str, wrong: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_model(Recipe, TEXT.replace(right, wrong), "r.yaml")


COLUMNS = ("particle_a", "particle_b", "neck_to_particle")


def table(*ratios: float | None) -> NDArray[np.float64]:
    """A table of necks with one row a ratio, and empty rows behind it."""
    rows = [[k, k + 1, ratio] for k, ratio in enumerate(ratios) if ratio is not None]
    made = np.full((6, len(COLUMNS)), np.nan)
    made[: len(rows)] = np.reshape(rows, (-1, len(COLUMNS)))
    return made


def decide(
    before: str | None = "a", otherwise: str = "continue", **criterion: str | float
) -> Decide:
    rule = criterion or {"neck_growth_below": "1 %"}
    text = {"max_holds": 3, "timeout": "0.2 s", "otherwise": otherwise}
    return Decide(Until.model_validate(rule | text), "b", before, 5)


def planned(*operations: Decide | ChooseHold) -> Plan:
    """A plan of nothing but decisions, whose table of necks has three columns."""
    base = make_plan(load_model(Recipe, TEXT, "r.yaml"), simulated_rig())
    necks = ResultPlan(
        name="necks", step="measure", process=1, parameters={}, shape=(6, 3), dtype="float64",
        axes=("pair", "column"), pixel_nm=1.0, columns=COLUMNS,
    )  # fmt: skip
    stack = StackPlan(name="a", kind="series", frames=1, tilt_deg=(0.0,), results=(necks,))
    return Plan(base.recipe, (*operations, AcquireStack(stack, 200.0)), (0.0,) * 9)


async def decided(decision: Decide, **ratios: tuple[float, ...]) -> tuple[bool, list[str]]:
    told: list[str] = []

    def tell(level: str, source: str, message: str, **more: Any) -> None:
        told.append(f"{level}: {message}")

    steering = Steering(planned(decision), tell, lambda row: None)
    for series, known in ratios.items():
        asyncio.get_running_loop().call_later(
            0.05, steering.note_result, "necks", series, table(*known)
        )
    return await steering.go_on(decision), told


async def test_growth_above_the_bound_goes_on_and_below_it_ends() -> None:
    assert await decided(decide(), a=(0.40,), b=(0.42,)) == (
        True,
        [
            "info: the median of necks.neck_to_particle grew by 5.00% from 0.4 (a) to 0.42 (b); "
            "the bound is 1.00%: the cycle goes on"
        ],
    )
    assert (await decided(decide(), a=(0.40,), b=(0.402,)))[0] is False
    assert (await decided(decide(), a=(0.40,), b=(0.38,)))[0] is False


NECKS = {"quantity": "necks.neck_to_particle"}


@pytest.mark.parametrize(
    ("criterion", "goes_on", "said"),
    [
        ({"above": 0.35}, True, "is 0.32 ± 0.028 (b, 4 values); the cycle ends above 0.35"),
        ({"above": "30 %"}, False, "the cycle ends above 0.3: the cycle ends"),
        ({"below": 0.3}, True, "the cycle ends below 0.3: the cycle goes on"),
        ({"above": 0.35, "statistic": "max"}, False, "the maximum of necks.neck_to_particle is"),
        ({"below": 0.3, "statistic": "min"}, False, "the minimum of necks.neck_to_particle is"),
        ({"growth_below": "90 %"}, False, "grew by 6.67% from 0.3"),
        ({"growth_below": "5 %", "statistic": "mean"}, True, "the mean of necks"),
    ],
)
async def test_any_statistic_of_a_column_can_end_a_cycle(
    criterion: dict[str, str | float], goes_on: bool, said: str
) -> None:
    decision = decide(**NECKS, **criterion)
    found, told = await decided(decision, a=(0.3, 0.3, 0.3), b=(0.28, 0.30, 0.34, 0.36))
    assert found is goes_on
    assert said in told[0]


async def test_the_first_series_has_nothing_to_be_compared_with() -> None:
    assert (await decided(decide(before=None)))[0] is True
    found, told = await decided(decide(before=None, above=0.3, **NECKS), b=(0.4,))
    assert found is False, "but a level needs none"
    assert "is 0.4 (b)" in told[0]


@pytest.mark.parametrize("otherwise", ["continue", "stop"])
async def test_what_is_not_known_in_time_takes_the_fallback(otherwise: str) -> None:
    for ratios in ({"a": (0.4,)}, {"a": (), "b": (0.4,)}, {"a": (0.0,), "b": (0.4,)}):
        goes_on, told = await decided(decide(otherwise=otherwise), **ratios)
        assert goes_on is (otherwise == "continue")
        assert told[0].startswith(
            "warning: the median of necks.neck_to_particle of a and b was not known within 0.2 s"
        )


async def test_a_scalar_of_a_step_can_end_a_cycle() -> None:
    decision = decide(quantity="porosity", above="20 %")
    told: list[str] = []
    steering = Steering(planned(decision), lambda *text, **_: told.append(text[2]), lambda _: None)
    steering.note_result("porosity", "b", np.array(0.25))
    assert await steering.go_on(decision) is False
    assert told == ["porosity is 0.25 (b); the cycle ends above 0.2: the cycle ends"]
