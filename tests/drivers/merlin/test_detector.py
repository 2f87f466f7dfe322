"""The detector against our simulator, LiberTEM's, and servers that misbehave."""

import asyncio
import itertools
import socket
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.drivers.base import DeviceLost, DeviceRefused, OutOfRange
from pyrotome.drivers.merlin.data import DataReader, MerlinImage
from pyrotome.drivers.merlin.detector import MerlinDetector
from pyrotome.protocols.config.faults import Fault
from pyrotome.protocols.config.rig import DetectorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.wires import merlin
from pyrotome.protocols.wires.merlin import AcquisitionHeader, FrameHeader, MpxDecoder, Reply

# Few particles are placed in no time, and the wire is the same.
FEW = {"kind": "cu-sintering", "particles": 4}


def detector_of(port, data_port, clock=None, **options):
    rig = DetectorRig(
        driver="merlin",
        endpoint=f"tcp://127.0.0.1:{port}",
        options={"data_endpoint": f"tcp://127.0.0.1:{data_port}", **options},
    )
    return MerlinDetector("detector", rig, clock or ExperimentClock())


async def take(detector, triggers, per_trigger=1):
    numbers, stack = [], []
    for _ in range(triggers):
        await detector.trigger()
        for _ in range(per_trigger):
            frame = await detector.read_frame()
            numbers.append(frame.number)
            stack.append(frame.data)
    return numbers, stack


# Against our simulator.


@pytest.fixture
async def simulated(simulate):
    async with simulate(speed=20.0, simulator__specimen=FEW) as (simulation, rig):
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


@pytest.mark.parametrize("each", [0, 2, 6])
async def test_triggers_that_would_start_fewer_frames(simulated, each):
    detector, _ = simulated
    with pytest.raises(OutOfRange, match="nothing was sent"):
        await detector.arm(5, 0.1, (64, 64), each)


async def test_size_that_the_detector_refuses(simulated):
    detector, _ = simulated
    with pytest.raises(DeviceRefused, match=r"8192 x 8192 pixels.*has 256 x 256"):
        await detector.arm(1, 0.1, (8192, 8192))


@pytest.mark.parametrize(
    ("depth", "dtype"), [(1, "uint8"), (6, "uint8"), (12, "uint16"), (24, "uint32")]
)
@pytest.mark.parametrize("chips", [1, 4])
async def test_counter_depths_and_chips(simulate, depth, dtype, chips):
    options = {"depth": depth, "chips": chips}
    async with simulate(speed=20.0, simulator__specimen=FEW, detector__options=options) as (
        simulation,
        rig,
    ):
        world, clock = simulation.world, simulation.clock
        world.column.set_blanked(clock.now_ns(), False)
        detector = MerlinDetector("detector", rig.detector, clock)
        assert detector.dtype == dtype
        await detector.connect()
        await detector.arm(2, 2.0, (64, 96), 2)
        numbers, stack = await take(detector, 1, 2)
        assert numbers == [1, 2]
        for data in stack:
            assert data.dtype == np.dtype(dtype).newbyteorder("<")
            assert data.shape == (64, 96)
            # An exposure that fills the smaller counters: they stop at their highest count.
            assert data.max() == 2**depth - 1 if depth < 12 else data.max() > 64
        wrong = rig.detector.model_copy(
            update={"options": {**rig.detector.options, "chips": 5 - chips}}
        )
        other = MerlinDetector("other", wrong, clock)
        await detector.disconnect()
        await other.connect()
        await other.arm(1, 0.02, (64, 96))
        await other.trigger()
        with pytest.raises(DeviceRefused, match=rf"of {5 - chips} chips: it sent one of {chips}"):
            await other.read_frame()
        await other.disconnect()


async def test_several_frames_for_each_trigger(simulated):
    detector, _ = simulated
    await detector.arm(6, 0.2, (64, 64), 3)
    sent_ns = await detector.trigger()
    received = [(await detector.read_frame()).received_ns for _ in range(3)]
    assert 0.6 <= (received[2] - sent_ns) * 1e-9 < 0.6 + 20 * 0.5
    assert (await take(detector, 1, 3))[0] == [4, 5, 6]


async def test_no_frame_is_lost_to_a_cancelled_reader(simulated):
    detector, _ = simulated
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


