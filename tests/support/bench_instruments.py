"""Beam and detector for tests of what exposes: no wires, the blanker and its order checked."""

from __future__ import annotations

from pyrotome.drivers.base import Beam, Detector, Identity
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
