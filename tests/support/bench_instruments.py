"""Beam, detector and run for tests of what exposes: no wires, the order of the blanker checked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pyrotome.daemon.acquisition.context import AcquisitionContext
from pyrotome.daemon.acquisition.plan_progress import PlanProgress
from pyrotome.daemon.schedule.dose import DoseLedger
from pyrotome.daemon.schedule.plan import Plan
from pyrotome.daemon.tracking.follower import Follower
from pyrotome.drivers.base import Beam, Detector, Identity
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import BeamRig, DetectorRig
from pyrotome.protocols.core.clock import ExperimentClock


class BenchBeam(Beam):
    """A column that blanks at once."""

    def __init__(self, clock: ExperimentClock, rig: BeamRig | None = None) -> None:
        super().__init__("beam (test)", rig or BeamRig(driver="test", endpoint="n"), clock)
        self.blanked = True

    async def blank(self) -> int:
        self.blanked = True
        return self.clock.now_ns()

    async def unblank(self) -> int:
        self.blanked = False
        return self.clock.now_ns()

    async def is_blanked(self) -> bool:
        return self.blanked

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "column")

    async def disconnect(self) -> None: ...
    async def make_safe(self) -> None: ...


class BenchDetector(Detector):
    """A detector that refuses to expose while the beam is blanked."""

    def __init__(self, clock: ExperimentClock, beam: BenchBeam) -> None:
        super().__init__("detector (test)", DetectorRig(driver="test", endpoint="n"), clock)
        self.beam = beam

    async def trigger(self) -> int:
        assert not self.beam.blanked
        return self.clock.now_ns()

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "scanner")

    async def disconnect(self) -> None: ...
    async def make_safe(self) -> None: ...
    async def disarm(self) -> None: ...


class BenchRun:
    """What a run has besides: a journal and events that are kept, answers of a tracker passed on.

    `follower` has to be set before answers come.
    """

    follower: Follower

    def __init__(self) -> None:
        self.events: list[str] = []
        self.journal: list[Any] = []

    def acquisition_context(
        self, beam: BenchBeam, detector: BenchDetector, settings: BeamSettings, ledger: DoseLedger
    ) -> AcquisitionContext:
        """At 200 degC, with this as journal and as outgoing streams."""
        clock = beam.clock
        watch = SimpleNamespace(temperature_at=lambda _: 200.0)
        progress = PlanProgress(Plan(None, (), ()), clock)  # type: ignore[arg-type]
        return AcquisitionContext(
            beam, detector, settings, ledger, self, clock, watch, None,
            progress, self, follower=self.follower,  # type: ignore[arg-type]
        )  # fmt: skip

    def note(self, entry: Any) -> None:
        self.journal.append(entry)

    async def caught_up(self) -> None: ...
    def save(self) -> None: ...
    def telemetry(self, *_: Any) -> None: ...
    def event(self, _level: str, _source: str, message: str, **_: Any) -> None:
        self.events.append(message)

    def answer(self, answers: dict[str, Any]) -> None:
        """Pass on what the tracker answers, as it comes over the wire."""
        self.follower.note(
            {name: one.model_dump(mode="json") for name, one in answers.items() if one is not None}
        )
