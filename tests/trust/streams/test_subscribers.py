"""Subscribers: a late one gets the state at once; one that does not read is disconnected."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
import zmq.asyncio

from pyrotome.daemon.access import connections
from pyrotome.daemon.streaming import publisher
from pyrotome.daemon.streaming.last_values import KEPT_BYTES, KEPT_PAYLOAD_BYTES, LastValues
from pyrotome.daemon.streaming.message_stamper import MessageStamper
from pyrotome.daemon.streaming.publisher import HELD_BYTES, MOST_SUBSCRIPTIONS, Publisher
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.stream import Message, parse

VOLUME = 64 << 20


class Monitor:
    """A publisher that is looked after, and its subscribers."""

    def __init__(self) -> None:
        self.context = zmq.asyncio.Context()
        self.publisher = Publisher(self.context, "tcp://127.0.0.1:*")
        self.stamper = MessageStamper(ExperimentClock())
        self.task = asyncio.create_task(self.publisher.look_after())
        self._subscribers: list[zmq.asyncio.Socket] = []

    def publish(self, *what: Any) -> None:
        self.publisher.send(self.stamper.stamp(*what))

    def subscriber(self, *topics: str, kind: int = zmq.SUB) -> zmq.asyncio.Socket:
        socket = self.context.socket(kind)
        socket.set(zmq.LINGER, 0)
        socket.connect(self.publisher.endpoint)
        for topic in topics:
            socket.subscribe(topic)
        self._subscribers.append(socket)
        return socket

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for socket in self._subscribers:
            socket.close()
        self.publisher.close()
        self.context.destroy(linger=0)


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    monitor = Monitor()
    yield monitor
    await monitor.close()


async def until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.02)


async def take(socket: zmq.asyncio.Socket, count: int) -> list[Message]:
    async with asyncio.timeout(60):
        return [parse(await socket.recv_multipart()) for _ in range(count)]


async def silent(socket: zmq.asyncio.Socket, for_s: float = 0.3) -> None:
    assert not await socket.poll(int(for_s * 1000))


# --- who comes late -----------------------------------------------------------------------------


async def test_a_late_subscriber_gets_the_last_message_of_each_topic_once(monitor: Monitor) -> None:
    monitor.stamper.run = "r"
    for value in range(3):
        monitor.publish("telemetry/heater", "telemetry", {"values": {"x": value}})
    monitor.publish("state", "state", {"state": "running"})
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    body = {"shape": [8, 8], "dtype": "uint8"}
    monitor.publish("preview/d", "preview", body, (picture,))
    volume = np.zeros((64, 64, 64), np.float32)
    body = {"shape": [64, 64, 64], "dtype": "float32"}
    monitor.publish("result/volume", "result", body, (volume,))
    late = monitor.subscriber("last/")
    found = {message.topic: message for message in await take(late, 4)}
    assert set(found) == {
        "last/telemetry/heater", "last/state", "last/preview/d", "last/result/volume",
    }  # fmt: skip
    heater = found["last/telemetry/heater"].header
    assert heater["values"] == {"x": 2}
    assert heater["seq"] == 2
    assert heater["run"] == "r"
    assert bytes(found["last/preview/d"].payload[0]) == picture.tobytes()
    assert found["last/result/volume"].payload == (), "too large to keep: the header alone"
    assert found["last/result/volume"].header["shape"] == [64, 64, 64]
    await silent(late)
    # Another one later: those who subscribed to the same may see it, nobody else does.
    live = monitor.subscriber("state", "telemetry/")
    await until(lambda: monitor.publisher.watched("state"))
    again = monitor.subscriber("last/state")
    (message,) = await take(again, 1)
    assert message.header["state"] == "running"
    await silent(again)
    await silent(live)


async def test_a_prefix_selects_its_topics_only(monitor: Monitor) -> None:
    for topic in ("telemetry/heater", "telemetry/stage", "state"):
        monitor.publish(topic, "telemetry", {})
    late = monitor.subscriber("last/telemetry/")
    topics = sorted(message.topic for message in await take(late, 2))
    assert topics == ["last/telemetry/heater", "last/telemetry/stage"]
    await silent(late)
    assert set(monitor.publisher.latest(["telemetry/s", "state"])) == {"telemetry/stage", "state"}


async def test_watched_topics_follow_the_subscribers(monitor: Monitor) -> None:
    watched = monitor.publisher.watched
    first, second = monitor.subscriber("preview/"), monitor.subscriber("preview/", "last/")
    await until(lambda: len(monitor.publisher.connections) == 2)
    assert watched("preview/d")
    assert not watched("frame/d")
    first.close()
    await until(lambda: len(monitor.publisher.connections) == 1)
    assert watched("preview/d"), "the other one still watches"
    # Taking back what it never asked for takes nothing from others.
    rude = monitor.subscriber(kind=zmq.XSUB)
    await rude.send(b"\x01state")
    await until(lambda: watched("state"))
    await rude.send(b"\x00preview/")
    await rude.send(b"\x00state")
    await until(lambda: not watched("state"))
    assert watched("preview/d")
    second.close()
    await until(lambda: not watched("preview/d"))


async def test_a_client_that_subscribes_without_end_is_disconnected(monitor: Monitor) -> None:
    greedy = monitor.subscriber(kind=zmq.XSUB)
    for number in range(2 * MOST_SUBSCRIPTIONS):
        await greedy.send(b"\x01topic %d" % number)
    await until(lambda: monitor.publisher.losses()["cut"] >= 1)
    greedy.close()
    await until(lambda: len(monitor.publisher.connections) == 0)
    assert not monitor.publisher.watched("topic 1")


def test_last_values_are_bounded_in_bytes() -> None:
    values = LastValues()
    payload = bytes(KEPT_PAYLOAD_BYTES)
    for number in range(100):
        values.note(Message(f"result/{number}", {"seq": 0}, (payload,)))
        values.note(Message("result/same", {"seq": number}, (payload,)))
        assert values.payload_bytes <= KEPT_BYTES
    kept = values.matching("result/")
    assert len(kept) == 101, "headers of all"
    assert sum(bool(message.payload) for message in kept) == KEPT_BYTES // KEPT_PAYLOAD_BYTES
    values.note(Message("result/large", {}, (payload, b"1")))
    assert values.matching("result/large")[0].payload == ()
    for number in range(2000):
        values.note(Message(f"many/{number}", {}))
    assert len(values.matching("")) == 500
    assert values.payload_bytes == 0


# --- who does not read --------------------------------------------------------------------------

_SUBSCRIBER = """
import json, sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1])
socket.subscribe(b"")
while True:
    topic, header, *payload = socket.recv_multipart()
    print(topic.decode(), json.loads(header)["seq"], flush=True)
