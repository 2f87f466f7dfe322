"""The lossless link: credit limits frames, nothing is lost, a dead consumer is left behind."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zmq
import zmq.asyncio

from pyrotome.daemon.streaming.credit_link import CreditLink
from pyrotome.protocols.messages.credit_link import upstream
from pyrotome.protocols.messages.stream import Message


class Harness:
    """A link, and what its callbacks were called with."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.context = context
        self.sockets: list[zmq.asyncio.Socket] = []
        self.results: list[tuple[str, dict[str, Any], list[bytes]]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.link = CreditLink(
            context, lambda *r: self.results.append(r), lambda *e: self.events.append(e)
        )
        self.endpoint = self.link.open()

    def connect(self, name: str) -> zmq.asyncio.Socket:
        socket = self.context.socket(zmq.DEALER)
        socket.set(zmq.IDENTITY, name.encode())
        socket.set(zmq.LINGER, 0)
        socket.connect(self.endpoint)
        self.sockets.append(socket)
        return socket


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    context = zmq.asyncio.Context()
    harness = Harness(context)
    yield harness
    await harness.link.close()
    for socket in harness.sockets:
        socket.close()
    context.destroy(linger=0)


async def test_frames_wait_for_credit_and_telemetry_does_not(harness: Harness) -> None:
    link = harness.link
    consumer = link.expect("recorder")
    socket = harness.connect("recorder")
    waiting = asyncio.create_task(link.credit())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await socket.send_multipart(upstream("hello", {"credit": 2}))
    await asyncio.wait_for(waiting, 60)
    for index in range(2):
        link.send(Message("frame/d", {"index": index}, (b"\x01\x02",)), frame=True)
    assert list(link.waiting_for()) == ["recorder"]
    waiting = asyncio.create_task(link.credit())
    link.send(Message("telemetry/heater", {"values": {}}))
    received = [await asyncio.wait_for(socket.recv_multipart(), 60) for _ in range(3)]
    assert [parts[0] for parts in received] == [b"frame/d", b"frame/d", b"telemetry/heater"]
    assert received[0][2] == b"\x01\x02"
    assert not waiting.done()
    await socket.send_multipart(upstream("credit", {"frames": 1}))
    await asyncio.wait_for(waiting, 60)
    assert consumer.sent == 2


async def test_what_consumers_send_back_is_told(harness: Harness) -> None:
    consumer = harness.link.expect("analysis")
    socket = harness.connect("analysis")
    for message in (
        upstream("hello", {"credit": 1}),
        upstream("status", {"backlog": 3}),
        upstream("result", {"name": "volume"}, [b"abcd"]),
        upstream("event", {"level": "info", "message": "hm"}),
        [b"nonsense"],
        [b"result", b"not json"],
        upstream("done", {"frames": 7}),
    ):
        await socket.send_multipart(message)
    await asyncio.wait_for(consumer.done.wait(), 60)
    assert consumer.status == {"backlog": 3}
    assert consumer.summary == {"frames": 7}
    assert harness.results == [("analysis", {"name": "volume"}, [b"abcd"])]
    assert [event["level"] for _, event in harness.events] == ["info", "error", "error"]


async def test_an_analysis_without_credit_gets_headers_and_holds_nobody_up(
    harness: Harness,
) -> None:
    link = harness.link
    analysis = link.expect("analysis", essential=False)
    socket = harness.connect("analysis")
    await socket.send_multipart(upstream("hello", {"credit": 1}))
    await asyncio.wait_for(analysis.hello.wait(), 60)
    for index in range(3):
        await asyncio.wait_for(link.credit(), 60)
        link.send(Message("frame/d", {"index": index}, (b"\x01\x02",)), frame=True)
    received = [await asyncio.wait_for(socket.recv_multipart(), 60) for _ in range(3)]
    assert [len(parts) for parts in received] == [3, 2, 2]
    assert b'"in_file":true' in received[1][1]
    assert analysis.backlog == 3
    assert analysis.staleness_s(time.monotonic()) > 0
    await socket.send_multipart(upstream("status", {"frames": 2}))
    await socket.send_multipart(upstream("credit", {"frames": 1}))
    async with asyncio.timeout(60):
        while analysis.credit < 1:
            await asyncio.sleep(0.01)
    assert analysis.backlog == 1
    link.send(Message("frame/d", {"index": 3}, (b"\x01\x02",)), frame=True)
    assert len(await asyncio.wait_for(socket.recv_multipart(), 60)) == 3


async def test_a_dead_consumer_no_longer_holds_the_schedule(harness: Harness) -> None:
    link = harness.link
    link.expect("analysis")  # essential here, as the recorder is
    recorder = link.expect("recorder")
    socket = harness.connect("recorder")
    await socket.send_multipart(upstream("hello", {"credit": 1}))
    await asyncio.wait_for(recorder.hello.wait(), 60)
    waiting = asyncio.create_task(link.credit())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    link.lose("analysis")
    await asyncio.wait_for(waiting, 60)


async def test_a_consumer_whose_socket_vanished_is_noticed_on_the_next_message(
    harness: Harness,
) -> None:
    link = harness.link
    recorder = link.expect("recorder")
    socket = harness.connect("recorder")
    await socket.send_multipart(upstream("hello", {"credit": 1}))
    await asyncio.wait_for(recorder.hello.wait(), 60)
    socket.close()
    async with asyncio.timeout(60):
        while recorder.alive:
            link.send(Message("event", {}))
            await asyncio.sleep(0.01)
    assert harness.events[-1][1]["message"] == "the recorder is gone"
