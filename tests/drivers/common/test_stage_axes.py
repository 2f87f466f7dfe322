"""In which order the axes of a stage move, and from which side they arrive."""

import pytest

from pyrotome.drivers.base import StagePosition
from pyrotome.drivers.common.stage_axes import StageAxes
from pyrotome.protocols.config.rig import StageLimits

HERE = StagePosition(0, 10.0, 0.0, 500.0, 0.0)
WIDE = ["-5 um", "5 um"]


def axes(**options) -> StageAxes:
    words = {"x": WIDE, "y": WIDE, "z": WIDE, "tilt": ["-40 deg", "40 deg"], **options}
    return StageAxes("stage", StageLimits.model_validate(words))


ALL = {"z": 800.0, "tilt": 2.0, "x": 100.0, "y": 200.0}


def test_z_before_the_tilt_and_x_and_y_last():
    assert axes().steps(HERE, ALL) == [{"z": 800.0}, {"tilt": 2.0}, {"x": 100.0, "y": 200.0}]
    assert axes().steps(HERE, {"tilt": 12.0}) == [{"tilt": 12.0}]


def test_from_below_on_every_axis_with_a_play():
    a = axes(backlash="1 deg", xy_backlash="300 nm")
    # x goes upwards by less than its play, y downwards: both first go below.
    assert a.steps(HERE, ALL) == [
        {"z": 800.0},
        {"tilt": 1.0},
        {"tilt": 2.0},
        {"x": -200.0, "y": -100.0},
        {"x": 100.0, "y": 200.0},
    ]
    assert a.steps(HERE, {"tilt": 12.0, "x": 400.0}) == [{"tilt": 12.0}, {"x": 400.0}]
    assert a.steps(HERE, {"tilt": -40.0}) == [{"tilt": -40.0}, {"tilt": -40.0}]


def test_one_at_a_time_where_the_microscope_wants_it():
    a = axes(xy_backlash="300 nm")
    a.one_at_a_time = True
    steps = a.steps(HERE, ALL)
    assert all(len(step) == 1 for step in steps)
    assert [next(iter(step)) for step in steps] == ["z", "tilt", "x", "y", "x", "y"]
    assert a.needed_s(HERE, steps) > a.needed_s(HERE, steps[:2]) > 0.8


def test_the_narrower_limit_holds():
    a = axes()
    a.own = {"x": (-1000.0, 9000.0)}
    assert (a.reach("x").low, a.reach("x").high) == pytest.approx((-1000.0, 5000.0))
    assert StageAxes("stage", StageLimits()).reach("x") is None
