"""The detector against our simulator, LiberTEM's, and servers that misbehave."""

import asyncio
import time

import numpy as np
import pytest

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.merlin import MerlinDetector
from pyrotome.protocols import merlin
from pyrotome.protocols.merlin import AcquisitionHeader, FrameHeader, Reply, StreamDecoder
from pyrotome.protocols.rig import DetectorRig
from pyrotome.protocols.timebase import ExperimentClock


def detector_of(port, data_port, clock=None, **options):
    rig = DetectorRig(
        driver="merlin",
        endpoint=f"tcp://127.0.0.1:{port}",
        options={"data_endpoint": f"tcp://127.0.0.1:{data_port}", **options},
    )
    return MerlinDetector("detector", rig, clock or ExperimentClock())


async def take(detector, frames):
    numbers, stack = [], []
    for _ in range(frames):
        await detector.trigger()
        frame = await detector.read_frame()
        numbers.append(frame.number)
        stack.append(frame.data)
    return numbers, stack


# Against our simulator.


@pytest.fixture
async def simulated(simulate):
    async with simulate(speed=20.0) as (simulation, rig):
        detector = MerlinDetector("detector", rig.detector, simulation.clock)
        await detector.connect()
        yield detector, simulation
        await detector.disconnect()


async def test_frames_of_our_simulator(simulated):
    detector, _ = simulated
    await detector.arm(3, 0.1, (64, 128))
    numbers, stack = await take(detector, 3)
    await detector.disarm()
    assert numbers == [1, 2, 3]
    for data in stack:
        assert data.shape == (64, 128)
        assert data.dtype == np.dtype("<u2")
        assert data.flags.c_contiguous
        assert data.flags.writeable


async def test_armed_again_after_frames_that_nobody_read(simulated):
    detector, _ = simulated
    for frames, shape in ((5, (64, 64)), (2, (128, 64)), (4, (64, 64))):
        await detector.arm(frames, 0.02, shape)
        numbers, stack = await take(detector, 2)
        assert numbers == [1, 2]
        assert stack[0].shape == shape
        if frames > 2:
            await detector.trigger()  # and never read
        await detector.disarm()


async def test_armed_again_without_disarming(simulated):
    detector, _ = simulated
    await detector.arm(3, 0.02, (64, 64))
    await detector.trigger()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_detector_left_armed_by_a_client_that_died(simulated):
    detector, simulation = simulated
    await detector.arm(3, 0.02, (64, 64))
    await detector.trigger()
    await detector.disconnect()
    other = MerlinDetector("other", detector.rig, simulation.clock)
    await other.connect()
    await other.arm(1, 0.02, (32, 32))
    assert (await take(other, 1))[0] == [1]
    await other.disconnect()


async def test_exposure_is_waited_for(simulated):
    detector, _ = simulated
    await detector.arm(1, 2.0, (64, 64))
    sent_ns = await detector.trigger()
    frame = await detector.read_frame()
    assert 2.0 <= (frame.received_ns - sent_ns) * 1e-9 < 2.0 + 20 * 0.5


async def test_cancelled_calls_leave_the_detector_usable(simulated):
    detector, _ = simulated
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


async def test_make_safe_from_any_state(simulated):
    detector, _ = simulated
    await detector.make_safe()
    await detector.arm(3, 0.5, (64, 64))
    await detector.trigger()
    await detector.make_safe()
    with pytest.raises(DeviceRefused, match="not armed"):
        await detector.trigger()
    await detector.disconnect()
    await detector.make_safe()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


@pytest.mark.parametrize(
    ("frames", "exposure_s", "shape"),
    [(0, 0.1, (64, 64)), (1, 0.0, (64, 64)), (1, float("nan"), (64, 64)), (1, 0.1, (99_999, 64))],
)
async def test_out_of_range_sends_nothing(simulated, frames, exposure_s, shape):
    detector, _ = simulated
    with pytest.raises(OutOfRange, match="nothing was sent"):
        await detector.arm(frames, exposure_s, shape)


async def test_size_that_the_detector_refuses(simulated):
    detector, _ = simulated
    with pytest.raises(DeviceRefused, match=r"8192 x 8192 pixels.*has 256 x 256"):
        await detector.arm(1, 0.1, (8192, 8192))


@pytest.mark.parametrize(("depth", "dtype"), [(6, "u1"), (12, "<u2"), (24, "<u4")])
async def test_counter_depths(simulate, depth, dtype):
    async with simulate(speed=20.0, detector__options={"depth": depth}) as (simulation, rig):
        detector = MerlinDetector("detector", rig.detector, simulation.clock)
        await detector.connect()
        await detector.arm(1, 0.02, (64, 64))
        assert (await take(detector, 1))[1][0].dtype == np.dtype(dtype)
        await detector.disconnect()


