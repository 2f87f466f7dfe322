"""Where an interrupted run goes on: the engine, cut off anywhere in its journal and taken up again.

Engine, holds, exposures and conclusions are the real ones, on a loop whose time jumps from one
event to the next; instruments are the simplest that fill the roles, with a specimen that counts
what it truly receives.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journal_lines import lines_of

from pyrotome.daemon.acquisition.heater_watch import HeaterWatch
from pyrotome.daemon.resume.journal_history import History
from pyrotome.daemon.resume.remaining import Conditions, Recorded
from pyrotome.daemon.resume.remaining_heat import hot_s
from pyrotome.daemon.resume.resume_point import ResumePoint, resume_point
from pyrotome.daemon.run.engine import Engine
from pyrotome.daemon.safety.devices import Devices
from pyrotome.daemon.schedule.dose import DoseLedger
from pyrotome.daemon.schedule.hold_timing import HoldTiming
from pyrotome.daemon.schedule.plan import HoldAt, Plan, make_plan
from pyrotome.daemon.schedule.states import State, StateMachine
from pyrotome.daemon.schedule.switching import SWITCHING_S
from pyrotome.drivers.base import (
    Beam,
    BlankerSwitch,
    Detector,
    DetectorFrame,
    Heater,
    HeaterSample,
    Identity,
    Stage,
    StagePosition,
)
from pyrotome.protocols.config.pipeline import NECK_COLUMNS
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import ShiftRig, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.journal import (
    Begun,
    Carried,
    Decision,
    Deflectors,
    Ended,
    Entry,
    Exposed,
    MadeSafe,
    Moment,
    Noted,
    RunLine,
    Trigger,
    parse_journal,
)

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
# What the necks of a steered cycle are, by series; they grow by less than 1 % after the third.
NECKS = {"series_001": 0.40, "series_002": 0.42, "series_003": 0.421}
DOSE = PLAN.recipe.beam.dose_per_frame_e_per_nm2
# The beam is on beside each exposure for a little less than a plan expects.
PARKED_S = 0.96 * SWITCHING_S
PARKED = PLAN.recipe.beam.parked_dose_e_per_nm2(PARKED_S)
# What a plan expects of each frame.
PLANNED = DOSE + PLAN.recipe.beam.parked_dose_e_per_nm2(SWITCHING_S)


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
        await asyncio.sleep(PARKED_S / 2)
        self.blanked = True
        return self._switched_now()

    async def unblank(self) -> int:
        self.blanked = False
        self._switched_now()
        await asyncio.sleep(PARKED_S / 2)
        return self.clock.now_ns()

    def _switched_now(self) -> int:
        now_ns = self.clock.now_ns()
        self.switched = BlankerSwitch(now_ns, now_ns)
        return now_ns

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

    `tail_s` of what came last is not in the file; before the specimen is heated, all is, where the
    recorder `keeps` it. A guardian is there after `guarded_s`.
    """

    line: int
    after_s: float = 0.0
    tail_s: float = 0.0
    guarded_s: float | None = None
    keeps: bool = True


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
        self.machine = machine
        self.engine = Engine(
            disk.plan, devices, self.watch, self.ledger, machine, self.clock, self, self, self
        )
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

    async def keep(self) -> None:
        if self.kill is not None and not self.kill.keeps:
            return
        for _, write in self.recent:
            write()
        self.recent.clear()

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
        self.analyse(stack, {index})

    def analyse(self, stack: str, more: set[int]) -> None:
        """What an analysis tells when a series is complete."""
        there = set(np.flatnonzero(self.disk.there[stack]).tolist()) | more
        self.seen = getattr(self, "seen", {})
        self.seen.setdefault(stack, set()).update(there)
        if stack in NECKS and len(self.seen[stack]) == len(self.disk.there[stack]):
            table = np.full((1, len(NECK_COLUMNS)), np.nan)
            table[0, NECK_COLUMNS.index("neck_to_particle")] = NECKS[stack]
            for measured in self.engine.steering.note_result("necks", stack, table):
                self.note(measured)

    def telemetry(self, *_: Any) -> None: ...

    def event(self, level: str, source: str, message: str, **details: Any) -> None: ...

    def hold(self, index: int, timing: HoldTiming) -> None:
        self.write(lambda: self.disk.holds.update({index: asdict(timing)}))

    # --- the supervisor ---

    async def between_exposures(self) -> None: ...

    def stage_seen(self, *_: Any) -> None: ...

    def steering(self, row: dict[str, Any]) -> None: ...

    def reading(self, sample: HeaterSample) -> None:
        self.engine.steering.heated(sample.t_ns, sample.temperature_c)
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
            now = Conditions(self.clock.now_ns(), latest.temperature_c)
            self.point = resume_point(self.disk.plan, history, self.disk.recorded(), now)
            self.ledger.restore(self.point.charged)
            if self.point.interrupted_trigger is not None:
                self.note(self.point.interrupted_trigger)
            line = RunLine(run="r", resumed=self.point.resumed, carried=self.point.carried)
            self.note(line)
            self.engine.steering.restore(self.point.steering)
            for stack in self.disk.there:
                self.analyse(stack, set(self.point.missing.get(stack, ())))
        else:
            self.note(RunLine(run="r"))
        self.machine.to(State.RUNNING)
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
            await asyncio.sleep(self.kill.guarded_s)
            blanked_ns = self.clock.now_ns()
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
        # Nobody saw the last of a chip that nobody guarded; a guardian may come after the end.
        blind_s = sum(k.tail_s + SAMPLE_S for k in self.kills if k.guarded_s is None)
        late_s = max((k.guarded_s or 0.0 for k in self.kills), default=0.0)
        for index, operation in enumerate(self.plan.operations):
            if isinstance(operation, HoldAt):
                hold = operation.hold
                spans = [t for t, _ in self._span(index)]
                level_c = 0.5 * (hold.standby_c + hold.target_c)
                true_s = self.specimen.hot_s(level_c, min(spans), self._end(index))
                assert true_s >= hold.requested_s - 0.05
                assert true_s <= hold.requested_s + 0.05 + blind_s + late_s
                assert self.disk.holds[hold.index]["crossed_down_ns"] > 0
        assert (np.diff(self.charged) > -1e-9).all()
        true_dose = self.specimen.exposed * DOSE
        assert self.charged[-1] >= true_dose * (1 - 1e-9)
        on_s = sum((k.guarded_s or 0.0) + k.after_s for k in self.kills)
        unseen = DOSE * (6 * len(self.kills) + on_s / self.plan.recipe.beam.exposure_s)
        unseen += PARKED * (self.specimen.exposed + 6 * len(self.kills))
        assert self.charged[-1] <= true_dose + unseen + 1e-9

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
    triggers = lines_with(PLAN, lambda e: isinstance(e, Trigger))
    assert story.charged == [pytest.approx(PLAN.dose_e_per_nm2 + PARKED * len(triggers), rel=1e-6)]


