"""Steering: a cycle ends when the necks no longer grow; what is not known has a fallback."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from pyrotome.daemon.schedule.plan import AcquireStack, Decide, HoldAt, make_plan
from pyrotome.daemon.steering.steering import Steering
from pyrotome.protocols.config.recipe import Recipe, Until
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput

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
        ("then: [{tilt_series: *tilts}]", "then: []", "'then' has none"),
    ],
)
def test_a_decision_that_cannot_be_made_is_refused(right: str, wrong: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_model(Recipe, TEXT.replace(right, wrong), "r.yaml")


def decide(before: str | None = "a", otherwise: Literal["continue", "stop"] = "continue") -> Decide:
    until = Until.model_validate(
        {"neck_growth_below": "1 %", "max_holds": 3, "timeout": "0.2 s", "otherwise": otherwise}
    )
    return Decide(until, "b", before, 5)


async def decided(decision: Decide, **ratios: float | None) -> tuple[bool, list[str]]:
    told: list[str] = []

    def tell(level: str, source: str, message: str, **more: Any) -> None:
        told.append(f"{level}: {message}")

    steering = Steering(tell)
    for series, ratio in ratios.items():
        asyncio.get_running_loop().call_later(0.05, steering.note, series, ratio)
    return await steering.go_on(decision), told


async def test_growth_above_the_bound_goes_on_and_below_it_ends() -> None:
    assert await decided(decide(), a=0.40, b=0.42) == (
        True, ["info: necks grew by 5.00% from a to b (bound 1.00%): the cycle goes on"],
    )  # fmt: skip
    assert (await decided(decide(), a=0.40, b=0.402))[0] is False
    assert (await decided(decide(), a=0.40, b=0.38))[0] is False


async def test_the_first_series_has_nothing_to_be_compared_with() -> None:
    assert (await decided(decide(before=None)))[0] is True


@pytest.mark.parametrize("otherwise", ["continue", "stop"])
async def test_what_is_not_known_in_time_takes_the_fallback(
    otherwise: Literal["continue", "stop"],
) -> None:
    for ratios in ({"a": 0.4}, {"a": None, "b": 0.4}, {"a": 0.0, "b": 0.4}):
        goes_on, told = await decided(decide(otherwise=otherwise), **ratios)
        assert goes_on is (otherwise == "continue")
        assert told[0].startswith("warning: the necks of a and b were not known within 0.2 s")
