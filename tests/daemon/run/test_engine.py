"""The engine on a simulated microscope: its operations in order, its journal, its pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from command_line import TINY

from pyrotome.daemon.acquisition.heater_watch import HeaterWatch
from pyrotome.daemon.run.engine import Engine
from pyrotome.daemon.safety.devices import Devices
from pyrotome.daemon.schedule.dose import DoseExceeded, DoseLedger
from pyrotome.daemon.schedule.hold_timing import HoldTiming
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.daemon.schedule.states import State, StateMachine
from pyrotome.drivers.base import StagePosition
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.messages.journal import (
    Begun,
    Decision,
    Ended,
    Entry,
    Exposed,
    Moment,
    Pause,
    Trigger,
)

SERIES = {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}}
CYCLE = {
    "cycle": {
        "standby": "60 degC", "processing": "120 degC", "holds": ["0.5 s"], "then": [SERIES],
    }
}  # fmt: skip


@dataclass
class Taken:
    """Everything that the engine makes: what would go to streams, journal and supervisor."""

    most_at_a_time: int = 4
    frames: list[tuple[str, int, float]] = field(default_factory=list)
    holds: dict[int, HoldTiming] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    looks: int = 0
    seen: list[str] = field(default_factory=list)
    given_up: dict[str, list[int]] = field(default_factory=dict)

    async def credit(self, frames: int = 1) -> None: ...

    async def keep(self) -> None:
        self.events.append("kept")

    def frame(self, header: dict[str, Any], data: Any, t_ns: int) -> None:
        assert header["start_ns"] < t_ns
        assert data is not None
        self.frames.append((header["series"], header["index"], header["tilt_deg"]))

    def left_out(self, series: str, indices: Any) -> None:
        self.given_up[series] = list(indices)

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None: ...

    def steering(self, row: dict[str, Any]) -> None: ...

    def hold(self, index: int, timing: HoldTiming) -> None:
        self.holds[index] = timing

    def event(self, level: str, source: str, message: str, **details: Any) -> None:
        self.events.append(message)

    def note(self, entry: Entry) -> None:
        self.entries.append(entry)

    async def caught_up(self) -> None: ...

    def save(self) -> None: ...

    async def between_exposures(self) -> None:
        self.looks += 1

    def stage_seen(self, before: StagePosition, after: StagePosition, frames: str) -> None:
        self.seen.append(frames)

    def of(self, kind: type) -> list[Any]:
        return [entry for entry in self.entries if isinstance(entry, kind)]


class Bench:
    """An engine on connected devices whose heater is followed."""

    def __init__(
        self,
        devices: Devices,
        rig: Rig,
        steps: list[Any],
        analysis: list[Any] | None = None,
        **limits: str,
    ) -> None:
        written = {"title": "Engine", **TINY, "limits": {}, "steps": steps}
        recipe = Recipe.model_validate(written | {"analysis": analysis or []})
        plan = make_plan(recipe, rig)
        clock = devices.heater.clock
        self.taken, self.watch = Taken(), HeaterWatch(devices.heater, clock)
        self.machine = StateMachine(lambda _: None)
        self.machine.to(State.PREPARING)
        self.machine.to(State.RUNNING)
        self.ledger = DoseLedger(float(limits["dose"]) if limits else None, None)
        self.engine = Engine(
            plan, devices, self.watch, self.ledger, self.machine, clock,
            self.taken, self.taken, self.taken,
        )  # fmt: skip

    async def run(self) -> None:
        following = asyncio.create_task(self.watch.follow(lambda _: None))
        try:
            await self.engine.run()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.fixture
async def cold(devices: Devices) -> AsyncIterator[Devices]:
    """The devices, with the beam blanked and the heater left at its safe level."""
    await devices.beam.blank()
    yield devices
    await devices.make_safe(lambda _: None)


async def test_operations_are_carried_out_in_order(cold: Devices, rig: Rig) -> None:
    bench = Bench(cold, rig, [{"heat": {"to": "60 degC"}}, {"reference": {"frames": 4}}, CYCLE])
    await bench.run()
    taken, progress = bench.taken, bench.engine.progress
    assert [frame[:2] for frame in taken.frames] == [
        *(("reference_001", k) for k in range(4)), *(("series_001", k) for k in range(3)),
    ]  # fmt: skip
    assert [frame[2] for frame in taken.frames[4:]] == pytest.approx([-10, 0, 10], abs=0.2)
    assert (progress.frames_done, progress.frames_lost, progress.operation) == (7, 0, None)
    assert 0.3 < taken.holds[1].achieved_s < 0.9
    assert [entry.index for entry in taken.of(Begun)] == [0, 1, 2, 3]
    assert [(entry.index, entry.next) for entry in taken.of(Ended)] == [
        (0, 1), (1, 2), (2, 3), (3, 4),
    ]  # fmt: skip
    assert [entry.what for entry in taken.of(Moment)] == [
        "reached", "commanded_up", "crossed_up", "commanded_down", "crossed_down",
    ]  # fmt: skip
    assert taken.events.count("kept") == 2, "before the specimen changes: heat and hold"
    triggers, exposed = taken.of(Trigger), taken.of(Exposed)
    assert len(triggers) == len(exposed) == taken.looks
    assert sum(trigger.count for trigger in triggers) == 7
    planned = sum(trigger.dose_e_per_nm2 for trigger in triggers)
    received = sum(entry.dose_e_per_nm2 for entry in exposed)
    assert bench.ledger.charged == pytest.approx(received)
    assert received >= planned
    assert taken.seen[-1] == "frame 2 of series_001"


async def test_a_pause_waits_at_standby_and_misses_nothing(cold: Devices, rig: Rig) -> None:
    bench = Bench(cold, rig, [{"heat": {"to": "60 degC"}}, SERIES])
    engine = bench.engine
    engine.pause()
    running = asyncio.create_task(bench.run())
    async with asyncio.timeout(30):
        while bench.machine.state is not State.PAUSED:
            await asyncio.sleep(0.01)
    assert bench.taken.frames == []
    assert engine.pause_requested
    engine.resume()
    await running
    assert [entry.paused for entry in bench.taken.of(Pause)] == [True, False]
    assert [frame[1] for frame in bench.taken.frames] == [0, 1, 2]
    assert bench.machine.state is State.RUNNING


async def test_a_ramp_takes_its_frames_while_it_goes_on(cold: Devices, rig: Rig) -> None:
    ramp = {"ramp": {"to": "90 degC", "rate": "30 degC/s", "frame_every": "0.5 s"}}
    bench = Bench(cold, rig, [{"heat": {"to": "60 degC"}}, ramp])
    await bench.run()
    assert [frame[:2] for frame in bench.taken.frames] == [("ramp_001", k) for k in range(3)]
    assert [entry.what for entry in bench.taken.of(Moment)] == ["reached", "ramp"]


async def test_a_stop_that_is_swallowed_on_the_way_commands_nothing(
    cold: Devices, rig: Rig, microscope: Any
) -> None:
    bench = Bench(cold, rig, [{"heat": {"to": "60 degC"}}])

    async def swallow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            bench.taken.events.append("swallowed")

    bench.taken.keep = swallow  # type: ignore[method-assign]
    running = asyncio.create_task(bench.run())
    async with asyncio.timeout(30):
        while bench.engine.progress.waiting_for_credit is False:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert bench.taken.events == ["swallowed"]
    assert microscope.log().of("heater") == []


async def test_a_stack_beyond_the_budget_is_not_begun(cold: Devices, rig: Rig) -> None:
    bench = Bench(cold, rig, [{"reference": {"frames": 4}}], dose="0.001")
    with pytest.raises(DoseExceeded, match="the budget is"):
        await bench.run()
    assert bench.taken.frames == []
    assert bench.taken.of(Trigger) == []


def until(below: str, **more: str) -> list[Any]:
    tilts = {"from": "-10 deg", "to": "10 deg", "step": "5 deg", "frames_per_tilt": 2}
    return [{"tilt_series": {**tilts, "until": {"below": below, **more}}}]


async def test_a_series_ends_when_the_atoms_are_known_well_enough(cold: Devices, rig: Rig) -> None:
    bench = Bench(cold, rig, until("25 pm"), analysis=[{"trace": {}}])
    taken, engine = bench.taken, bench.engine

    def tell(errors_nm: dict[int, float], settled_from: int) -> None:
        sent = taken.frame

        def frame(header: dict[str, Any], data: Any, t_ns: int) -> None:
            sent(header, data, t_ns)
            if (error_nm := errors_nm.get(header["index"])) is not None:
                settled = int(header["index"] >= settled_from)
                figures = {"position_error_median_nm": error_nm, "views": 3, "settled": settled}
                engine.steering.note_live("atoms_live", header["series"], figures)

        taken.frame = frame  # type: ignore[method-assign]

    # Known after the first frame of the third tilt: both of its frames are taken all the same.
    # What a model said before it had settled does not count.
    tell({1: 0.010, 3: 0.040, 4: 0.024}, settled_from=3)
    await bench.run()
    assert [frame[1] for frame in taken.frames] == [0, 1, 2, 3, 4, 5]
    assert taken.given_up == {"series_001": [6, 7, 8, 9]}
    assert [(entry.index, entry.goes_on) for entry in taken.of(Decision)] == [(0, False)]
    assert taken.of(Ended)[0].index == 0
    (said,) = (text for text in taken.events if "ends here" in text)
    assert "the median of atoms.position_error is 24.0 pm by 3 views, below 25 pm" in said


async def test_without_a_result_a_series_takes_all_its_frames(cold: Devices, rig: Rig) -> None:
    bench = Bench(cold, rig, until("25 pm"), analysis=[{"trace": {}}])
    bench.engine.steering.note_live("atoms_live", "series_001", {"views": 3})
    bench.engine.steering.note_live("atoms_live", "series_002", {"position_error_median_nm": 0.01})
    await bench.run()
    assert len(bench.taken.frames) == 10
    assert not bench.taken.given_up


async def test_the_next_tilt_is_the_one_that_tells_most(cold: Devices, rig: Rig) -> None:
    steps = until("1 pm", next_tilt="information")
    bench = Bench(cold, rig, steps, analysis=[{"trace": {}}])
    taken, engine = bench.taken, bench.engine
    sent = taken.frame
    # Told after the first tilt: 10 deg, and then an angle that was taken already.
    wanted = {1: 10.0, 9: -10.0}

    def frame(header: dict[str, Any], data: Any, t_ns: int) -> None:
        sent(header, data, t_ns)
        if (tilt_deg := wanted.get(header["index"])) is not None:
            engine.steering.note_live("atoms_live", "series_001", {"next_tilt_deg": tilt_deg})

    taken.frame = frame  # type: ignore[method-assign]
    await bench.run()
    assert [frame[1] for frame in taken.frames] == [0, 1, 8, 9, 2, 3, 4, 5, 6, 7]
    assert [frame[2] for frame in taken.frames[::2]] == pytest.approx([-10, 10, -5, 0, 5], abs=0.2)
    triggers = taken.of(Trigger)
    assert [entry.first for entry in triggers] == [0, 8, 2, 4, 6]
    assert {entry.count for entry in triggers} == {2}
