"""The SIMPLON wires by plain HTTP and ZeroMQ, and by clients that are not ours."""

import asyncio
import importlib.util
import json
import socket
import sys
import time
from contextlib import asynccontextmanager

import aiohttp
import cbor2
import numpy as np
import pytest
import zmq
import zmq.asyncio
from dectris.compression import decompress

from pyrotome.protocols.config.faults import Fault
from pyrotome.protocols.config.rig import DetectorRig, simulated_rig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.servers import simplon
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.simulation import running
from pyrotome.simulators.world.microscope import World

FEW = SimulatorRig.model_validate({"specimen": {"kind": "cu-sintering", "particles": 4}})


class Client:
    """Written from the card, not with our codec."""

    def __init__(self, http, pull, url):
        self.http, self.pull, self.url = http, pull, url

    async def ask(self, method, path, value=None):
        body = None if value is None else {"value": value}
        async with self.http.request(method, self.url + path, json=body) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def get(self, name, task="config", module="detector"):
        status, answer = await self.ask("GET", f"/{module}/api/1.8.0/{task}/{name}")
        assert status == 200, answer
        return answer["value"]

    async def put(self, name, value, module="detector"):
        status, answer = await self.ask("PUT", f"/{module}/api/1.8.0/config/{name}", value)
        assert status == 200, answer
        return answer

    async def command(self, name):
        status, answer = await self.ask("PUT", f"/detector/api/1.8.0/command/{name}")
        assert status == 200, answer
        return answer

    async def arm(self, shape=(32, 48), time_s=0.02, nimages=1, ntrigger=1, **values):
        if await self.get("state", "status") == "na":
            await self.command("initialize")
        await self.put("mode", "enabled", "stream")
        if (wanted := values.pop("format", None)) is not None:
            await self.put("format", wanted, "stream")
        settings = {
            "trigger_mode": "ints",
            "nimages": nimages,
            "ntrigger": ntrigger,
            "y_pixels_in_detector": shape[0],
            "x_pixels_in_detector": shape[1],
            "count_time": time_s,
            "frame_time": time_s,
            **values,
        }
        for name, value in settings.items():
            await self.put(name, value)
        return (await self.command("arm"))["sequence id"]

    async def message(self):
        return await asyncio.wait_for(self.pull.recv_multipart(), 60)

    async def image(self):
        head, described, blob, times = await self.message()
        head, described, times = json.loads(head), json.loads(described), json.loads(times)
        assert head["htype"] == "dimage-1.0"
        assert described["htype"] == "dimage_d-1.0"
        assert described["size"] == len(blob)
        columns, rows = described["shape"]
        kind = np.dtype(described["type"]).newbyteorder("<")
        if described["encoding"].startswith("bs"):
            assert described["encoding"] == f"bs{8 * kind.itemsize}-lz4<"
            blob = decompress(blob, "bslz4", elem_size=kind.itemsize)
        return head, np.frombuffer(blob, kind).reshape(rows, columns), times


@asynccontextmanager
async def served(speed=1.0, fill_frames=0, simulator=FEW, **options):
    clock = ExperimentClock(speed)
    world = World(simulator, clock.now_ns())
    faults = WireFaults(simplon.FAULTS)
    context = zmq.asyncio.Context()
    ends = "http://127.0.0.1:0", "tcp://127.0.0.1:0"
    try:
        async with (
            simplon.serve(world, clock, *ends, fill_frames, simplon.Variant(**options), faults) as (
                url,
                data,
            ),
            aiohttp.ClientSession() as http,
        ):
            pull = context.socket(zmq.PULL)
            pull.connect(data)
            yield world, clock, Client(http, pull, url), faults
    finally:
        context.destroy(linger=0)


