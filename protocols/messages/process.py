"""How the daemon and the processes that it starts talk at the edges: stdin, stdout, parent death.

The child reads one line of JSON from standard input (its configuration), writes one line of JSON
to standard output when it is ready, and takes the end of standard input for the parent's death.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from ..config.faults import Fault
from ..config.rig import Rig
from ..core.clock import ExperimentClock
from ..core.documents import Strict
from .manifest import Interruption, RunManifest

Model = TypeVar("Model", bound=BaseModel)


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

    With `resumed`, `file` is that of an interrupted run, which goes on.
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


class GuardianConfig(Strict):
    """What ``python -m pyrotome.daemon.safety.guardian`` reads. Ready line: ``{}``.

    The lines that follow are heartbeats, empty, or one of ``{"journal": PATH or null}``, where to
    write what was done, and ``{"end": true}``, after which the end of standard input means nothing.
    With `kill` the daemon is killed when its heartbeat stops while it lives.
    """

    rig: Rig
    clock: ClockConfig
    kill: bool = False


def dump_config(config: BaseModel) -> str:
    """The line that a child reads."""
    return config.model_dump_json(by_alias=True) + "\n"


def read_config(model: type[Model]) -> Model:
    """Configuration from the first line of standard input; leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return model.model_validate_json(sys.stdin.readline())


def announce(**body: Any) -> None:
    """Tell the parent, in one line, that this process is ready."""
    try:
        sys.stdout.write(json.dumps(body) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The parent has died, which standard input tells as well. What is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str) -> None:
    """Tell the parent, in one line, why this process cannot start."""
    announce(error=message)


def watch_parent(gone: Callable[[], None], told: Callable[[str], None] | None = None) -> None:
    """Call `gone`, from a thread of its own, when standard input ends.

    Lines that come before are given to `told`, in the same thread.
    """

    def wait() -> None:
        while line := sys.stdin.readline():
            if told is not None and line.strip():
                told(line)
        gone()

    threading.Thread(target=wait, name="parent watch", daemon=True).start()
