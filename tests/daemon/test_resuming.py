"""Where an interrupted run goes on: the engine, cut off anywhere in its journal and taken up again.

Engine, holds, exposures and conclusions are the real ones, on a loop whose time jumps from one
event to the next; instruments are the simplest that fill the roles, with a specimen that counts
what it truly receives.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.daemon.devices import Devices
from pyrotome.daemon.dose import DoseLedger
from pyrotome.daemon.engine import Engine
from pyrotome.daemon.heating import HeaterWatch
from pyrotome.daemon.history import History
from pyrotome.daemon.plan import HoldAt, Plan, make_plan
from pyrotome.daemon.remains import Now, Recorded, hot_s
from pyrotome.daemon.resuming import ResumePoint, resume_point
from pyrotome.daemon.states import State, StateMachine
from pyrotome.drivers.base import (
    Beam,
    Detector,
    DetectorFrame,
    Heater,
    HeaterSample,
    Identity,
    Stage,
    StagePosition,
)
from pyrotome.protocols.journal import (
    Begun,
    Ended,
    Entry,
    MadeSafe,
    Noted,
    RunLine,
)
from pyrotome.protocols.loading import load_model
from pyrotome.protocols.recipe import Recipe
from pyrotome.protocols.rig import simulated_rig
from pyrotome.protocols.timebase import ExperimentClock

EPOCH_NS = 1_800_000_000_000_000_000
SAMPLE_S = 0.01
SAFE_C = 25.0
RECIPE: dict[str, Any] = {
    "title": "to be interrupted",
    "sample": {"name": "s"},
    "beam": {
        "voltage": "300 kV", "current": "2 pA", "dwell": "10 us", "frame": [64, 64],
        "pixel_size": "16 nm",
    },
    "steps": [
        {"heat": {"to": "200 degC", "rate": "300 degC/s", "hold": "0.6 s"}},
        {"reference": {"frames": 6}},
        {
            "cycle": {
                "standby": "200 degC",
                "processing": "350 degC",
                "holds": ["0.5 s", "0.9 s"],
                "then": [{"tilt_series": {"from": "-20 deg", "to": "20 deg", "step": "20 deg"}}],
            }
        },
        {"ramp": {"to": "260 degC", "rate": "40 degC/s", "frame_every": "0.25 s"}},
        {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "10 deg"}},
    ],
}  # fmt: skip


def plan_of(**changes: Any) -> Plan:
    text = yaml.safe_dump({**RECIPE, **changes})
    return make_plan(load_model(Recipe, text, "r.yaml"), simulated_rig())


PLAN = plan_of()
DOSE = PLAN.recipe.beam.dose_per_frame_e_per_nm2


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when nothing is due, its time jumps to what comes next."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now_s

    def clock(self) -> ExperimentClock:
        return ExperimentClock(1.0, EPOCH_NS, 0, lambda: round(self.now_s * 1e9))


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everything waits for something that will not come"
        self._loop.now_s += max(0.0, timeout)
        return super().select(0)


@dataclass
class Specimen:
    """What it truly went through: chip temperature by moment, exposures, beam."""

    plan: Plan
    tau_s: float = 0.015
    course: list[tuple[int, float]] = field(default_factory=list)
    exposures: list[tuple[str, int]] = field(default_factory=list)
    exposed: int = 0

    def hot_s(self, level_c: float, from_ns: int, until_ns: int) -> float:
        t, c = (np.array(column) for column in zip(*self.course, strict=True))
        within = t < until_ns
        return hot_s(t[within], c[within], level_c, from_ns)


class Chip(Heater):
    """First-order chip whose readings are the truth."""

    def __init__(self, clock: ExperimentClock, specimen: Specimen) -> None:
        super().__init__("heater (test)", simulated_rig().heater, clock)
        self.specimen = specimen
        self.temperature_c = SAFE_C
        self.from_c = self.to_c = SAFE_C
        self.since_ns, self.ramp_s = clock.now_ns(), 0.0
        self.last_ns = clock.now_ns()

    def step(self) -> None:
        now = self.clock.now_ns()
        done = (now - self.since_ns) * 1e-9
        part = min(1.0, done / self.ramp_s) if self.ramp_s else 1.0
        target = self.from_c + (self.to_c - self.from_c) * part
        decay = np.exp(-(now - self.last_ns) * 1e-9 / self.specimen.tau_s)
        self.temperature_c = float(target + (self.temperature_c - target) * decay)
        self.last_ns = now
        self.specimen.course.append((now, self.temperature_c))

    async def set_temperature(self, temperature_c: float) -> int:
        return await self.start_ramp(temperature_c, 0.0)

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        await asyncio.sleep(0.002)
        self.step()
        self.from_c, self.to_c = self.temperature_c, temperature_c
        self.since_ns, self.ramp_s = self.clock.now_ns(), duration_s
        return self.since_ns

    async def hold_here(self) -> None: ...

    async def samples(self) -> AsyncIterator[HeaterSample]:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.step()
            yield HeaterSample(self.clock.now_ns(), self.temperature_c, self.to_c)

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "chip")

    async def disconnect(self) -> None: ...

    async def make_safe(self) -> None:
        await self.set_temperature(SAFE_C)


class Goniometer(Stage):
    """Goes anywhere in a tenth of a second."""

    def __init__(self, clock: ExperimentClock) -> None:
        super().__init__("stage (test)", simulated_rig().stage, clock)
        self.tilt_deg = 0.0

    async def move_to(self, tilt_deg: float) -> StagePosition:
        await asyncio.sleep(0.1)
        self.tilt_deg = tilt_deg
        return await self.position()

    async def position(self) -> StagePosition:
        return StagePosition(self.clock.now_ns(), self.tilt_deg)

    async def tilt_limits_deg(self) -> tuple[float, float]:
        return -80, 80

    async def stop(self) -> None: ...
    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "stage")

    async def disconnect(self) -> None: ...
    async def make_safe(self) -> None: ...


class Column(Beam):
    """A blanker."""

    def __init__(self, clock: ExperimentClock) -> None:
        super().__init__("beam (test)", simulated_rig().beam, clock)
        self.blanked = True

    async def blank(self) -> int:
        await asyncio.sleep(0.001)
        self.blanked = True
        return self.clock.now_ns()

    async def unblank(self) -> int:
        await asyncio.sleep(0.001)
        self.blanked = False
        return self.clock.now_ns()

    async def is_blanked(self) -> bool:
        return self.blanked

    async def prepare(self, settings: Any) -> None: ...
    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "beam")

    async def disconnect(self) -> None: ...
    async def make_safe(self) -> None: ...


class Counter(Detector):
    """Numbers its frames."""

    def __init__(self, clock: ExperimentClock, specimen: Specimen) -> None:
        super().__init__("detector (test)", simulated_rig().detector, clock)
        self.specimen = specimen

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        self.exposure_s, self.at_a_time, self.number, self.armed = (
            exposure_s, frames_per_trigger, 0, frames,
        )  # fmt: skip
        self.coming: asyncio.Queue[int] = asyncio.Queue()

    async def trigger(self) -> int:
        self.specimen.exposed += self.at_a_time
        for _ in range(self.at_a_time):
            self.number += 1
            self.coming.put_nowait(self.number)
        assert self.number <= self.armed
        return self.clock.now_ns()

    async def read_frame(self) -> DetectorFrame:
        number = await self.coming.get()
        await asyncio.sleep(self.exposure_s + 0.001)
        return DetectorFrame(number, np.zeros((2, 2), np.uint16), self.clock.now_ns())

    async def disarm(self) -> None: ...
    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "detector")

    async def disconnect(self) -> None: ...
    async def make_safe(self) -> None: ...


class Killed(BaseException):
    """Nothing of the session happens any more."""


@dataclass
class Kill:
    """When: after so many lines of the session and a while, and what is lost with it.

    `tail_s` of what came last is not in the file. A guardian is there after `guarded_s`.
    """

    line: int
    after_s: float = 0.0
    tail_s: float = 0.0
    guarded_s: float | None = None


@dataclass
class Disk:
    """What survives: the journal, and what the recorder has written."""

    plan: Plan
    journal: list[Noted] = field(default_factory=list)
    there: dict[str, Any] = field(default_factory=dict)
    heater: list[tuple[int, float]] = field(default_factory=list)
    holds: dict[int, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.there = {s.name: np.zeros(s.frames, bool) for s in self.plan.stacks}

    def recorded(self) -> Recorded:
        t = np.array([t for t, _ in self.heater], np.int64)
        c = np.array([c for _, c in self.heater])
        there = {name: keys.copy() for name, keys in self.there.items()}
        last_ns = int(t[-1]) if t.size else 0
        return Recorded(there, t, c, frozenset(self.holds), last_ns)


class Session:
    """One process of the daemon, from its start to its end or its death."""

    most_at_a_time = 1000

    def __init__(self, loop: JumpingLoop, disk: Disk, specimen: Specimen, kill: Kill | None):
        self.loop, self.disk, self.specimen, self.kill = loop, disk, specimen, kill
        self.clock = loop.clock()
        self.chip, self.beam = Chip(self.clock, specimen), Column(self.clock)
        devices = Devices(
            self.chip, Goniometer(self.clock), self.beam, Counter(self.clock, specimen)
        )
        self.watch = HeaterWatch(self.chip, self.clock)
        limits = disk.plan.recipe.limits
        self.ledger = DoseLedger(limits.dose_e_per_nm2, limits.dose_per_series_e_per_nm2)
        machine = StateMachine(lambda *_: None)
        machine.to(State.PREPARING)
        self.engine = Engine(disk.plan, devices, self.watch, self.ledger, machine, self.clock, self)
        self.engine.journal = self
        self.lines = 0
        self.dead = False
        self.recent: list[tuple[int, Callable[[], None]]] = []
        self.point: ResumePoint | None = None
        self.task: asyncio.Task[None] | None = None
        self.problems: list[str] = []

    # --- journal ---

    def note(self, entry: Entry) -> None:
        if self.dead:
            return
        if self.kill is not None and self.lines > self.kill.line:
            self.die()
            return
        self.disk.journal.append(Noted(self.clock.now_ns(), entry))
        self.lines += 1
        if self.kill is not None and self.lines > self.kill.line:
            self.loop.call_later(self.kill.after_s, self.die)

    async def caught_up(self) -> None:
        if self.dead:
            await asyncio.Event().wait()

    def save(self) -> None: ...

    def die(self) -> None:
        if self.dead:
            return
        assert self.kill is not None
        self.dead = True
        lost_from_ns = self.clock.now_ns() - int(self.kill.tail_s * 1e9)
        for t_ns, write in self.recent:
            if t_ns < lost_from_ns:
                write()
        if self.task is not None:
            self.task.cancel()

    # --- what the engine sends ---

    async def credit(self, frames: int = 1) -> None: ...

    def write(self, write: Callable[[], None]) -> None:
        """What is recorded; it is sure to be on the disk only after the longest tail."""
        if not self.dead:
            self.recent.append((self.clock.now_ns(), write))

    def frame(self, header: dict[str, Any], data: Any, t_ns: int) -> None:
        stack, index = header["series"], header["index"]

        def write() -> None:
            assert not self.disk.there[stack][index], "recorded twice"
            self.disk.there[stack][index] = True

        if data is not None:
            self.write(write)

    def telemetry(self, *_: Any) -> None: ...

    def event(self, level: str, source: str, message: str, **more: Any) -> None:
        if "hold" in more:
            hold = more["hold"]
            self.write(lambda: self.disk.holds.update({hold["index"]: hold}))

    def reading(self, sample: HeaterSample) -> None:
        self.write(lambda: self.disk.heater.append((sample.t_ns, sample.temperature_c)))

    # --- life ---

    async def live(self) -> bool:
        """Whether the schedule was carried out to its end."""
        following = asyncio.create_task(self.watch.follow(self.reading))
        await asyncio.sleep(3 * SAMPLE_S)
        if self.disk.journal:
            history = History.of(self.disk.journal)
            latest = self.watch.latest
            assert latest is not None
            now = Now(self.clock.now_ns(), latest.temperature_c)
            self.point = resume_point(self.disk.plan, history, self.disk.recorded(), now)
            self.ledger.restore(self.point.charged)
            if self.point.cut_off is not None:
                self.note(self.point.cut_off)
            line = RunLine(run="r", resumed=self.point.resumed, carried=self.point.carried)
            self.note(line)
        else:
            self.note(RunLine(run="r"))
        self.engine.machine.to(State.RUNNING)
        self.task = asyncio.create_task(self.engine.run(self.point))
        if self.dead:
            self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if not self.dead:
            self.task.result()
            for _, write in self.recent:
                write()
        else:
            await self._afterwards()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return not self.dead

    async def _afterwards(self) -> None:
        """The chip stays as it was until a guardian comes; without one it cools at once."""
        assert self.kill is not None
        if self.kill.guarded_s is not None:
            blanked_ns = self.clock.now_ns()
            await asyncio.sleep(self.kill.guarded_s)
            safe_ns = await self.chip.set_temperature(SAFE_C)
            line = MadeSafe(kind="guardian", beam_blanked_ns=blanked_ns, heater_safe_ns=safe_ns)
            self.disk.journal.append(Noted(safe_ns, line))
        await self.chip.set_temperature(SAFE_C)
        await asyncio.sleep(0.5)


def in_jumping_time(work: Callable[[JumpingLoop], Coroutine[Any, Any, Any]]) -> Any:
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(work(loop))
    finally:
        loop.close()


class Story:
    """A run with its interruptions."""

    def __init__(self, plan: Plan, kills: list[Kill]) -> None:
        self.plan, self.kills = plan, kills
        self.disk, self.specimen = Disk(plan), Specimen(plan)
        self.charged: list[float] = []
        self.missing: dict[str, set[int]] = {}
        in_jumping_time(self._live)

    async def _live(self, loop: JumpingLoop) -> None:
        for kill in [*self.kills, None]:
            session = Session(loop, self.disk, self.specimen, kill)
            done = await session.live()
            self.charged.append(session.ledger.charged)
            if session.point is not None:
                for name, places in session.point.missing.items():
                    self.missing.setdefault(name, set()).update(places)
            if done:
                break
            await asyncio.sleep(5.0)
        self.last = session
        self.history = History.of(self.disk.journal)

    def check(self) -> None:
        """The file holds the whole schedule, and the specimen has been through no more."""
        for name, there in self.disk.there.items():
            left_out = set(np.flatnonzero(~there).tolist())
            assert left_out <= self.missing.get(name, set())
        begun = [n.entry.index for n in self.disk.journal if isinstance(n.entry, Begun)]
        assert begun == sorted(begun)
        assert set(begun) == set(range(len(self.plan.operations)))
        blind_s = sum(k.tail_s + SAMPLE_S for k in self.kills if k.guarded_s is None)
        for index, operation in enumerate(self.plan.operations):
            if isinstance(operation, HoldAt):
                hold = operation.hold
                spans = [t for t, _ in self._span(index)]
                level_c = 0.5 * (hold.standby_c + hold.target_c)
                true_s = self.specimen.hot_s(level_c, min(spans), self._end(index))
                assert true_s >= hold.requested_s - 0.05
                assert true_s <= hold.requested_s + 0.05 + blind_s
                assert self.disk.holds[hold.index]["crossed_down_ns"] > 0
        assert self.charged == sorted(self.charged)
        true_dose = self.specimen.exposed * DOSE
        assert self.charged[-1] >= true_dose * (1 - 1e-9)
        assert self.charged[-1] <= true_dose + DOSE * 6 * len(self.kills) + 1e-9

    def _span(self, index: int) -> list[tuple[int, Entry]]:
        return [
            (n.t_ns, n.entry)
            for n in self.disk.journal
            if isinstance(n.entry, Begun) and n.entry.index == index
        ]

    def _end(self, index: int) -> int:
        return next(
            n.t_ns
            for n in self.disk.journal
            if isinstance(n.entry, Ended) and n.entry.index == index
        )


def test_an_uninterrupted_run_is_the_measure() -> None:
    story = Story(PLAN, [])
    story.check()
    assert all(there.all() for there in story.disk.there.values())
    assert story.charged == [pytest.approx(PLAN.dose_e_per_nm2)]


LINES = len(Story(PLAN, []).disk.journal)


@pytest.mark.parametrize("line", range(1, LINES))
def test_cut_off_after_any_line_of_its_journal_a_run_goes_on_to_its_whole_schedule(
    line: int,
) -> None:
    story = Story(PLAN, [Kill(line, after_s=0.003)])
    story.check()
    kept = {name: places for name, places in story.missing.items() if places}
    assert not kept, "with nothing lost on its way to the disk nothing can be missing"


kills = st.builds(
    Kill,
    line=st.integers(1, LINES),
    after_s=st.floats(0, 1.0),
    tail_s=st.floats(0, 0.3),
    guarded_s=st.none() | st.floats(0.01, 1.0),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(kills, min_size=1, max_size=4))
def test_interrupted_again_and_again_it_still_does_what_was_asked_and_no_more(
    kills: list[Kill],
) -> None:
    Story(PLAN, kills).check()