async def test_a_series_from_switching_on_to_its_end():
    async with served() as (world, clock, client, _):
        world.column.set_blanked(clock.now_ns(), False)
        assert await client.get("state", "status") == "na"
        series = await client.arm(nimages=2, ntrigger=2)
        head, config = [json.loads(part) for part in await client.message()]
        assert head == {"htype": "dheader-1.0", "series": series, "header_detail": "basic"}
        assert config["nimages"] == 2
        assert config["x_pixels_in_detector"] == 48
        assert await client.get("state", "status") == "ready"
        for trigger in range(2):
            started = time.monotonic()
            await client.command("trigger")
            assert time.monotonic() - started > 0.039, "answered when the frames are exposed"
            for frame in range(2):
                head, pixels, times = await client.image()
                assert (head["series"], head["frame"]) == (series, 2 * trigger + frame)
                assert pixels.shape == (32, 48)
                assert pixels.dtype == np.uint16
                assert pixels.mean() > 1
                assert times["stop_time"] - times["start_time"] == pytest.approx(2e7, abs=200)
        status, text = await client.ask("PUT", "/detector/api/1.8.0/command/trigger")
        assert (status, "no trigger is waited for" in text) == (400, True)
        assert (await client.command("disarm"))["sequence id"] == series
        (end,) = await client.message()
        assert json.loads(end) == {"htype": "dseries_end-1.0", "series": series}
        assert await client.get("state", "status") == "idle"
        assert await client.arm() == series + 1


async def test_a_frame_is_what_the_world_renders():
    async with served() as (world, clock, client, _):
        world.column.set_blanked(clock.now_ns(), False)
        await client.arm((64, 64), 0.1)
        await client.message()
        await client.command("trigger")
        _, pixels, _ = await client.image()
        now = clock.now_ns()
        exposure = world.scan.begin(now, 0.1 - 1e-7, (64, 64))
        twin = type(exposure)(0, now, now + exposure.end_ns - exposure.start_ns, (64, 64))
        expected = world.scan.frame(twin, world.scan.state(now), np.ones(64, np.float32))
        np.testing.assert_array_equal(pixels, expected)


async def test_frames_of_one_trigger_follow_each_other_without_a_pause():
    async with served() as (_, _, client, _):
        await client.arm(nimages=10, time_s=0.01)
        await client.message()
        await client.command("trigger")
        starts = [(await client.image())[2]["start_time"] for _ in range(10)]
        assert np.diff(starts) == pytest.approx(1e7, abs=1e5)


async def test_configuration_is_kept_consistent():
    async with served() as (_, _, client, _):
        await client.command("initialize")
        changed = await client.put("count_time", 0.5)
        assert {"count_time", "frame_time"} <= set(changed)
        assert await client.get("frame_time") == pytest.approx(0.5 + 1e-7, abs=1e-12)
        changed = await client.put("frame_time", 0.25)
        assert {"count_time", "frame_time"} <= set(changed)
        assert await client.get("count_time") == pytest.approx(0.25 - 1e-7, abs=1e-12)
        assert await client.put("nimages", 3) == ["nimages"]
        _, parameter = await client.ask("GET", "/detector/api/1.8.0/config/count_time")
        assert parameter["unit"] == "s"
        assert parameter["access_mode"] == "rw"
        assert parameter["min"] < parameter["value"] < parameter["max"]
        _, parameter = await client.ask("GET", "/detector/api/1.8.0/config/compression")
        assert parameter["allowed_values"] == ["bslz4", "lz4", "none"]
        _, keys = await client.ask("GET", "/detector/api/1.8.0/config/keys")
        assert {"count_time", "nimages", "trigger_mode"} <= set(keys)


async def test_version():
    async with served() as (_, _, client, _):
        answer = await client.ask("GET", "/detector/api/version")
        assert answer[1]["value"] == "1.8.0"
        assert answer[1]["value_type"] == "string"


@pytest.mark.parametrize(
    ("method", "path", "value", "status"),
    [
        ("GET", "/detector/api/1.8.0/config/nosuch", None, 404),
        ("PUT", "/detector/api/1.8.0/config/nosuch", 1, 404),
        ("GET", "/detector/api/1.6.0/config/count_time", None, 404),
        ("GET", "/nosuch/api/1.8.0/config/count_time", None, 404),
        ("GET", "/", None, 404),
        ("PUT", "/detector/api/1.8.0/command/nosuch", None, 404),
        ("DELETE", "/detector/api/1.8.0/config/count_time", None, 404),
        ("PUT", "/detector/api/1.8.0/config/bit_depth_image", 8, 400),
        ("PUT", "/detector/api/1.8.0/config/count_time", "long", 400),
        ("PUT", "/detector/api/1.8.0/config/count_time", 1e9, 400),
        ("PUT", "/detector/api/1.8.0/config/nimages", 0, 400),
        ("PUT", "/detector/api/1.8.0/config/nimages", 1.5, 400),
        ("PUT", "/detector/api/1.8.0/config/nimages", True, 400),
        ("PUT", "/detector/api/1.8.0/config/trigger_mode", "never", 400),
        ("PUT", "/detector/api/1.8.0/config/compression", ["lz4"], 400),
        ("PUT", "/detector/api/1.8.0/command/trigger", None, 400),
    ],
)
async def test_errors_by_status(method, path, value, status):
    async with served(initialized=True) as (_, _, client, _):
        assert (await client.ask(method, path, value))[0] == status
        assert await client.get("state", "status") == "idle"