# Faults of our simulator.


@pytest.fixture
async def faulty(simulate, monkeypatch):
    monkeypatch.setattr("pyrotome.drivers.merlin.detector.GRACE_S", 0.4)
    monkeypatch.setattr("pyrotome.drivers.merlin.data_link.GRACE_S", 0.4)
    monkeypatch.setattr("pyrotome.drivers.merlin.control.ControlLink.ask.__defaults__", (None, 0.4))
    async with simulate(speed=20.0, simulator__specimen=FEW) as (simulation, rig):
        detector = MerlinDetector("detector", rig.detector, simulation.clock)
        await detector.connect()

        def fault(name, times=None, **details):
            simulation.switch(Fault(role="detector", name=name, times=times, **details))

        yield detector, fault
        simulation.faults["detector"].clear()
        await detector.disconnect()


async def test_wrong_length_is_told_at_once_and_the_next_is_taken(faulty):
    detector, fault = faulty
    await detector.arm(3, 0.02, (64, 64))
    fault("wrong-length", 1)
    await detector.trigger()
    started = time.monotonic()
    with pytest.raises(DeviceLost, match="an image of 2000000000 bytes; its header says 8576"):
        await detector.read_frame()
    assert time.monotonic() - started < 1.0
    assert (await take(detector, 2))[0] == [2, 3]


async def test_short_frame_is_lost_and_the_next_is_taken(faulty):
    detector, fault = faulty
    await detector.arm(3, 0.02, (64, 64))
    fault("short-frame", 1)
    await detector.trigger()
    with pytest.raises(DeviceLost, match="no answer"):
        await detector.read_frame()  # its end may still be on its way
    await detector.trigger()
    assert (await detector.read_frame()).number == 2
    await detector.trigger()
    assert (await detector.read_frame()).number == 3


@pytest.mark.parametrize("name", ["short-frame", "wrong-length"])
async def test_damaged_frame_among_several_is_a_gap(faulty, name):
    detector, fault = faulty
    await detector.arm(5, 0.2, (64, 64), 5)
    await detector.trigger()
    assert (await detector.read_frame()).number == 1
    fault(name, 1)
    numbers = [(await detector.read_frame()).number for _ in range(3)]
    # Which frame is damaged depends on how soon the fault is on.
    assert numbers == sorted(numbers)
    assert len({2, 3, 4, 5} - set(numbers)) == 1


async def test_garbage_on_both_sockets_is_passed_over(faulty):
    detector, fault = faulty
    fault("garbage")
    await detector.arm(3, 0.02, (64, 64))
    assert (await take(detector, 3))[0] == [1, 2, 3]


async def test_error_answers_are_refusals(faulty):
    detector, fault = faulty
    await detector.arm(1, 0.02, (64, 64))
    fault("error", 1)
    with pytest.raises(DeviceRefused, match=r"execute SOFTTRIGGER: .*busy"):
        await detector.trigger()
    assert (await take(detector, 1))[0] == [1]


@pytest.mark.parametrize("name", ["hang", "disconnect"])
async def test_lost_by_the_deadline_and_found_again(faulty, name):
    detector, fault = faulty
    await detector.arm(2, 0.02, (64, 64))
    fault(name)
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"no answer|broke"):
        await take(detector, 1)
    assert time.monotonic() - started < 2.0
    fault("none")
    await detector.connect()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_frame_that_breaks_off(faulty):
    detector, fault = faulty
    await detector.arm(2, 1.0, (64, 64))
    await detector.trigger()
    fault("disconnect", 1)
    with pytest.raises(DeviceLost, match="closed by the detector"):
        await detector.read_frame()
    await detector.connect()
    await detector.arm(1, 0.02, (64, 64))
    assert (await take(detector, 1))[0] == [1]


async def test_slow_answers_are_waited_for(faulty):
    detector, fault = faulty
    await detector.arm(2, 0.02, (64, 64))
    fault("slow", 2, late_s="100 ms")
    assert (await take(detector, 2))[0] == [1, 2]


# The reader of the data socket, by any stream.


