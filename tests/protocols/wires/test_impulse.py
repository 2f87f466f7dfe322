"""The Impulse codec: every message survives the wire, and what is none is told apart."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.wires import impulse
from pyrotome.protocols.wires.impulse import (
    QUANTITIES,
    BadMessage,
    Event,
    HeatSample,
    InputError,
    PropertyInformation,
    Reply,
    Request,
    UnitConversion,
    unit_conversion,
)

text = st.text('aZ0 é"\\\nΩ', max_size=40)  # a full alphabet takes seconds to build
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
names = st.text("abcdefghijklmnopqrstuvwxyzT.", min_size=1, max_size=30)
json_values = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), finite, text)
samples = st.builds(
    HeatSample,
    sequence_number=st.integers(0, 2**40),
    experiment_duration_s=finite,
    time_stamp=text,
    temperature_c=finite,
    setpoint_c=finite,
    power_w=st.none() | finite,
    current_a=st.none() | finite,
    voltage_v=st.none() | finite,
    resistance_ohm=st.none() | finite,
)


@given(names, st.dictionaries(names, json_values))
def test_request_round_trip(kind, parameters):
    request = Request(kind, parameters)
    assert impulse.parse_request(impulse.encode_request(request)) == request


@given(
    st.sampled_from(impulse.RESULT_CODES),
    st.dictionaries(names.filter(lambda n: n != "errors"), json_values),
    text,
    st.lists(st.builds(InputError, names, names, text)),
)
def test_reply_round_trip(code, data, message, errors):
    reply = Reply(code, data, message, tuple(errors))
    assert impulse.parse_reply(impulse.encode_reply(reply)) == reply


@given(samples)
def test_sample_round_trip(sample):
    topic, raw = impulse.encode_heat_sample(sample)
    assert topic == b"heat"
    assert impulse.parse_heat_sample(raw) == sample


@given(st.floats(-300, 3000), st.floats(0, 1))
def test_sample_round_trip_in_other_units(temperature_c, power_w):
    units = {
        "temperatureMeasured": unit_conversion("temperatureMeasured", "K"),
        "powerMeasured": unit_conversion("powerMeasured", "mW"),
    }
    sample = HeatSample(1, 2.0, "t", temperature_c, 20.0, power_w=power_w)
    raw = impulse.encode_heat_sample(sample, units)[1]
    assert json.loads(raw)["temperatureMeasured"] == pytest.approx(temperature_c + 273.15)
    assert json.loads(raw)["powerMeasured"] == pytest.approx(1e3 * power_w)
    back = impulse.parse_heat_sample(raw, units)
    assert back.temperature_c == pytest.approx(temperature_c, abs=1e-9)
    assert back.power_w == pytest.approx(power_w, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("temperatureMeasured", "degC", UnitConversion()),
        ("temperatureSetpoint", "°C", UnitConversion()),
        ("temperatureMeasured", "K", UnitConversion(1.0, -273.15)),
        ("powerMeasured", "uW", UnitConversion(1e-6)),
        ("currentMeasured", "mA", UnitConversion(1e-3)),
        ("voltageMeasured", "V", UnitConversion()),
        ("resistance", "kΩ", UnitConversion(1e3)),
        ("resistance", "Ohm", UnitConversion()),
        ("experimentDuration", "ms", UnitConversion(1e-3)),
    ],
)
def test_units(name, unit, expected):
    assert unit_conversion(name, unit) == expected


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("temperatureMeasured", "degF"),
        ("powerMeasured", "A"),
        ("resistance", ""),
        ("resistance", "MOhm"),
    ],
)
def test_unknown_unit_is_named(name, unit):
    with pytest.raises(BadMessage, match=name):
        unit_conversion(name, unit)


def test_property_information_round_trip():
    for name, (_, unit) in QUANTITIES.items():
        information = PropertyInformation(name, unit, 2)
        assert PropertyInformation.parse(information.data()) == information


@given(names, st.dictionaries(names, json_values))
def test_event_round_trip(kind, fields):
    event = Event(kind, fields)
    topic, raw = impulse.encode_event(event)
    assert topic == b"events"
    assert impulse.parse_event(raw) == event


@given(st.binary(max_size=200))
def test_garbage_is_bad_message_and_nothing_else(raw):
    for parse in (
        impulse.parse_request,
        impulse.parse_reply,
        impulse.parse_heat_sample,
        impulse.parse_event,
    ):
        with contextlib.suppress(BadMessage):
            parse(raw)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"[1]", b"null", b"", b"\xff", b"{}"])
def test_no_reply(raw):
    with pytest.raises(BadMessage):
        impulse.parse_reply(raw)


@pytest.mark.parametrize("wrong", [None, "hot", True, math.nan, math.inf])
def test_sample_without_a_temperature(wrong):
    raw = impulse.encode_heat_sample(HeatSample(1, 2.0, "t", 20.0, 20.0))[1]
    body = {**json.loads(raw), "temperatureMeasured": wrong}
    with pytest.raises(BadMessage, match="temperatureMeasured"):
        impulse.parse_heat_sample(json.dumps(body).encode())


def test_reply_describes_what_was_wrong():
    error = InputError("control.heat.outOfRange", "temperature", "above 1000 degC")
    text = Reply("invalidInput", {}, "refused", (error,)).describe()
    assert text == "invalidInput, refused, temperature: above 1000 degC"


def test_units_that_are_advertised():
    usual = {p.name: p.unit for p in impulse.advertised({})}
    assert usual == {name: unit for name, (_, unit) in QUANTITIES.items()}
    other = {p.name: p.unit for p in impulse.advertised({"powerMeasured": "mW"})}
    assert other == {**usual, "powerMeasured": "mW"}
    with pytest.raises(BadMessage, match="powerMeasured is advertised in 'K'"):
        impulse.advertised({"powerMeasured": "K"})


def test_what_events_mean():
    assert impulse.message_shown(impulse.popup("chip broken")) == "chip broken"
    note = Event(impulse.NOTIFICATION_TYPE, {"message": "ready"})
    assert impulse.message_shown(note) == "ready"
    assert impulse.message_shown(Event(impulse.POPUP_TYPE)) == "a message without a text"
    assert impulse.message_shown(impulse.heat_finished(1.0)) is None
    assert impulse.is_heat_finished(impulse.heat_finished(1.0))
    assert not impulse.is_heat_finished(impulse.popup("x"))
    assert not impulse.is_heat_finished(
        Event(impulse.ACTION_FINISHED_TYPE, {"stimulusType": "gas"})
    )
    assert impulse.control_given().fields["newState"] == impulse.STATUS_CONTROL


@pytest.mark.parametrize("huge", [10**400, -(10**400), 1e308])
def test_numbers_that_no_float_holds(huge):
    raw = impulse.encode_heat_sample(HeatSample(1, 2.0, "t", 20.0, 20.0))[1]
    body = {**json.loads(raw), "temperatureMeasured": huge, "powerMeasured": huge}
    units = {"temperatureMeasured": UnitConversion(1e3), "powerMeasured": UnitConversion(1e3)}
    with pytest.raises(BadMessage, match=r"temperatureMeasured .* is not a finite number"):
        impulse.parse_heat_sample(json.dumps(body).encode(), units)
    body["temperatureMeasured"] = 20.0
    assert impulse.parse_heat_sample(json.dumps(body).encode(), units).power_w is None
