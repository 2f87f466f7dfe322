"""Holds: timed from crossing to crossing, and no garbage collection around their commands."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest
from scripted_heater import MS, ScriptedHeater, follow
from virtual_time import run_in_virtual_time

from pyrotome.daemon.acquisition.heater_watch import HeaterWatch
from pyrotome.daemon.run.hold_timer import HoldTimer
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.manifest import HoldPlan


def test_holds_are_timed_from_crossing_to_crossing_although_the_chip_is_slow() -> None:
    run_in_virtual_time(_hold_thrice)


async def _hold_thrice() -> None:
    clock = ExperimentClock(monotonic_ns=time.monotonic_ns)
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
    assert achieved[0] == pytest.approx(1.1, abs=0.01)
    assert achieved[1] == pytest.approx(1.0, abs=0.01)
    assert achieved[2] == pytest.approx(1.0, abs=0.01)


def test_nothing_is_collected_around_the_commands_of_a_hold() -> None:
    run_in_virtual_time(_hold_while_littering)


async def _hold_while_littering() -> None:
    clock = ExperimentClock(speed=4.0, monotonic_ns=time.monotonic_ns)
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
