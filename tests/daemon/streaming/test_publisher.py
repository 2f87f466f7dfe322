"""The monitor: sequence numbers without gaps, last values, and previews that equal plain means."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.daemon.streaming.publisher import PREVIEW_SIDE, Publisher, make_preview
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:*", ExperimentClock())
        yield publisher
        publisher.close()


def test_each_topic_is_numbered_without_gaps(publisher: Publisher) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(publisher.endpoint)
        socket.subscribe(b"")
        while not socket.poll(10):
            publisher.publish("hello", "event", {})
        publisher.run = "run-1"
        for index in range(3):
            publisher.publish("a", "telemetry", {"values": {"x": index}})
            publisher.publish("b", "frame", {}, (b"\x01\x02",), t_ns=7)
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
            Publisher(context, publisher.endpoint, ExperimentClock())
        other = Publisher(context, publisher.endpoint, ExperimentClock(), fall_back=True)
        assert other.endpoint != publisher.endpoint
        other.close()


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
