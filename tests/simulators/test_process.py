"""``python -m pyrotome.simulators`` as the daemon starts it."""

import asyncio
import json
import signal
import socket
import sys
from contextlib import asynccontextmanager

import pytest

from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.parent_pipe import dump_config
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig


@asynccontextmanager
async def process(*arguments):
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pyrotome.simulators",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


def config(**update) -> SimulatorConfig:
    rig = Rig.model_validate({**simulated_rig().model_dump(by_alias=True), **update})
    return SimulatorConfig(rig=rig, clock=ClockConfig.of(ExperimentClock()))


async def ready(child, line):
    child.stdin.write(line.encode())
    await child.stdin.drain()
    return json.loads(await asyncio.wait_for(child.stdout.readline(), 60))


@pytest.mark.parametrize("how", ["parent", "sigterm"])
async def test_serves_until_told_otherwise(how, tmp_path):
    wanted = config().model_copy(update={"log": str(tmp_path / "world.log")})
    async with process() as child:
        devices = (await ready(child, dump_config(wanted)))["devices"]
        assert set(devices) == {"heater", "stage", "beam", "detector"}
        assert devices["stage"] == devices["beam"]
        for endpoint in (
            devices["heater"]["endpoint"],
            devices["heater"]["options"]["data_endpoint"],
            devices["stage"]["endpoint"],
            devices["detector"]["endpoint"],
            devices["detector"]["options"]["data_endpoint"],
        ):
            host, port = endpoint.split("//")[1].split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()
        child.send_signal(signal.SIGINT)  # Ctrl-C goes to the whole group; the parent decides
        if how == "parent":
            child.stdin.close()
        else:
            await asyncio.sleep(0.1)
            child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 60) == 0
        assert await child.stderr.read() == b""
    events = [json.loads(x)["event"] for x in (tmp_path / "world.log").read_text().splitlines()]
    assert "temperature" in events
    assert events[-1] == "dose"


async def refusal(line, *arguments):
    async with process(*arguments) as child:
        announced = await ready(child, line)
        assert await asyncio.wait_for(child.wait(), 60) == 2
        assert await child.stderr.read() == b""
        return announced["error"]


async def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        entry = {"driver": "dens-impulse", "endpoint": endpoint}
        error = await refusal(dump_config(config(heater=entry)))
        assert endpoint in error
        assert "in use" in error


async def test_a_bad_recording_and_a_bad_configuration(tmp_path):
    tilts = tmp_path / "tilts"
    tilts.write_text("0\n")
    specimen = {"kind": "replay", "stack": str(tmp_path / "no.mrc"), "tilts": str(tilts)}
    error = await refusal(dump_config(config(simulator={"specimen": specimen})))
    assert "no.mrc: no such file" in error
    assert "configuration" in await refusal("garbage\n")


async def test_roles_with_other_drivers_are_left_alone():
    entry = {"driver": "somebody-elses", "endpoint": "tcp://127.0.0.1:1"}
    async with process("--fill", "2") as child:
        announced = await ready(child, dump_config(config(heater=entry, beam=entry)))
        assert set(announced["devices"]) == {"stage", "detector"}
        child.stdin.close()
        assert await asyncio.wait_for(child.wait(), 60) == 0