"""


@asynccontextmanager
async def process(monitor: Monitor) -> AsyncIterator[Any]:
    """A subscriber of everything in a process of its own."""
    before = len(monitor.publisher.connections)
    command = [sys.executable, "-c", _SUBSCRIBER, monitor.publisher.endpoint]
    running = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    try:
        await until(lambda: len(monitor.publisher.connections) > before)
        monitor.publish("hello", "event", {})
        assert running.stdout is not None
        await asyncio.to_thread(running.stdout.readline)
        yield running
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


async def test_a_stalled_subscriber_uses_bounded_memory_and_is_disconnected(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it takes 20 volumes of 64 MiB: without a bound, they would all wait for it."""
    monkeypatch.setattr(connections, "STALLED_S", 1000.0)
    monkeypatch.setattr(publisher, "SLOW_S", 1000.0)
    me = psutil.Process()
    async with process(monitor) as stalled:
        os.kill(stalled.pid, signal.SIGSTOP)
        reader = monitor.subscriber("telemetry/")
        await until(lambda: len(monitor.publisher.connections) == 2)
        before, most = me.memory_info().rss, 0
        volume = np.zeros((256, 256, 256), np.float32)
        assert volume.nbytes == VOLUME
        for number in range(20):
            body = {"shape": [256, 256, 256], "dtype": "float32"}
            pixels = (volume + number,)
            monitor.publish("result/volume", "result", body, pixels)
            monitor.publish("telemetry/heater", "telemetry", {"values": {}})
            del pixels
            await asyncio.sleep(0.02)
            most = max(most, me.memory_info().rss - before)
        held = monitor.publisher.held_bytes()
        assert 0 < held <= HELD_BYTES
        assert most < HELD_BYTES + 2 * VOLUME
        assert monitor.publisher.losses()["held_back"] >= 20 - HELD_BYTES // VOLUME - 1
        # Who reads was not disturbed, and small messages went on.
        heard = await take(reader, 20)
        assert [message.header["seq"] for message in heard] == list(range(20))
        monkeypatch.setattr(connections, "STALLED_S", 1.0)
        await until(lambda: monitor.publisher.losses()["cut"] == 1)
        await until(lambda: monitor.publisher.held_bytes() == 0)
        print(f"stalled: {most / 1e6:.0f} MB more while {held / 1e6:.0f} MB were held")
        # Awake again, it comes back by itself, and sees what it has missed.
        os.kill(stalled.pid, signal.SIGCONT)
        await until(lambda: len(monitor.publisher.connections) == 2)
        seen: list[int] = []
        while not seen or seen[-1] < 20:
            small = {"shape": [1], "dtype": "uint8"}
            monitor.publish("result/volume", "result", small, (b"\x00",))
            line = (await asyncio.to_thread(stalled.stdout.readline)).split()
            if line[0] == "result/volume":
                seen.append(int(line[1]))
        assert len(seen) < seen[-1] + 1, "the gap shows in seq"
        reader.close()


