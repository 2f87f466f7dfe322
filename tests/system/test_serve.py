"""A served daemon under remote control: submit, status, abort, safe, and wrong requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq


@pytest.fixture
def served(cli: Any) -> Iterator[Any]:
    """A daemon waiting for control, with its world's log in ``world.log``."""
    running = cli.start("serve", "--rig", cli.rig())
    running.wait_for("serving")
    yield running
    running.interrupt()
    assert running.wait() == 0, running.text()
    assert "Traceback" not in running.text()


def status(cli: Any, served: Any) -> dict[str, Any]:
    done = cli("status", "--json", "--endpoint", served.control)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for_state(cli: Any, served: Any, state: str, timeout_s: float = 120) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while (now := status(cli, served))["state"] != state:
        assert time.monotonic() < end, now
        time.sleep(0.05)
    return now


def ask_raw(endpoint: str, raw: bytes) -> dict[str, Any]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(endpoint)
        socket.send(raw)
        assert socket.poll(60_000)
        return json.loads(socket.recv())


def test_recipes_are_submitted_one_at_a_time_and_each_gets_its_file(cli: Any, served: Any) -> None:
    assert status(cli, served)["state"] == "idle"
    assert abs(status(cli, served)["temperature_c"] - 25) < 2
    short, first = cli.recipe(), str(cli.folder / "first.nxs")
    done = cli("submit", short, "-o", first, "--endpoint", served.control)
    assert done.returncode == 0, done.stderr
    assert "12 frames" in done.stdout
    wait_for_state(cli, served, "idle")
    assert cli.inspect(first)["status"] == "complete"
    assert status(cli, served)["last_run"] == "complete"
    cycle = {"standby": "60 degC", "processing": "100 degC", "holds": ["600 s"]}
    long, second = cli.recipe(steps=[{"cycle": cycle}]), str(cli.folder / "second.nxs")
    assert cli("submit", long, "-o", second, "--endpoint", served.control).returncode == 0
    refused = cli("submit", short, "--endpoint", served.control)
    assert refused.returncode == 2
    assert "under way" in refused.stderr
    wait_for_state(cli, served, "running")
    assert cli("abort", "--endpoint", served.control).returncode == 0
    assert cli.inspect(second)["status"] == "aborted"
    assert status(cli, served)["last_run"] == "aborted"


def test_safe_ends_a_hold_at_once_and_works_when_idle(cli: Any, served: Any) -> None:
    assert cli("safe", "--endpoint", served.control).returncode == 0
    steps = [
        {"heat": {"to": "200 degC", "rate": "100 degC/s"}},
        {"cycle": {"standby": "200 degC", "processing": "350 degC", "holds": ["600 s"]}},
    ]
    name = str(cli.folder / "run.nxs")
    done = cli("submit", cli.recipe(steps=steps), "-o", name, "--endpoint", served.control)
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 120
    while ((now := status(cli, served))["temperature_c"] or 0) < 330:
        assert time.monotonic() < end, f"{now}\n{served.text()}"
        time.sleep(0.1)
    assert cli("safe", "--endpoint", served.control).returncode == 0
    now = status(cli, served)
    assert now["state"] == "idle"
    assert now["temperature_c"] < 60
    assert cli.inspect(name)["status"] == "aborted"


def test_control_refuses_nonsense_and_continues(cli: Any, served: Any) -> None:
    for verb in ("pause", "resume", "abort"):
        done = cli(verb, "--endpoint", served.control)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    bad = Path(cli.recipe())
    bad.write_text(bad.read_text().replace("current", "curent"))
    done = cli("submit", str(bad), "--endpoint", served.control)
    assert done.returncode == 2
    assert "beam.curent: unknown key; did you mean 'current'?" in done.stderr
    for raw in (b"", b"{", b"[]", b'{"verb":"fly"}', b'{"verb":"status","extra":1}', b"\xff" * 100):
        reply = ask_raw(served.control, raw)
        assert reply["ok"] is False
        assert reply["code"] == 2
    assert status(cli, served)["state"] == "idle"


def test_drivers_lists_what_is_installed(cli: Any) -> None:
    done = cli("drivers", "--json")
    assert done.returncode == 0, done.stderr
    assert {d["name"]: d["role"] for d in json.loads(done.stdout)} == {
        "dectris-simplon": "detector",
        "dens-impulse": "heater",
        "instamatic-beam": "beam",
        "instamatic-stage": "stage",
        "keithley-2400": "heater",
        "keithley-2450": "heater",
        "merlin": "detector",
        "secop": "heater",
        "temscript-beam": "beam",
        "temscript-stage": "stage",
    }


def test_simulate_prints_every_endpoint(cli: Any) -> None:
    running = cli.start("simulate", "--rig", cli.rig())
    end = time.monotonic() + 120
    text = ""
    while "detector" not in text:
        assert time.monotonic() < end
        text = "".join(p.read_text() for p in cli.folder.glob("stdout-*"))
        time.sleep(0.05)
    running.interrupt()
    assert running.wait() == 0, running.text()
    for role in ("heater", "stage", "beam", "detector"):
        assert role in text
    assert ":0\n" not in text


def test_only_a_person_clears_a_panic(cli: Any) -> None:
    served = cli.start("serve", "--rig", cli.rig())
    served.wait_for("serving")
    refused = cli("clear", "--endpoint", served.control)
    assert refused.returncode == 2
    assert "nothing to clear: the daemon is idle" in refused.stderr
    served.children()["pyrotome.simulators"].kill()
    lost = cli("safe", "--endpoint", served.control)
    assert lost.returncode == 3
    assert status(cli, served)["state"] == "panicked"
    for verb, code in (("submit", 2), ("clear", 3)):
        arguments = [cli.short_recipe()] if verb == "submit" else []
        done = cli(verb, *arguments, "--endpoint", served.control)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    assert "panicked" in cli("submit", cli.short_recipe(), "--endpoint", served.control).stderr
    assert status(cli, served)["state"] == "panicked"
    served.interrupt()
    assert served.wait() == 0, served.text()
