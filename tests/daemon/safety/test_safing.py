"""Safing on simulated instruments: what is made safe, by whom, and when a person must look."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pyrotome.daemon.runtime.event_bus import Event, EventBus
from pyrotome.daemon.safety import devices as devices_module
from pyrotome.daemon.safety.devices import Devices
from pyrotome.daemon.safety.observer import Observer
from pyrotome.daemon.safety.safing import Safing
from pyrotome.daemon.safety.supervisor import Trip
from pyrotome.daemon.safety.topics import GuardianActed, HeaterLost, SupervisorFailed
from pyrotome.daemon.schedule.states import Busy, State, StateMachine
from pyrotome.drivers.base import DeviceError, DeviceLost
from pyrotome.protocols.config.rig import Rig

STALE = Trip("stale", "safe", 6.0, 5.0, "s", 0, 6_000_000_000, "no reading has come")
MOVING = Trip("moving", "pause", 0.1, 0.05, "deg", 0, 0, "the stage has moved")


class Run:
    """A run under way, and what it was told."""

    def __init__(self) -> None:
        self.closing, self.safe_confirmed, self.pause_requested = False, True, False
        self.stops: list[tuple[str, str, BaseException | None]] = []

    def stop(self, status: str, reason: str, error: BaseException | None = None) -> None:
        self.stops.append((status, reason, error))

    def pause(self) -> None:
        self.pause_requested = True


class Bench:
    """Safing with the parts that it acts on."""

    def __init__(self, devices: Devices, rig: Rig) -> None:
        self.bus, self.devices = EventBus(), devices
        self.events: list[Event] = []
        self.bus.subscribe(Event, self.events.append)
        self.machine = StateMachine(lambda _: None)
        self.aborts: list[str] = []
        observer = Observer(rig, devices, devices.heater.clock, self.bus)
        self.safing = Safing(devices, self.machine, self.bus, observer, self.abort)

    async def abort(self, reason: str) -> None:
        self.aborts.append(reason)

    def said(self, text: str) -> bool:
        return any(text in event.message for event in self.events)


@pytest.fixture
def bench(devices: Devices, rig: Rig) -> Bench:
    return Bench(devices, rig)


async def heat(devices: Devices, microscope: Any) -> None:
    await devices.beam.unblank()
    await devices.heater.set_temperature(80.0)
    assert not microscope.log().blanked
    assert microscope.log().setpoint_c == 80.0


async def test_the_emergency_stop_blanks_and_cools_without_a_run(
    bench: Bench, devices: Devices, microscope: Any
) -> None:
    await heat(devices, microscope)
    steps = await bench.safing.safe()
    assert [(step.role, step.confirmed) for step in steps] == [
        ("beam", True), ("heater", True), ("stage", True), ("detector", True),
    ]  # fmt: skip
    assert bench.machine.state is State.IDLE
    log = microscope.log()
    assert log.blanked
    assert log.setpoint_c == 25.0
    assert bench.said("beam blanked in")


async def test_a_trip_makes_safe_where_no_run_is_and_stops_one_that_is(
    bench: Bench, devices: Devices, microscope: Any
) -> None:
    await heat(devices, microscope)
    bench.bus.publish(STALE)
    await bench.safing.finish()
    assert microscope.log().blanked
    assert bench.events[0].details["rule"] == "stale"
    run = Run()
    bench.safing.run_begins(run)
    bench.bus.publish(STALE)
    ((status, reason, error),) = run.stops
    assert status == "failed"
    assert reason.startswith("supervisor: stale: no reading has come")
    assert isinstance(error, DeviceLost)


async def test_a_trip_that_asks_for_a_pause_pauses_once_and_a_warning_does_nothing(
    bench: Bench,
) -> None:
    run = Run()
    bench.bus.publish(MOVING)
    bench.safing.run_begins(run)
    for _ in range(2):
        bench.bus.publish(MOVING)
    assert run.pause_requested
    assert run.stops == []
    assert [event.level for event in bench.events] == ["warning"] * 3


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        (HeaterLost(DeviceLost("heater", "read samples", "it is gone")), "it is gone"),
        (SupervisorFailed("unexpected error: ValueError()"), "supervisor: unexpected error"),
        (GuardianActed("the event loop stood still"), "guardian: the event loop stood still"),
    ],
)
async def test_every_reason_ends_the_run_as_failed(
    bench: Bench, topic: object, reason: str
) -> None:
    run = Run()
    bench.safing.run_begins(run)
    bench.bus.publish(topic)
    ((status, why, _),) = run.stops
    assert status == "failed"
    assert reason in why


async def test_a_task_that_fails_ends_the_run_and_one_that_is_cancelled_does_not(
    bench: Bench,
) -> None:
    async def fail() -> None:
        raise ValueError("no such key")

    run = Run()
    bench.safing.run_begins(run)
    for work in (fail(), asyncio.sleep(10)):
        task = asyncio.create_task(work, name="observer")
        task.add_done_callback(bench.safing.task_ended)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    ((_, reason, error),) = run.stops
    assert reason == "unexpected in 'observer': ValueError('no such key')"
    assert isinstance(error, ValueError)


async def test_the_emergency_stop_of_a_run_is_its_own_safe_end(bench: Bench) -> None:
    run = Run()
    bench.safing.run_begins(run)
    assert await bench.safing.safe() == []
    assert bench.aborts == ["emergency stop"]
    run.safe_confirmed = False
    with pytest.raises(DeviceError, match="Check beam and heater now"):
        await bench.safing.safe()


async def test_a_beam_that_does_not_confirm_panics_until_a_person_clears(
    bench: Bench, microscope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_module, "SAFING_STEP_TIMEOUT_S", 0.3)
    with pytest.raises(Busy, match="nothing to clear: the daemon is idle"):
        await bench.safing.clear()
    await asyncio.to_thread(microscope.fault, "beam:error")
    with pytest.raises(DeviceError, match="cannot make everything safe"):
        await bench.safing.safe()
    assert bench.machine.state is State.PANICKED
    assert bench.said("has not confirmed that it is safe")
    with pytest.raises(DeviceError):
        await bench.safing.clear()
    assert bench.machine.state is State.PANICKED
    await asyncio.to_thread(microscope.fault, "beam:none")
    await bench.safing.clear()
    assert bench.machine.state is State.IDLE
    assert bench.events[-1].message == "a person has cleared the panic"
