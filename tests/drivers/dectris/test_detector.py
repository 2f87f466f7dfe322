"""The DECTRIS driver against our simulator, LiberTEM's, and servers that misbehave."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import zmq
import zmq.asyncio
from aiohttp import web

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.dectris.detector import SimplonDetector
from pyrotome.protocols.config.faults import Fault
from pyrotome.protocols.config.rig import DetectorRig
from pyrotome.protocols.config.simulated import SimulatedDetector, SimulatorRig
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.core.chunk import Chunk
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.wires import simplon, simplon_stream
from pyrotome.protocols.wires.simplon_stream import Image, Pixels
from pyrotome.simulators.servers import simplon as simulator
from pyrotome.simulators.servers.wire_faults import WireFaults
from pyrotome.simulators.world.microscope import World

FEW = SimulatorRig.model_validate({"specimen": {"kind": "cu-sintering", "particles": 4}})


def detector_of(control, data, clock=None, **options):
    rig = DetectorRig(
        driver="dectris-simplon",
        endpoint=control,
        options={"data_endpoint": data, **options},
    )
    return SimplonDetector("detector (dectris-simplon)", rig, clock or ExperimentClock())


def array_of(data):
    return data.decompress() if isinstance(data, Chunk) else data


async def take(detector, triggers, per_trigger=1):
    numbers, stack = [], []
    for _ in range(triggers):
        await detector.trigger()
        for _ in range(per_trigger):
            frame = await detector.read_frame()
            numbers.append(frame.number)
            stack.append(array_of(frame.data))
    return numbers, stack


class Bench:
    """A simulator, its world, and a driver that is not yet connected."""

    def __init__(self, world, clock, faults, endpoints, options):
        self.world, self.clock, self.faults = world, clock, faults
        self.endpoints, self.options = endpoints, options
        self.detector = self.another()

    def another(self, **options):
        return detector_of(*self.endpoints, self.clock, **{**self.options, **options})

    def fault(self, name, times=None, **details):
        self.faults.switch(Fault(role="detector", name=name, times=times, **details))


@asynccontextmanager
async def bench(speed=20.0, server=None, config=FEW, **options):
    clock, faults = ExperimentClock(speed), WireFaults(simulator.FAULTS)
    world = World(config, clock.now_ns())
    world.column.set_blanked(clock.now_ns(), False)
    settings = {"bit_depth": options.get("bit_depth", 16), **(server or {})}
    variant = simulator.Variant(**settings)
    ends = "http://127.0.0.1:0", "tcp://127.0.0.1:0"
    async with simulator.serve(world, clock, *ends, variant=variant, faults=faults) as endpoints:
        found = Bench(world, clock, faults, endpoints, options)
        try:
            yield found
        finally:
            await found.detector.disconnect()


@pytest.fixture
async def simulated():
    async with bench() as found:
        await found.detector.connect()
        yield found


# Against our simulator.


async def test_identity_and_initialization():
    async with bench() as found:
        refusing = found.another(initialize=False)
        with pytest.raises(DeviceRefused, match=r"not initialized.*options\.initialize"):
            await refusing.connect()
        identity = await found.detector.connect()
        assert identity.vendor == "DECTRIS"
        assert "simulated" in str(identity)
        await refusing.connect()  # it is initialized now
        await refusing.disconnect()


async def test_compressed_frames_are_passed_on_as_they_came(simulated):
    detector = simulated.detector
    assert detector.dtype == "uint16"
    await detector.arm(3, 0.1, (64, 128))
    for number in (1, 2, 3):
        sent_ns = await detector.trigger()
        frame = await detector.read_frame()
        assert frame.number == number
        assert isinstance(frame.data, Chunk)
        assert (frame.data.shape, frame.data.dtype) == ((64, 128), "uint16")
        frame.data.check()
        assert frame.received_ns > sent_ns
        assert frame.data.decompress().mean() > 0.5
    await detector.disarm()


async def test_a_frame_is_what_the_world_renders(simulated):
    world, clock, detector = simulated.world, simulated.clock, simulated.detector
    await detector.arm(1, 0.5, (64, 64))
    _, (frame,) = await take(detector, 1)
    now = clock.now_ns()
    scene = world.scan.state(now)
    exposure = world.scan.begin(now, 0.5 - 1e-7, (64, 64))
    twin = replace(exposure, index=0)
    np.testing.assert_array_equal(frame, world.scan.frame(twin, scene, np.ones(64, np.float32)))


@pytest.mark.parametrize("stream_format", ["legacy", "cbor"])
@pytest.mark.parametrize("compression", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("bit_depth", [8, 16, 32])
async def test_every_way_a_frame_travels(stream_format, compression, bit_depth):
    async with bench(
        stream_format=stream_format, compression=compression, bit_depth=bit_depth, check_hash=True
    ) as found:
        detector = found.detector
        await detector.connect()
        await detector.arm(2, 0.02, (48, 64))
        await detector.trigger()
        frame = await detector.read_frame()
        assert isinstance(frame.data, Chunk) == (compression == "bslz4")
        assert detector.dtype == f"uint{bit_depth}"
        data = array_of(frame.data)
        assert data.dtype == np.dtype(f"<u{bit_depth // 8}")
        assert data.shape == (48, 64)
        assert data.flags.c_contiguous
        assert data.sum() > 0


@pytest.mark.parametrize(("pixel_mask", "marked"), [("applied", 5), ("off", 0)])
async def test_pixels_of_the_mask_are_marked(pixel_mask, marked):
    config = FEW.model_copy(update={"detector": SimulatedDetector(hot_pixels=5)})
    async with bench(config=config, pixel_mask=pixel_mask) as found:
        await found.detector.connect()
        await found.detector.arm(2, 0.02, (48, 64))
        _, frames = await take(found.detector, 2)
        assert [np.count_nonzero(frame == 65535) for frame in frames] == [marked, marked]


async def test_several_frames_for_each_trigger(simulated):
    detector = simulated.detector
    await detector.arm(6, 0.1, (64, 64), 3)
    sent_ns = await detector.trigger()
    received = [(await detector.read_frame()).received_ns for _ in range(3)]
    assert 0.3 <= (received[2] - sent_ns) * 1e-9 < 0.3 + 20 * 0.5
    assert (await take(detector, 1, 3))[0] == [4, 5, 6]
    with pytest.raises(DeviceRefused, match="no trigger is waited for"):
        await take(detector, 1)


async def test_trigger_does_not_wait_for_the_exposure(simulated):
    detector = simulated.detector
    await detector.arm(2, 20.0, (64, 64))
    started = time.monotonic()
    sent_ns = await detector.trigger()
    assert time.monotonic() - started < 0.5
    frame = await detector.read_frame()
    assert 20.0 <= (frame.received_ns - sent_ns) * 1e-9 < 20.0 + 20 * 0.5


async def test_the_answer_to_a_trigger_says_that_its_exposures_are_over(simulated):
    detector = simulated.detector
    await detector.arm(3, 0.3, (64, 64), 3)
    sent_ns = await detector.trigger()
    assert await detector.exposed()
    assert (detector.clock.now_ns() - sent_ns) * 1e-9 >= 0.9


async def test_external_triggers():
    async with bench(trigger_mode="exts") as found:
        await found.detector.connect()
        await found.detector.arm(4, 0.05, (64, 64), 2)
        assert (await take(found.detector, 2, 2))[0] == [1, 2, 3, 4]


async def test_armed_again_after_frames_that_nobody_read(simulated):
    detector = simulated.detector
    for frames, shape in ((5, (64, 64)), (2, (128, 64)), (4, (64, 64))):
        await detector.arm(frames, 0.02, shape)
        numbers, stack = await take(detector, 2)
        assert numbers == [1, 2]
        assert stack[0].shape == shape
        if frames > 2:
            await detector.trigger()  # and never read
        await detector.disarm()


async def test_armed_again_without_disarming(simulated):
    detector = simulated.detector
    await detector.arm(3, 0.02, (64, 64))
    await detector.trigger()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_shorter_exposure_after_a_longer_one(simulated):
    """The time between frames is not left as it was."""
    detector = simulated.detector
    await detector.arm(1, 10.0, (64, 64))
    await detector.arm(4, 0.1, (64, 64), 4)
    sent_ns = await detector.trigger()
    received = [(await detector.read_frame()).received_ns for _ in range(4)]
    assert (received[-1] - sent_ns) * 1e-9 < 0.4 + 20 * 0.3


async def test_detector_left_armed_by_a_client_that_died(simulated):
    detector = simulated.detector
    await detector.arm(3, 0.02, (64, 64))
    await detector.trigger()
    await detector.disconnect()
    other = simulated.another()
    await other.connect()
    await other.arm(1, 0.02, (32, 32))
    assert (await take(other, 1))[0] == [1]
    await other.disconnect()


async def test_frames_of_an_aborted_series_are_not_taken(simulated):
    """They are still in the sockets when the next series begins."""
    detector = simulated.detector
    await detector.arm(40, 0.01, (64, 64), 20)
    await detector.trigger()
    await detector.read_frame()
    await detector.arm(2, 0.02, (64, 64))
    assert (await take(detector, 2))[0] == [1, 2]


async def test_cancelled_calls_leave_the_detector_usable(simulated):
    detector = simulated.detector
    await detector.arm(4, 1.0, (64, 64))
    await detector.trigger()
    for call in (detector.read_frame, detector.trigger, detector.read_frame):
        task = asyncio.create_task(call())
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
    await detector.disarm()
    await detector.arm(2, 0.02, (64, 64))
    assert (await take(detector, 2))[0] == [1, 2]


async def test_no_frame_is_lost_to_a_cancelled_reader(simulated):
    detector = simulated.detector
    await detector.arm(30, 0.02, (64, 64), 30)
    await detector.trigger()
    numbers = []
    while len(numbers) < 30:
        task = asyncio.create_task(detector.read_frame())
        await asyncio.sleep(0.0005)
        if not task.done():
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            numbers.append(task.result().number)
    assert numbers == list(range(1, 31))


async def test_make_safe_from_any_state(simulated):
    detector = simulated.detector
    await detector.make_safe()
    await detector.arm(3, 5.0, (64, 64))
    await detector.trigger()
    await detector.make_safe()
    with pytest.raises(DeviceRefused, match="not armed"):
        await detector.trigger()
    await detector.arm(3, 5.0, (64, 64))
    await detector.trigger()
    await detector.disconnect()
    await detector.make_safe()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_make_safe_needs_no_stream_and_no_initialization(free_port):
    async with bench() as found:
        other = detector_of(found.endpoints[0], f"tcp://127.0.0.1:{free_port()}")
        await other.make_safe()
        await other.disconnect()


@pytest.mark.parametrize(
    ("frames", "exposure_s", "shape", "each"),
    [
        (0, 0.1, (64, 64), 1),
        (1, 0.0, (64, 64), 1),
        (1, float("nan"), (64, 64), 1),
        (1, 0.1, (99_999, 64), 1),
        (5, 0.1, (64, 64), 2),
        (5, 0.1, (64, 64), 0),
    ],
)
async def test_out_of_range_sends_nothing(simulated, frames, exposure_s, shape, each):
    with pytest.raises(OutOfRange, match="nothing was sent"):
        await simulated.detector.arm(frames, exposure_s, shape, each)


async def test_size_that_the_detector_refuses(simulated):
    with pytest.raises(DeviceRefused, match=r"8192 x 8192 pixels.*has 512 x 512"):
        await simulated.detector.arm(1, 0.1, (8192, 8192))


async def test_exposure_that_the_detector_cannot_make(simulated):
    with pytest.raises(DeviceRefused, match="count_time"):
        await simulated.detector.arm(1, 5000.0, (64, 64))
    with pytest.raises(DeviceRefused, match="frame_time"):
        await simulated.detector.arm(1, 1e-5, (64, 64))


async def test_bit_depth_that_the_rig_has_wrong():
    async with bench(bit_depth=32) as found:
        wrong = found.another(bit_depth=16)
        with pytest.raises(DeviceRefused, match=r"16 bits: it has 32.*options\.bit_depth"):
            await wrong.connect()


async def test_start_in_two_messages_and_end_with_the_last_frame():
    async with bench(server={"header_apart": True, "ends_itself": True}) as found:
        await found.detector.connect()
        for _ in range(2):
            await found.detector.arm(2, 0.02, (64, 64))
            assert (await take(found.detector, 2))[0] == [1, 2]
            await found.detector.disarm()


async def test_frames_larger_than_those_it_connected_for():
    async with bench(compression="none", bit_depth=32) as found:
        await found.detector.connect()
        await found.detector.arm(1, 0.5, (2048, 4096))
        _, (frame,) = await take(found.detector, 1)
        assert frame.shape == (2048, 4096)
        assert frame.any()


async def test_nobody_streams(free_port):
    async with bench() as found:
        detector = detector_of(found.endpoints[0], f"tcp://127.0.0.1:{free_port()}")
        with pytest.raises(DeviceLost, match=r"cannot connect the frame socket: nothing listens"):
            await detector.connect(1.0)


# Faults of our simulator.


@pytest.fixture
async def faulty(monkeypatch):
    for module in ("detector", "control", "settings"):
        monkeypatch.setattr(f"pyrotome.drivers.dectris.{module}.GRACE_S", 0.4)
    async with bench() as found:
        await found.detector.connect()
        yield found


@pytest.mark.parametrize("name", ["short-frame", "wrong-length"])
@pytest.mark.parametrize("compression", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("stream_format", ["legacy", "cbor"])
async def test_damaged_frame_is_told_at_once_and_the_next_is_taken(
    name, compression, stream_format
):
    async with bench(compression=compression, stream_format=stream_format) as found:
        detector = found.detector
        await detector.connect()
        await detector.arm(4, 0.02, (64, 64))
        found.fault(name, times=1)
        await detector.trigger()
        started = time.monotonic()
        with pytest.raises(DeviceLost, match="read a frame: it sent"):
            await detector.read_frame()
        assert time.monotonic() - started < 2.0
        assert (await take(detector, 2))[0] == [2, 3]


async def test_damaged_frame_among_several_is_a_gap(faulty):
    detector = faulty.detector
    await detector.arm(5, 0.2, (64, 64), 5)
    await detector.trigger()
    assert (await detector.read_frame()).number == 1
    faulty.fault("short-frame", times=1)
    # It strikes the next frame that goes out, which on a busy computer is not always the second.
    numbers = [(await detector.read_frame()).number for _ in range(3)]
    assert numbers in [[3, 4, 5], [2, 4, 5], [2, 3, 5], [2, 3, 4]]


async def test_noise_in_the_stream_is_passed_over(faulty):
    detector = faulty.detector
    await detector.arm(3, 0.2, (64, 64), 3)
    await detector.trigger()
    # Used up by a frame: the answer to the trigger comes with the last.
    faulty.fault("garbage", times=1)
    assert [(await detector.read_frame()).number for _ in range(3)] == [1, 2, 3]


async def test_garbage_in_an_answer_is_refused(faulty):
    faulty.fault("garbage", times=1)
    with pytest.raises(DeviceRefused, match=r"(?s)not SIMPLON's.*control unit"):
        await faulty.detector.arm(1, 0.02, (64, 64))
    await faulty.detector.arm(1, 0.02, (64, 64))
    assert (await take(faulty.detector, 1))[0] == [1]


async def test_error_answers_are_refusals(faulty):
    detector = faulty.detector
    await detector.arm(2, 0.02, (64, 64))
    faulty.fault("error", times=1)
    with pytest.raises(DeviceRefused, match=r"command trigger: .* answered 500.*has a fault"):
        await take(detector, 1)
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_hang_is_lost_by_the_deadline_and_found_again(faulty):
    detector = faulty.detector
    await detector.arm(2, 0.02, (64, 64))
    faulty.fault("hang")
    started = time.monotonic()
    await detector.trigger()
    with pytest.raises(DeviceLost, match="no answer"):
        await detector.read_frame()
    assert time.monotonic() - started < 2.0
    faulty.faults.clear()
    await detector.connect()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_connection_that_breaks_in_an_answer(faulty):
    detector = faulty.detector
    await detector.arm(2, 5.0, (64, 64))
    faulty.fault("disconnect", times=1)
    await detector.trigger()
    with pytest.raises(DeviceLost, match=r"broke|no answer"):
        # The frame itself comes; what its trigger was answered is told after it.
        for _ in range(2):
            await detector.read_frame()
    await detector.connect()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_slow_answers_are_waited_for(faulty):
    detector = faulty.detector
    await detector.arm(2, 0.02, (64, 64))
    faulty.fault("slow", times=2, late_s="100 ms")
    assert (await take(detector, 2))[0] == [1, 2]


# Servers that misbehave.


class Odd:
    """A detector of 4 x 4 pixels whose answers and stream a test decides."""

    def __init__(self):
        self.values = {
            "x_pixels_in_detector": 4,
            "y_pixels_in_detector": 4,
            "bit_depth_image": 16,
            "count_time": 0.01,
            "frame_time": 0.01,
            "state": "idle",
            "high_voltage/state": "READY",
        }
        self.answers = {}
        self.heard = []
        self.delays = {}
        self.series = 0
        self.on_arm = []
        self.on_trigger = []

    async def answer(self, request):
        name = request.path.split("/config/")[-1].split("/status/")[-1].split("/command/")[-1]
        body = await request.read()
        self.heard.append(f"{request.method} {name}")
        await asyncio.sleep(self.delays.get(name, 0.0))
        if (request.method, name) in self.answers:
            status, text = self.answers[request.method, name]
            return web.Response(status=status, text=text)
        if request.path == simplon.VERSION_PATH:
            return web.json_response({"value": "1.8.0", "value_type": "string"})
        if request.method == "GET":
            if name not in self.values:
                return web.Response(status=404, text="no such parameter")
            return web.json_response({"value": self.values[name], "value_type": "x"})
        if "/command/" not in request.path:
            self.values[name] = json.loads(body)["value"]
            return web.json_response([name])
        if name == "arm":
            self.series += 1
            await self.send(*self.on_arm, *self.start())
        if name == "trigger":
            await self.send(*self.on_trigger)
        return web.json_response({"sequence id": self.series})

    async def send(self, *messages):
        for parts in messages:
            await self.push.send_multipart(parts)

    def start(self):
        return simplon_stream.encode_start_v1(self.series, {})

    def image(self, number, series=None, shape=(4, 4), dtype="uint16"):
        raw = np.full(shape, number, dtype).tobytes()
        pixels = Pixels(shape, dtype, "none", raw)
        found = Image(self.series if series is None else series, number - 1, {"": pixels})
        return simplon_stream.encode_image_v1(found)


@pytest.fixture
async def odd(monkeypatch):
    for module in ("detector", "control", "settings"):
        monkeypatch.setattr(f"pyrotome.drivers.dectris.{module}.GRACE_S", 0.3)
    server = Odd()
    context = zmq.asyncio.Context()
    server.push = context.socket(zmq.PUSH)
    port = server.push.bind_to_random_port("tcp://127.0.0.1")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    control = runner.addresses[0][1]
    # Parameters that this one does not have are those that drivers have to ask for first.
    for name in ("trigger_mode", "nimages", "ntrigger", "compression", "mode", "header_detail"):
        server.values[name] = "unset"
    detector = detector_of(f"http://127.0.0.1:{control}", f"tcp://127.0.0.1:{port}")
    try:
        await detector.connect()
        yield server, detector
    finally:
        await detector.disconnect()
        await runner.cleanup()
        context.destroy(linger=0)


async def test_what_is_set_already_is_not_written(odd):
    server, detector = odd
    await detector.arm(5, 0.01, (4, 4))
    server.heard.clear()
    await detector.arm(5, 0.01, (4, 4))
    assert [h for h in server.heard if h.startswith("PUT")] == ["PUT abort", "PUT arm"] or [
        h for h in server.heard if h.startswith("PUT")
    ] == ["PUT disarm", "PUT arm"]


async def test_a_setting_that_is_not_kept_is_refused(odd):
    server, detector = odd
    server.answers["PUT", "nimages"] = 200, '["nimages"]'
    with pytest.raises(DeviceRefused, match="set nimages to 1: it has 'unset'"):
        await detector.arm(5, 0.01, (4, 4))


async def test_data_of_an_earlier_series_is_not_taken(odd):
    server, detector = odd
    await detector.arm(5, 0.01, (4, 4))
    await server.send(server.image(1), server.image(2))
    old = [server.image(3), simplon_stream.encode_end_v1(server.series)]
    server.on_arm = [*old, server.image(4, series=9), *simplon_stream.encode_start_v1(9, {})]
    await detector.arm(5, 0.01, (4, 4))
    await server.send(server.image(5, series=1), *old, server.image(1))
    assert (await detector.read_frame()).number == 1


async def test_gap_in_the_numbers_is_visible(odd):
    server, detector = odd
    await detector.arm(5, 0.01, (4, 4))
    await server.send(server.image(1), [b"garbage"], server.image(4))
    assert [(await detector.read_frame()).number for _ in range(2)] == [1, 4]
    await server.send(server.image(4))
    with pytest.raises(DeviceRefused, match="frame 4 after 4"):
        await detector.read_frame()
    await server.send(server.image(6))
    with pytest.raises(DeviceRefused, match="frame 6 after 4 of an acquisition of 5"):
        await detector.read_frame()


@pytest.mark.parametrize(
    ("shape", "dtype", "told"),
    [((4, 8), "uint16", "4 x 8 uint16"), ((4, 4), "uint32", "4 x 4 uint32")],
)
async def test_frame_of_another_kind(odd, shape, dtype, told):
    server, detector = odd
    await detector.arm(5, 0.01, (4, 4))
    await server.send(server.image(1, shape=shape, dtype=dtype))
    with pytest.raises(DeviceRefused, match=f"4 x 4 uint16: it sent {told}"):
        await detector.read_frame()


async def test_series_that_ends_early(odd):
    server, detector = odd
    await detector.arm(5, 0.01, (4, 4))
    await server.send(server.image(1), simplon_stream.encode_end_v1(server.series))
    assert (await detector.read_frame()).number == 1
    for call in (detector.read_frame, detector.read_frame, detector.trigger):
        with pytest.raises(DeviceLost, match="ended the series after 1 of 5"):
            await call()


async def test_no_start_of_the_series(odd, monkeypatch):
    server, detector = odd
    monkeypatch.setattr(server, "start", list)
    with pytest.raises(DeviceLost, match=r"start series 1: no answer.*within"):
        await detector.arm(5, 0.01, (4, 4))


async def test_no_frame_is_lost_by_the_deadline(odd):
    _, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"read a frame.*within 0\.[34]"):
        await detector.read_frame()
    assert 0.35 <= time.monotonic() - started < 1.5


async def test_trigger_that_is_refused_late_is_told_by_the_reader(odd):
    server, detector = odd
    await detector.arm(5, 0.3, (4, 4))

    server.delays["trigger"] = 0.1
    server.answers["PUT", "trigger"] = 400, "too warm"
    await detector.trigger()
    for call in (detector.read_frame, detector.trigger):
        with pytest.raises(DeviceRefused, match=r"answered 400 .*too warm"):
            await call()


async def test_a_trigger_that_is_not_answered_keeps_the_beam_on_for_a_moment_only(odd, monkeypatch):
    server, detector = odd
    monkeypatch.setattr("pyrotome.drivers.dectris.detector.ANSWER_S", 0.02)
    await detector.arm(5, 0.001, (4, 4))
    server.delays["trigger"] = 0.2
    await detector.trigger()
    assert not await detector.exposed()
    monkeypatch.setattr("pyrotome.drivers.dectris.detector.ANSWER_S", 10.0)
    assert await detector.exposed()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("high_voltage/state", "NOT READY", "high voltage is 'NOT READY'"),
        ("bit_depth_image", 32, "16 bits: it has 32"),
        ("x_pixels_in_detector", "wide", "x_pixels_in_detector: it answered 'wide'"),
    ],
)
async def test_instrument_that_is_not_fit(odd, name, value, told):
    server, detector = odd
    server.values[name] = value
    with pytest.raises(DeviceRefused, match=told):
        await detector.connect()


async def test_another_version(odd):
    server, detector = odd
    server.answers["GET", "/detector/api/version"] = 200, '{"value": "1.6.0"}'
    with pytest.raises(DeviceRefused, match=r"it speaks version '1\.6\.0'"):
        await detector.connect()


async def test_end_that_does_not_tell_its_state(odd):
    server, detector = odd
    server.answers["GET", "state"] = 404, "not found"
    with pytest.raises(DeviceRefused, match=r"options\.state to 'optional'"):
        await detector.connect()


async def test_detector_that_does_not_stop(odd):
    server, detector = odd
    server.values["state"] = "acquire"
    started = time.monotonic()
    with pytest.raises(DeviceRefused, match="state is still 'acquire'"):
        await detector.make_safe()
    assert "PUT abort" in server.heard
    assert time.monotonic() - started < 3


async def test_channels_are_chosen_by_name(odd):
    server, detector = odd
    await detector.arm(5, 0.01, (4, 4))
    pixels = Pixels((4, 4), "uint16", "none", bytes(32))
    both = Image(server.series, 0, {"threshold_1": pixels, "threshold_2": pixels})
    await server.send(simplon_stream.encode_image_v2(both, "u"))
    with pytest.raises(DeviceRefused, match=r"threshold_1, threshold_2.*options\.channel"):
        await detector.read_frame()


async def test_hash_is_checked_where_asked(odd):
    server, detector = odd
    detector.options = detector.options.model_copy(update={"check_hash": True})
    await detector.arm(5, 0.01, (4, 4))
    image = server.image(1)
    image[0] = image[0].replace(b'"hash":"', b'"hash":"0')
    server.on_trigger = [image]
    await detector.trigger()
    with pytest.raises(DeviceLost, match="hash"):
        await detector.read_frame()


async def test_disconnecting_wakes_who_triggers(odd):
    server, detector = odd
    server.delays["trigger"] = 5.0
    await detector.arm(5, 0.1, (4, 4))
    triggering = asyncio.create_task(detector.trigger())
    await asyncio.sleep(0)
    await detector.disconnect()
    with pytest.raises(DeviceLost):
        await triggering


async def test_disconnecting_wakes_who_waits(odd):
    _, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    reading = asyncio.create_task(detector.read_frame())
    await asyncio.sleep(0.02)
    await detector.disconnect()
    with pytest.raises(DeviceLost):
        await reading


async def test_frames_at_full_rate_leave_the_loop_to_others(odd):
    server, detector = odd
    await detector.arm(500, 0.01, (4, 4), 500)
    for number in range(1, 501):
        await server.send(server.image(number))
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    numbers = [(await detector.read_frame()).number for _ in range(500)]
    task.cancel()
    assert numbers == list(range(1, 501))
    assert turns >= 400


# Against LiberTEM-live's simulator, which is not ours.

LIBERTEM = """
import json, time
from libertem_live.detectors.dectris.sim import DectrisSim
if __name__ == "__main__":
    sim = DectrisSim(port=0, zmqport=0, num_mock_frames=8, verbose=False)
    sim.start()
    sim.wait_for_listen()
    print(json.dumps([sim.port, sim.zmqport]), flush=True)
    while sim.is_alive():
        time.sleep(0.2)
