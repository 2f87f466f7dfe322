"""The Merlin wire by plain sockets."""

import asyncio
import importlib.util
import socket
import sys
import time
from contextlib import asynccontextmanager

import mrcfile
import numpy as np
import pytest

from pyrotome.protocols.config.faults import Fault
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.simulation import running


class Client:
    """Written from the card, not with our codec."""

    def __init__(self, control, data):
        self.control, self.data = control, data

    async def ask(self, text, raw=None):
        body = text.encode()
        message = b"MPX,%010d,%s" % (len(body) + 1, body) if raw is None else raw
        self.control[1].write(message)
        return await self.answer()

    async def answer(self):
        return (await self._message(self.control[0])).decode()

    async def set(self, **values):
        for name, value in values.items():
            assert await self.ask(f"SET,{name},{value}") == f"SET,{name},0"

    async def arm(self, frames, shape=(32, 32), time_ms=20.0, per_trigger=1, trigger=5, depth=12):
        await self.set(
            NUMFRAMESTOACQUIRE=frames,
            NUMFRAMESPERTRIGGER=per_trigger,
            ACQUISITIONTIME=time_ms,
            IMAGEX=shape[1],
            IMAGEY=shape[0],
            TRIGGERSTART=trigger,
            COUNTERDEPTH=depth,
        )
        assert await self.ask("CMD,STARTACQUISITION") == "CMD,STARTACQUISITION,0"
        return (await self._message(self.data[0])).decode()

    async def trigger(self):
        assert await self.ask("CMD,SOFTTRIGGER") == "CMD,SOFTTRIGGER,0"

    async def frame(self):
        body = await self._message(self.data[0])
        fields = body[: int(body[11:16])].decode().split(",")
        assert fields[0] == "MQ1"
        offset, width, height = int(fields[2]), int(fields[4]), int(fields[5])
        kind = {"U08": ">u1", "U16": ">u2", "U32": ">u4"}[fields[6]]
        pixels = np.frombuffer(body, kind, offset=offset).reshape(height, width)
        return int(fields[1]), pixels, fields

    @staticmethod
    async def _message(reader):
        prefix = await asyncio.wait_for(reader.readexactly(15), 60)
        assert prefix.startswith(b"MPX,")
        return await asyncio.wait_for(reader.readexactly(int(prefix[4:14]) - 1), 60)


@asynccontextmanager
async def connected(simulation):
    entry = simulation.devices["detector"]
    ports = [
        int(e.rpartition(":")[2]) for e in (entry["endpoint"], entry["options"]["data_endpoint"])
    ]
    control, data = [await asyncio.open_connection("127.0.0.1", p, limit=2**26) for p in ports]
    try:
        # An answer means that both connections have been accepted.
        client = Client(control, data)
        await client.ask("GET,SOFTWAREVERSION")
        yield client
    finally:
        for _, writer in (control, data):
            writer.close()
            await writer.wait_closed()


@pytest.fixture
def merlin(simulate):
    @asynccontextmanager
    async def start(**options):
        async with simulate(**options) as simulation, connected(simulation) as client:
            yield simulation, client

    return start


async def test_soft_triggered_frames(merlin):
    async with merlin() as (simulation, client):
        simulation.world.column.set_blanked(simulation.clock.now_ns(), False)
        header = await client.arm(3, (48, 64))
        assert header.startswith("HDR,")
        assert "Frames in Acquisition (Number):\t3" in header
        assert "Counter Depth (number):\t12" in header
        assert await client.ask("GET,DETECTORSTATUS") == "GET,DETECTORSTATUS,4,0"
        for k in range(1, 4):
            await client.trigger()
            number, pixels, fields = await client.frame()
            assert number == k
            assert pixels.shape == (48, 64)
            assert fields[6] == "U16"
            assert float(fields[10]) == pytest.approx(0.02)
            assert pixels.mean() > 1.0
        for _ in range(50):
            if await client.ask("GET,DETECTORSTATUS") == "GET,DETECTORSTATUS,0,0":
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("never idle again")