LINES = len(Story(PLAN, []).disk.journal)


@pytest.mark.parametrize("line", range(1, LINES))
def test_cut_off_after_any_line_of_its_journal_a_run_goes_on_to_its_whole_schedule(
    line: int,
) -> None:
    story = Story(PLAN, [Kill(line, after_s=0.003)])
    story.check()
    kept = {name: places for name, places in story.missing.items() if places}
    assert not kept, "with nothing lost on its way to the disk nothing can be missing"


@pytest.mark.parametrize(("dwell", "current"), [("10 us", "2 pA"), ("100 us", "0.2 pA")])
def test_a_tilt_that_was_cut_off_between_its_frames_goes_on_with_those_that_lack(
    dwell: str,
    current: str,
) -> None:
    # At 41 ms a frame one trigger starts all three of a tilt; at 0.4 s each has its own.
    series = {"from": "0 deg", "to": "20 deg", "step": "10 deg", "frames_per_tilt": 3}
    plan = plan_of(
        steps=[{"tilt_series": series}], beam=RECIPE["beam"] | {"dwell": dwell, "current": current}
    )
    lines = lines_with(plan, lambda e: isinstance(e, Trigger))
    assert len(lines) == (3 if dwell == "10 us" else 9)
    for line in lines:
        story = Story(plan, [Kill(line + 1, after_s=0.003)])
        story.check()
        assert not any(story.missing.values())
        (there,) = story.disk.there.values()
        assert there.all()


kills = st.builds(
    Kill,
    line=st.integers(1, LINES),
    after_s=st.floats(0, 1.0),
    tail_s=st.floats(0, 0.3),
    guarded_s=st.none() | st.floats(0.01, 1.0),
)


