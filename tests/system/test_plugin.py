"""A driver package of a third party is installed, found, checked and used in a run."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from plugin_packages import install

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.registry import driver_class, installed
from pyrotome.protocols.config.rig import HeaterRig, load_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"


class LakeShore336:
    """The instrument: a stage that follows its setpoint within a fifth of a second."""

    def __init__(self) -> None:
        self.kelvin, self.setpoint, self.target = 298.15, 298.15, 298.15
        self.k_per_min, self.ramping = 0.0, False
        self.last_s = time.monotonic()
        self.heard: list[str] = []
        self.silent = self.deaf = False
        self.noise = b""

    def advance(self) -> None:
        now_s = time.monotonic()
        dt_s, self.last_s = now_s - self.last_s, now_s
        step = self.k_per_min / 60 * dt_s if self.ramping else float("inf")
        self.setpoint += max(-step, min(step, self.target - self.setpoint))
        self.kelvin += (self.setpoint - self.kelvin) * min(1.0, dt_s / 0.05)

    def answer(self, line: str) -> str:
        self.advance()
        answers = []
        for command in line.split(";"):
            name, _, arguments = command.partition(" ")
            values = arguments.split(",")
            if name == "*IDN?":
                answers.append("LSCI,MODEL336,LSA1234,2.9")
            elif name == "KRDG?":
                answers.append(f"{self.kelvin:+.3f}")
            elif name == "SETP?":
                answers.append(f"{self.setpoint:+.3f}")
            elif name == "RAMP" and not self.deaf:
                self.ramping, self.k_per_min = values[1] == "1", float(values[2])
            elif name == "SETP" and not self.deaf:
                self.target = float(values[1])
                self.advance()
        return ";".join(answers)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.heard.append(line.decode().strip())
            answer = self.answer(self.heard[-1])
            if answer and not self.silent:
                writer.write(self.noise + answer.encode() + b"\r\n")
                await writer.drain()
        writer.close()


@pytest.fixture
async def controller() -> AsyncIterator[tuple[LakeShore336, str]]:
    instrument = LakeShore336()
    server = await asyncio.start_server(instrument.converse, "127.0.0.1", 0)
    yield instrument, f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, and nothing else."""
    return install(PLUGIN, tmp_path_factory.mktemp("plugin"))


