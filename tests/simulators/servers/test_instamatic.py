"""The instamatic wire by plain JSON and by instamatic's own client."""

import asyncio
import json
import os
import sys
import time

import pytest

from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.simulators.servers import instamatic as server
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.world.microscope import World

FEW = SimulatorRig.model_validate(
    {
        "specimen": {"kind": "cu-sintering", "particles": 1},
        "goniometer": {"speed": "20 deg/s", "readback_noise": "0 deg"},
    }
)
# What a user of instamatic does; its configuration is read when it is imported.
SESSION = """
import sys, time
from instamatic.microscope.client import MicroscopeClient
tem = MicroscopeClient(interface="simulate")
assert tem.getHTValue() == 300_000, tem.getHTValue()
x, y, z, a, b = tem.getStagePosition()
assert (x, y, z, a, b) == (0, 0, 0, 0.0, 0.0)
tem.setStageA(5.0, wait=False)
assert tem.isStageMoving() is True
began = time.monotonic()
tem.waitForStage()
assert tem.isStageMoving() is False
assert abs(tem.getStagePosition()[3] - 5.0) < 1e-6
tem.setStagePosition(x=500, a=0.0)
assert tem.getStagePosition()[0] == 500
tem.setStageA(40.0, wait=False)
time.sleep(0.1)
tem.stopStage()
assert tem.isStageMoving() is False
assert 0.5 < tem.getStagePosition()[3] < 39
assert tem.isBeamBlanked() is True
tem.setBeamBlank(False)
assert tem.isBeamBlanked() is False
tem.setSpotSize(3)
assert tem.getSpotSize() == 3
mode = tem.getFunctionMode()
assert 120000 in tem.getMagnificationRanges()[mode]
tem.setMagnification(120000)
assert tem.getMagnification() == 120000
assert tuple(tem.getBeamShift()) == (32768, 32768), tem.getBeamShift()
tem.setBeamShift(32868, 32568)
assert tuple(tem.getBeamShift()) == (32868, 32568)
tem.setImageShift1(100, 200)
assert tuple(tem.getImageShift1()) == (100, 200)
tem.setObjectiveLenseFine(32800)
assert (tem.getObjectiveLenseFine(), tem.getObjectiveLenseCoarse()) == (32800, 32768)
tem.setStageXY(400, -300)
tem.setStageZ(2000)
assert tuple(tem.getStagePosition()[:3]) == (400, -300, 2000)
tem.setStagePosition(x=500, y=0, z=0)
for wrong in (lambda: tem.setMagnification(1234), lambda: tem.setStageA(500.0), tem.bogus):
    try:
        wrong()
    except Exception as error:
        print(type(error).__name__, error)
    else:
        sys.exit("not refused")
print("done")
"""


class Tem:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def call(self, function, *args, **kwargs):
        body = {"func_name": function, "args": args, "kwargs": kwargs}
        return await self.raw(json.dumps(body).encode())

    async def raw(self, raw):
        self.writer.write(raw)
        async with asyncio.timeout(60):
            return json.loads(await self.reader.read(65_536))


@pytest.fixture
async def tem():
    clock = ExperimentClock(5.0)
    world, faults = World(FEW, clock.now_ns()), WireFaults(server.FAULTS)
    async with server.serve(world, clock, "tcp://127.0.0.1:0", faults) as endpoint:
        port = int(endpoint.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        tem = Tem(reader, writer)
        tem.world, tem.clock, tem.faults, tem.port = world, clock, faults, port
        yield tem
        writer.close()


async def test_instamatics_client(tem, foreign, tmp_path):
    environment = {**os.environ, **foreign.instamatic_settings(tmp_path, tem.port)}
    # As slow as life: the client's calls take their time.
    tem.clock.speed = 1.0
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SESSION,
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out + errors).decode()
    said = out.decode()
    assert "TEMValueError No such camera length or magnification: 1234" in said
    assert "TEMValueError a_deg 500 is beyond the limits" in said
    assert "AttributeError" in said
    assert said.rstrip().endswith("done")
    column = tem.world.column.state(tem.clock.now_ns())
    assert not column.blanked
    assert column.current_pa == pytest.approx(16.0)
    assert column.field_nm == pytest.approx(1e8 / 120_000)
    assert column.optics.focus_nm == 32.0
    truth = tem.world.image_truth(tem.clock.now_ns())
    assert truth.deflected_nm == (200.0, -100.0)


