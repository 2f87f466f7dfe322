"""The heater's readings: interpolation, crossings and settling from a scripted sequence."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import pytest

from pyrotome.daemon.run.heater_watch import HeaterWatch
from pyrotome.daemon.run.hold_timer import HoldTimer
from pyrotome.drivers.base import DeviceLost, Heater, HeaterSample, Identity
from pyrotome.protocols.config.rig import HeaterLimits, HeaterRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.manifest import HoldPlan

MS = 1_000_000


class ScriptedHeater(Heater):
    """Follows commands along given step responses, sampled every 10 ms of its clock."""

    def __init__(self, clock: ExperimentClock, rise_s: float, fall_s: float) -> None:
        rig = HeaterRig(driver="scripted", endpoint="none")
        super().__init__("heater (scripted)", rig, clock)
        self.rise_s, self.fall_s = rise_s, fall_s
        self.commands: list[tuple[int, float]] = [(clock.now_ns(), 200.0)]
        self.silent = False

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "scripted")

    async def disconnect(self) -> None: ...

    async def make_safe(self) -> None: ...

    async def set_temperature(self, temperature_c: float) -> int:
        self.commands.append((self.clock.now_ns(), temperature_c))
        return self.commands[-1][0]

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        raise NotImplementedError

    async def hold_here(self) -> None: ...

    def temperature(self, t_ns: int) -> float:
        """Linear from the previous setpoint to the new one within the rise or fall time."""
        (_, before), (start_ns, target) = ([(0, 200.0), *self.commands])[-2:]
        travel_s = self.rise_s if target > before else self.fall_s
        part = min(1.0, max(0.0, (t_ns - start_ns) * 1e-9 / travel_s))
        return before + part * (target - before)

    async def samples(self) -> AsyncIterator[HeaterSample]:
        t_ns = self.clock.now_ns()
        while True:
            t_ns += 10 * MS
            await self.clock.sleep_until_ns(t_ns)
            if self.silent:
                raise DeviceLost(self.name, "read samples", "none came")
            yield HeaterSample(t_ns, self.temperature(t_ns), self.commands[-1][1])


async def follow(watch: HeaterWatch, act: Callable[[], object]) -> None:
    task = asyncio.create_task(watch.follow(lambda _sample: None))
    try:
        await act()  # type: ignore[misc]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_holds_are_timed_from_crossing_to_crossing_although_the_chip_is_slow() -> None:
    clock = ExperimentClock(speed=4.0)
    heater = ScriptedHeater(clock, rise_s=0.2, fall_s=0.4)
    watch = HeaterWatch(heater, clock)
    timer = HoldTimer(watch)
    achieved: list[float] = []

    async def act() -> None:
        for index in (1, 2, 3):
            plan = HoldPlan(index=index, standby_c=200, target_c=350, requested_s=1.0)
            achieved.append((await timer.hold(plan)).achieved_s)
            await watch.settled(200.0, clock.now_ns())

    await follow(watch, act)
    # The first hold knows only its own rise (0.1 s to the midpoint) of a fall that takes 0.2 s.
    assert achieved[0] == pytest.approx(1.1, abs=0.04)
    assert achieved[1] == pytest.approx(1.0, abs=0.04)
    assert achieved[2] == pytest.approx(1.0, abs=0.04)


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


async def test_nothing_is_collected_around_the_commands_of_a_hold() -> None:
    clock = ExperimentClock(speed=4.0)
    heater = ScriptedHeater(clock, rise_s=0.2, fall_s=0.4)
    watch = HeaterWatch(heater, clock)
    collected_ns: list[int] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            collected_ns.append(clock.now_ns())

    async def litter() -> None:
        while True:
            for _ in range(500):
                ring: list[object] = []
                ring.append(ring)
            await asyncio.sleep(0.002)

    async def act() -> None:
        plan = HoldPlan(index=1, standby_c=200, target_c=350, requested_s=6.0)
        littering = asyncio.create_task(litter())
        gc.callbacks.append(note)
        try:
            timing = await HoldTimer(watch).hold(plan)
        finally:
            gc.callbacks.remove(note)
            littering.cancel()
            await asyncio.gather(littering, return_exceptions=True)
        up_ns, crossed_up_ns = timing.commanded_up_ns, timing.crossed_up_ns
        down_ns, crossed_down_ns = timing.commanded_down_ns, timing.crossed_down_ns
        assert not [t for t in collected_ns if up_ns < t < crossed_up_ns]
        assert not [t for t in collected_ns if down_ns - 1000 * MS < t < crossed_down_ns]
        assert [t for t in collected_ns if crossed_up_ns < t < down_ns], "none all the time"

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