# Against LiberTEM-live's simulator, which is not ours.


async def test_libertem_merlin(libertem_merlin, started, tmp_path):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4096, (6, 256, 256), np.uint16)
    header = merlin.encode_acquisition_header(
        AcquisitionHeader(6, 6, 12, {"ScanX": "6", "ScanY": "1"})
    )
    (tmp_path / "t.hdr").write_bytes(header)
    with (tmp_path / "t.mib").open("wb") as mib:
        for number, data in enumerate(truth, 1):
            head = merlin.encode_frame_header(FrameHeader(number, 256, 256))
            mib.write(head + merlin.pixels_to_wire(data, "U16"))
    command = [libertem_merlin, "--host", "127.0.0.1", "--wait-trigger", tmp_path / "t.hdr"]
    options = ("--control-port", "--data-port", "--trigger-port")
    with started(command, *options) as (control, data_port, _):
        detector = detector_of(control, data_port)
        identity = await detector.connect()
        assert identity.model == "Merlin"
        for _ in range(2):
            await detector.arm(6, 0.001, (256, 256))
            await detector.trigger()
            frames = [await detector.read_frame() for _ in range(6)]
            await detector.disarm()
            assert [frame.number for frame in frames] == [1, 2, 3, 4, 5, 6]
            np.testing.assert_array_equal([frame.data for frame in frames], truth)
        await detector.disconnect()


# Servers that misbehave.


class Odd:
    """A Merlin of 4 x 4 pixels whose answers and data a test decides."""

    def __init__(self):
        self.data = []
        self.answers = {}
        self.after = {}
        self.heard = []

    async def control(self, reader, writer):
        decoder = StreamDecoder()
        while received := await reader.read(4096):
            for body in decoder.feed(received):
                command = merlin.parse_command(body)
                self.heard.append(str(command))
                value = {"IMAGEX": "4", "IMAGEY": "4"}.get(command.name, "1.0")
                fine = Reply(command.kind, command.name, 0, value)
                raw = self.answers.get(command.name, merlin.encode_reply(fine))
                if raw is None:
                    writer.close()
                    return
                writer.write(raw)
                for chunk in self.after.get(command.name, ()):
                    for data in self.data:
                        data.write(chunk)

    async def feed(self, reader, writer):
        self.data.append(writer)
        await reader.read()
        self.data.remove(writer)

    def image(self, number, shape=(4, 4), pixel_type="U16"):
        head = merlin.encode_frame_header(FrameHeader(number, shape[1], shape[0], pixel_type))
        pixels = np.full(shape, number, np.uint16)
        return merlin.frame(head + merlin.pixels_to_wire(pixels, pixel_type))


HEADER = merlin.frame(merlin.encode_acquisition_header(AcquisitionHeader(5)))


@pytest.fixture
async def odd(serve, monkeypatch):
    monkeypatch.setattr("pyrotome.drivers.merlin.GRACE_S", 0.3)
    server = Odd()
    server.after["STARTACQUISITION"] = [HEADER]
    detector = detector_of(await serve(server.control), await serve(server.feed))
    await detector.connect()
    yield server, detector
    await detector.disconnect()


async def test_data_of_an_earlier_acquisition_is_not_taken(odd):
    server, detector = odd
    server.data[0].write(HEADER + server.image(4) + server.image(5)[:200])
    server.after["STARTACQUISITION"] = [b"rest of an image" * 10, server.image(5), HEADER]
    server.after["SOFTTRIGGER"] = [server.image(1)]
    # The header of before is read first, so it has to be drained or the images would count.
    await detector.arm(5, 0.001, (4, 4))
    await detector.disarm()
    server.after["STARTACQUISITION"] = [server.image(5), HEADER]
    await detector.arm(5, 0.001, (4, 4))
    assert (await take(detector, 1))[0] == [1]


async def test_gap_in_the_numbers_is_visible(odd):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4))
    server.data[0].write(server.image(1) + b"garbage, MPX,garbage" + server.image(4))
    assert [(await detector.read_frame()).number for _ in range(2)] == [1, 4]
    server.data[0].write(server.image(4))
    with pytest.raises(DeviceRefused, match="frame 4 after 4"):
        await detector.read_frame()


async def test_image_in_many_pieces(odd):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4))
    reading = asyncio.create_task(detector.read_frame())
    for byte in server.image(1):
        server.data[0].write(bytes([byte]))
        await asyncio.sleep(0)
    np.testing.assert_array_equal((await reading).data, np.ones((4, 4)))


