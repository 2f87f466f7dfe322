"""The observer on simulated instruments: what it sees of heater, column and stage trips rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pyrotome.daemon.runtime.event_bus import Event, EventBus
from pyrotome.daemon.safety import observer as observer_module
from pyrotome.daemon.safety.devices import Devices
from pyrotome.daemon.safety.observer import Observer
from pyrotome.daemon.safety.supervisor import Trip
from pyrotome.daemon.safety.topics import HeaterReconnected, RunPrepared, SupervisorFailed
from pyrotome.drivers.base import HeaterSample, StagePosition
from pyrotome.protocols.config.rig import Rig


class Activity:
    """A run that takes frames, or does not."""

    exposing = False
    takes_frames = False


class Bench:
    """An observer and what it publishes."""

    def __init__(self, devices: Devices, rig: Rig) -> None:
        self.bus, self.devices = EventBus(), devices
        self.trips: list[Trip] = []
        self.events: list[Event] = []
        self.failures: list[SupervisorFailed] = []
        self.bus.subscribe(Trip, self.trips.append)
        self.bus.subscribe(Event, self.events.append)
        self.bus.subscribe(SupervisorFailed, self.failures.append)
        self.observer = Observer(rig, devices, devices.heater.clock, self.bus)

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not true():
                await asyncio.sleep(0.02)

    def sample(self, temperature_c: float, setpoint_c: float = 25.0) -> None:
        t_ns = self.devices.heater.clock.now_ns()
        self.bus.publish(HeaterSample(t_ns, temperature_c, setpoint_c))


@pytest.fixture
async def bench(devices: Devices, rig: Rig) -> AsyncIterator[Bench]:
    bench = Bench(devices, rig)
    watching = asyncio.create_task(bench.observer.watch())
    yield bench
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_heater_sample_that_cannot_be_trips_at_once(bench: Bench) -> None:
    bench.sample(26.0)
    assert bench.trips == []
    bench.sample(-300.0)
    (trip,) = bench.trips
    assert (trip.rule, trip.action) == ("implausible", "safe")
    assert bench.observer.supervisor.persisting == [trip]


async def test_silence_of_the_heater_trips_and_a_new_connection_counts_anew(
    devices: Devices, rig: Rig
) -> None:
    quick = rig.supervisor.stale.model_copy(update={"bound": 0.5})
    supervisor = rig.supervisor.model_copy(update={"stale": quick})
    bench = Bench(devices, rig.model_copy(update={"supervisor": supervisor}))
    watching = asyncio.create_task(bench.observer.watch())
    bench.sample(26.0)
    await bench.until(lambda: bench.trips)
    assert bench.trips[0].rule == "stale"
    bench.bus.publish(HeaterReconnected())
    bench.sample(26.0)
    await bench.until(lambda: not bench.observer.supervisor.persisting)
    assert bench.trips[-1].over
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_the_beam_may_be_anyones_until_pyrotome_has_blanked_it(
    bench: Bench, microscope: Any, run_file: Path
) -> None:
    await asyncio.to_thread(microscope.fault, "beam:unblank")
    await asyncio.sleep(1.5)
    assert bench.trips == []
    bench.bus.publish(RunPrepared(run_file))
    await bench.until(lambda: bench.trips)
    assert bench.trips[0].rule == "unblanked"


async def test_the_beam_is_looked_at_between_exposures_by_the_engine_alone(
    bench: Bench, microscope: Any, run_file: Path
) -> None:
    activity = Activity()
    activity.takes_frames = True
    bench.observer.run_begins(activity, None)
    bench.bus.publish(RunPrepared(run_file))
    await asyncio.to_thread(microscope.fault, "beam:valves")
    await asyncio.sleep(1.5)
    assert bench.trips == []
    await bench.observer.between_exposures()
    assert [(trip.rule, trip.action) for trip in bench.trips] == [("vacuum", "pause")]
    bench.observer.run_ends()


async def test_a_stage_that_moved_trips_with_the_frames(bench: Bench) -> None:
    before, after = StagePosition(0, 10.0), StagePosition(1, 10.2)
    bench.observer.stage_seen(before, before, "frame 3 of series_001")
    assert bench.trips == []
    bench.observer.stage_seen(before, after, "frame 3 of series_001")
    (trip,) = bench.trips
    assert trip.rule == "moving"
    assert "frame 3 of series_001" in trip.message


async def test_a_column_that_does_not_answer_is_worth_one_event(
    bench: Bench, microscope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer_module, "LOOK_EVERY_S", 0.05)
    await asyncio.to_thread(microscope.fault, "beam:error")
    await bench.until(lambda: bench.events)
    await asyncio.sleep(0.5)
    (event,) = bench.events
    assert event.message.startswith("the column does not report its state: ")


async def test_an_error_of_the_supervisor_itself_is_published_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> list[Trip]:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.observer.supervisor, "see", broken)
    bench.sample(26.0)
    bench.sample(26.0)
    (failure,) = bench.failures
    assert failure.problem == "unexpected error in the supervisor: ZeroDivisionError()"