async def test_a_frame_is_what_the_world_renders(merlin, tmp_path):
    async with merlin(log=tmp_path / "log") as (simulation, client):
        world, clock = simulation.world, simulation.clock
        world.column.set_blanked(clock.now_ns(), False)
        await client.arm(1, (64, 64), time_ms=100.0)
        await client.trigger()
        _, pixels, _ = await client.frame()
        now = clock.now_ns()
        exposure = world.scan.begin(now, 0.1, (64, 64))
        twin = type(exposure)(0, now, now + 100_000_000, (64, 64))
        scene = world.scan.state(now)
        expected = world.scan.frame(twin, scene, np.ones(64, np.float32))
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("depth", "kind"), [(1, "U08"), (6, "U08"), (12, "U16"), (24, "U32")])
async def test_counter_depths(merlin, depth, kind):
    async with merlin() as (_, client):
        await client.arm(1, (16, 300), depth=depth)
        await client.trigger()
        _, pixels, fields = await client.frame()
        assert fields[6] == kind
        assert pixels.shape == (16, 300)
        assert pixels.max() == 0, "the beam is blanked"


async def test_exposure_takes_its_time(merlin):
    async with merlin() as (_, client):
        await client.arm(2, (16, 16), time_ms=300.0)
        start = time.monotonic()
        await client.trigger()
        await client.frame()
        assert time.monotonic() - start > 0.29


async def test_during_an_exposure_the_detector_is_busy(merlin):
    async with merlin() as (_, client):
        await client.arm(2, (16, 16), time_ms=3_600_000.0)
        await client.trigger()
        assert await client.ask("GET,DETECTORSTATUS") == "GET,DETECTORSTATUS,1,0"
        assert await client.ask("CMD,SOFTTRIGGER") == "CMD,SOFTTRIGGER,1"
        assert await client.ask("SET,IMAGEX,32") == "SET,IMAGEX,1"
        assert await client.ask("CMD,STARTACQUISITION") == "CMD,STARTACQUISITION,1"


async def test_speed_shortens_the_exposure(merlin):
    async with merlin(speed=200.0) as (_, client):
        await client.arm(1, (16, 16), time_ms=40_000.0)
        start = time.monotonic()
        await client.trigger()
        await client.frame()
        assert 0.19 < time.monotonic() - start < 40.0


async def test_blanked_in_mid_exposure_the_later_rows_are_dark(merlin):
    async with merlin() as (simulation, client):
        world, clock = simulation.world, simulation.clock
        world.column.set_blanked(clock.now_ns(), False)
        await client.arm(1, (64, 64), time_ms=3000.0)
        before_ns = clock.now_ns()
        await client.trigger()
        after_ns = clock.now_ns()
        await asyncio.sleep(1.5)
        blanked_ns = clock.now_ns()
        world.column.set_blanked(blanked_ns, True)
        # The exposure began between the trigger and its answer.
        least_s, most_s = (blanked_ns - after_ns) * 1e-9, (blanked_ns - before_ns) * 1e-9
        _, pixels, _ = await client.frame()
        lit = np.flatnonzero(pixels.sum(axis=1))
        assert lit.min() == 0
        assert 64 * least_s / 3.0 - 10 <= lit.max() <= 64 * most_s / 3.0 + 1
        exposed_s = world.column.dose(clock.now_ns()).unblanked_in_exposures_s
        assert least_s - 0.01 <= exposed_s <= most_s + 0.01


async def test_several_frames_per_trigger_and_internal_trigger(merlin):
    async with merlin() as (_, client):
        await client.arm(5, per_trigger=3, time_ms=5.0)
        await client.trigger()
        assert [(await client.frame())[0] for _ in range(3)] == [1, 2, 3]
        await client.trigger()
        assert [(await client.frame())[0] for _ in range(2)] == [4, 5]
        await client.arm(4, trigger=0, time_ms=5.0)
        assert [(await client.frame())[0] for _ in range(4)] == [1, 2, 3, 4]


async def test_stop_discards_what_is_under_way(merlin):
    async with merlin() as (_, client):
        await client.arm(10, trigger=0, time_ms=100.0)
        await client.frame()
        assert await client.ask("CMD,STOPACQUISITION") == "CMD,STOPACQUISITION,0"
        await asyncio.sleep(0.2)
        assert await client.ask("GET,DETECTORSTATUS") == "GET,DETECTORSTATUS,0,0"
        assert await client.ask("CMD,SOFTTRIGGER") == "CMD,SOFTTRIGGER,2"
        header = await client.arm(1)
        assert header.startswith("HDR,")
        await client.trigger()
        assert (await client.frame())[0] == 1