def image_bytes(number, rows, columns):
    counts = np.arange(number, number + rows * columns, dtype=np.uint16).reshape(rows, columns)
    head = merlin.encode_frame_header(FrameHeader(number, columns, rows))
    return merlin.frame(head + merlin.pixels_to_wire(counts, "U16")), counts


noise = st.one_of(st.binary(max_size=200), st.just(b"MPX,"), st.just(b"MPX,0000000100,MQ1,"))
happenings = st.one_of(
    st.just(("good", b"")),
    st.tuples(st.just("noise"), noise),
    st.tuples(st.just("short"), st.integers(4, 500)),
    st.tuples(st.just("lie"), st.integers(0, 9_999_999_999)),
)


@given(
    st.lists(happenings, max_size=12),
    st.lists(st.integers(0, 30_000), max_size=12),
    st.sampled_from([(4, 4), (8, 16)]),
)
@settings(max_examples=100, deadline=None)
def test_every_whole_image_comes_and_nothing_else(happens, cuts, shape):
    """Whatever lies between them, and however the stream is cut into receives."""
    raw, truth, cut = b"", {}, False
    for number, (what, detail) in enumerate(happens, 1):
        image, counts = image_bytes(number, *shape)
        if what == "noise":
            # Noise in the place of a lost end looks like counts: the wire has no checksum.
            raw += b"" if cut else detail
            continue
        cut = what == "short"
        if what == "short":
            raw += image[: -min(detail, len(image) - 19)]  # what is told from counts
        elif what == "lie":
            lie = b"MPX,%010d," % detail
            raw += lie + image[merlin.PREFIX_BYTES :]
            if 0 <= merlin.parse_prefix(image[:15]) - (detail - 1) <= 1:
                truth[number] = counts
        else:
            raw += image
            truth[number] = counts
    # Two more, behind which even a header that lies about its own length is over.
    for number in (98, 99):
        image, truth[number] = image_bytes(number, 100, 100)
        raw += image
    edges = sorted({0, len(raw), *(cut % len(raw) for cut in cuts)})
    found = asyncio.run(read_all([raw[a:b] for a, b in itertools.pairwise(edges)], 99))
    assert list(found) == list(truth)
    for number, counts in truth.items():
        np.testing.assert_array_equal(found[number], counts)


async def read_all(pieces, last):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        reader = DataReader(ours)
        reader.expect((100, 100))

        async def write():
            for piece in pieces:
                await asyncio.get_running_loop().sock_sendall(theirs, piece)
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        found = {}
        async with asyncio.timeout(20):
            while last not in found:
                item = await reader.next()
                if isinstance(item, MerlinImage):
                    assert item.header.sequence not in found
                    found[item.header.sequence] = item.data
        await writing
        return found


# Against LiberTEM-live's simulator, which is not ours.


@pytest.mark.interop
@pytest.mark.parametrize(("depth", "chips"), [(12, 1), (6, 4), (24, 1)])
async def test_libertem_merlin(libertem_merlin, started, tmp_path, depth, chips):
    pixel_type = merlin.PIXEL_TYPES[depth]
    truth = (
        np.random.default_rng(3)
        .integers(0, 2**depth, (6, 256, 256))
        .astype({"U08": "u1", "U16": "<u2", "U32": "<u4"}[pixel_type])
    )
    header = merlin.encode_acquisition_header(
        AcquisitionHeader(6, 6, depth, {"ScanX": "6", "ScanY": "1"})
    )
    (tmp_path / "t.hdr").write_bytes(header)
    with (tmp_path / "t.mib").open("wb") as mib:
        for number, data in enumerate(truth, 1):
            head = FrameHeader(
                number,
                256,
                256,
                pixel_type,
                depth,
                merlin.header_bytes(chips),
                chips,
                "2x2" if chips == 4 else "1x1",
            )
            mib.write(merlin.encode_frame_header(head) + merlin.pixels_to_wire(data, pixel_type))
    command = [libertem_merlin, "--host", "127.0.0.1", "--wait-trigger", tmp_path / "t.hdr"]
    options = ("--control-port", "--data-port", "--trigger-port")
    with started(command, *options) as (control, data_port, _):
        detector = detector_of(control, data_port, depth=depth, chips=chips)
        identity = await detector.connect()
        assert identity.model == "Merlin"
        # It sends the whole file for one trigger, whatever it was told.
        for frames_per_trigger, read in ((1, 6), (6, 6), (6, 2), (6, 6)):
            await detector.arm(6, 0.001, (256, 256), frames_per_trigger)
            await detector.trigger()
            frames = [await detector.read_frame() for _ in range(read)]
            await detector.disarm()
            assert [frame.number for frame in frames] == list(range(1, read + 1))
            np.testing.assert_array_equal([frame.data for frame in frames], truth[:read])
        await detector.make_safe()
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
        decoder = MpxDecoder()
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

    def image(self, number, shape=(4, 4), pixel_type="U16", counter=0, at_s=0.0):
        stamp = f"2026-01-01 00:00:{at_s:09.6f}"
        header = FrameHeader(
            number, shape[1], shape[0], pixel_type, counter=counter, timestamp=stamp
        )
        head = merlin.encode_frame_header(header)
        pixels = np.full(shape, number % 65_536, np.uint16)
        return merlin.frame(head + merlin.pixels_to_wire(pixels, pixel_type))


