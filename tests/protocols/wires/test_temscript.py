"""The temscript codec: units, limits, and what a probe current means."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.wires import temscript
from pyrotome.protocols.wires.temscript import BadMessage, StageCoordinates

lengths = st.floats(-1e6, 1e6)
angles = st.floats(-180, 180)


@given(lengths, lengths, lengths, angles, angles)
def test_position_round_trip_through_json(x, y, z, a, b):
    position = StageCoordinates(x, y, z, a, b)
    raw = temscript.encode_value(temscript.position_to_wire(position))
    back = temscript.position_from_wire(temscript.parse_value(raw))
    assert abs(back.a_deg - a) <= 1e-9
    assert abs(back.b_deg - b) <= 1e-9
    assert (back.x_nm, back.y_nm, back.z_nm) == pytest.approx((x, y, z), rel=1e-12, abs=1e-9)


def test_wire_has_metres_and_radians():
    wire = temscript.position_to_wire(StageCoordinates(1000.0, 0, -2.0, 180.0, -90.0))
    assert wire == pytest.approx({"x": 1e-6, "y": 0, "z": -2e-9, "a": math.pi, "b": -math.pi / 2})


def test_only_axes_that_are_named_travel():
    wire = temscript.target_to_wire(a_deg=10.0)
    assert wire == pytest.approx({"a": math.radians(10)})
    assert temscript.target_from_wire({**wire, "speed": "fast"}) == pytest.approx({"a_deg": 10.0})


@given(angles, angles, lengths)
def test_limits_round_trip(one, other, half):
    limits = {"a_deg": (min(one, other), max(one, other)), "x_nm": (-abs(half), abs(half))}
    back = temscript.limits_from_wire(temscript.limits_to_wire(limits))
    assert set(back) == set(limits)
    for name, pair in limits.items():
        assert back[name] == pytest.approx(pair, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        {"x": 0, "y": 0, "z": 0, "a": "1", "b": 0},
        {"x": True, "y": 0, "z": 0, "a": 0, "b": 0},
    ],
)
def test_no_position(value):
    with pytest.raises(BadMessage):
        temscript.position_from_wire(value)


@pytest.mark.parametrize("value", [[], {"a": [1]}, {"a": [2, 1]}, {"a": [0, None]}, {"a": 1}])
def test_no_limits(value):
    with pytest.raises(BadMessage):
        temscript.limits_from_wire(value)


@given(st.binary(max_size=100))
def test_garbage_is_bad_message_and_nothing_else(raw):
    try:
        value = temscript.parse_value(raw)
    except BadMessage:
        return
    for parse in (
        temscript.position_from_wire,
        temscript.limits_from_wire,
        temscript.parse_version,
    ):
        with contextlib.suppress(BadMessage):
            parse(value)


def test_bodies_that_the_server_would_refuse():
    with pytest.raises(BadMessage, match="4096"):
        temscript.encode_value("x" * 4096)
    with pytest.raises(BadMessage, match="finite"):
        temscript.encode_value(math.nan)


@pytest.mark.parametrize(
    ("text", "expected"), [("2.1.0", (2, 1)), ("3", (3,)), ("2.0b1", None), (2, None)]
)
def test_version(text, expected):
    if expected is None:
        with pytest.raises(BadMessage):
            temscript.parse_version(text)
    else:
        assert temscript.parse_version(text) == expected


@given(st.floats(1e-3, 64.0))
def test_spot_for_every_current_up_to_the_largest(current_pa):
    found = temscript.spot_for_current(current_pa)
    assert found is not None
    spot, intensity = found
    assert 0 < intensity <= 1
    assert temscript.probe_current_pa(spot, intensity) == pytest.approx(current_pa, rel=1e-12)
    assert spot == 11 or intensity > 0.5


def test_spot_table_is_the_stated_one():
    assert temscript.SPOT_CURRENTS_PA[1] == 64.0
    assert temscript.SPOT_CURRENTS_PA[6] == 2.0
    assert temscript.SPOT_CURRENTS_PA[11] == 0.0625
    assert temscript.spot_for_current(64.01) is None
    assert temscript.spot_for_current(0.0) is None
    assert temscript.spot_for_current(2.0) == (6, 1.0)


@given(st.floats(1.0, 1e6))
def test_field_of_view_inverts(field_nm):
    magnification = temscript.magnification_for(field_nm)
    assert temscript.field_of_view_nm(magnification) == pytest.approx(field_nm)


def test_field_of_view_of_the_example():
    assert temscript.field_of_view_nm(1e5) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), float("nan"), float("inf"), True, "1", None]
)
def test_no_number(value):
    with pytest.raises(BadMessage, match=r"x .* is not a finite number"):
        temscript.parse_number(value, "x")