async def test_a_new_consumer_after_one_that_vanished(merlin):
    async with merlin() as (simulation, client):
        await client.arm(2, trigger=5, time_ms=5.0)
        client.data[1].transport.abort()
        await client.trigger()
        await asyncio.sleep(0.1)
        async with connected(simulation) as second:
            await second.ask("CMD,ABORT")
            await second.arm(1)
            await second.trigger()
            assert (await second.frame())[0] == 1


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("GET,NOSUCHTHING", "GET,NOSUCHTHING,,2"),
        ("SET,NOSUCHTHING,1", "SET,NOSUCHTHING,2"),
        ("SET,DETECTORSTATUS,1", "SET,DETECTORSTATUS,2"),
        ("CMD,NOSUCHTHING", "CMD,NOSUCHTHING,2"),
        ("CMD,SOFTTRIGGER", "CMD,SOFTTRIGGER,2"),
        ("SET,IMAGEX,0", "SET,IMAGEX,3"),
        ("SET,IMAGEX,4097", "SET,IMAGEX,3"),
        ("SET,IMAGEX,1.5", "SET,IMAGEX,3"),
        ("SET,IMAGEX,wide", "SET,IMAGEX,3"),
        ("SET,ACQUISITIONTIME,nan", "SET,ACQUISITIONTIME,3"),
        ("SET,ACQUISITIONTIME,-1", "SET,ACQUISITIONTIME,3"),
        ("SET,COUNTERDEPTH,13", "SET,COUNTERDEPTH,3"),
        ("GET,IMAGEX,0", "GET,IMAGEX,256,0"),
        ("get,imagex", "GET,IMAGEX,256,0"),
    ],
)
async def test_errors_by_code(merlin, asked, answer):
    async with merlin() as (_, client):
        assert await client.ask(asked) == answer
        assert await client.ask("GET,IMAGEY") == "GET,IMAGEY,256,0"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"MPX,00000000xx,GET,IMAGEX",
        b"MPX,9999999999,",
        bytes(range(256)) * 20,
        b"MPX,0000000005,\xff\xfe\xfd\xfc",
        b"MPX,0000000001,",
    ],
)
async def test_garbage_is_skipped(merlin, garbage):
    async with merlin() as (_, client):
        client.control[1].write(garbage)
        client.data[1].write(garbage)
        await client.control[1].drain()
        answer = await client.ask("GET,IMAGEX")
        if answer.startswith("CMD,UNKNOWN"):
            assert answer == "CMD,UNKNOWN,2"
            answer = await client.answer()
        assert answer == "GET,IMAGEX,256,0"


async def test_fill_mode_streams_without_rendering(merlin):
    async with merlin(fill_frames=4) as (_, client):
        # Forty exposures would take hours: no time passes for them.
        await client.arm(40, (256, 256), time_ms=1_000_000.0, per_trigger=40)
        await client.trigger()
        frames = [await client.frame() for _ in range(40)]
        assert [n for n, _, _ in frames] == list(range(1, 41))
        stacks = np.array([pixels for _, pixels, _ in frames])
        np.testing.assert_array_equal(stacks[:4], stacks[4:8])
        assert not np.array_equal(stacks[0], stacks[1])
        assert stacks.mean() > 1.0


async def test_a_recording_fixes_the_scan_and_comes_exactly(merlin, tmp_path):
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
    async with merlin(simulator=config) as (simulation, client):
        simulation.world.column.set_blanked(simulation.clock.now_ns(), False)
        assert await client.ask("GET,IMAGEX") == "GET,IMAGEX,8,0"
        assert await client.ask("GET,IMAGEY") == "GET,IMAGEY,6,0"
        assert await client.ask("SET,IMAGEX,6") == "SET,IMAGEX,3"
        await client.arm(1, (6, 8))
        await client.trigger()
        _, pixels, _ = await client.frame()
        np.testing.assert_array_equal(pixels.astype(int) - 300, data[1])