HEADER = merlin.frame(merlin.encode_acquisition_header(AcquisitionHeader(5)))


@pytest.fixture
async def odd(serve, monkeypatch):
    monkeypatch.setattr("pyrotome.drivers.merlin.detector.GRACE_S", 0.3)
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


@pytest.mark.parametrize("numbered", [True, False])
async def test_images_of_the_second_counter_are_dropped(odd, numbered):
    server, detector = odd
    await detector.arm(3, 0.001, (4, 4))
    frames = []
    for number in (1, 2, 3):
        own = 2 * number - 1 if numbered else number
        second = own + 1 if numbered else own
        server.after["SOFTTRIGGER"] = [server.image(own), server.image(second, counter=1)]
        await detector.trigger()
        frames.append(await detector.read_frame())
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert [frame.data.max() for frame in frames] == ([1, 3, 5] if numbered else [1, 2, 3])
    assert [frame.extra for frame in frames] == [0, 1, 1]
    await detector.disarm()
    await detector.arm(1, 0.001, (4, 4))
    server.after["SOFTTRIGGER"] = [server.image(1)]
    assert (await take(detector, 1))[0] == [1]


async def test_images_that_began_before_their_trigger_are_dropped(odd):
    server, detector = odd
    await detector.arm(3, 0.01, (4, 4))
    started = time.monotonic()
    frames = []
    for number in (1, 2, 3):
        at_s = time.monotonic() - started
        # Of the same counter: only the time tells the second from the first of the next trigger.
        server.after["SOFTTRIGGER"] = [
            server.image(2 * number - 1, at_s=at_s), server.image(2 * number, at_s=at_s + 0.01),
        ]  # fmt: skip
        await detector.trigger()
        frames.append(await detector.read_frame())
        await asyncio.sleep(0.2)
    assert [frame.data.max() for frame in frames] == [1, 3, 5]
    assert [frame.number for frame in frames] == [1, 2, 3]
    assert [frame.extra for frame in frames] == [0, 1, 1]


@pytest.mark.parametrize("per_trigger", [1, 2])
async def test_time_stamps_that_stand_still_drop_nothing(odd, monkeypatch, per_trigger):
    monkeypatch.setattr("pyrotome.drivers.merlin.detector.FOLLOWS_S", 0.1)
    server, detector = odd
    await detector.arm(3 * per_trigger, 0.001, (4, 4), per_trigger)
    numbers = []
    for first in range(1, 3 * per_trigger + 1, per_trigger):
        images = [server.image(first + each) for each in range(per_trigger)]
        server.after["SOFTTRIGGER"] = images
        numbers += (await take(detector, 1, per_trigger))[0]
        await asyncio.sleep(0.1)
    assert numbers == list(range(1, 3 * per_trigger + 1))


async def test_raw_mode_is_refused_with_its_remedy(odd):
    server, detector = odd
    await detector.arm(2, 0.001, (4, 4))
    server.after["SOFTTRIGGER"] = [server.image(1).replace(b",U16,", b",R64,")]
    await detector.trigger()
    with pytest.raises(DeviceRefused, match=r"raw mode \(R64\).*Switch raw mode off in the Merlin"):
        await detector.read_frame()


