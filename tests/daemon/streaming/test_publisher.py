"""The monitor: subscribers get what is sent, a port in use is refused, last values are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from pyrotome.daemon.streaming.message_stamper import MessageStamper
from pyrotome.daemon.streaming.publisher import Publisher
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:*")
        yield publisher
        publisher.close()


def test_each_topic_is_numbered_without_gaps(publisher: Publisher) -> None:
    stamper = MessageStamper(ExperimentClock())

    def publish(*what: Any) -> None:
        publisher.send(stamper.stamp(*what))

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(publisher.endpoint)
        socket.subscribe(b"")
        while not socket.poll(10):
            publish("hello", "event", {})
        stamper.run = "run-1"
        for index in range(3):
            publish("a", "telemetry", {"values": {"x": index}})
            publish("b", "frame", {}, (b"\x01\x02",), 7)
        seen: dict[str, list[dict[str, object]]] = {}
        while socket.poll(200):
            topic, header, *payload = socket.recv_multipart()
            seen.setdefault(topic.decode(), []).append({**json.loads(header), "parts": payload})
    assert [m["seq"] for m in seen["a"]] == [0, 1, 2]
    assert [m["seq"] for m in seen["b"]] == [0, 1, 2]
    assert seen["b"][0]["t_ns"] == 7
    assert seen["b"][0]["parts"] == [b"\x01\x02"]
    assert seen["a"][0]["run"] == "run-1"
    assert publisher.last["a"].header["values"] == {"x": 2}
    assert "b" not in publisher.last


def test_a_port_in_use_is_refused_or_replaced(publisher: Publisher) -> None:
    with zmq.Context() as context:
        with pytest.raises(BadInput, match="cannot listen on"):
            Publisher(context, publisher.endpoint)
        other = Publisher(context, publisher.endpoint, fall_back=True)
        assert other.endpoint != publisher.endpoint
        other.close()
