"""The hub: readings, events and states become messages, for monitors and for the run's file."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from consumer import linked

from pyrotome.daemon.runtime.event_bus import Event
from pyrotome.daemon.schedule.states import State, StateChange
from pyrotome.daemon.streaming.telemetry_hub import PublishedEvent, PublishedState
from pyrotome.drivers.base import HeaterSample


async def test_a_heater_sample_is_telemetry_on_monitor_and_link() -> None:
    async with linked() as here:
        here.bus.publish(HeaterSample(5, 199.5, 200.0, {"power_w": 0.01}))
        await here.connect()
        here.bus.publish(HeaterSample(6, 199.9, 200.0, {"power_w": 0.01}))
        message = await here.receive()
        assert message.topic == "telemetry/heater"
        assert message.header == {
            "type": "telemetry", "run": None, "seq": 1, "t_ns": 6, "device": "heater",
            "values": {"temperature_c": 199.9, "setpoint_c": 200.0, "power_w": 0.01},
        }  # fmt: skip
        assert here.publisher.last["telemetry/heater"] == message


async def test_an_event_goes_to_monitor_link_and_bus() -> None:
    async with linked() as here:
        heard: list[dict[str, Any]] = []
        here.bus.subscribe(PublishedEvent, lambda published: heard.append(published.header))
        await here.connect()
        here.bus.event("warning", "stage", "it moved", by_deg=0.1)
        message = await here.receive()
        assert message.topic == "event"
        assert message.header["message"] == "it moved"
        assert message.header["by_deg"] == 0.1
        assert heard == [message.header]


async def test_an_event_that_is_not_recorded_goes_to_monitors_alone() -> None:
    async with linked() as here:
        await here.connect()
        here.bus.publish(Event("warning", "mqtt", "no broker", recorded=False))
        here.bus.event("info", "engine", "paused")
        message = await here.receive()
        assert (message.header["message"], message.header["seq"]) == ("paused", 1)


async def test_a_change_of_state_is_an_event_and_a_state() -> None:
    async with linked() as here:
        states: list[dict[str, Any]] = []
        here.bus.subscribe(PublishedState, lambda published: states.append(published.status))
        here.status = {"state": "safing", "temperature_c": 350.0}
        here.bus.publish(StateChange(State.RUNNING, State.SAFING))
        assert here.publisher.last["event"].header["message"] == "running -> safing"
        assert here.publisher.last["state"].header["temperature_c"] == 350.0
        assert states == [here.status]


async def test_nothing_is_recorded_after_the_run() -> None:
    async with linked() as here:
        await here.connect()
        here.hub.detach()
        here.bus.event("info", "engine", "idle")
        here.hub.attach(here.link)
        here.bus.event("info", "engine", "a run again")
        assert (await here.receive()).header["message"] == "a run again"


async def test_a_blocked_event_loop_is_reported_with_its_lag() -> None:
    async with linked() as here:
        here.status = {"analysis": {"backlog": 3, "staleness_s": 0.5}, "dose_e_per_nm2": 7.0}
        heard = asyncio.Event()
        here.bus.subscribe(PublishedEvent, lambda _: heard.set())
        reporting = asyncio.create_task(here.hub.report())
        await asyncio.sleep(0.1)
        time.sleep(0.4)  # noqa: ASYNC251 (blocking the loop is what this is about)
        async with asyncio.timeout(30):
            await heard.wait()
        await asyncio.sleep(0)
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)
        event = here.publisher.last["event"].header
        assert event["message"].startswith("the event loop was late by")
        values = here.publisher.last["telemetry/daemon"].header["values"]
        assert values["loop_lag_s"] == event["lag_s"] > 0.2
        assert (values["backlog_frames"], values["staleness_s"]) == (3.0, 0.5)
        assert values["dose_e_per_nm2"] == 7.0