async def test_a_simulated_merlin_with_two_counters(faulty):
    detector, fault = faulty
    fault("extra-frames")
    await detector.arm(4, 0.02, (64, 64))
    numbers, stack = await take(detector, 4)
    await detector.disarm()
    assert numbers == [1, 2, 3, 4]
    assert max(data.max() for data in stack) == 0  # the beam is blanked; the extra ones are not 0


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


async def test_image_that_lies_about_its_size(odd):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4))
    lie = server.image(1).replace(b",0004,0004,", b",9999,9999,")
    await detector.trigger()
    server.data[0].write(lie)
    with pytest.raises(DeviceLost, match="its header says"):
        await detector.read_frame()
    server.data[0].write(lie + server.image(2))
    await detector.trigger()
    await detector.trigger()
    assert (await detector.read_frame()).number == 2


async def test_lengths_that_lie_cost_one_image_each(odd):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4), 5)
    await detector.trigger()
    good = [server.image(number) for number in range(1, 6)]
    lies = [b"MPX,9999999999,", b"MPX,0000000001,", b"MPX,0000000300,", b"MPX,0000000418,"]
    for lie, image in zip(lies, good[:4], strict=True):
        server.data[0].write(lie + image[merlin.PREFIX_BYTES :])
    server.data[0].write(good[4])
    assert (await detector.read_frame()).number == 5


@pytest.mark.parametrize("lost", [1, 17, 32, 200, 400])
async def test_image_whose_end_is_missing_gives_no_junk(odd, lost):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4), 5)
    await detector.trigger()
    # One in a write, so that the next begins where a receive does, and all in one.
    for pieces in ([server.image(1)[:-lost], server.image(2)], [server.image(3)]):
        for piece in pieces:
            server.data[0].write(piece)
            await asyncio.sleep(0.01)
    found = [await detector.read_frame() for _ in range(2)]
    assert [frame.number for frame in found] == [2, 3]
    for frame in found:
        np.testing.assert_array_equal(frame.data, np.full((4, 4), frame.number))


async def test_counts_that_look_like_a_prefix(odd):
    server, detector = odd
    await detector.arm(5, 0.001, (4, 4), 5)
    pixels = b"MPX,0000000020,MPX,0000000020,MP"
    head = merlin.encode_frame_header(FrameHeader(1, 4, 4))
    server.data[0].write(merlin.frame(head + pixels))
    assert (await detector.read_frame()).data.astype(">u2").tobytes() == pixels


async def test_frame_number_of_more_than_six_digits(odd):
    server, detector = odd
    await detector.arm(2_000_000, 0.001, (4, 4), 2_000_000)
    server.data[0].write(server.image(1_234_567))
    assert (await detector.read_frame()).number == 1_234_567


async def test_frames_at_full_rate_leave_the_loop_to_others(odd):
    server, detector = odd
    await detector.arm(500, 0.001, (4, 4), 500)
    server.data[0].write(b"".join(server.image(number) for number in range(1, 501)))
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
    assert turns >= 100


async def test_no_frame_is_lost_by_the_deadline(odd):
    _, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"read a frame.*within 0\.4 s"):
        await detector.read_frame()
    assert 0.4 <= time.monotonic() - started < 1.5


async def test_data_connection_that_breaks(odd):
    server, detector = odd
    await detector.arm(5, 0.1, (4, 4))
    server.data[0].write(server.image(1)[:-5])
    server.data[0].close()
    with pytest.raises(DeviceLost, match="closed by the detector"):
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
    with pytest.raises(DeviceRefused, match=r"set ACQUISITIONTIME to 100: .*out of range"):
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
    with pytest.raises(DeviceLost, match=r"execute SOFTTRIGGER: the connection to .* broke"):
        await detector.trigger()
    with pytest.raises(DeviceLost, match="not connected"):
        await detector.trigger()
    await detector.make_safe()
    assert server.heard[-1] == "CMD,STOPACQUISITION"


async def test_control_that_says_nothing(odd, monkeypatch):
    server, detector = odd
    monkeypatch.setattr("pyrotome.drivers.merlin.control.ControlLink.ask.__defaults__", (None, 0.2))
    server.answers["STOPACQUISITION"] = b""
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"execute STOPACQUISITION: no answer"):
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