async def test_moves_take_their_time_and_only_what_is_named_moves(tem):
    tem.clock.speed = 1.0
    assert await tem.call("setStagePosition", a=60.0, wait=False) == [200, None]
    assert await tem.call("isStageMoving") == [200, True]
    await tem.clock.sleep(0.5)
    x, y, z, a, b = (await tem.call("getStagePosition"))[1]
    assert 4 < a < 60
    while (await tem.call("isStageMoving"))[1]:
        await tem.clock.sleep(0.05)
    assert (await tem.call("getStagePosition"))[1] == [x, y, z, pytest.approx(60.0), b]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "moved"),
    [
        ("setStageA", (5.0,), {}, {"a_deg": 5.0}),
        ("setStageA", (), {"value": 5.0}, {"a_deg": 5.0}),
        ("setStageXY", (100, 200), {}, {"x_nm": 100, "y_nm": 200}),
        ("setStagePosition", (100, None, 300), {}, {"x_nm": 100, "z_nm": 300}),
        ("setStagePosition", (), {"a": -3, "speed": 1}, {"a_deg": -3}),
    ],
)
async def test_ways_to_move(tem, function, args, kwargs, moved):
    before_s = tem.clock.now_s()
    assert await tem.call(function, *args, **kwargs) == [200, None]
    assert tem.clock.now_s() > before_s  # it waited
    assert not tem.world.stage.is_moving(tem.clock.now_ns())
    at = tem.world.stage.readback(tem.clock.now_ns())
    assert {axis: pytest.approx(value) for axis, value in moved.items()} == {
        axis: at[axis] for axis in moved
    }


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        ("bogus", (), "AttributeError"),
        ("_stop", (), "AttributeError"),
        ("__class__", (), "AttributeError"),
        ("setSpotSize", (), "TypeError"),
        ("setSpotSize", (2.5,), "TEMValueError"),
        ("setSpotSize", (99,), "TEMValueError"),
        ("setMagnification", (12345,), "TEMValueError"),
        ("setMagnification", ([1],), "TEMValueError"),
        ("setBeamBlank", ("yes",), "TEMValueError"),
        ("setStageA", ("far",), "TEMValueError"),
        ("setStageA", (500.0,), "TEMValueError"),
        ("setStageA", (1.0, False, 3), "TEMValueError"),
        ("setStageB", (1.0,), "TEMValueError"),
        ("getStagePosition", (1,), "TypeError"),
    ],
)
async def test_bad_calls_are_refused_and_change_nothing(tem, function, args, name):
    status, (said, texts) = await tem.call(function, *args)
    assert (status, said) == (500, name)
    assert texts[0]
    column = tem.world.column.state(tem.clock.now_ns())
    assert (column.blanked, column.spot_size_index) == (True, 6)
    assert not tem.world.stage.is_moving(tem.clock.now_ns())


async def test_calls_split_and_run_together(tem):
    raw = json.dumps({"func_name": "getHTValue"}).encode()
    tem.writer.write(raw[:7])
    await asyncio.sleep(0.05)
    assert await tem.raw(raw[7:]) == [200, 300_000]
    tem.writer.write(raw + raw)
    async with asyncio.timeout(60):
        assert await tem.reader.readexactly(26) == b"[200, 300000][200, 300000]"


@pytest.mark.parametrize(
    "raw", [b'{"func_name": 3}', b'{"a": NaN}', b'{"func_name": "x", "args": 3}']
)
async def test_what_is_no_call_ends_the_connection_only(tem, raw):
    tem.writer.write(raw)
    async with asyncio.timeout(60):
        assert await tem.reader.read() == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", tem.port)
    assert await Tem(reader, writer).call("getHTValue") == [200, 300_000]
    writer.close()


async def test_nobody_is_answered_while_one_waits_for_the_stage(tem):
    reader, writer = await asyncio.open_connection("127.0.0.1", tem.port)
    waiting = asyncio.create_task(tem.call("setStageA", 40.0))
    await asyncio.sleep(0.1)
    await Tem(reader, writer).call("getHTValue")
    assert not tem.world.stage.is_moving(tem.clock.now_ns())
    assert await waiting == [200, None]
    writer.close()


async def test_faults(tem):
    tem.faults.switch(parse_fault("stage:errorx1"))
    assert (await tem.call("isStageMoving"))[0] == 500
    tem.faults.switch(parse_fault("stage:slow=300msx1"))
    started = time.monotonic()
    await tem.call("isStageMoving")
    assert time.monotonic() - started >= 0.3
    tem.faults.switch(parse_fault("stage:hang"))
    tem.writer.write(b'{"func_name": "isStageMoving"}')
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await tem.reader.read(1)
    tem.faults.clear()
    assert await tem.reader.read(100) == b"[200, false]"
    tem.faults.switch(parse_fault("stage:short-framex1"))
    tem.writer.write(b'{"func_name": "isStageMoving"}')
    assert await tem.reader.read(100) == b"[200, fal"
    tem.faults.switch(parse_fault("stage:garbagex1"))
    tem.writer.write(b'{"func_name": "isStageMoving"}')
    raw = await tem.reader.read(100)
    assert raw.endswith(b"[200, false]")
    assert len(raw) > 20
    tem.faults.switch(parse_fault("stage:disconnectx1"))
    tem.writer.write(b'{"func_name": "isStageMoving"}')
    assert await tem.reader.read() == b"[200, "


async def test_deflectors_stop_at_their_limits_without_a_word(tem):
    assert await tem.call("setBeamShift", 70_000, -3) == [200, None]
    assert await tem.call("getBeamShift") == [200, [65_535, 0]]
    tem.world.inject_faults(tem.clock.now_ns(), frozenset({"shift-clips"}), {"shift-clips": 100.0})
    await tem.call("setBeamShift", 32_000, 32_700)
    assert await tem.call("getBeamShift") == [200, [32_668, 32_700]]
    status, (name, _) = await tem.call("setBeamShift", "far", 0)
    assert (status, name) == (500, "TEMValueError")
