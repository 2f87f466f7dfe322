"""Quantities: a number and a unit in, one float out; everything else is refused with a remedy."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pyrotome.protocols.core.units import (
    AngleDeg,
    CurrentPa,
    DifferenceC,
    DurationS,
    FluenceEPerNm2,
    LengthNm,
    RateCPerS,
    SpeedDegPerS,
    TemperatureC,
    VoltageKv,
    fluence_e_per_nm2,
    fluence_unit,
    parse_quantity,
)

KINDS = (
    TemperatureC, DifferenceC, RateCPerS, DurationS, AngleDeg, SpeedDegPerS, CurrentPa, VoltageKv,
    LengthNm, FluenceEPerNm2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("200 degC", "degC", 200.0),
        ("473.15 K", "degC", 200.0),
        ("-40 deg", "deg", -40.0),
        ("0.5 rad", "deg", math.degrees(0.5)),
        ("1 h", "s", 3600.0),
        ("500 ns", "s", 5e-7),
        ("2e-12 A", "pA", 2.0),
        ("300kV", "kV", 300.0),
        ("1.04 nm", "nm", 1.04),
        ("0.358 angstrom", "nm", 0.0358),
        ("260 e/nm^2", "elementary_charge/nm**2", 260.0),
        ("1 e/angstrom^2", "elementary_charge/nm**2", 100.0),
        ("0.358 \u00c5", "nm", 0.0358),
        ("0.358 \u212b", "nm", 0.0358),
        ("0.358 A", "nm", 0.0358),
        ("35.8 pm", "nm", 0.0358),
        ("5e5 e/\u00c5^2", "elementary_charge/nm**2", 5e7),
        ("5e5 e/\u212b^2", "elementary_charge/nm**2", 5e7),
        ("5e5 e/A^2", "elementary_charge/nm**2", 5e7),
        ("5e5 e-/A^2", "elementary_charge/nm**2", 5e7),
        ("5e5 e/\u00c5\u00b2", "elementary_charge/nm**2", 5e7),
        ("5e5 e / A**2", "elementary_charge/nm**2", 5e7),
        ("5e5 e / \u00c5^2", "elementary_charge/nm**2", 5e7),
        ("260 e-/nm^2", "elementary_charge/nm**2", 260.0),
        ("60 K/min", "delta_degC/s", 1.0),
        ("1 degC/s", "delta_degC/s", 1.0),
    ],
)
def test_a_number_with_a_unit_becomes_a_float(text: str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit, "x") == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("200", "has no unit"),
        (200, "has no unit"),
        ("200 nm", "wrong dimension"),
        ("200 furlongz", "not a unit"),
        ("warm", "expected a number"),
        ("1e999 degC", "not a finite"),
        (True, "expected a number"),
        (None, "expected a number"),
        (["200 degC"], "expected a number"),
    ],
)
def test_anything_else_is_refused_and_shows_what_is_right(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        parse_quantity(value, "degC", "200 degC")
    assert "200 degC" in str(caught.value)


def test_the_letter_a_is_an_angstrom_for_lengths_alone() -> None:
    assert TypeAdapter(LengthNm).validate_python("2 A") == pytest.approx(0.2)
    assert TypeAdapter(CurrentPa).validate_python("1e-12 A") == pytest.approx(1.0)
    with pytest.raises(ValueError, match="wrong dimension"):
        TypeAdapter(LengthNm).validate_python("2 mA")


def test_large_fluences_are_told_by_the_square_angstrom() -> None:
    small, large = fluence_unit(5000.0), fluence_unit(5e7)
    assert (small.name, small.of(260.0), small.typeset) == ("e/nm^2", 260.0, "e/nm\u00b2")
    assert (large.name, large.of(5e7), large.typeset) == ("e/\u00c5^2", 5e5, "e/\u00c5\u00b2")


@given(st.text(max_size=40))
def test_no_text_does_anything_but_convert_or_refuse(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert math.isfinite(parse_quantity(text, "s", "5 s"))


@pytest.mark.parametrize(
    ("kind", "text", "meant"),
    [
        (CurrentPa, "2 PA", "'2 pA'"),
        (CurrentPa, "2 A", "'2 pA'"),
        (DurationS, "3 Ms", "'3 ms'"),
        (DurationS, "1 Ms", "'1 ms'"),
        (DurationS, "1e300 s", "'5 s'"),
        (DurationS, "-2 Gs", "'5 s'"),
        (VoltageKv, "300 MV", "'300 mV'"),
        (LengthNm, "1.04 m", "'1.04 nm'"),
        (TemperatureC, "1e5 degC", "'200 degC'"),
        (AngleDeg, "400 deg", "'2 deg'"),
        (FluenceEPerNm2, "9e99 e/nm^2", "'260 e/nm^2'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_probably_meant(
    kind: Any, text: str, meant: str
) -> None:
    with pytest.raises(ValueError, match="that can be meant") as caught:
        TypeAdapter(kind).validate_python(text)
    assert meant in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(DurationS, "72 h"), (DurationS, "500 ns"), (CurrentPa, "5 nA"), (TemperatureC, "2000 degC")],
)
def test_what_is_unusual_is_taken(kind: Any, text: str) -> None:
    TypeAdapter(kind).validate_python(text)


@given(st.sampled_from(KINDS), st.floats(-360, 360))
def test_what_a_process_is_told_is_what_was_meant(kind: Any, value: float) -> None:
    adapter = TypeAdapter(kind)
    written = adapter.dump_python(value)
    assert adapter.validate_python(written) == value
    # In brackets the unit is converted by pint, to the same number.
    number, unit = written.split(" ")
    assert adapter.validate_python(f"{number} ({unit})") == pytest.approx(value, rel=1e-12)


def test_fluence_of_the_papers_tilt_series() -> None:
    # Ihara et al. 2023: 2 pA, 500 ns, 1.04 nm, 41 images: 237 e/nm^2.
    assert 41 * fluence_e_per_nm2(2.0, 500e-9, 1.04**2) == pytest.approx(236.6, abs=0.1)