@settings(max_examples=60, deadline=None)
# A hold that was over, and whose report two sessions in a row did not live to record.
@example([Kill(9, 0.3), Kill(4, 0.3), Kill(2, 0.3)])
@example([Kill(12, 0.0), Kill(2, 0.3), Kill(14, 0.0)])
@example([Kill(15, 1.0), Kill(1, 0.0)])
@given(st.lists(kills, min_size=1, max_size=4))
def test_interrupted_again_and_again_it_still_does_what_was_asked_and_no_more(
    kills: list[Kill],
) -> None:
    Story(PLAN, kills).check()


def lines_with(plan: Plan, wanted: Callable[[Entry], bool]) -> list[int]:
    """Which lines of an uninterrupted run's journal have an entry of some kind."""
    return [n for n, noted in enumerate(Story(plan, []).disk.journal) if wanted(noted.entry)]


def test_a_trigger_that_was_cut_off_is_charged_until_the_guardian_blanked_the_beam() -> None:
    line = lines_with(PLAN, lambda e: isinstance(e, Trigger) and e.stack == "series_001")[1]
    story = Story(PLAN, [Kill(line, after_s=0.02, guarded_s=0.5)])
    blanked = next(n.entry for n in story.disk.journal if isinstance(n.entry, MadeSafe))
    began_ns = story.disk.journal[line].t_ns
    assert blanked.beam_blanked_ns is not None
    on_s = (blanked.beam_blanked_ns - began_ns) * 1e-9
    beam = PLAN.recipe.beam
    cut_off = max(PLANNED, DOSE / beam.exposure_s * on_s)
    triggers = lines_with(PLAN, lambda e: isinstance(e, Trigger))
    whole = PLAN.dose_e_per_nm2 + PARKED * len(triggers)
    assert story.charged[-1] == pytest.approx(whole + cut_off, rel=1e-6)
    assert cut_off > 10 * DOSE
    told = [n.entry for n in story.disk.journal if isinstance(n.entry, Exposed)]
    assert max(e.dose_e_per_nm2 or 0.0 for e in told) == pytest.approx(cut_off)


@pytest.mark.parametrize("spare", [0, 1])
def test_frames_are_taken_again_only_within_the_dose_budget(spare: int) -> None:
    limit = (PLAN.frames + spare) * PLANNED
    plan = plan_of(limits={"dose": f"{limit!r} e/nm^2"})
    line = lines_with(plan, lambda e: isinstance(e, Trigger) and e.stack == "series_001")[1]
    story = Story(plan, [Kill(line, after_s=0.02)])
    assert limit - 3 * DOSE < story.charged[-1] <= limit
    left_out = {name: places for name, places in story.missing.items() if places}
    assert left_out == ({} if spare else {"series_001": {1}})
    for name, there in story.disk.there.items():
        assert set(np.flatnonzero(~there).tolist()) == left_out.get(name, set())


def test_the_budget_of_a_series_counts_what_it_cost_before() -> None:
    plan = plan_of(limits={"dose_per_series": f"{3 * PLANNED!r} e/nm^2"})
    line = lines_with(plan, lambda e: isinstance(e, Trigger) and e.stack == "series_001")[1]
    story = Story(plan, [Kill(line, after_s=0.02)])
    assert story.missing["series_001"] == {1}
    assert story.last.ledger.of("series_001") == pytest.approx(3 * (DOSE + PARKED), abs=2 * PARKED)
    assert story.last.point is not None
    assert any("the dose budget does not allow" in text for text in story.last.point.problems)


def test_what_was_lost_is_taken_again_unless_the_specimen_has_been_heated_since() -> None:
    begun = next(i for i, op in enumerate(PLAN.operations) if isinstance(op, HoldAt)) + 2
    lines = lines_with(PLAN, lambda e: isinstance(e, Begun) and e.index == begun)
    before = Story(PLAN, [Kill(lines[0], tail_s=0.2, keeps=False)])
    assert before.last.point is not None
    assert before.last.point.retakes
    assert all(there.all() for there in before.disk.there.values())
    # Two lines on, the heater has been told.
    after = Story(PLAN, [Kill(lines[0] + 1, tail_s=0.2, keeps=False)])
    assert after.last.point is not None
    assert not after.last.point.retakes
    assert after.missing["series_001"]
    problem = after.last.point.problems[-1]
    assert problem.startswith("series_001: 2 of 3 frames stay missing (+0°, +20°): ")
    assert problem.endswith("the specimen was heated since")
    kept = Story(PLAN, [Kill(lines[0] + 1, tail_s=0.2)])
    assert not any(kept.missing.values())
    assert all(there.all() for there in kept.disk.there.values())