async def test_before_it_is_initialized_there_is_only_its_state():
    async with served() as (_, _, client, _):
        for method, path in (
            ("GET", "config/count_time"),
            ("GET", "status/high_voltage/state"),
            ("PUT", "command/arm"),
        ):
            assert (await client.ask(method, f"/detector/api/1.8.0/{path}"))[0] == 400
        assert await client.get("state", "status") == "na"


async def test_armed_it_is_not_configured():
    async with served() as (_, _, client, _):
        await client.arm()
        assert (await client.ask("PUT", "/detector/api/1.8.0/config/nimages", 2))[0] == 400
        assert (await client.ask("PUT", "/detector/api/1.8.0/command/arm"))[0] == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"other": 1}', b"\xff\xfe", b"[" * 5000])
async def test_bodies_that_are_none(body):
    async with served(initialized=True) as (_, _, client, _):
        url = client.url + "/detector/api/1.8.0/config/nimages"
        async with client.http.put(url, data=body) as response:
            assert response.status == 400
        assert await client.get("nimages") == 1


@pytest.mark.parametrize("depth", [8, 16, 32])
@pytest.mark.parametrize("compression", ["bslz4", "none"])
async def test_newer_format(depth, compression):
    async with served(bit_depth=depth) as (world, clock, client, _):
        world.column.set_blanked(clock.now_ns(), False)
        series = await client.arm(format="cbor", compression=compression)
        start = cbor2.loads((await client.message())[0])
        assert start["type"] == "start"
        assert start["series_id"] == series
        assert start["number_of_images"] == 1
        assert (start["image_size_x"], start["image_size_y"]) == (48, 32)
        await client.command("trigger")
        image = cbor2.loads((await client.message())[0])
        assert (image["type"], image["image_id"]) == ("image", 0)
        (channel,) = start["channels"]
        matrix = image["data"][channel]
        assert matrix.tag == 40
        shape, typed = matrix.value
        assert tuple(shape) == (32, 48)
        assert typed.tag == {8: 64, 16: 69, 32: 70}[depth]
        raw = typed.value
        if compression == "bslz4":
            assert raw.tag == 56500
            name, size, blob = raw.value
            assert (name, size) == ("bslz4", depth // 8)
            raw = decompress(blob, "bslz4", elem_size=size)
        assert np.frombuffer(raw, f"<u{depth // 8}").mean() > 1
        await client.command("disarm")
        end = cbor2.loads((await client.message())[0])
        assert (end["type"], end["series_id"]) == ("end", series)


async def test_header_detail_and_appendices():
    async with served(initialized=True) as (_, _, client, _):
        await client.put("header_detail", "none", "stream")
        await client.put("image_appendix", "mine", "stream")
        await client.arm()
        (head,) = await client.message()
        assert json.loads(head)["header_detail"] == "none"
        await client.command("trigger")
        assert (await client.message())[4] == b"mine"


async def test_abort_ends_the_exposure_and_its_images():
    async with served() as (_, _, client, _):
        series = await client.arm(nimages=2000, time_s=0.05)
        await client.message()
        pending = asyncio.create_task(client.command("trigger"))
        await client.image()
        assert await client.get("state", "status") == "acquire"
        await client.command("abort")
        await pending
        found = [await client.message()]
        while len(found[-1]) > 1:
            found.append(await client.message())
        assert len(found) < 1000
        assert json.loads(found[-1][0]) == {"htype": "dseries_end-1.0", "series": series}


async def _begins(client, series):
    """Whether the start of a series comes within a second."""
    try:
        async with asyncio.timeout(1.0):
            while json.loads((await client.message())[0])["series"] != series:
                pass
    except TimeoutError:
        return False
    return True


async def test_without_a_consumer_the_next_series_begins_anew():
    async with served() as (_, _, client, _):
        other = client.pull.context.socket(zmq.PULL)
        other.connect(client.pull.getsockopt(zmq.LAST_ENDPOINT).decode())
        client.pull.close(linger=0)
        await client.arm(nimages=1)
        await client.command("abort")
        client.pull = other
        # A message may still go to the consumer that has just left: then the series is begun again.
        series = await client.arm(nimages=1)
        while not await _begins(client, series):
            await client.command("abort")
            series = await client.arm(nimages=1)
        await client.command("trigger")
        assert (await client.image())[0]["frame"] == 0


async def test_external_trigger():
    async with served() as (_, _, client, _):
        await client.arm(trigger_mode="exte", ntrigger=3)
        await client.message()
        assert [(await client.image())[0]["frame"] for _ in range(3)] == [0, 1, 2]
        assert (await client.ask("PUT", "/detector/api/1.8.0/command/trigger"))[0] == 400


async def test_fill_mode_streams_without_rendering():
    async with served(fill_frames=4) as (_, _, client, _):
        # Forty exposures would take more than an hour: no time passes for them.
        await client.arm((256, 256), 100.0, nimages=40)
        await client.message()
        pending = asyncio.create_task(client.command("trigger"))
        found = [await client.image() for _ in range(40)]
        await pending
        assert [head["frame"] for head, _, _ in found] == list(range(40))
        stacks = np.array([pixels for _, pixels, _ in found])
        np.testing.assert_array_equal(stacks[:4], stacks[4:8])
        assert not np.array_equal(stacks[0], stacks[1])
        assert stacks.mean() > 1.0


async def test_faults_of_control():
    async with served(initialized=True) as (_, _, client, faults):

        def fault(name, **details):
            faults.switch(Fault(role="detector", name=name, **details))

        path = "/detector/api/1.8.0/status/state"
        fault("error", times=1)
        assert (await client.ask("GET", path))[0] == 500
        fault("garbage", times=1)
        with pytest.raises(aiohttp.ClientError):
            await client.ask("GET", path)
        fault("disconnect", times=2)  # aiohttp's own client asks once more
        with pytest.raises(aiohttp.ClientError):
            await client.ask("GET", path)
        faults.clear()
        fault("slow", times=1, late_s="200 ms")
        started = time.monotonic()
        assert (await client.ask("GET", path))[0] == 200
        assert time.monotonic() - started > 0.19
        fault("hang")
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.2):
                await client.ask("GET", path)
        faults.clear()
        assert (await client.ask("GET", path))[0] == 200


