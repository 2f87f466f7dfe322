"""Endpoints of a rig: what an address can be, and what is said of one that cannot."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyrotome.protocols.config.endpoints import endpoint_problem, split_endpoint

TCP = ("tcp://HOST:6341",)
HTTP = ("http://HOST:8080",)
SERIAL = ("serial:///dev/ttyUSB0", "tcp://HOST:PORT")


@pytest.mark.parametrize(
    ("forms", "text"),
    [
        (TCP, "tcp://127.0.0.1:6341"),
        (TCP, "tcp://merlin-pc.lab.example.org:1"),
        (TCP, "tcp://camera_2:65535"),
        (TCP, "tcp://[fe80::1]:6341"),
        (HTTP, "http://localhost:8080"),
        (HTTP, "http://localhost:8080/"),
        (SERIAL, "serial:///dev/null"),
        (SERIAL, "serial:///dev/serial/by-id/usb-not-plugged-in"),
        (SERIAL, "tcp://192.168.0.24:4001"),
    ],
)
def test_what_an_instrument_can_have_is_accepted(forms, text):
    assert endpoint_problem(text, forms) is None


@pytest.mark.parametrize(
    ("forms", "text", "problem", "right"),
    [
        (TCP, "", "an empty text", "'tcp://HOST:6341'"),
        (TCP, "  ", "an empty text", "'tcp://HOST:6341'"),
        (TCP, "COM3", "serial port of Windows", "'tcp://HOST:6341'"),
        (SERIAL, "COM3", "serial port of Windows", "'serial:///dev/ttyUSB0' or 'tcp://HOST:PORT'"),
        (TCP, "GPIB0::24::INSTR", "GPIB is not supported", "'tcp://HOST:6341'"),
        (TCP, "TCPIP0::192.168.0.24::5025::SOCKET", "address of VISA", "'tcp://192.168.0.24:5025'"),
        (TCP, "TCPIP::192.168.0.24::INSTR", "address of VISA", "'tcp://192.168.0.24:6341'"),
        (SERIAL, "ASRL/dev/ttyUSB1::INSTR", "address of VISA", "'serial:///dev/ttyUSB1'"),
        (SERIAL, "/dev/ttyS0", "path of a device", "'serial:///dev/ttyS0'"),
        (SERIAL, "serial://dev/ttyS0", "no absolute path", "'serial:///dev/ttyS0'"),
        (SERIAL, "serial:///etc/passwd", "is not a device", "'serial:///dev/ttyUSB0'"),
        (SERIAL, "serial:///no/such/tty", "folder that does not exist", "'serial:///dev/ttyUSB0'"),
        (TCP, "serial:///dev/ttyUSB0", "begins with serial://", "'tcp://HOST:6341'"),
        (TCP, "udp://10.0.0.1:6341", "begins with udp://", "'tcp://10.0.0.1:6341'"),
        (HTTP, "https://scope:8080", "begins with https://", "'http://scope:8080'"),
        (HTTP, "127.0.0.1:8080", "does not begin with http://", "'http://127.0.0.1:8080'"),
        (HTTP, "http://127.0.0.1:8080/v1", "has a path", "'http://127.0.0.1:8080'"),
        (TCP, "tcp://merlin", "names no port", "'tcp://merlin:6341'"),
        (TCP, "tcp://merlin:", "names no port", "'tcp://merlin:6341'"),
        (TCP, "tcp://merlin:99999", "port 99999; ports go from 1", "'tcp://merlin:6341'"),
        (TCP, "tcp://merlin:0", "port 0; ports go from 1", "'tcp://merlin:6341'"),
        (TCP, "tcp://merlin:-1", "port '-1', which is not a number", "'tcp://merlin:6341'"),
        (TCP, "tcp://merlin:6341a", "not a number", "'tcp://merlin:6341'"),
        (TCP, "tcp://:6341", "names no host", "'tcp://HOST:6341'"),
        (TCP, "tcp://", "names no host", "'tcp://HOST:6341'"),
        (TCP, "tcp://192.168.0.300:1", "not an IPv4 address", "'tcp://HOST:6341'"),
        (TCP, "tcp://fe80::1:6341", "without brackets", "'tcp://[fe80::1]:6341'"),
        (TCP, "tcp://0.0.0.0:6341", "a server can listen", "'tcp://HOST:6341'"),
        (TCP, "tcp://me@merlin:6341", "user name", "'tcp://merlin:6341'"),
        (TCP, "tcp://my pc:6341", "holds a space", "'tcp://HOST:6341'"),
        (TCP, "tcp:/merlin:6341", "does not begin with tcp://", "'tcp://HOST:6341'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_would_be_right(forms, text, problem, right):
    said = endpoint_problem(text, forms)
    assert said is not None
    assert problem in said
    assert f"; write {right}" in said
    assert not text.strip() or text in said


def test_a_simulator_may_choose_port_and_terminal(tmp_path: Path):
    assert endpoint_problem("tcp://127.0.0.1:0", TCP, simulated=True) is None
    assert endpoint_problem("serial://auto", SERIAL, simulated=True) is None
    assert endpoint_problem(f"serial://{tmp_path}/tty", SERIAL, simulated=True) is None
    assert "ports go from" in str(endpoint_problem("tcp://h:70000", TCP, simulated=True))


@given(st.text(max_size=80), st.sampled_from([TCP, HTTP, SERIAL]))
@example("tcp://[::1", TCP)
@example("tcp://[]:1", TCP)
@example("TCPIP0::::INSTR", TCP)
@example("tcp://²:1", TCP)
@example("serial:///\0", SERIAL)
def test_any_text_is_judged_and_what_is_proposed_is_right(text, forms):
    said = endpoint_problem(text, forms)
    if said is None:
        return
    proposed = said.rpartition("; write '")[2].rstrip("'").partition("' or '")[0]
    if proposed not in forms:
        assert endpoint_problem(proposed.replace(":PORT", ":1"), forms) is None


@given(st.text(max_size=60))
def test_what_is_taken_apart_has_passed_the_check(text):
    for before in ("", "tcp://"):
        found = split_endpoint(before + text, "tcp")
        if found is not None:
            assert endpoint_problem(before + text, TCP, simulated=True) is None
            assert 0 <= found[1] <= 65535


def test_an_endpoint_taken_apart():
    assert split_endpoint("tcp://127.0.0.1:80", "tcp") == ("127.0.0.1", 80)
    assert split_endpoint("http://[::1]:80/", "http") == ("::1", 80)
    assert split_endpoint("http://h:80", "tcp") is None
    assert split_endpoint("tcp://h:*", "tcp") is None