def test_a_hold_that_nobody_ended_counts_as_long_as_the_chip_is_found_hot() -> None:
    story = Story(PLAN, [])
    cut = next(
        n for n, noted in enumerate(story.disk.journal)
        if isinstance(noted.entry, Moment) and noted.entry.what == "crossed_up"
    )  # fmt: skip
    entries = story.disk.journal[: cut + 1]
    t_ns = entries[-1].t_ns
    recorded = story.disk.recorded()
    part = recorded.heater_ns <= t_ns + 100_000_000
    known = Recorded(
        recorded.there, recorded.heater_ns[part], recorded.heater_c[part], frozenset(), t_ns
    )
    hot = resume_point(PLAN, History.of(entries), known, Conditions(t_ns + 300_000_000, 349.0))
    cold = resume_point(PLAN, History.of(entries), known, Conditions(t_ns + 300_000_000, 30.0))
    index = hot.index
    assert hot.remaining[index].done_s == pytest.approx(0.3, abs=0.03)
    assert hot.interruption.hot_s == pytest.approx(0.2, abs=0.03)
    assert cold.remaining[index].done_s == pytest.approx(0.1, abs=0.03)
    assert cold.interruption.hot_s == 0
    assert "the whole interruption is counted as hold time" in hot.problems[0]
    assert "counted up to the last temperature reading" in cold.problems[0]


STEERED = plan_of(
    steps=[
        {"heat": {"to": "200 degC", "rate": "300 degC/s"}},
        {"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "20 deg"}},
        {
            "cycle": {
                "standby": "200 degC",
                "processing": "350 degC",
                "holds": ["0.3 s"],
                "then": [{"tilt_series": {"from": "-10 deg", "to": "10 deg", "step": "20 deg"}}],
                "until": {"neck_growth_below": "1 %", "max_holds": 5, "timeout": "100 s"},
            }
        },
        {"heat": {"to": "100 degC"}},
    ],
    analysis=[{"reconstruct": {"method": "sirt"}}, {"segment": {}}, {"measure": "necks"}],
)


def decisions(story: Story) -> dict[int, bool]:
    made = [n.entry for n in story.disk.journal if isinstance(n.entry, Decision)]
    assert len({entry.index for entry in made}) == len(made), "decided once"
    return {entry.index: entry.goes_on for entry in made}


def test_a_steered_cycle_decides_as_it_would_have_without_an_interruption() -> None:
    whole = Story(STEERED, [])
    assert list(decisions(whole).values()) == [True, False]
    visited = whole.history.visited
    assert len(visited) < len(STEERED.operations)
    for line in range(1, len(whole.disk.journal)):
        story = Story(STEERED, [Kill(line, after_s=0.002)])
        assert decisions(story) == decisions(whole), line
        assert story.history.visited == visited, line
        for index in visited:
            stack = getattr(STEERED.operations[index], "stack", None)
            assert stack is None or story.disk.there[stack.name].all(), line


def test_charges_never_decrease_as_a_journal_grows_and_any_line_may_be_missing() -> None:
    journal = Story(PLAN, [Kill(30, after_s=0.1, guarded_s=0.3)]).disk.journal
    recorded = Story(PLAN, []).disk.recorded()
    recorded = Recorded(
        {name: np.zeros_like(keys) for name, keys in recorded.there.items()},
        recorded.heater_ns, recorded.heater_c, frozenset(), recorded.last_ns,
    )  # fmt: skip
    now = Conditions(journal[-1].t_ns + 10**9, 25.0)
    before = 0.0
    for cut in range(1, len(journal) + 1):
        charged = sum(resume_point(PLAN, History.of(journal[:cut]), recorded, now).charged.values())
        # What the blanker lets through is expected until it is noted: it may turn out to be less.
        assert charged >= before - (PLANNED - DOSE)
        before = charged
    for gone in range(1, len(journal) - 1):
        point = resume_point(PLAN, History.of(journal[:gone] + journal[gone + 1 :]), recorded, now)
        assert point.index == len(PLAN.operations)


def test_a_calibration_that_was_cut_off_begins_anew_from_where_the_deflectors_stood() -> None:
    rig = simulated_rig()
    shift = ShiftRig.model_validate({"calibration_file": "shift.json", "limit": "2 um"})
    rig = rig.model_copy(update={"beam": rig.beam.model_copy(update={"shift": shift})})
    text = yaml.safe_dump({**RECIPE, "steps": [{"calibrate": "shifts"}, *RECIPE["steps"]]})
    plan = make_plan(load_model(Recipe, text, "r.yaml"), rig)
    trigger = Trigger(stack="shifts_001", first=0, count=0, dose_e_per_nm2=0.1)
    journal = [
        RunLine(run="r"), Begun(index=0), Deflectors(units=(3.0, -4.0)), trigger,
        Exposed(stack="shifts_001", dose_e_per_nm2=0.2), Deflectors(units=(99.0, 0.0)), trigger,
    ]  # fmt: skip

    def resumed(*more: Entry) -> ResumePoint:
        noted = [Noted(EPOCH_NS + k, entry) for k, entry in enumerate([*journal, *more])]
        return resume_point(plan, History.of(noted), Disk(plan).recorded(), Conditions(EPOCH_NS))

    point = resumed()
    assert (point.index, point.remaining[0].deflectors) == (0, (3.0, -4.0))
    parked = plan.recipe.beam.parked_dose_e_per_nm2(SWITCHING_S)
    assert point.charged == {"shifts_001": pytest.approx(0.2 + 0.1 + parked)}
    assert resumed(RunLine(run="r", resumed=1)).remaining[0].deflectors == (3.0, -4.0)
    assert resumed(Ended(index=0, next=1)).remaining == {}
    assert resumed(Begun(index=1)).remaining == {}, "its last line is missing"


def test_a_journal_of_another_plan_is_refused() -> None:
    recorded = Disk(PLAN).recorded()
    for entry in (Begun(index=99), Ended(index=1, next=99)):
        with pytest.raises(BadInput, match="the plan has"):
            resume_point(PLAN, History.of([Noted(1, entry)]), recorded, Conditions(2))


entries = st.one_of(
    st.builds(Begun, index=st.integers(0, 9)),
    st.builds(Ended, index=st.integers(0, 9), next=st.integers(0, 9)),
    st.builds(
        Moment,
        what=st.sampled_from(["reached", "ramp", "commanded_up", "crossed_up", "commanded_down"]),
        at_ns=st.integers(0, (1 << 63) - 1),
    ),
    st.builds(
        Trigger,
        stack=st.sampled_from(["series_001", "reference_001", "nobody"]),
        first=st.integers(0, 10),
        count=st.integers(0, 10**7),
        dose_e_per_nm2=st.floats(0, 1e6),
    ),
    st.builds(Deflectors, units=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))),
    st.builds(Exposed, stack=st.just("series_001"), dose_e_per_nm2=st.none() | st.floats(0, 1e6)),
    st.builds(MadeSafe, beam_blanked_ns=st.integers(0, 10**18), heater_safe_ns=st.just(5)),
    st.builds(
        RunLine,
        run=st.just("r"),
        resumed=st.integers(0, 3),
        carried=st.none() | st.builds(Carried, index=st.integers(0, 9), done_s=st.floats(0, 1e9)),
    ),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, (1 << 63) - 1), entries), max_size=30))
