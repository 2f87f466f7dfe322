"""The plan: a recipe made flat, its angles, its cost, and the limits it is refused for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pyrotome.daemon.schedule.plan import (
    AcquireStack,
    CalibratePixel,
    CalibrateShifts,
    HeatTo,
    HoldAt,
    RampTo,
    make_new_plan,
    make_plan,
)
from pyrotome.daemon.schedule.tilt_angles import angles_text, arrivals, tilt_angles
from pyrotome.protocols.config.realistic_rig import realistic_rig
from pyrotome.protocols.config.recipe import Recipe, TiltSeries
from pyrotome.protocols.config.rig import Rig, ShiftRig, simulated_rig
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


def test_several_frames_at_a_tilt_are_frames_of_their_own() -> None:
    series = SERIES | {"from": "-4 deg", "to": "4 deg", "order": "bidirectional"}
    plan = make_plan(recipe({"tilt_series": series | {"frames_per_tilt": 3}}), simulated_rig())
    (stack,) = plan.stacks
    assert stack.tilt_deg == (0.0,) * 3 + (2.0,) * 3 + (4.0,) * 3 + (-2.0,) * 3 + (-4.0,) * 3
    assert plan.operations[0].label == "series_001: 15 frames, 3 at each of 5 angles"
    (told,) = plan.summary()["series"]
    assert (told["frames"], told["frames_per_tilt"]) == (15, 3)
    assert told["dose_e_per_nm2"] == pytest.approx(15 * 5.7706, rel=1e-4)
    once = make_plan(recipe({"tilt_series": series}), simulated_rig())
    frames_s = 10 * plan.recipe.beam.exposure_s
    assert plan.duration_s - once.duration_s == pytest.approx(frames_s), "the stage stands still"
    assert arrivals(stack.tilt_deg) == (True, False, False) * 5
    budget = {"dose_per_series": "50 e/nm^2"}
    with pytest.raises(BadInput, match=r"series_001 takes 86\.6 e/nm"):
        make_plan(recipe({"tilt_series": series | {"frames_per_tilt": 3}}, limits=budget),
                  simulated_rig())  # fmt: skip


@pytest.mark.parametrize("frames", [0, -3, 2.5, "three", True, 5000])
def test_a_number_of_frames_that_makes_no_sense_is_refused(frames: object) -> None:
    with pytest.raises(ValidationError, match=r"frames_per_tilt|at most 100000"):
        TiltSeries.model_validate(SERIES | {"frames_per_tilt": frames})


def test_angles_are_named_once() -> None:
    assert angles_text((0.0, 0.0, 2.0), 8) == "+0° (2 frames), +2°"
    assert angles_text((0.0, 2.0, 2.0, 4.0), 1) == "+0° and 3 more"


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


def shifting_rig() -> Rig:
    """The simulated microscope, whose beam shift is calibrated in a file."""
    rig = simulated_rig()
    shift = ShiftRig.model_validate({"calibration_file": "shift.json", "limit": "1.5 um"})
    return rig.model_copy(update={"beam": rig.beam.model_copy(update={"shift": shift})})


def test_scouts_are_reserved_as_each_series_says_and_those_of_a_calibration_come_on_top() -> None:
    near = SERIES | {"from": "0 deg"}
    own = [{"keep_within": "always", "scouts": "3 e/nm^2"}, "none", {"when_lost": "go on"}]
    cycle = {
        "standby": "200 degC", "processing": "350 degC", "holds": ["5 s", "5 s"],
        "then": [{"tilt_series": near}],
    }  # fmt: skip
    steps = [{"calibrate": "shifts"}, *({"tilt_series": near | {"track": how}} for how in own)]
    tracked = recipe(*steps, {"cycle": cycle}, track={"scouts": "2 e/nm^2", "lost_beyond": "20 %"})
    plan = make_plan(tracked, shifting_rig())
    tracks = [op.track for op in plan.operations if isinstance(op, AcquireStack)]
    doses = [None if track is None else track.scouts_e_per_nm2 for track in tracks]
    assert doses == [3, None, 2, 2, 2]
    assert [track.lost_beyond for track in tracks if track is not None] == [0.2] * 4
    assert plan.scouts_dose_e_per_nm2 == pytest.approx(9 + 6 * plan.scout_dose_e_per_nm2)
    assert plan.operations[0] == CalibrateShifts("shifts_001", 25.0, 6)
    assert plan.calibrates_shifts_first
    later = recipe({"tilt_series": near}, {"calibrate": "shifts"}, track="model")
    assert not make_plan(later, shifting_rig()).calibrates_shifts_first


def test_a_series_may_be_the_only_one_that_is_tracked() -> None:
    series = {"tilt_series": SERIES | {"track": {"scouts": "none"}}}
    with pytest.raises(BadInput, match=r"steps\[1\]\.tilt_series: the first series begins at -40"):
        make_plan(recipe({"tilt_series": SERIES}, series), shifting_rig())
    with pytest.raises(BadInput, match="names no calibrated beam shift"):
        make_plan(recipe(series), simulated_rig())
    assert not recipe({"tilt_series": SERIES}).tracked


def test_the_calibration_of_the_built_in_microscope_is_never_written_over() -> None:
    calibrated = recipe({"calibrate": "shifts"}, track="model")
    with pytest.raises(BadInput, match=r"steps\[0\]\.calibrate: the built-in microscope keeps"):
        make_plan(calibrated, realistic_rig())


def pixel_rig(**beam: Any) -> Rig:
    rig = simulated_rig()
    return rig.model_copy(update={"beam": rig.beam.model_copy(update=beam)})


def test_a_pixel_calibration_is_planned_by_fast_scans(tmp_path: Path) -> None:
    file = tmp_path / "pixel.json"
    rig = pixel_rig(pixel_calibration_file=str(file), scan_rotation_deg=0.0)
    slow = {"voltage": "300 kV", "current": "2 pA", "dwell": "3 us", "frame": [64, 64],
            "pixel_size": "0.358 A"}  # fmt: skip
    wanted = recipe({"calibrate": "pixel"}, beam=slow)
    plan = make_plan(wanted, rig)
    assert plan.operations == (CalibratePixel("pixel_001", 25.0, 32, 4),)
    assert plan.operations[0].label == "pixel_001: pixel size by 32 fast scans at 4 rotations"
    fast = plan.recipe.beam.dose_per_frame_e_per_nm2 / 6
    assert plan.pixel_dose_e_per_nm2 > 32 * fast
    assert plan.scouts_dose_e_per_nm2 == 0
    with pytest.raises(BadInput, match="by 'calibrate: pixel', beyond the budget"):
        make_plan(recipe({"calibrate": "pixel"}, beam=slow, limits={"dose": "1 e/nm^2"}), rig)
    assert plan.warnings(rig) == ()
    for missing, words in (
        ({"scan_rotation_deg": 0.0}, "names no file for it"),
        ({"pixel_calibration_file": str(file)}, "names no scan rotation"),
    ):
        with pytest.raises(BadInput, match=words):
            make_plan(wanted, pixel_rig(**missing))
    file.write_text("{}")
    (text,) = make_plan(recipe({"reference": {"frames": 2}}), rig).warnings(rig)
    assert "the pixel calibration cannot be used" in text


def test_what_a_plan_refuses_is_told_with_the_line_of_the_recipe() -> None:
    text = "title: t\nsteps:\n- heat: {to: 50 degC}\n- calibrate: shifts\n"
    calibrated = recipe({"heat": {"to": "50 degC"}}, {"calibrate": "shifts"})
    with pytest.raises(BadInput) as refused:
        make_new_plan(calibrated, simulated_rig(), "r.yaml", text)
    assert refused.value.where == "r.yaml:4: steps[1].calibrate"
    with pytest.raises(BadInput) as refused:
        make_new_plan(calibrated, simulated_rig(), "r.yaml")
    assert refused.value.where == "r.yaml: steps[1].calibrate"


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
