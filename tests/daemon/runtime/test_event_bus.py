"""The event bus: delivered at once and in order; what the error of a subscriber does."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from pyrotome.daemon.runtime.event_bus import Event, EventBus


@dataclass(frozen=True)
class Reading:
    value: float


class CalibratedReading(Reading):
    """A topic of its own."""


def fail(_: object) -> None:
    raise RuntimeError("the terminal is gone")


def test_subscribers_get_each_object_at_once_and_in_the_order_of_subscription() -> None:
    bus, heard = EventBus(), list[tuple[str, float]]()
    bus.subscribe(Reading, lambda reading: heard.append(("first", reading.value)))
    bus.subscribe(Reading, lambda reading: heard.append(("second", reading.value)))
    bus.publish(Reading(1.0))
    assert heard == [("first", 1.0), ("second", 1.0)]
    bus.publish(Reading(2.0))
    assert heard[2:] == [("first", 2.0), ("second", 2.0)]


def test_a_topic_is_one_type_and_not_its_subclasses() -> None:
    bus, heard = EventBus(), list[Reading]()
    bus.subscribe(Reading, heard.append)
    bus.publish(CalibratedReading(1.0))
    bus.publish("text")
    assert heard == []


def test_a_subscriber_that_raises_is_dropped_and_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, heard = EventBus(), list[Reading]()
    bus.subscribe(Reading, fail)
    bus.subscribe(Reading, heard.append)
    with caplog.at_level(logging.WARNING):
        bus.publish(Reading(1.0))
        bus.publish(Reading(2.0))
    assert [reading.value for reading in heard] == [1.0, 2.0]
    assert len(caplog.records) == 1, "the second object did not reach it"
    assert "Reading is dropped, it raised RuntimeError('the terminal is gone')" in caplog.text


def test_the_error_of_a_required_subscriber_goes_to_the_publisher_after_all_have_heard() -> None:
    bus, heard = EventBus(), list[Reading]()
    bus.subscribe(Reading, fail, required=True)
    bus.subscribe(Reading, heard.append)
    for value in (1.0, 2.0):
        with pytest.raises(RuntimeError, match="the terminal is gone"):
            bus.publish(Reading(value))
    assert [reading.value for reading in heard] == [1.0, 2.0]


def test_an_ended_subscription_hears_nothing_more_and_ends_no_other() -> None:
    bus, heard = EventBus(), list[Reading]()
    end = bus.subscribe(Reading, heard.append)
    bus.subscribe(Reading, heard.append)
    end()
    end()
    bus.publish(Reading(1.0))
    assert len(heard) == 1


def test_what_is_published_or_subscribed_meanwhile_is_delivered() -> None:
    bus, heard = EventBus(), list[object]()

    def on_reading(reading: Reading) -> None:
        bus.subscribe(Event, heard.append)
        bus.event("info", "test", f"read {reading.value:g}", value=reading.value)
        heard.append(reading)

    bus.subscribe(Reading, on_reading)
    bus.publish(Reading(1.0))
    assert heard == [Event("info", "test", "read 1", {"value": 1.0}), Reading(1.0)]