async def test_faults_of_the_stream():
    async with served() as (_, _, client, faults):
        await client.arm(nimages=1, ntrigger=4)
        await client.message()

        async def exposed(name):
            faults.switch(Fault(role="detector", name=name, times=1))
            await client.command("trigger")
            return await client.message()

        whole = await exposed("slow")
        short = await exposed("short-frame")
        assert 0 < len(short[2]) < 0.8 * len(whole[2])
        other = await exposed("wrong-length")
        assert json.loads(other[1])["shape"] == [48, 64]
        # A trigger's own answer comes after its image only in a real detector: the noise of one
        # strike is in whichever comes first.
        assert faults.struck == {"slow": 1, "short-frame": 1, "wrong-length": 1}


async def test_a_recording_fixes_the_scan(tmp_path):
    mrcfile = pytest.importorskip("mrcfile")
    data = np.random.default_rng(0).integers(-300, 300, (3, 6, 8)).astype(np.int16)
    with mrcfile.new(tmp_path / "s.mrc") as file:
        file.set_data(data)
    (tmp_path / "s.rawtlt").write_text("-10\n0\n10\n")
    specimen = {
        "kind": "replay",
        "stack": str(tmp_path / "s.mrc"),
        "tilts": str(tmp_path / "s.rawtlt"),
        "value_offset": 300,
    }
    config = SimulatorRig.model_validate({"specimen": specimen})
    async with served(simulator=config, initialized=True) as (world, clock, client, _):
        world.column.set_blanked(clock.now_ns(), False)
        assert await client.get("x_pixels_in_detector") == 8
        url = "/detector/api/1.8.0/config/x_pixels_in_detector"
        assert (await client.ask("PUT", url, 6))[0] == 400
        await client.put("mode", "enabled", "stream")
        for name, value in {"trigger_mode": "ints", "count_time": 0.02}.items():
            await client.put(name, value)
        await client.command("arm")
        await client.message()
        await client.command("trigger")
        _, pixels, _ = await client.image()
        np.testing.assert_array_equal(pixels.astype(int) - 300, data[1])


