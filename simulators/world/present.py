"""The present of the world: chip, stage and column at one moment, under one lock.

Time enters as nanoseconds of the experiment clock with every call. The parts integrate up to that
moment and never read a clock themselves, so that tests step them by hand. A call with a moment
already past acts now.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ...protocols.config.simulated import SimulatorRig
from .chip import Chip
from .column import ElectronColumn
from .goniometer import Goniometer
from .image.membrane import Membrane
from .truth_log import TruthLog

_STAGE_STREAM, _NOISE_STREAM, _MEMBRANE_SEED = 2, 3, 4


class Present:
    """Chip, stage and column, which advance together.

    Parameters
    ----------
    config : SimulatorRig
        What the rig says about the simulation.
    t_ns : int
        The beginning: chip at 25 degC, stage at zero, beam blanked at 2 pA.
    truth_log : TruthLog
        Where to record what truly happens.

    Attributes
    ----------
    lock : threading.RLock
        Held by every call that reads or changes the parts.
    t_ns : int
        The present moment.
    noise : numpy.random.Generator
        Of every measurement.
    """

    def __init__(self, config: SimulatorRig, t_ns: int, truth_log: TruthLog) -> None:
        self.lock = threading.RLock()
        self.noise = np.random.default_rng([config.seed, _NOISE_STREAM])
        self.chip = Chip(config.chip, t_ns)
        self.membrane = Membrane(config.chip, [config.seed, _MEMBRANE_SEED])
        stage_rng = np.random.default_rng([config.seed, _STAGE_STREAM])
        self.stage = Goniometer(config.goniometer, t_ns, stage_rng)
        self.column = ElectronColumn(config.column, t_ns)
        self.truth_log = truth_log
        self.t_ns = t_ns
        self._arrival_ns: int | None = None

    def advance_to(self, t_ns: int) -> int:
        """Let time pass up to a moment; returns the present, which may be later."""
        with self.lock:
            if t_ns > self.t_ns:
                self.chip.advance_to(t_ns)
                self.column.advance_to(t_ns)
                self.membrane.advance_to(t_ns, self.chip.setpoint_c)
                self.t_ns = t_ns
                if self._arrival_ns is not None and self._arrival_ns <= t_ns:
                    self._log_stage(self._arrival_ns, "arrived")
                    self._arrival_ns = None
            return self.t_ns

    @contextmanager
    def at(self, t_ns: int) -> Iterator[int]:
        """Hold the lock at a moment; gives the present, which may be later."""
        with self.lock:
            yield self.advance_to(t_ns)

    def stage_started(self, now_ns: int) -> None:
        """Log that the stage moves, and its arrival when time has come to it."""
        self._log_stage(now_ns, "start")
        self._arrival_ns = self.stage.arrival_ns()

    def _log_stage(self, t_ns: int, action: str) -> None:
        self.truth_log.write(
            t_ns,
            "stage",
            action=action,
            tilt_deg=self.stage.true_tilt_deg(t_ns),
            target_deg=self.stage.target_deg(),
        )
