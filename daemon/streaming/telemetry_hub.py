"""Where readings, events and states become stream messages: to monitors, and to the run's file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...drivers.base import HeaterSample
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.credit_link import RECORDER
from ...protocols.messages.stream import Message, telemetry_topic
from ..runtime.event_bus import Event, EventBus
from ..schedule.states import StateChange
from .credit_link import CreditLink
from .message_stamper import MessageStamper
from .publisher import Publisher

STATE_INTERVAL_S = 0.25
_LAG_INTERVAL_S = 0.05
_TELEMETRY_INTERVAL_S = 1.0
# Lateness of the event loop that is worth an event.
LAG_WARNING_S = 0.2


@dataclass(frozen=True)
class PublishedEvent:
    """An event has been published; `header` is that of its message."""

    header: dict[str, Any]


@dataclass(frozen=True)
class PublishedState:
    """The state has been published; `status` is what ``pyrotome status --json`` prints."""

    status: dict[str, Any]


class TelemetryHub:
    """Turns what is published on the event bus into stream messages.

    Messages go to the monitor, and during a run to recorder and analysis as well.

    Parameters
    ----------
    bus : EventBus
        Brings heater samples, events and changes of state; gets `PublishedEvent` and
        `PublishedState`.
    publisher : Publisher
        The monitor.
    clock : ExperimentClock
        Time of the messages.
    status : callable
        Returns the daemon's status.
    """

    def __init__(
        self,
        bus: EventBus,
        publisher: Publisher,
        clock: ExperimentClock,
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self.bus, self.publisher = bus, publisher
        self.stamper = MessageStamper(clock)
        self._clock, self._status = clock, status
        self._link: CreditLink | None = None
        bus.subscribe(Event, self._on_event, required=True)
        bus.subscribe(HeaterSample, self._on_heater_sample, required=True)
        bus.subscribe(StateChange, self._on_state_change, required=True)

    # --- the run under way ----------------------------------------------------------------------

    def attach(self, link: CreditLink) -> None:
        """Send what is to be recorded to the link of a run as well."""
        self._link = link

    def detach(self) -> None:
        """Send to monitors alone."""
        self._link = None

    # --- messages -------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        kind: str,
        body: dict[str, Any],
        payload: tuple[Any, ...] = (),
        t_ns: int | None = None,
    ) -> Message:
        """Stamp a message, send it to monitors, and return it."""
        message = self.stamper.stamp(topic, kind, body, payload, t_ns)
        self.publisher.send(message)
        return message

    def record(self, message: Message) -> None:
        """Send a message to the recorder of the run under way."""
        if self._link is not None:
            self._link.send_only(RECORDER, message)

    def telemetry(self, device: str, values: Mapping[str, float], t_ns: int) -> None:
        """Send readings of a device to monitors and recorder.

        Parameters
        ----------
        device : str
            The device's role, or ``daemon``.
        values : mapping
            Value of each channel, in the channel's unit.
        t_ns : int
            When they were measured, on the experiment clock.
        """
        body = {"device": device, "values": dict(values)}
        self.record(self.publish(telemetry_topic(device), "telemetry", body, t_ns=t_ns))

    def _on_event(self, event: Event) -> None:
        body = {"level": event.level, "source": event.source, "message": event.message}
        message = self.publish("event", "event", body | dict(event.details))
        if event.recorded and self._link is not None:
            self._link.send(message)
        self.bus.publish(PublishedEvent(message.header))

    def _on_heater_sample(self, sample: HeaterSample) -> None:
        values = {
            "temperature_c": sample.temperature_c,
            "setpoint_c": sample.setpoint_c,
            **sample.values,
        }
        self.telemetry("heater", values, sample.t_ns)

    def _on_state_change(self, change: StateChange) -> None:
        old, new = change.old, change.new
        self.bus.event("info", "state", f"{old} -> {new}", state=str(new))
        self.publish_state()

    def publish_state(self) -> None:
        """Publish the daemon's status as its state."""
        status = self._status()
        self.publish("state", "state", status)
        self.bus.publish(PublishedState(status))

    # --- regular messages -----------------------------------------------------------------------

    async def report(self) -> None:
        """Publish the state and the lag of the event loop at intervals, until cancelled."""
        loop = asyncio.get_running_loop()
        last_state = last_telemetry = loop.time()
        lag_s = 0.0
        while True:
            before = loop.time()
            await asyncio.sleep(_LAG_INTERVAL_S)
            now = loop.time()
            lag_s = max(lag_s, now - before - _LAG_INTERVAL_S)
            if now - last_state >= STATE_INTERVAL_S:
                last_state = now
                self.publish_state()
            if now - last_telemetry >= _TELEMETRY_INTERVAL_S:
                last_telemetry = now
                self._daemon_telemetry(lag_s)
                lag_s = 0.0

    def _daemon_telemetry(self, lag_s: float) -> None:
        status = self._status()
        analysis = status.get("analysis") or {}
        if lag_s > LAG_WARNING_S:
            self.bus.event(
                "warning",
                "clock",
                f"the event loop was late by {lag_s * 1e3:.0f} ms: something blocked it, or the "
                "computer is too busy",
                lag_s=round(lag_s, 6),
            )
        values = {
            "loop_lag_s": round(lag_s, 6),
            "backlog_frames": float(analysis.get("backlog", 0)),
            "staleness_s": float(analysis.get("staleness_s", 0.0)),
            "dose_e_per_nm2": float(status.get("dose_e_per_nm2", 0.0)),
        }
        self.telemetry("daemon", values, self._clock.now_ns())
