"""Configurations of the processes that the daemon starts; `parent_pipe.py` carries them."""

from __future__ import annotations

from ..config.faults import Fault
from ..config.rig import Rig
from ..core.clock import ExperimentClock
from ..core.documents import Strict
from .manifest import Interruption, RunManifest


class ClockConfig(Strict):
    """Enough for another process on this machine to run the same clock."""

    speed: float
    epoch_utc_ns: int
    epoch_monotonic_ns: int

    @classmethod
    def of(cls, clock: ExperimentClock) -> ClockConfig:
        """Configuration of a running clock."""
        return cls(
            speed=clock.speed,
            epoch_utc_ns=clock.epoch_utc_ns,
            epoch_monotonic_ns=clock.epoch_monotonic_ns,
        )

    def clock(self) -> ExperimentClock:
        """The same clock here."""
        return ExperimentClock(self.speed, self.epoch_utc_ns, self.epoch_monotonic_ns)


class SimulatorConfig(Strict):
    """What ``python -m pyrotome.simulators`` reads: the rig whose wires to serve.

    Its ready line is ``{"devices": {role: {"endpoint": ..., "options": {...}}}}`` with the ports
    that were chosen. `log` is a file for the world's own record of what happened, JSON lines.
    `faults` are switched on in their time; further ones may follow on standard input, one line
    each, written as `faults.parse_fault` reads them.
    """

    rig: Rig
    clock: ClockConfig
    log: str | None = None
    faults: tuple[Fault, ...] = ()


class RecorderConfig(Strict):
    """What ``python -m pyrotome.daemon.recording.recorder`` reads. Ready line: ``{"file": ...}``.

    With `resumed`, `file` is that of an interrupted run, which is resumed.
    """

    link: str
    file: str
    manifest: RunManifest
    resumed: Interruption | None = None


class AnalysisConfig(Strict):
    """What ``python -m pyrotome.analysis.online.worker`` reads. Ready line: ``{}``.

    `file` is the run file, from which frames are read that came without their pixels.
    """

    link: str
    file: str
    manifest: RunManifest


class ShiftSolverConfig(Strict):
    """What ``python -m pyrotome.daemon.tracking.shift_solver`` reads: pictures at deflections.

    `counts` are those of all pictures of `shape`, one after the other, uint32, base64. `units` are
    those of the deflectors from where they stood, `times_s` when each picture was taken, `pixel_nm`
    is its sampling. The ready line is the solution, by the names of `ShiftSolution`, or
    ``{"problem": ...}`` where the pictures do not tell it.
    """

    shape: tuple[int, int]
    counts: str
    units: tuple[tuple[float, float], ...]
    times_s: tuple[float, ...]
    pixel_nm: float


class PixelSolverConfig(Strict):
    """What ``python -m pyrotome.analysis.lattice.process`` reads: frames of silicon along [110].

    `counts` are those of all frames of `shape`, one rotation after the other, uint16, base64.
    `times_s` are those of the frames at each of `rotations_deg`. Of `columns_scanned` pixels in a
    row the frames hold the middle. The ready line is ``{"calibration": ...}``, the text of a
    `PixelCalibration`, or ``{"problem": ...}`` where the frames do not tell it.
    """

    shape: tuple[int, int]
    counts: str
    rotations_deg: tuple[float, ...]
    times_s: tuple[tuple[float, ...], ...]
    pixel_nm: float
    field_nm: float
    dwell_s: float
    columns_scanned: int
    voltage_kv: float


class TrackerConfig(Strict):
    """What ``python -m pyrotome.analysis.tracking.process`` reads. Ready line: ``{}``.

    `state` is the file in which the tracker keeps what it knows of this run; it goes on from it if
    the run is `resumed`. `goniometer` is the file of what is known of the column from run to run.
    `convergence_mrad` is the half angle of the probe, where the rig tells it.
    """

    link: str
    manifest: RunManifest
    state: str
    goniometer: str | None = None
    resumed: bool = False
    convergence_mrad: float | None = None
