"""The SECoP codec: lines survive the wire however split, and what is none is told apart."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.core.lines import StrictLineDecoder
from pyrotome.protocols.wires import secop
from pyrotome.protocols.wires.secop import BadMessage, SecopMessage

words = st.text("abcdefghijklmnopqrstuvwxyz_:.*?Té", min_size=1, max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | finite
    | st.text('a0 é"\\\n', max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
messages = st.builds(SecopMessage, words, words | st.just(""), json_values)


@given(messages)
def test_message_round_trip(message):
    line = secop.encode_message(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert secop.parse_message(line[:-1]) == message


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 40), max_size=20), st.data())
def test_any_split_of_the_stream(sent, cuts, data):
    ends = data.draw(st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
    stream = b"".join(secop.encode_message(m).replace(b"\n", ends) for m in sent)
    decoder, found = StrictLineDecoder(secop.MAX_LINE_BYTES), []
    for cut in [*cuts, len(stream) + 1]:
        found += decoder.feed(stream[:cut])
        stream = stream[cut:]
    assert [secop.parse_message(line) for line in found] == sent


@given(st.binary(max_size=200), messages)
def test_what_follows_garbage_is_found(garbage, message):
    decoder = StrictLineDecoder(secop.MAX_LINE_BYTES)
    *noise, last = decoder.feed(garbage + b"\n" + secop.encode_message(message))
    for line in noise:
        with contextlib.suppress(BadMessage):
            secop.parse_message(line)
    assert secop.parse_message(last) == message


def test_line_without_an_end():
    decoder = StrictLineDecoder(1000)
    assert decoder.feed(b"x" * 1000) == []
    with pytest.raises(BadMessage, match="1000 bytes"):
        decoder.feed(b"x")
    assert decoder.feed(b"xxx") == []
    assert decoder.feed(b"x\nping\n") == [b"ping"]
    with pytest.raises(BadMessage):
        decoder.feed(b"x" * 1001 + b"\n")
    assert decoder.feed(b"ping\n") == [b"ping"]


@pytest.mark.parametrize(
    "message",
    [SecopMessage("a b"), SecopMessage("a", "b c"), SecopMessage(""), SecopMessage("a\n")],
)
def test_words_with_spaces_are_not_sent(message):
    with pytest.raises(BadMessage):
        secop.encode_message(message)


@pytest.mark.parametrize("data", [math.nan, math.inf, {1, 2}, object()])
def test_data_that_are_no_json_are_not_sent(data):
    with pytest.raises(BadMessage):
        secop.encode_message(SecopMessage("change", "T:target", data))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" T:value",
        b"reply T:value [",
        b"reply T:value [NaN, {}]",
        b"\xff",
        b"a b " + b"[" * 99_999,
    ],
)
def test_lines_that_are_none(line):
    with pytest.raises(BadMessage):
        secop.parse_message(line)


def test_what_frappy_says():
    """Lines as frappy-server 0.20.9 sent them."""
    assert secop.parse_identity(b"ISSE&SINE2020,SECoP,V2019-09-16,v1.0") == "V2019-09-16,v1.0"
    reply = secop.parse_message(b'reply T:value [298.1, {"t": 1795262305.5829744}]')
    assert secop.parse_reading(reply.data) == secop.StampedValue(298.1, 1795262305.5829744)
    refused = secop.parse_message(b'error_change T:target ["RangeError", "-5 must be", {}]')
    assert str(secop.parse_error(refused.data)) == "RangeError: -5 must be"
    odd = secop.parse_message(b'error_bogus  ["ProtocolError", "unhandled", {}]')
    assert (odd.action, odd.specifier) == ("error_bogus", "")
    status = secop.parse_message(b'update T:status [[300, "unstable"], {"t": 1.0}]')
    assert secop.parse_status(secop.parse_reading(status.data).value) == (300, "unstable")


@pytest.mark.parametrize("line", [b"SSH-2.0-OpenSSH", b"ISSE,other,V1", b"", b"\xff\xfe,SECoP,x"])
def test_identity_of_others(line):
    with pytest.raises(BadMessage, match="SECoP"):
        secop.parse_identity(line)


@given(json_values)
def test_data_of_any_shape_are_readings_or_bad(data):
    for parse in (secop.parse_reading, secop.parse_status, secop.parse_description):
        with contextlib.suppress(BadMessage):
            parse(data)
    assert secop.parse_error(data).name


def description(**accessibles):
    described = {
        "value": {"datainfo": {"type": "double", "unit": "K"}},
        "target": {
            "datainfo": {"type": "double", "unit": "K", "min": 4, "max": 900},
            "readonly": False,
        },
        **accessibles,
    }
    module = {"accessibles": described, "interface_classes": ["Drivable"]}
    return {"modules": {"T": module}, "equipment_id": "x"}


def test_description():
    ramp = {"datainfo": {"type": "double", "unit": "$/min", "max": 1e3}, "readonly": False}
    found = secop.parse_description(description(ramp=ramp, stop={"datainfo": {"type": "command"}}))
    module = found.modules["T"]
    assert module.is_heater
    assert module.accessibles["ramp"].unit == "K/min"
    assert secop.ramp_unit_s(module.accessibles["ramp"].unit) == 60.0
    assert module.accessibles["target"].minimum == 4
    assert module.accessibles["target"].maximum == 900
    assert module.accessibles["ramp"].minimum == -math.inf
    assert module.accessibles["value"].readonly
    again = secop.parse_description(json.loads(json.dumps(description(ramp=ramp))))
    assert again.modules["T"].accessibles["ramp"] == module.accessibles["ramp"]


@pytest.mark.parametrize(
    "value",
    [
        {"datainfo": {"type": "double", "unit": "T"}},
        {"datainfo": {"type": "double"}},
    ],
)
def test_what_is_no_heater(value):
    assert not secop.parse_description(description(value=value)).modules["T"].is_heater


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {"modules": []},
        {"modules": {"T": {}}},
        {"modules": {"T": {"accessibles": {"a": 1}}}},
    ],
)
def test_description_that_is_none(broken):
    with pytest.raises(BadMessage):
        secop.parse_description(broken)


@pytest.mark.parametrize(("unit", "zero"), [("K", 273.15), ("degC", 0.0), ("°C", 0.0)])
def test_units_of_temperature(unit, zero):
    assert secop.zero_c(unit) == zero


@pytest.mark.parametrize("unit", ["F", "", "mK", "k"])
def test_unknown_unit_is_named(unit):
    with pytest.raises(BadMessage, match=f"'{unit}'"):
        secop.zero_c(unit)


@pytest.mark.parametrize(("unit", "seconds"), [("K/min", 60), ("degC/s", 1), ("K/h", 3600)])
def test_units_of_a_ramp(unit, seconds):
    assert secop.ramp_unit_s(unit) == seconds


@pytest.mark.parametrize("unit", ["", "K", "K/", "T/min", "K/day"])
def test_units_that_are_no_rate(unit):
    with pytest.raises(BadMessage):
        secop.ramp_unit_s(unit)


@pytest.mark.parametrize("value", [True, None, "1", math.nan, math.inf, 10**400, [1]])
def test_numbers_that_are_none(value):
    with pytest.raises(BadMessage, match="target"):
        secop.parse_number(value, "target")