async def test_a_port_in_use_is_named(simulate):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        rig = simulated_rig()
        rig = rig.model_copy(
            update={"detector": rig.detector.model_copy(update={"endpoint": endpoint})}
        )
        config = SimulatorConfig(rig=rig, clock=ClockConfig.of(ExperimentClock()))
        with pytest.raises(BadInput, match=f"cannot listen on {endpoint}"):
            async with running(config):
                pass


@asynccontextmanager
async def of_chips(chips):
    rig = simulated_rig()
    options = {**rig.detector.options, "chips": chips}
    changes = {
        "detector": rig.detector.model_copy(update={"options": options}),
        "simulator": SimulatorRig.model_validate(
            {"specimen": {"kind": "cu-sintering", "particles": 4}}
        ),
    }
    clock = ClockConfig.of(ExperimentClock())
    async with running(SimulatorConfig(rig=rig.model_copy(update=changes), clock=clock)) as found:
        yield found


@pytest.mark.parametrize(("depth", "kind"), [(1, "U08"), (6, "U08"), (12, "U16"), (24, "U32")])
async def test_four_chips(depth, kind):
    async with of_chips(4) as simulation, connected(simulation) as c:
        simulation.world.column.set_blanked(simulation.clock.now_ns(), False)
        await c.arm(1, (64, 96), 50.0, depth=depth)
        await c.trigger()
        _, pixels, fields = await c.frame()
        assert fields[2:4] == ["00768", "04"]
        assert fields[6:9] == [kind, "   2x2", "0F"]
        assert fields[fields.index("MQ1A") + 3] == str(depth)
        assert pixels.shape == (64, 96)
        assert 0 < pixels.max() <= 2**depth - 1


async def test_counters_stop_at_their_highest_count(merlin):
    async with merlin() as (simulation, client):
        simulation.world.column.set_blanked(simulation.clock.now_ns(), False)
        for depth in (1, 6):
            await client.arm(1, (16, 16), 300.0, depth=depth)
            await client.trigger()
            assert (await client.frame())[1].max() == 2**depth - 1


async def test_frames_of_one_trigger_follow_each_other_without_a_pause(merlin):
    async with merlin() as (_, client):
        await client.arm(10, per_trigger=10, time_ms=10.0)
        await client.trigger()
        starts = [(await client.frame())[2][9] for _ in range(10)]
        moments = [np.datetime64(text.replace(" ", "T")) for text in starts]
        assert np.diff(moments).astype(float) == pytest.approx(1e4, abs=100)


async def test_period_longer_than_the_exposure(merlin):
    async with merlin() as (_, client):
        await client.set(ACQUISITIONPERIOD=30.0)
        await client.arm(3, per_trigger=3, time_ms=10.0)
        await client.trigger()
        starts = [(await client.frame())[2][9] for _ in range(3)]
        moments = [np.datetime64(text.replace(" ", "T")) for text in starts]
        assert np.diff(moments).astype(float) == pytest.approx(3e4, abs=100)


async def test_command_whose_length_leaves_the_comma_out(merlin):
    async with merlin() as (_, client):
        for name in ("IMAGEX", "IMAGEY"):
            body = f"GET,{name}".encode()
            raw = b"MPX,%010d,%s" % (len(body), body)
            assert await client.ask("", raw) == f"GET,{name},256,0"
        body = b"SET,IMAGEX,128"
        assert await client.ask("", b"MPX,%010d,%s" % (len(body), body)) == "SET,IMAGEX,0"
        assert await client.ask("GET,IMAGEX") == "GET,IMAGEX,128,0"


# Faults


@pytest.fixture
def faulty(merlin):
    @asynccontextmanager
    async def start():
        async with merlin() as (simulation, client):

            def fault(name, **details):
                simulation.switch(Fault(role="detector", name=name, **details))

            yield client, fault

    return start


