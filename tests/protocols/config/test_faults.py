"""Faults as they are written on the command line."""

import contextlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyrotome.protocols.config.faults import FAULTS, SLOW_S, Fault, parse_fault
from pyrotome.protocols.config.rig import ROLES
from pyrotome.protocols.core.errors import BadInput

durations = st.floats(1e-3, 8e5).map(lambda s: f"{s!r} s")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("heater:hang", Fault(role="heater", name="hang")),
        ("stage none", Fault(role="stage", name="none")),
        ("  beam:error\n", Fault(role="beam", name="error")),
        ("heater:errorx2", Fault(role="heater", name="error", times=2)),
        ("detector:short-framex10", Fault(role="detector", name="short-frame", times=10)),
        ("stage:slow=200 ms", Fault(role="stage", name="slow", late_s="0.2 s")),
        ("stage:slow=0s", Fault(role="stage", name="slow", late_s="0 s")),
        ("heater:hang@20s", Fault(role="heater", name="hang", start_s="20 s")),
        (
            "detector:hang@1.5 min+5s",
            Fault(role="detector", name="hang", start_s="90 s", duration_s="5 s"),
        ),
        (
            "beam:slow=2 sx3@1h+1 ms",
            Fault(
                role="beam", name="slow", late_s="2 s", times=3, start_s="1 h", duration_s="1 ms"
            ),
        ),
        ("stage:slip=400nm", Fault(role="stage", name="slip", size_nm="400 nm")),
        ("chip:bulge-jumps", Fault(role="heater", name="bulge-jumps")),
        (
            "specimen:decoy=0.9 um@2s",
            Fault(role="stage", name="decoy", size_nm="0.9 um", start_s="2 s"),
        ),
        (
            "stage:drift-fast=20nm/s+5s",
            Fault(role="stage", name="drift-fast", speed_nm_per_s="20 nm/s", duration_s="5 s"),
        ),
        ("stage:xy-ignored", Fault(role="stage", name="xy-ignored")),
        ("detector:blank-framex2", Fault(role="detector", name="blank-frame", times=2)),
    ],
)
def test_faults_are_read(text, expected):
    assert parse_fault(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "should read as ROLE:FAULT"),
        ("hang", "should read as ROLE:FAULT"),
        ("heater:", "should read as ROLE:FAULT"),
        ("heater:hang@", "should read as ROLE:FAULT"),
        ("heater:hang+", "should read as ROLE:FAULT"),
        ("heater:hang@1s@2s", "should read as ROLE:FAULT"),
        ("heater:errorx2x3", "no fault|should read"),
        ("chiller:hang", "'chiller' is not a role; there are heater, stage, beam, detector"),
        ("heater:bogus", "'bogus' is not a fault; there are hang, disconnect"),
        ("heater:errorx0", "greater than or equal to 1"),
        ("stage:slow=3", "'3' has no unit"),
        ("stage:slow=3 kg", "wrong dimension"),
        ("stage:slow=-1 s", "greater than or equal to 0"),
        ("stage:hang@soon", "expected a number with a unit"),
        ("stage:hang@5 s+0 s", "greater than 0"),
        ("stage:slip=3 s", "wrong dimension"),
        ("stage:slip=0 nm", "greater than 0"),
        ("stage:drift-fast=50nm", "wrong dimension"),
        ("stage:hang=1 s", "'hang' takes no time after '='"),
    ],
)
def test_what_is_wrong_is_said(text, problem):
    with pytest.raises(BadInput, match=problem) as caught:
        parse_fault(text)
    assert caught.value.where == "--fault"
    assert "\n" not in str(caught.value)


@given(
    st.sampled_from(ROLES),
    st.sampled_from(list(FAULTS)),
    st.none() | st.integers(1, 999_999),
    st.none() | durations,
    st.none() | durations,
)
def test_any_fault_that_is_written_is_read(role, name, times, start, duration):
    text = f"{role}:{name}" + (f"x{times}" if times else "")
    text += (f"@{start}" if start else "") + (f"+{duration}" if duration else "")
    assume("e+" not in text)  # the sign begins a duration
    fault = parse_fault(text)
    assert (fault.role, fault.name, fault.times) == (role, name, times)
    assert fault.start_s == (float(start[:-2]) if start else 0.0)
    assert fault.duration_s == (float(duration[:-2]) if duration else None)
    assert fault.late_s == SLOW_S
    # The process that serves the wire is told in JSON.
    assert Fault.model_validate_json(fault.model_dump_json()) == fault


@given(st.text(max_size=30))
def test_any_text_is_a_fault_or_bad_input(text):
    with contextlib.suppress(BadInput):
        assert parse_fault(text).role in ROLES


def test_faults_of_a_size_have_a_usual_one():
    assert parse_fault("stage:slip").size == 400.0
    assert parse_fault("stage:slip=250 nm").size == 250.0
    assert parse_fault("stage:drift-fast").size == 50.0
    assert parse_fault("stage:drift").size == 0.0