async def test_a_subscriber_too_slow_for_large_messages_is_disconnected(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is stopped long before `STALLED_S` is cut once it holds the others up."""
    monkeypatch.setattr(publisher, "HELD_BYTES", 8_000_000)
    monkeypatch.setattr(publisher, "SLOW_S", 1.0)
    monkeypatch.setattr(connections, "STALLED_S", 1000.0)
    async with process(monitor) as stalled:
        os.kill(stalled.pid, signal.SIGSTOP)
        reader = monitor.subscriber("frame/")
        await until(lambda: monitor.publisher.watched("frame/d"))
        frame, received = np.zeros((1024, 1024), np.uint16), 0
        end = time.monotonic() + 60
        while monitor.publisher.losses()["cut"] == 0 or received < 10:
            assert time.monotonic() < end
            body = {"shape": [1024, 1024], "dtype": "uint16"}
            monitor.publish("frame/d", "frame", body, (frame.copy(),))
            await asyncio.sleep(0.05)
            while await reader.poll(0):
                await reader.recv_multipart()
                received += 1
        assert monitor.publisher.losses()["cut"] == 1
        await until(lambda: monitor.publisher.held_bytes() == 0)
        reader.close()


async def test_a_subscriber_that_dies_is_forgotten(monitor: Monitor) -> None:
    async with process(monitor) as dead:
        dead.kill()
        await until(lambda: len(monitor.publisher.connections) == 0)
        assert not monitor.publisher.watched("state")
        monitor.publish("result/volume", "result", {}, (bytes(VOLUME),))
        await until(lambda: monitor.publisher.held_bytes() == 0)


def test_watch_shows_the_state_at_once(cli: Any) -> None:
    running = cli.start("serve", "--rig", cli.rig())
    monitor = running.wait_for("monitor on", 120).split("monitor on ")[1].split(";")[0].strip()
    assert cli("safe", "--endpoint", running.control).returncode == 0
    done = cli("watch", "--json", "--seconds", "2", "--endpoint", monitor)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    late = {line["topic"] for line in lines if line.get("last")}
    topics = {line["topic"] for line in lines}
    assert {"state", "event", "telemetry/heater"} <= topics
    assert "event" in late, "events come seldom: this is the last one, from before"
    state = next(line for line in lines if line["topic"] == "state")
    assert state["subscribers"] >= 0
    assert state["losses"]["monitor"] == {"held_back": 0, "cut": 0}
    seqs = [line["seq"] for line in lines if line["topic"] == "telemetry/heater"]
    assert seqs == sorted(set(seqs))