async def test_length_without_its_comma(odd):
    server, detector = odd
    body = server.image(2)[merlin.PREFIX_BYTES :]
    header = HEADER[merlin.PREFIX_BYTES :]
    server.after["STARTACQUISITION"] = [merlin.prefix(len(header) - 1) + header]
    await detector.arm(5, 0.001, (4, 4))
    server.data[0].write(merlin.prefix(len(body) - 1) + body + server.image(3))
    assert [(await detector.read_frame()).number for _ in range(2)] == [2, 3]


@pytest.mark.parametrize(
    ("shape", "pixel_type", "told"), [((4, 8), "U16", "4 x 8 U16"), ((4, 4), "U32", "4 x 4 U32")]
)
async def test_frame_of_another_kind(odd, shape, pixel_type, told):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4))
    server.data[0].write(server.image(1, shape, pixel_type))
    with pytest.raises(DeviceRefused, match=f"4 x 4 U16.*{told}"):
        await detector.read_frame()


async def test_image_that_lies_about_its_length(odd):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4))
    server.data[0].write(server.image(1).replace(b",0004,0004,", b",9999,9999,"))
    with pytest.raises(DeviceRefused, match="its header says"):
        await detector.read_frame()
    await detector.disarm()
    server.after["SOFTTRIGGER"] = [server.image(1)]
    await detector.arm(5, 0.001, (4, 4))
    assert (await take(detector, 1))[0] == [1]


async def test_no_frame_is_lost_by_the_deadline(odd):
    _, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"for a frame.*within 0\.4 s"):
        await detector.read_frame()
    assert 0.4 <= time.monotonic() - started < 1.5


async def test_data_connection_that_breaks(odd):
    server, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    server.data[0].write(server.image(1)[:-5])
    server.data[0].close()
    with pytest.raises(DeviceLost, match="middle of an image"):
        await detector.read_frame()
    with pytest.raises(DeviceLost, match="not connected"):
        await detector.read_frame()
    await detector.disarm()
    server.after["SOFTTRIGGER"] = [server.image(1)]
    await detector.arm(1, 0.1, (4, 4))
    assert (await take(detector, 1))[0] == [1]


async def test_errors_are_told_in_words(odd):
    server, detector = odd
    server.answers["ACQUISITIONTIME"] = merlin.encode_reply(Reply("SET", "ACQUISITIONTIME", 3))
    with pytest.raises(DeviceRefused, match=r"SET ACQUISITIONTIME 100; .*out of range"):
        await detector.arm(5, 0.1, (4, 4))


async def test_stale_answers_are_dropped(odd):
    server, detector = odd
    stale = merlin.encode_reply(Reply("GET", "IMAGEX", 0, "99")) + b"garbage"
    fine = merlin.encode_reply(Reply("SET", "COUNTERDEPTH"))
    server.answers["COUNTERDEPTH"] = stale + fine
    await detector.arm(5, 0.1, (4, 4))


async def test_control_that_hangs_up_is_lost_and_found_again(odd):
    server, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    server.answers["SOFTTRIGGER"] = None
    with pytest.raises(DeviceLost, match=r"CMD SOFTTRIGGER; the connection to .* broke"):
        await detector.trigger()
    with pytest.raises(DeviceLost, match="not connected"):
        await detector.trigger()
    await detector.make_safe()
    assert server.heard[-1] == "CMD,STOPACQUISITION"


async def test_control_that_says_nothing(odd, monkeypatch):
    server, detector = odd
    monkeypatch.setattr("pyrotome.drivers.merlin._Control.ask.__defaults__", (None, 0.2))
    server.answers["STOPACQUISITION"] = b""
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"CMD STOPACQUISITION; no answer"):
        await detector.make_safe()
    assert time.monotonic() - started < 3


async def test_refused_stop_counts_when_not_idle(odd):
    server, detector = odd
    server.answers["STOPACQUISITION"] = merlin.encode_reply(Reply("CMD", "STOPACQUISITION", 2))
    with pytest.raises(DeviceRefused, match="unknown command"):
        await detector.make_safe()
    server.answers["DETECTORSTATUS"] = merlin.encode_reply(Reply("GET", "DETECTORSTATUS", 0, "0"))
    await detector.make_safe()


async def test_disconnecting_wakes_who_waits(odd):
    _, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    reading = asyncio.create_task(detector.read_frame())
    await asyncio.sleep(0.02)
    await detector.disconnect()
    with pytest.raises(DeviceLost):
        await reading
