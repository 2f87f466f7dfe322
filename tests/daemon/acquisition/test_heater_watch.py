"""The heater's readings: interpolation, crossings and settling from a scripted sequence."""

import asyncio

import pytest
from scripted_heater import MS, ScriptedHeater, follow

from pyrotome.daemon.acquisition.heater_watch import HeaterWatch
from pyrotome.drivers.base import DeviceLost, HeaterSample
from pyrotome.protocols.config.rig import HeaterLimits
from pyrotome.protocols.core.clock import ExperimentClock


async def test_temperature_is_interpolated_between_readings() -> None:
    clock = ExperimentClock()
    watch = HeaterWatch(ScriptedHeater(clock, 1, 1), clock)
    with pytest.raises(DeviceLost, match="no reading has come yet"):
        watch.temperature_at(0)
    watch._samples.extend(HeaterSample(t * MS, 100.0 + t, 0.0) for t in (0, 10, 30))
    assert watch.temperature_at(5 * MS) == pytest.approx(105.0)
    assert watch.temperature_at(20 * MS) == pytest.approx(120.0)
    assert watch.temperature_at(-5 * MS) == 100.0
    assert watch.temperature_at(99 * MS) == 130.0


async def test_waiting_ends_when_the_heater_is_lost() -> None:
    clock = ExperimentClock()
    heater = ScriptedHeater(clock, 1, 1)
    watch = HeaterWatch(heater, clock)

    async def act() -> None:
        async with asyncio.timeout(60):
            asyncio.get_running_loop().call_later(0.05, setattr, heater, "silent", True)
            with pytest.raises(DeviceLost, match="wait for the temperature to go above 300"):
                await watch.crossing(300.0, True, clock.now_ns())

    await follow(watch, act)


async def test_a_chip_that_has_long_been_there_is_settled_at_once() -> None:
    clock = ExperimentClock(monotonic_ns=lambda: 0)
    watch = HeaterWatch(ScriptedHeater(clock, 1, 1), clock)
    now_ns = clock.now_ns()
    watch._samples.extend(HeaterSample(now_ns + t * 10 * MS, 200.0, 200.0) for t in range(-4000, 1))
    async with asyncio.timeout(60):
        await watch.settled(200.0, now_ns - 3_600_000_000_000)


async def test_a_chip_that_never_arrives_is_told_with_what_it_reads() -> None:
    clock = ExperimentClock(speed=20.0)
    heater = ScriptedHeater(clock, 1, 1)
    watch = HeaterWatch(heater, clock)

    async def act() -> None:
        with pytest.raises(DeviceLost, match=r"settle at 300 degC: it reads 200\.0 degC after 2 s"):
            await watch.settled(300.0, clock.now_ns(), timeout_s=2.0)

    await follow(watch, act)


async def test_when_a_chip_counts_as_settled_is_for_the_rig_to_say() -> None:
    clock = ExperimentClock(monotonic_ns=lambda: 0)
    heater = ScriptedHeater(clock, 1, 1)
    limits = HeaterLimits.model_validate({"tolerance": "0.2 K", "settle": "30 s"})
    heater.rig = heater.rig.model_copy(update={"limits": limits})
    watch = HeaterWatch(heater, clock)
    now_ns = clock.now_ns()

    def readings(temperature_c: float) -> None:
        times = range(now_ns - 40_000 * MS, now_ns + 1, 100 * MS)
        watch._samples.extend(HeaterSample(t, temperature_c, 200.0) for t in times)

    readings(199.9)
    await watch.settled(200.0, 0)
    watch.reconnected()
    readings(199.7)
    watch._lost = DeviceLost("heater", "read samples", "the script has ended")
    with pytest.raises(DeviceLost, match="the script has ended"):
        await watch.settled(200.0, 0)