def test_no_journal_makes_it_fail_otherwise_than_by_saying_so(
    noted: list[tuple[int, Entry]],
) -> None:
    history = History.of(itertools.starmap(Noted, noted))
    with_limits = plan_of(limits={"dose": "1000 e/nm^2", "dose_per_series": "100 e/nm^2"})
    try:
        point = resume_point(
            with_limits, history, Disk(with_limits).recorded(), Conditions(1 << 62)
        )
    except BadInput:
        return
    assert 0 <= point.index <= len(with_limits.operations)
    for index, rest in point.remaining.items():
        stack = getattr(with_limits.operations[index], "stack", None)
        assert rest.done_s >= 0
        assert rest.frame_indices is None or set(rest.frame_indices) <= set(range(stack.frames))


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.floats(1, 99), st.integers(-1, 3))
def test_time_above_a_level_is_that_of_lines_between_samples(
    values: list[float], level_c: float, skipped: int
) -> None:
    t_ns = np.arange(len(values), dtype=np.int64) * 10**9
    first = max(0, skipped)
    fine = np.interp(np.arange(first, len(values) - 1, 1e-3), np.arange(len(values)), values)
    found = hot_s(t_ns, np.array(values), level_c, first * 10**9)
    assert found == pytest.approx(float((fine >= level_c).sum() * 1e-3), abs=0.05)


def test_a_journal_written_and_read_says_the_same() -> None:
    journal = Story(PLAN, [Kill(20, guarded_s=0.2)]).disk.journal
    assert parse_journal(lines_of(journal)) == (journal, [])
