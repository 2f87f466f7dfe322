"""Frames on the monitor: raw for every subscriber, however the detector sent them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.daemon.streaming.message_stamper import MessageStamper
from pyrotome.daemon.streaming.previews import (
    MOST_WAITING,
    PREVIEW_SIDE,
    FramePreviews,
    make_preview,
)
from pyrotome.daemon.streaming.publisher import Publisher
from pyrotome.protocols.core.bitshuffle import Bitshuffle
from pyrotome.protocols.core.chunk import ENCODING, Chunk
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.stream import Message, array_of, parse

FRAME, PREVIEW = "frame/d", "preview/d"


class Monitor:
    """A publisher, its frame views, and one subscriber."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.context = context
        self.publisher = Publisher(context, "tcp://127.0.0.1:*")
        self.stamper = MessageStamper(ExperimentClock())
        self.problems: list[str] = []
        self.views = FramePreviews(self.publisher, self.stamper, PREVIEW, self.problems.append)
        self.subscriber = context.socket(zmq.SUB)
        self.subscriber.set(zmq.LINGER, 0)

    async def subscribe(self, *topics: str) -> None:
        self.subscriber.connect(self.publisher.endpoint)
        for topic in topics:
            self.subscriber.subscribe(topic)
        async with asyncio.timeout(60):
            while not all(self.publisher.watched(topic) for topic in topics):
                await asyncio.sleep(0.01)

    def show(self, index: int, frame: np.ndarray, compressed: bool) -> None:
        header = {"index": index, "shape": list(frame.shape), "dtype": frame.dtype.name}
        if compressed:
            raw = bytes(Bitshuffle().compress(frame))
            data: Chunk | np.ndarray = Chunk(frame.shape, frame.dtype.name, raw)
            payload, header = raw, header | {"encoding": ENCODING}
        else:
            data = payload = frame
        message = self.stamper.stamp(FRAME, "frame", header, (payload,), 7)
        self.views.show(message, data)

    async def received(self, count: int) -> list[Message]:
        found: list[Message] = []
        async with asyncio.timeout(60):
            while len(found) < count:
                found.append(parse(await self.subscriber.recv_multipart()))
        return found


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    context = zmq.asyncio.Context()
    monitor = Monitor(context)
    yield monitor
    await monitor.views.close()
    monitor.publisher.close()
    context.destroy(linger=0)


def a_frame(index: int) -> np.ndarray:
    return np.random.default_rng(index).poisson(5.0, (300, 280)).astype(np.uint16)


async def test_a_compressed_frame_is_published_raw_and_in_order(monitor: Monitor) -> None:
    await monitor.subscribe(FRAME)
    for index in range(6):
        monitor.show(index, a_frame(index), compressed=index != 3)
    lost = monitor.stamper.stamp(FRAME, "frame", {"index": 6, "lost": True}, (), 7)
    monitor.views.show(lost, None)
    messages = await monitor.received(7)
    assert [m.header["index"] for m in messages] == list(range(7))
    assert [m.header["seq"] for m in messages] == list(range(7))
    for index, message in enumerate(messages[:6]):
        assert "encoding" not in message.header
        np.testing.assert_array_equal(array_of(message), a_frame(index))


@pytest.mark.parametrize("compressed", [True, False])
async def test_a_preview_is_made_of_either(monitor: Monitor, compressed: bool) -> None:
    await monitor.subscribe(PREVIEW)
    monitor.show(1, a_frame(1), compressed)
    (message,) = await monitor.received(1)
    assert message.header["shape"] == [150, 140]
    assert message.header["dtype"] == "uint8"
    assert message.header["t_ns"] == 7
    assert message.header["scale"]["binning"] == 2


async def test_nothing_is_done_while_nobody_watches(monitor: Monitor) -> None:
    monitor.show(0, a_frame(0), compressed=True)
    assert not monitor.views._waiting
    await monitor.subscribe(FRAME)
    monitor.show(1, a_frame(1), compressed=True)
    (message,) = await monitor.received(1)
    assert message.header["seq"] == 1, "who comes late sees that there was one before"


async def test_more_than_can_be_shown_are_left_out_and_seen_in_seq(monitor: Monitor) -> None:
    await monitor.subscribe(FRAME)
    for index in range(2 * MOST_WAITING):
        monitor.show(index, a_frame(index % 3), compressed=True)
    messages = await monitor.received(MOST_WAITING)
    assert [m.header["seq"] for m in messages] == list(range(MOST_WAITING))
    await monitor.views.close()
    monitor.show(99, a_frame(0), compressed=True)
    (after,) = await monitor.received(1)
    assert after.header["seq"] == 2 * MOST_WAITING


async def test_a_spoilt_frame_is_told_and_the_next_is_shown(monitor: Monitor) -> None:
    await monitor.subscribe(FRAME)
    chunk = Chunk((300, 280), "uint16", b"nothing like it")
    message = monitor.stamper.stamp(FRAME, "frame", {"series": "s", "index": 4}, (b"",), 7)
    monitor.views.show(message, chunk)
    monitor.show(5, a_frame(5), compressed=True)
    (shown,) = await monitor.received(1)
    assert shown.header["index"] == 5
    assert "s frame 4 cannot be shown" in monitor.problems[0]


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 700),
    columns=st.integers(1, 700),
    dtype=st.sampled_from(["uint8", "uint16", "uint32"]),
    seed=st.integers(0, 9),
)
def test_a_preview_is_the_mean_of_blocks_in_8_bits(
    rows: int, columns: int, dtype: str, seed: int
) -> None:
    frame = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (rows, columns), dtype)
    preview, scale = make_preview(frame)
    binning = int(scale["binning"])
    assert max(rows, columns) <= binning * PREVIEW_SIDE or binning == min(rows, columns)
    height, width = rows // binning, columns // binning
    assert preview.shape == (height, width)
    blocks = frame[: height * binning, : width * binning].astype(float)
    mean = blocks.reshape(height, binning, width, binning).mean(axis=(1, 3))
    span = mean.max() - mean.min() or 1.0
    expected = (mean - mean.min()) / span * 255
    assert np.abs(preview - expected).max() <= 1.01
    assert scale["low"] == pytest.approx(mean.min(), rel=1e-5)
