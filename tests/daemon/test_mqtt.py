"""MQTT telemetry seen by a client that is not ours, from a broker that is not ours."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """A mosquitto on a free port of the loopback."""
    if MOSQUITTO is None or shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto and mosquitto_sub are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end, "mosquitto did not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def test_mosquitto_sub_sees_the_telemetry_and_the_end(cli: Any, broker: int) -> None:
    rig = cli.rig(mqtt={"host": "127.0.0.1", "port": broker, "topic": "lab/pyrotome"})
    seen = cli.folder / "seen.txt"
    with seen.open("w") as out:
        listener = subprocess.Popen(
            ["mosquitto_sub", "-p", str(broker), "-t", "lab/#", "-v", "-q", "1"], stdout=out
        )
        try:
            done = cli("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
            assert done.returncode == 0, done.stderr
            time.sleep(0.5)
        finally:
            listener.terminate()
            listener.wait(10)
    lines = [line.split(" ", 1) for line in seen.read_text().splitlines()]
    values: dict[str, list[str]] = {}
    for topic, payload in lines:
        values.setdefault(topic, []).append(payload)
    temperatures = [json.loads(p)["v"] for p in values["lab/pyrotome/heater/temperature_c"]]
    assert max(temperatures) > 95
    assert all(abs(json.loads(p)["t"] - time.time()) < 300 for p in values["lab/pyrotome/state"])
    assert values["lab/pyrotome/status"][0] == "online"
    assert values["lab/pyrotome/status"][-1] == "offline"
    assert "lab/pyrotome/stage/tilt_deg" in values


def test_a_broker_that_is_absent_changes_nothing(cli: Any) -> None:
    rig = cli.rig(mqtt={"host": "127.0.0.1", "port": 9})
    done = cli("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
    assert done.returncode == 0, done.stderr
    assert "broker 127.0.0.1:9" in done.stderr
    assert done.stderr.count("broker 127.0.0.1:9") == 1


def test_an_experiment_does_not_notice_a_broker_that_dies(cli: Any, broker: int) -> None:
    rig = cli.rig(mqtt={"host": "127.0.0.1", "port": broker})
    running = cli.start("run", cli.short_recipe(), "--rig", rig, "-o", "run.nxs")
    running.wait_for("reference_001")
    subprocess.run(["pkill", "-f", f"mosquitto -c {cli.folder}"], check=True)
    assert running.wait() == 0, running.text()
    assert cli.inspect("run.nxs")["status"] == "complete"
