"""The plan: a recipe made flat, its angles, its cost, and the limits it is refused for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.schedule.plan import (
    AcquireStack,
    HeatTo,
    HoldAt,
    RampTo,
    make_plan,
)
from pyrotome.daemon.schedule.tilt_angles import tilt_angles
from pyrotome.protocols.config.recipe import Recipe, TiltSeries
from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.core.errors import BadInput

SERIES = {"from": "-40 deg", "to": "40 deg", "step": "2 deg"}


def recipe(*steps: dict[str, Any], **changes: Any) -> Recipe:
    beam = {
        "voltage": "300 kV", "current": "2 pA", "dwell": "500 ns",
        "frame": [1024, 1024], "pixel_size": "1.04 nm",
    }  # fmt: skip
    return Recipe.model_validate(
        {"title": "t", "sample": {"name": "s"}, "beam": beam, "steps": list(steps), **changes}
    )


def test_the_papers_schedule_becomes_series_and_holds_in_order() -> None:
    plan = make_plan(
        recipe(
            {"heat": {"to": "200 degC", "hold": "1 h"}},
            {"reference": {"frames": 50}},
            {"tilt_series": SERIES},
            {
                "cycle": {
                    "standby": "200 degC",
                    "processing": "350 degC",
                    "holds": ["5 s", "7 s"],
                    "then": [{"tilt_series": SERIES}],
                }
            },
        ),
        simulated_rig(),
    )
    assert [type(op) for op in plan.operations] == [
        HeatTo, AcquireStack, AcquireStack, HoldAt, AcquireStack, HoldAt, AcquireStack,
    ]  # fmt: skip
    assert [s.name for s in plan.stacks] == [
        "reference_001", "series_001", "series_002", "series_003",
    ]  # fmt: skip
    assert plan.holds_before == {
        "reference_001": 0, "series_001": 0, "series_002": 1, "series_003": 2,
    }  # fmt: skip
    assert plan.frames == 50 + 3 * 41
    assert plan.dose_e_per_nm2 == pytest.approx(173 * 5.7706, rel=1e-4)
    assert plan.duration_s > 3600
    assert all(op.at_c == 200.0 for op in plan.operations if isinstance(op, AcquireStack))


def test_dark_frames_are_planned_without_dose_and_without_moving_the_stage() -> None:
    cycle = {
        "standby": "200 degC", "processing": "350 degC", "holds": ["5 s"],
        "then": [{"tilt_series": SERIES}, {"dark": {"frames": 3}}],
    }  # fmt: skip
    steps = [{"dark": {"frames": 20}}, {"tilt_series": SERIES}, {"cycle": cycle}]
    plan = make_plan(recipe(*steps, limits={"dose": "480 e/nm^2"}), simulated_rig())
    assert [s.name for s in plan.stacks] == ["dark_001", "series_001", "series_002", "dark_002"]
    assert plan.frames == 20 + 41 + 41 + 3
    assert plan.dose_e_per_nm2 == pytest.approx(82 * 5.7706, rel=1e-4)
    assert set(plan.stacks[0].tilt_deg) == {0.0}
    assert set(plan.stacks[3].tilt_deg) == {40.0}
    label = plan.operations[0].label
    assert label == "dark_001: 20 frames with the beam blanked"


def test_a_cycle_goes_to_standby_first_when_it_is_elsewhere() -> None:
    plan = make_plan(
        recipe({"cycle": {"standby": "200 degC", "processing": "350 degC", "holds": ["5 s"]}}),
        simulated_rig(),
    )
    assert plan.operations[0] == HeatTo(200.0, 0.0)


def test_a_ramp_takes_a_frame_at_each_interval_and_one_at_the_start() -> None:
    plan = make_plan(
        recipe(
            {"heat": {"to": "50 degC"}},
            {"ramp": {"to": "64 degC", "rate": "1 degC/s", "frame_every": "1.4 s"}},
        ),
        simulated_rig(),
    )
    ramp = plan.operations[1]
    assert isinstance(ramp, RampTo)
    assert ramp.duration_s == pytest.approx(14.0)
    assert ramp.stack is not None
    assert ramp.stack.frames == 11


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("ascending", [-4, -2, 0, 2, 4]),
        ("descending", [4, 2, 0, -2, -4]),
        ("bidirectional", [0, 2, 4, -2, -4]),
        ("dose-symmetric", [0, 2, -2, 4, -4]),
    ],
)
def test_tilt_orders(order: str, expected: list[float]) -> None:
    series = TiltSeries.model_validate(
        {"from": "-4 deg", "to": "4 deg", "step": "2 deg", "order": order}
    )
    assert list(tilt_angles(series)) == expected


@given(
    start=st.integers(-80, 80),
    steps=st.integers(0, 60),
    step=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    order=st.sampled_from(["ascending", "descending", "bidirectional", "dose-symmetric"]),
    backwards=st.booleans(),
)
def test_every_order_holds_every_angle_once(
    start: int, steps: int, step: float, order: str, backwards: bool
) -> None:
    ends = [start, start + steps * step]
    if backwards:
        ends.reverse()
    series = TiltSeries.model_validate(
        {"from": f"{ends[0]} deg", "to": f"{ends[1]} deg", "step": f"{step} deg", "order": order}
    )
    angles = tilt_angles(series)
    assert sorted(angles) == pytest.approx([start + i * step for i in range(steps + 1)])
    if order == "dose-symmetric" and start <= 0 <= start + steps * step:
        # Until one side is used up, no tilt is taken before a lower one on the same side.
        for side in (1, -1):
            taken = [abs(a) for a in angles if a * side > 0]
            assert taken == sorted(taken)


@pytest.mark.parametrize(
    ("steps", "changes", "message"),
    [
        ([{"heat": {"to": "1200 degC"}}], {}, "steps[0].heat.to: 1200 degC is beyond the chip's"),
        (
            [{"heat": {"to": "300 degC"}}],
            {"limits": {"temperature": "250 degC"}},
            "beyond the recipe's own limits.temperature",
        ),
        ([{"heat": {"to": "-40 degC"}}], {}, "a heater cannot cool"),
        (
            [{"tilt_series": {"from": "-85 deg", "to": "85 deg", "step": "5 deg"}}],
            {},
            "an angle of -85 deg is beyond the stage's limits of -80 to 80 deg",
        ),
        (
            [{"tilt_series": SERIES}],
            {"limits": {"dose_per_series": "200 e/nm^2"}},
            "series_001 takes 236.6 e/nm^2",
        ),
        (
            [{"reference": {"frames": 50}}],
            {"limits": {"dose": "200 e/nm^2"}},
            "limits.dose: the 50 frames of this recipe take 288.5 e/nm^2",
        ),
        (
            [{"ramp": {"to": "100 degC", "rate": "1 degC/s", "frame_every": "0.1 s"}}],
            {},
            "shorter than the exposure",
        ),
    ],
)
def test_a_plan_beyond_a_limit_is_refused(
    steps: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput) as caught:
        make_plan(recipe(*steps, **changes), simulated_rig(), "r.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml: ")


def test_the_tilt_axis_of_the_rig_goes_with_every_series() -> None:
    rig = simulated_rig().model_dump(by_alias=True)
    rig["stage"]["tilt_axis"] = "84.8 deg"
    plan = make_plan(
        recipe({"reference": {"frames": 2}}, {"tilt_series": SERIES}), Rig.model_validate(rig)
    )
    assert [stack.tilt_axis_deg for stack in plan.stacks] == [None, 84.8]
    rig["stage"]["tilt_axis"] = "400 deg"
    with pytest.raises(ValueError, match="tilt_axis"):
        Rig.model_validate(rig)