@pytest.mark.parametrize("taken", ["control", "data"])
async def test_a_port_in_use_is_named(taken):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        control = f"http://127.0.0.1:{port if taken == 'control' else 0}"
        data = f"tcp://127.0.0.1:{port if taken == 'data' else 0}"
        detector = DetectorRig(
            driver="dectris-simplon", endpoint=control, options={"data_endpoint": data}
        )
        rig = simulated_rig().model_copy(update={"detector": detector})
        config = SimulatorConfig(rig=rig, clock=ClockConfig.of(ExperimentClock()))
        with pytest.raises(BadInput, match=f"cannot listen on .*:{port}"):
            async with running(config):
                pass


# By clients that are not ours.

DEIGER = """
import json, sys, tempfile, time
import numpy as np
import libertem_dectris
from libertem_live.detectors.dectris.DEigerClient import DEigerClient

rest, data, compression, out = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
client = DEigerClient("127.0.0.1", rest)
assert client.detectorStatus("state")["value"] == "na"
client.sendDetectorCommand("initialize")
assert client.detectorStatus("state")["value"] == "idle"
assert "count_time" in client.detectorConfig()
changed = client.setDetectorConfig("count_time", 0.02)
assert "frame_time" in changed, changed
client.setDetectorConfig("frame_time", 0.02)
settings = {"nimages": 3, "ntrigger": 2, "trigger_mode": "ints", "compression": compression,
            "x_pixels_in_detector": 96, "y_pixels_in_detector": 64}
for name, value in settings.items():
    client.setDetectorConfig(name, value)
    assert client.detectorConfig(name)["value"] == value
client.setStreamConfig("mode", "enabled")
handle = tempfile.mkdtemp() + "/socket"
connection = libertem_dectris.DectrisConnection(
    uri=data, frame_stack_size=4, num_slots=64, bytes_per_frame=64 * 96 * 2, huge=False,
    handle_path=handle)
connection.start_passive()
series = client.sendDetectorCommand("arm")["sequence id"]
config, armed = connection.wait_for_arm(10)
assert armed == series
assert config.get_num_frames() == 6, config
for _ in range(2):
    client.sendDetectorCommand("trigger")
decoder = libertem_dectris.CamClient(handle)
frames = []
while len(frames) < 6:
    stack = connection.get_next_stack(max_size=6)
    buffer = np.zeros((len(stack), 64, 96), np.uint16)
    decoder.decode_range_into_buffer(stack, buffer, 0, len(stack))
    frames.extend(buffer)
    decoder.done(stack)
assert client.sendDetectorCommand("disarm")["sequence id"] == series
assert client.detectorStatus("state")["value"] == "idle"
np.save(out, frames)
decoder.close()
connection.close()
"""


@pytest.mark.interop
@pytest.mark.parametrize("compression", ["bslz4", "lz4"])
async def test_dectris_own_client_and_libertem(compression, tmp_path):
    """Controlled by DECTRIS' client, received by LiberTEM's: frames as the world rendered them."""
    for package in ("libertem_live", "libertem_dectris"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra 'interop')")
    async with served(ends_itself=True) as (world, clock, client, _):
        data = client.pull.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        client.pull.close(linger=0)  # two that pull would share the images
        world.column.set_blanked(clock.now_ns(), False)
        rendered = recorded(world)
        out = tmp_path / "frames.npy"
        rest = client.url.rpartition(":")[2]
        await run_client(DEIGER, rest, data, compression, str(out))
        frames = np.load(out)
        assert frames.mean() > 0.1
        assert len(rendered) == 6
        order = sorted(rendered)
        np.testing.assert_array_equal(frames, [rendered[index] for index in order])


def recorded(world):
    """Frames that the world renders, by the number of their exposure."""
    rendered, render = {}, world.scan.frame

    def frame(exposure, *arguments):
        rendered[exposure.index] = render(exposure, *arguments)
        return rendered[exposure.index]

    world.scan.frame = frame
    return rendered


async def run_client(program, *arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode()