@pytest.fixture
def plugin(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The driver's class, as the registry finds it."""
    monkeypatch.syspath_prepend(site_packages)
    importlib.invalidate_caches()
    yield driver_class("lakeshore", "heater")
    sys.modules.pop("pyrotome_lakeshore", None)


def heater(plugin: type, endpoint: str, limits: dict[str, str] | None = None, **options: Any):
    rig = HeaterRig.model_validate(
        {
            "driver": "lakeshore",
            "endpoint": endpoint,
            "options": options,
            "limits": {"temperature": "200 degC", **(limits or {})},
        }
    )
    return plugin("heater (lakeshore)", rig, ExperimentClock())


def test_it_is_small():
    lines = (PLUGIN / "pyrotome_lakeshore" / "__init__.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) < 100


def test_the_registry_finds_it(plugin):
    assert plugin.__module__ == "pyrotome_lakeshore"
    assert installed()["lakeshore"].value == "pyrotome_lakeshore:LakeShoreHeater"
    with pytest.raises(BadInput, match="not a stage driver"):
        driver_class("lakeshore", "stage")


async def test_it_heats(plugin, controller):
    instrument, endpoint = controller
    device = heater(plugin, endpoint, every_s=0.02)
    assert str(await device.connect()) == "Lake Shore MODEL336 LSA1234 2.9"
    await device.set_temperature(80.0)
    async with asyncio.timeout(60):
        async for sample in device.samples():
            if sample.temperature_c > 79:
                break
    assert sample.setpoint_c == pytest.approx(80.0)
    await device.start_ramp(81.0, 10.0)
    assert instrument.k_per_min == pytest.approx(6.0)
    await asyncio.sleep(0.3)
    await device.hold_here()
    assert 80.0 < instrument.target - 273.15 < 80.9
    await device.make_safe()
    assert instrument.target == pytest.approx(298.15)
    with pytest.raises(OutOfRange, match=r"limits are 200 degC and 100 K/min.*Nothing was sent"):
        await device.set_temperature(201.0)
    with pytest.raises(OutOfRange):
        await device.start_ramp(100.0, 1.0)
    await device.disconnect()
    with pytest.raises(DeviceLost, match="not connected"):
        await device.set_temperature(50.0)


async def test_it_tells_refused_and_lost_apart(plugin, controller, monkeypatch, free_port):
    instrument, endpoint = controller
    device = heater(plugin, endpoint)
    await device.connect()
    instrument.deaf = True  # in local: settings are passed over in silence
    with pytest.raises(DeviceRefused, match=r"its setpoint stays at 298.15 K.*Set it to remote"):
        await device.set_temperature(60.0)
    instrument.deaf = False
    instrument.noise = b"\xff\x00nonsense\r\n"
    await device.set_temperature(60.0)
    instrument.noise, instrument.silent = b"", True
    monkeypatch.setattr(type(device)._ask, "__defaults__", (0.3,))
    with pytest.raises(DeviceLost, match=r"no answer from .* within 0\.3 s"):
        await device.set_temperature(70.0)
    instrument.silent = False
    await device.make_safe()
    assert instrument.target == pytest.approx(298.15)
    await device.disconnect()
    nobody = heater(plugin, f"tcp://127.0.0.1:{free_port()}")
    with pytest.raises(DeviceLost, match="nothing listens"):
        await nobody.connect()
    with pytest.raises(DeviceLost):
        await nobody.make_safe()


@pytest.fixture
def free_port():
    def choose() -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return choose


# On the command line.

RECIPE = """
title: Annealing on somebody else's heater
sample: {name: Cu on SiN, elements: [Cu]}
beam: {voltage: 300 kV, current: 2 pA, dwell: 500 ns, frame: [64, 64], pixel_size: 4 nm}
limits: {temperature: 150 degC, dose: 500 e/nm^2}
steps:
  - heat: {to: 60 degC, hold: 1 s}
  - tilt_series: {from: -10 deg, to: 10 deg, step: 10 deg}
"""


async def pyrotome(folder: Path, site: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pyrotome.daemon", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
def rig(tmp_path: Path, controller) -> str:
    body = yaml.safe_load((PLUGIN / "rig.yaml").read_text())
    body["heater"]["endpoint"] = controller[1]
    body["streams"] = {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"}
    body["simulator"] = {"specimen": {"kind": "cu-sintering", "particles": 4}}
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(body))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return "rig.yaml"


def test_the_rig_of_the_example_is_valid():
    assert load_rig(PLUGIN / "rig.yaml")[0].heater.driver == "lakeshore"


async def test_drivers_check_and_run(tmp_path, site_packages, controller, rig):
    instrument, _ = controller
    code, out, err = await pyrotome(tmp_path, site_packages, "drivers", "--json")
    assert code == 0, err
    (found,) = [entry for entry in json.loads(out) if entry["name"] == "lakeshore"]
    assert found["role"] == "heater"
    assert found["options"] == "input, output, every_s"

    code, out, err = await pyrotome(
        tmp_path, site_packages, "check", "recipe.yaml", "--rig", rig, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["frames"] == 3

    code, _, err = await pyrotome(
        tmp_path, site_packages, "run", "recipe.yaml", "--rig", rig, "-o", "run.nxs"
    )
    assert code == 0, err
    assert any("SETP 1,333.150" in line for line in instrument.heard)
    assert "SETP 1,298.150" in instrument.heard[-1] or instrument.target == pytest.approx(298.15)
    code, out, err = await pyrotome(tmp_path, site_packages, "inspect", "run.nxs", "--json")
    run = json.loads(out)
    assert (run["status"], run["frames"]) == ("complete", 3)
    assert run["series"][0]["temperature_mean_c"] == pytest.approx(60.0, abs=0.5)


async def test_a_package_that_is_broken_is_named_and_hides_no_other(tmp_path, rig):
    information = tmp_path / "site" / "broken-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pyrotome.drivers]\nlakeshore = gone:Heater\n")
    code, out, err = await pyrotome(tmp_path, tmp_path / "site", "drivers", "--json")
    assert code == 0, err
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert found["lakeshore"]["role"] == "?"
    assert "'lakeshore' cannot be loaded: No module named 'gone'" in found["lakeshore"]["summary"]
    assert found["merlin"]["role"] == "detector"
    code, _, err = await pyrotome(tmp_path, tmp_path / "site", "check", "recipe.yaml", "--rig", rig)
    assert code == 2
    assert "heater.driver: 'lakeshore' cannot be loaded" in err


async def test_without_the_package_its_rig_is_refused(tmp_path, controller, rig):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    code, _, err = await pyrotome(tmp_path, nothing, "check", "recipe.yaml", "--rig", rig)
    assert code == 2
    assert "heater.driver: no driver has the name 'lakeshore'" in err


async def test_a_wrong_option_is_refused(tmp_path, site_packages, controller, rig):
    path = tmp_path / rig
    path.write_text(path.read_text().replace("input: A", "input: Z"))
    code, _, err = await pyrotome(tmp_path, site_packages, "check", "recipe.yaml", "--rig", rig)
    assert code == 2
    assert "heater.options.input" in err
    assert "options of 'lakeshore': input, output, every_s" in err
