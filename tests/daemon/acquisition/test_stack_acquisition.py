"""Where frames land: by the detector's own numbers; what is missing is told, never filled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.acquisition.context import AcquisitionContext
from pyrotome.daemon.acquisition.plan_progress import PlanProgress
from pyrotome.daemon.acquisition.stack_acquisition import (
    BURST_S,
    StackAcquisition,
    frames_per_trigger,
)
from pyrotome.daemon.schedule.dose import DoseExceeded, DoseLedger
from pyrotome.daemon.schedule.plan import Plan
from pyrotome.drivers.base import (
    Beam,
    BlankerSwitch,
    Detector,
    DetectorFrame,
    DeviceLost,
    DeviceRefused,
    Identity,
    StagePosition,
)
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig, DetectorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.manifest import StackPlan

SETTINGS = BeamSettings.model_validate({
    "voltage": "300 kV", "current": "2 pA", "dwell": "156.25 us", "frame": [8, 8],
    "pixel_size": "1 nm",
})  # fmt: skip
DOSE = SETTINGS.dose_per_frame_e_per_nm2


class NoJournal:
    """Takes no notes."""

    def note(self, entry: Any) -> None:
        del entry

    async def caught_up(self) -> None:
        pass

    def save(self) -> None:
        pass


class ScriptedDetector(Detector):
    """Sends the numbers of a script, one list for each trigger; -1 stands for silence."""

    def __init__(self, clock: ExperimentClock, script: Iterable[list[int]]) -> None:
        super().__init__("detector (scripted)", DetectorRig(driver="s", endpoint="n"), clock)
        self.script = iter(script)
        self.coming: list[int] = []
        self.armed: list[tuple[int, int]] = []
        self.connected = 0
        self.pause_s = 0.0

    def period_s(self, exposure_s: float) -> float:
        return exposure_s + self.pause_s

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        self.connected += 1
        self.coming.clear()
        return Identity("test", "scripted")

    async def disconnect(self) -> None: ...

    async def make_safe(self) -> None: ...

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        self.armed.append((frames, frames_per_trigger))

    async def trigger(self) -> int:
        self.coming += next(self.script)
        return self.clock.now_ns()

    async def read_frame(self) -> DetectorFrame:
        number = self.coming.pop(0) if self.coming else -1
        if number == -1:
            raise DeviceLost(self.name, "read a frame", "none came")
        if number == -2:
            raise DeviceRefused(self.name, "read a frame", "no")
        return DetectorFrame(number, np.full((2, 2), number, np.uint16), self.clock.now_ns())

    async def disarm(self) -> None: ...


class RecordingBeam(Beam):
    """Remembers what it was told."""

    def __init__(self, clock: ExperimentClock) -> None:
        super().__init__("beam (recording)", BeamRig(driver="s", endpoint="n"), clock)
        self.told: list[str] = []

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "recording")

    async def disconnect(self) -> None: ...

    async def make_safe(self) -> None: ...

    async def prepare(self, settings: Any) -> None: ...

    async def blank(self) -> int:
        self.told.append("blank")
        return self.clock.now_ns()

    async def unblank(self) -> int:
        self.told.append("unblank")
        return self.clock.now_ns()

    async def is_blanked(self) -> bool:
        return self.told[-1:] != ["unblank"]


class Bench:
    """A stack of `frames` frames, exposed with a scripted detector."""

    most_at_a_time = 1000

    def __init__(
        self, frames: int, at_a_time: int, script: Iterable[list[int]], kind: str = "reference"
    ) -> None:
        clock = ExperimentClock(speed=1000)
        self.clock = clock
        self.detector, self.beam = ScriptedDetector(clock, script), RecordingBeam(clock)
        self.ledger = DoseLedger(None, None)
        self.progress = PlanProgress(Plan(None, (), ()), clock)  # type: ignore[arg-type]
        self.sent: list[tuple[int, int | None]] = []
        self.headers: list[dict[str, Any]] = []
        self.events: list[str] = []
        plan = StackPlan.model_validate(
            {"name": f"{kind}_001", "kind": kind, "frames": frames, "tilt_deg": (0.0,) * frames}
        )
        stage = SimpleNamespace(position=StagePosition(0, 1.5), exposed=lambda *_: None)
        watch = SimpleNamespace(temperature_at=lambda _: 200.0)
        context = AcquisitionContext(
            self.beam, self.detector, SETTINGS, self.ledger, NoJournal(), clock,
            watch, stage, self.progress, self,  # type: ignore[arg-type]
        )  # fmt: skip
        self.switching = context.switching
        self.stack = StackAcquisition(context, plan, at_a_time)

    def use(self, beam: RecordingBeam) -> None:
        """Take another beam."""
        self.beam = beam
        self.stack._context = replace(self.stack._context, beam=beam)

    @property
    def parked(self) -> float:
        """Fluence while the blanker and the event loop were at work."""
        return SETTINGS.parked_dose_e_per_nm2(self.switching.total_s)

    async def credit(self, frames: int = 1) -> None:
        assert frames == self.stack.at_a_time

    def frame(self, header: dict[str, Any], data: Any, t_ns: int) -> None:
        self.sent.append((header["index"], None if data is None else int(data[0, 0])))
        self.headers.append(header)

    def telemetry(self, *_: Any) -> None: ...

    def event(self, level: str, source: str, message: str, **more: Any) -> None:
        self.events.append(message)

    async def run(self) -> list[tuple[int, int | None]]:
        async with self.stack as frames:
            for first, _ in frames.triggers():
                await frames.expose(first)
        return self.sent


async def test_frames_of_one_trigger_land_by_their_numbers() -> None:
    bench = Bench(6, 3, [[1, 2, 3], [4, 5, 6]])
    assert await bench.run() == [(k, k + 1) for k in range(6)]
    assert bench.detector.armed == [(6, 3)]
    assert bench.beam.told == ["unblank", "blank"] * 2
    assert bench.ledger.charged == pytest.approx(6 * DOSE + bench.parked)
    assert [h["dose_e_per_nm2"] for h in bench.headers] == pytest.approx([DOSE] * 6)
    totals = np.array([h["dose_total_e_per_nm2"] for h in bench.headers])
    assert np.diff(totals[:3]) == pytest.approx([DOSE] * 2)
    assert 6 * DOSE <= totals[-1] <= bench.ledger.charged
    starts = [h["start_ns"] for h in bench.headers[:3]]
    assert np.diff(starts).tolist() == [10_000_000] * 2


async def test_pauses_between_the_frames_of_a_trigger_count_in_time_and_dose() -> None:
    bench = Bench(6, 3, [[1, 2, 3], [4, 5, 6]])
    bench.detector.pause_s = 0.0025
    await bench.run()
    starts = [h["start_ns"] for h in bench.headers[:3]]
    assert np.diff(starts).tolist() == [12_500_000] * 2
    assert bench.ledger.charged == pytest.approx((6 + 4 * 0.25) * DOSE + bench.parked)
    totals = [h["dose_total_e_per_nm2"] for h in bench.headers[:3]]
    assert np.diff(totals) == pytest.approx([1.25 * DOSE] * 2)


async def test_a_detector_that_does_not_say_that_it_is_done_is_told_of() -> None:
    bench = Bench(3, 3, [[1, 2, 3]])

    async def late() -> bool:
        return False

    bench.detector.exposed = late  # type: ignore[method-assign]
    assert await bench.run() == [(0, 1), (1, 2), (2, 3)]
    assert bench.beam.told == ["unblank", "blank"]
    (told,) = bench.events
    assert "has not said that its exposures are over" in told


async def test_a_number_left_out_is_a_frame_missing() -> None:
    bench = Bench(4, 4, [[1, 3, 4]])
    assert await bench.run() == [(0, 1), (1, None), (2, 3), (3, 4)]
    assert (bench.progress.frames_done, bench.progress.frames_lost) == (3, 1)
    assert bench.events == ["reference_001 frame 1 is lost: the detector numbers the next one 3"]
    assert bench.detector.connected == 0, "what is complete need not be begun anew"


async def test_silence_loses_the_rest_of_the_trigger_and_arms_anew() -> None:
    bench = Bench(6, 3, [[1, -1], [1, 2, 3]])
    assert await bench.run() == [(0, 1), (1, None), (2, None), (3, 1), (4, 2), (5, 3)]
    assert bench.detector.connected == 1
    assert bench.detector.armed == [(6, 3), (3, 3)]
    assert "frames 1 to 2 are lost" in bench.events[0]
    assert bench.ledger.charged == pytest.approx(6 * DOSE + bench.parked), (
        "the specimen has received it all the same"
    )


async def test_a_frame_sent_twice_is_recorded_once() -> None:
    bench = Bench(3, 3, [[1, 1, 2, 3]])
    assert await bench.run() == [(0, 1), (1, 2), (2, 3)]
    assert "sent its frame 1 again" in bench.events[0]


async def test_a_number_beyond_the_trigger_is_no_frame_of_it() -> None:
    bench = Bench(3, 1, [[1], [9], [1]])
    assert await bench.run() == [(0, 1), (1, None), (2, 1)]
    assert bench.detector.armed == [(3, 1), (1, 1)]


async def test_three_silent_triggers_give_the_detector_up() -> None:
    bench = Bench(6, 1, [[1], [-1], [-1], [-1], [1]])
    with pytest.raises(DeviceLost, match="none came"):
        await bench.run()
    assert [value for _, value in bench.sent] == [1, None, None, None]
    assert bench.beam.told[-1] == "blank"
    charged = bench.ledger.charged
    assert bench.ledger.committed == charged == pytest.approx(4 * DOSE + bench.parked)


async def test_a_refusal_ends_the_stack_with_the_beam_blanked() -> None:
    bench = Bench(4, 2, [[1, -2]])
    with pytest.raises(DeviceRefused):
        await bench.run()
    assert bench.beam.told == ["unblank", "blank"]


async def test_cancelling_blanks_the_beam_and_leaves_no_task() -> None:
    bench = Bench(2, 1, [[], []])
    bench.clock.speed = 0.001
    running = asyncio.create_task(bench.run())
    while bench.beam.told != ["unblank"]:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert bench.beam.told == ["unblank", "blank"]
    assert [t for t in asyncio.all_tasks() if t.get_name() == "frames of a trigger"] == []


@given(
    runs=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    exposure_s=st.floats(1e-6, 10.0),
    most=st.integers(1, 500),
)
def test_what_one_trigger_may_start(runs: list[int], exposure_s: float, most: int) -> None:
    angles = tuple(float(k) for k, run in enumerate(runs) for _ in range(run))
    count = frames_per_trigger(angles, exposure_s, most)
    assert 1 <= count <= most
    assert all(run % count == 0 for run in runs)
    assert count == 1 or count * exposure_s <= BURST_S
    if most >= len(angles) and exposure_s * len(angles) < BURST_S:
        assert count == np.gcd.reduce(runs)


async def test_dark_frames_are_taken_with_the_beam_blanked_and_without_dose() -> None:
    bench = Bench(4, 2, [[1, 2], [3, 4]], "dark")
    assert await bench.run() == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert "unblank" not in bench.beam.told
    assert bench.ledger.charged == 0
    assert [header["dose_e_per_nm2"] for header in bench.headers] == [0.0] * 4


async def test_extra_frames_of_the_detector_are_told_once_and_counted() -> None:
    bench = Bench(3, 1, [[1], [2], [3]])
    read = bench.detector.read_frame

    async def with_extra() -> DetectorFrame:
        return replace(await read(), extra=1)

    bench.detector.read_frame = with_extra  # type: ignore[method-assign]
    assert await bench.run() == [(0, 1), (1, 2), (2, 3)]
    first, last = bench.events
    assert "frame 0: the detector sends frames that were not triggered" in first
    assert last == "reference_001 has 3 extra frames that were dropped"
    assert bench.progress.frames_extra == 3


class SlowBeam(RecordingBeam):
    """Takes 2 ms to unblank and 3 ms to blank, and tells when it switched."""

    async def unblank(self) -> int:
        sent_ns = self.clock.now_ns()
        self.switched = BlankerSwitch(sent_ns, sent_ns)
        await asyncio.sleep(0.002)
        return await super().unblank()

    async def blank(self) -> int:
        await asyncio.sleep(0.003)
        now_ns = self.clock.now_ns()
        self.switched = BlankerSwitch(now_ns, now_ns)
        return await super().blank()


async def test_what_the_blanker_lets_through_is_charged() -> None:
    bench = Bench(4, 1, [[1], [2], [3], [4]])
    bench.clock.speed = 1
    bench.use(SlowBeam(bench.clock))
    await bench.run()
    assert bench.switching.total_s >= 4 * 0.005
    assert bench.ledger.charged == pytest.approx(4 * DOSE + bench.parked)
    assert bench.switching.expected_s > 0.005
    before = [h["dose_total_e_per_nm2"] - (k + 1) * DOSE for k, h in enumerate(bench.headers)]
    assert before[0] >= SETTINGS.parked_dose_e_per_nm2(0.002)


async def test_a_blanker_that_becomes_too_slow_for_the_budget_ends_the_series_before_a_frame() -> (
    None
):
    bench = Bench(6, 1, [[k] for k in range(1, 7)])
    bench.clock.speed = 1
    bench.use(SlowBeam(bench.clock))
    bench.ledger.limit = 6 * (DOSE + SETTINGS.parked_dose_e_per_nm2(0.005)) * 1.0001
    with pytest.raises(DoseExceeded):
        await bench.run()
    assert bench.ledger.charged <= bench.ledger.limit
    assert bench.beam.told[-1] == "blank"
