"""Headers of messages: numbered per topic without gaps, with the run and the time of the clock."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.streaming.message_stamper import MessageStamper
from pyrotome.protocols.core.clock import ExperimentClock


@given(st.lists(st.sampled_from(["event", "state", "telemetry/heater", "frame/d"])))
def test_each_topic_is_numbered_without_gaps(topics: list[str]) -> None:
    stamper = MessageStamper(ExperimentClock())
    counts: Counter[str] = Counter()
    for topic in topics:
        assert stamper.stamp(topic, "kind", {}).header["seq"] == counts[topic]
        counts[topic] += 1


def test_a_header_has_type_run_and_time_before_its_own_keys() -> None:
    clock = ExperimentClock(monotonic_ns=lambda: 0)
    stamper = MessageStamper(clock)
    before = stamper.stamp("event", "event", {"level": "info"})
    assert before.header == {
        "type": "event", "run": None, "seq": 0, "t_ns": clock.now_ns(), "level": "info",
    }  # fmt: skip
    stamper.run = "run-1"
    frame = stamper.stamp("frame/d", "frame", {"index": 3}, (b"\x01",), 7)
    assert frame.header == {"type": "frame", "run": "run-1", "seq": 0, "t_ns": 7, "index": 3}
    assert frame.payload == (b"\x01",)
    assert stamper.stamp("event", "event", {}).header["seq"] == 1, "a run does not begin anew"