async def test_faults_of_control(faulty):
    async with faulty() as (client, fault):
        fault("error", times=1)
        assert await client.ask("GET,IMAGEX") == "GET,IMAGEX,,1"
        fault("garbage", times=1)
        client.control[1].write(b"MPX,0000000011,GET,IMAGEX")
        raw = await client.control[0].readuntil(b"256,0")
        assert not raw.startswith(b"MPX,")
        assert raw.endswith(b"MPX,0000000017,GET,IMAGEX,256,0")
        fault("slow", times=1, late_s="200 ms")
        started = time.monotonic()
        assert await client.ask("GET,IMAGEX") == "GET,IMAGEX,256,0"
        assert time.monotonic() - started > 0.19
        fault("hang")
        asking = asyncio.create_task(client.ask("GET,IMAGEX"))
        await asyncio.sleep(0.2)
        assert not asking.done()
        fault("none")
        assert await asking == "GET,IMAGEX,256,0"
        fault("disconnect", times=1)
        with pytest.raises(asyncio.IncompleteReadError):
            await client.ask("GET,IMAGEX")


async def test_faults_of_frames(faulty):
    async with faulty() as (client, fault):
        await client.arm(6, (16, 16), 5.0)
        whole = 15 + 384 + 512
        for name, got in (("short-frame", whole - 256), ("wrong-length", whole)):
            fault(name, times=1)
            await client.trigger()
            raw = await client.data[0].readexactly(got)
            announced = int(raw[4:14]) - 1
            assert announced == (2_000_000_000 if name == "wrong-length" else whole - 15)
            await client.trigger()
            assert (await client.frame())[0] in {2, 4}
        await client.ask("CMD,SOFTTRIGGER")
        fault("hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.data[0].readexactly(15), 0.2)
        fault("none")
        await client.frame()


async def test_frame_that_breaks_off(faulty):
    async with faulty() as (client, fault):
        await client.arm(1, (16, 16), 100.0)
        await client.trigger()
        fault("disconnect", times=1)
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await client.frame()
        assert 384 < len(caught.value.partial) < 384 + 512


# By a client that is not ours.

LIBERTEM = """
import sys
import numpy as np
from libertem.executor.inline import InlineJobExecutor
from libertem.udf.sum import SumUDF
from libertem_live.api import Hooks, LiveContext
from libertem_live.detectors.merlin import MerlinControl

control, data, depth, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

def settings():
    with MerlinControl(port=control) as merlin:
        for name, value in {"NUMFRAMESTOACQUIRE": 16, "NUMFRAMESPERTRIGGER": 16,
                            "ACQUISITIONTIME": 5, "TRIGGERSTART": 5, "COUNTERDEPTH": depth,
                            "IMAGEX": 96, "IMAGEY": 64}.items():
            merlin.set(name, value)

class Start(Hooks):
    def on_ready_for_data(self, env):
        with MerlinControl(port=control) as merlin:
            merlin.cmd("STARTACQUISITION")
            merlin.cmd("SOFTTRIGGER")

settings()
with LiveContext(executor=InlineJobExecutor()) as context:
    with context.make_connection("merlin").open(
        api_host="127.0.0.1", api_port=control, data_host="127.0.0.1", data_port=data
    ) as connection:
        acquisition = context.make_acquisition(
            conn=connection, nav_shape=(4, 4), hooks=Start(), frames_per_partition=16
        )
        found = context.run_udf(dataset=acquisition, udf=SumUDF())
np.save(out, found["intensity"].data)
"""


@pytest.mark.interop
@pytest.mark.parametrize("depth", [6, 12, 24])
@pytest.mark.parametrize("chips", [1, 4])
async def test_libertem_live_acquires_what_the_world_rendered(tmp_path, depth, chips):
    if importlib.util.find_spec("libertem_live") is None:
        pytest.skip("libertem-live is not installed (extra 'interop')")
    async with of_chips(chips) as simulation:
        world = simulation.world
        world.column.set_blanked(simulation.clock.now_ns(), False)
        rendered, render = {}, world.scan.frame

        def frame(exposure, *arguments):
            rendered[exposure.index] = render(exposure, *arguments)
            return rendered[exposure.index]

        world.scan.frame = frame
        entry = simulation.devices["detector"]
        ports = [
            e.rpartition(":")[2] for e in (entry["endpoint"], entry["options"]["data_endpoint"])
        ]
        out = tmp_path / "sum.npy"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            LIBERTEM,
            *ports,
            str(depth),
            str(out),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(90):
                told, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, told.decode()
        assert len(rendered) == 16
        truth = sum(f.astype(np.uint64) for f in rendered.values())
        assert truth.sum() > 1000
        np.testing.assert_array_equal(np.load(out), truth)