"""


@pytest.fixture
async def libertem_dectris_simulator(tmp_path):
    """Ports of its control and its stream."""
    for package in ("libertem_live", "libertem_dectris", "flask"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra 'interop')")
    program = tmp_path / "dectris_sim.py"
    program.write_text(LIBERTEM)
    # It has processes of its own, which would outlive it.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        start_new_session=True,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line, "LiberTEM's simulator did not start"
        yield json.loads(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.mark.interop
async def test_libertem_dectris_simulator(libertem_dectris_simulator):
    ports = libertem_dectris_simulator
    detector = detector_of(
        f"http://127.0.0.1:{ports[0]}",
        f"tcp://127.0.0.1:{ports[1]}",
        state="optional",  # its control is a stub that has none
        trigger_mode="exte",  # it replays a series that was taken so
    )
    identity = await detector.connect(10.0)
    assert identity.vendor == "DECTRIS"
    for read in (8, 3, 8):
        await detector.arm(8, 0.001, (512, 512))
        for number in range(1, read + 1):
            await detector.trigger()
            frame = await detector.read_frame()
            assert frame.number == number
            # Mocked frames hold their number everywhere.
            np.testing.assert_array_equal(frame.data.decompress(), number - 1)
        await detector.disarm()
    with pytest.raises(DeviceRefused, match="does not match file content"):
        await detector.arm(8, 0.5, (512, 512))
    await detector.make_safe()
    await detector.disconnect()


def test_chunks_of_our_own_are_made_here():
    """The simulator's compressor is there, or nothing above has been tested."""
    assert Bitshuffle().available
