"""SCPI: messages in both spellings, lines in any pieces, readings and errors."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.core.lines import LineDecoder
from pyrotome.protocols.wires import scpi
from pyrotome.protocols.wires.scpi import BadMessage, ErrorEntry, Unit, Vocabulary

mnemonic = st.from_regex(r"[A-Z][A-Z0-9_]{0,11}", fullmatch=True)
paths = st.one_of(
    st.lists(mnemonic, min_size=1, max_size=6).map(tuple), mnemonic.map(lambda m: ("*" + m,))
)
argument = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
units = st.builds(Unit, paths, st.booleans(), st.lists(argument, max_size=4).map(tuple))


@given(st.lists(units, max_size=6))
def test_messages_survive_the_wire(message):
    assert scpi.parse_program(scpi.program(*message)) == message


@given(st.text(max_size=120))
def test_only_bad_message_is_raised(text):
    for parse in (scpi.parse_program, scpi.parse_numbers, scpi.parse_error, scpi.parse_identity):
        with contextlib.suppress(BadMessage):
            parse(text)


def paths_of(line):
    return [(":".join(unit.path), unit.query, unit.arguments) for unit in scpi.parse_program(line)]


def test_messages_as_clients_send_them():
    # Byte logs of pymeasure 0.16 (wire cards A2, A3).
    assert paths_of(":FORMAT:ELEMENTS VOLTAGE, CURRENT, RESISTANCE, TIME, STATUS") == [
        ("FORMAT:ELEMENTS", False, ("VOLTAGE", "CURRENT", "RESISTANCE", "TIME", "STATUS"))
    ]
    assert paths_of(":SENS:FUNC 'RES';:SENS:RES:NPLC 1.000000;") == [
        ("SENS:FUNC", False, ("RES",)),
        ("SENS:RES:NPLC", False, ("1.000000",)),
    ]
    assert paths_of("*RST;:stat:pres;:*CLS;") == [
        ("*RST", False, ()),
        ("STAT:PRES", False, ()),
        ("*CLS", False, ()),
    ]
    assert paths_of(':READ? "defbuffer1",SOUR,READ') == [
        ("READ", True, ("defbuffer1", "SOUR", "READ"))
    ]
    # Without a colon a unit goes on where the one before was; a common command changes nothing.
    assert [p for p, _, _ in paths_of("sour:curr:rang:auto 0;*cls;lev 1;:outp?")] == [
        "SOUR:CURR:RANG:AUTO",
        "*CLS",
        "SOUR:CURR:RANG:LEV",
        "OUTP",
    ]
    assert paths_of("sour:curr\t1e-3") == [("SOUR:CURR", False, ("1e-3",))]
    assert paths_of("sour:curr\t1e-3") == [("SOUR:CURR", False, ("1e-3",))]
    assert paths_of('DISP:TEXT "a;b,\'c"') == [("DISP:TEXT", False, ("a;b,'c",))]


@pytest.mark.parametrize("line", ["1", ":", "A::B", ":SOUR 'open", "?", "A" * 3 + "\xe9", ";1;"])
def test_lines_that_are_no_messages(line):
    with pytest.raises(BadMessage):
        scpi.parse_program(line)


def test_both_spellings_and_optional_nodes():
    level = "SOURce:CURRent[:LEVel][:IMMediate][:AMPLitude]"
    known = Vocabulary([level, "SOURce:CURRent:RANGe:AUTO", "*IDN", "OUTPut[:STATe]"])
    for spelled in (
        "SOUR:CURR",
        "SOURCE:CURRENT",
        "SOUR:CURRENT:LEV",
        "SOUR:CURR:LEVEL:IMM:AMPL",
        "SOUR:CURR:AMPL",
    ):
        assert known.find(spelled.split(":")) == level
    assert known.find(["*IDN"]) == "*IDN"
    for wrong in ("SOURC:CURR", "CURR", "SOUR", "SOUR:CURR:STAT", "", "OUTPU"):
        assert known.find(wrong.split(":")) is None


# Lines.

line = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60)


@given(st.lists(line, max_size=8), st.sampled_from([b"\r", b"\n", b"\r\n"]), st.data())
def test_lines_in_any_pieces(lines, end, data):
    raw = b"".join(text.encode() + end for text in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    decoder = LineDecoder()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += decoder.feed(raw[start:stop])
    assert found == lines
    assert decoder.skipped_bytes == decoder.buffered_bytes == 0


@given(st.binary(max_size=400), line)
def test_garbage_does_not_stick(noise, text):
    decoder = LineDecoder(max_line_bytes=100)
    before = decoder.feed(noise + b"\r")
    assert decoder.feed(text.encode() + b"\n") == [text]
    assert decoder.buffered_bytes == 0
    assert all(len(line) <= 100 for line in before)


@given(st.integers(0, 3000), st.integers(1, 500))
def test_a_line_without_end_takes_no_memory(length, piece):
    decoder = LineDecoder(max_line_bytes=64)
    for start in range(0, length, piece):
        decoder.feed(b"x" * min(piece, length - start))
        assert decoder.buffered_bytes <= 64
    assert decoder.feed(b"\n")[:1] == (["x" * length] if 0 < length <= 64 else [])


def test_what_came_of_a_line_can_be_forgotten():
    decoder = LineDecoder()
    assert decoder.feed(b"+1.0E") == []
    decoder.clear()
    assert decoder.feed(b'0,"No error"\r') == ['0,"No error"']
    assert decoder.skipped_bytes == 5


# Readings and errors.


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=5))
def test_numbers_survive_the_wire(values):
    text = ",".join(scpi.number(value) for value in values)
    for value, back in zip(values, scpi.parse_numbers(text), strict=True):
        assert back == pytest.approx(value, rel=1e-6, abs=1e-99)


def test_readings_as_the_instrument_sends_them():
    raw = "+1.000000E-01,+1.000000E-03,+1.000000E+02,+6.450031E+01,+4.000000E+04"
    assert scpi.parse_numbers(raw) == (0.1, 1e-3, 100.0, 64.50031, 40000.0)
    assert scpi.number(0.1) == "+1.000000E-01"
    assert scpi.number(-0.1, plus=False) == "-1.000000E-01"
    nan, high, low = scpi.parse_numbers("+9.910000E+37,+9.900000E+37,-9.9E37")
    assert math.isnan(nan)
    assert (high, low) == (math.inf, -math.inf)
    assert scpi.number(math.nan) == "+9.910000E+37"
    assert scpi.number(-math.inf) == "-9.900000E+37"
    for wrong in ("", "1,", "nan", "inf", "1_0", "+1.0E-01 +1.0", "0x10", "١"):
        with pytest.raises(BadMessage):
            scpi.parse_numbers(wrong)


@given(st.sampled_from(sorted(scpi.ERROR_TEXT)))
def test_errors_survive_the_wire(code):
    assert scpi.parse_error(scpi.error_reply(code)) == ErrorEntry(code, scpi.ERROR_TEXT[code])


def test_errors_as_the_instruments_send_them():
    assert scpi.parse_error('+803,"Not permitted with OUTPUT off"').code == 803
    found = scpi.parse_error('-113,"Undefined header;1;2026/11/20 10:00:00.000"')
    assert str(found) == "error -113 (Undefined header)"
    for wrong in ("+1.0E-01,+1.0E-3", "0", '0,"No error', '"No error",0'):
        with pytest.raises(BadMessage):
            scpi.parse_error(wrong)


def test_identity():
    raw = "KEITHLEY INSTRUMENTS INC.,MODEL 2400,1234567,C30   Mar 17 2006 09:29:29/A02  /K/J"
    assert scpi.parse_identity(raw)[:3] == ("KEITHLEY INSTRUMENTS INC.", "2400", "1234567")
    for wrong in ("", "a,b", "HTTP/1.0 404 Unknown"):
        with pytest.raises(BadMessage):
            scpi.parse_identity(wrong)
