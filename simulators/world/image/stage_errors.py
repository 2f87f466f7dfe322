"""What a goniometer does to the image beyond what it is asked for: jitter, slips, way back, drift.

All of it is a displacement (y, x) of the image in nm that changes while the tilt moves and stands
in between. What comes back at the same asked angle is decided by the seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....protocols.config.simulated import SimulatedGoniometer

Vector = NDArray[np.float64]

SMOOTH_OVER_DEG = 10.0
SMOOTH_PART = 0.5
WAY_BACK_DEG = 10.0
# A shorter tilt is the approach to an angle, or nothing; it does not slip.
SLIPS_FROM_DEG = 0.5
STANDS_WITHIN_DEG = 1e-3
_ANGLES_PER_DEG = 100
_WAVES = 48
_COURSE_STREAM, _CHANCE_STREAM = 0, 1


@dataclass(frozen=True)
class _Change:
    """From one displacement to another while the stage is under way."""

    start_ns: int
    end_ns: int
    before: Vector
    after: Vector

    def at(self, t_ns: int) -> Vector:
        if t_ns >= self.end_ns:
            return self.after
        done = max(0, t_ns - self.start_ns) / max(1, self.end_ns - self.start_ns)
        return self.before + done * (self.after - self.before)


class StageErrors:
    """Errors of one goniometer, from one moment on, at tilt 0.

    Parameters
    ----------
    config : SimulatedGoniometer
        Their sizes.
    seed : int
        Of the goniometer's own course and of what happens by chance.
    t_ns : int
        The beginning; the image is where it should be.
    """

    def __init__(self, config: SimulatedGoniometer, seed: int, t_ns: int) -> None:
        self._config, self._seed = config, seed
        self._chance = np.random.default_rng([seed, _CHANCE_STREAM])
        waves = np.random.default_rng([seed, _COURSE_STREAM])
        self._per_deg = waves.standard_normal((2, _WAVES)) / SMOOTH_OVER_DEG
        self._phases = waves.uniform(0.0, 2.0 * math.pi, (2, _WAVES))
        nothing = np.zeros(2)
        self._centred = nothing if config.jitter_nm == 0 else self.course_nm(0.0)
        self._change = _Change(t_ns, t_ns, nothing, nothing)
        self._stays: Vector = nothing
        self._slip_next_nm: float | None = None
        self._drifts: tuple[int, Vector] | None = None
        self._creep: tuple[int, Vector] = t_ns, nothing
        self._off_deg = _Change(t_ns, t_ns, np.zeros(1), np.zeros(1))

    def course_nm(self, tilt_deg: float) -> Vector:
        """The part (y, x) that comes back whenever this angle is asked for."""
        return self._smooth_nm(tilt_deg) + self._free_nm(tilt_deg)

    def at(self, t_ns: int) -> tuple[float, float]:
        """Displacement (y, x) of the image at a moment."""
        found = self._change.at(t_ns) + self._crept(t_ns)
        if self._drifts is not None:
            found = found + self._drifts[1] * (max(0, t_ns - self._drifts[0]) * 1e-9)
        return float(found[0]), float(found[1])

    def tilt_error_deg(self, t_ns: int) -> float:
        """By how much the specimen is tilted otherwise than the encoder says."""
        return float(self._off_deg.at(t_ns)[0])

    def tilts(self, start_ns: int, end_ns: int, before_deg: float, after_deg: float) -> float:
        """Note a tilt that begins now.

        Returns
        -------
        float
            By how much it slips, in nm.
        """
        if self._config.creep_nm_per_s > 0:
            self._creep_on(start_ns, end_ns)
        if self._config.tilt_error_deg > 0:
            new_deg = self._config.tilt_error_deg * self._chance.standard_normal(1)
            self._off_deg = _Change(start_ns, end_ns, self._off_deg.at(start_ns), new_deg)
        config, angle = self._config, abs(after_deg - before_deg)
        slip_nm = 0.0
        if angle < STANDS_WITHIN_DEG:
            return slip_nm
        if angle >= SLIPS_FROM_DEG:
            if self._slip_next_nm is not None:
                slip_nm, self._slip_next_nm = self._slip_next_nm, None
            elif config.slips > 0 and self._chance.random() < config.slips:
                slip_nm = config.slip_nm
            if slip_nm:
                turn = self._chance.uniform(0.0, 2.0 * math.pi)
                self._stays = self._stays + slip_nm * np.array([math.sin(turn), math.cos(turn)])
        if config.way_back_nm > 0 and angle > WAY_BACK_DEG:
            self._stays = self._stays + config.way_back_nm * self._chance.standard_normal(2)
        after = self._stays
        if config.jitter_nm > 0:
            new_nm = config.jitter_nm * math.sqrt(1.0 - config.reproducible)
            fresh = new_nm * self._chance.standard_normal(2)
            after = after + self.course_nm(after_deg) - self._centred + fresh
        self._change = _Change(start_ns, end_ns, self._change.at(start_ns), after)
        return slip_nm

    def _crept(self, t_ns: int) -> Vector:
        """How far the image has crept since the latest tilt."""
        since_ns, speed = self._creep
        return speed * (max(0, t_ns - since_ns) * 1e-9)

    def _creep_on(self, start_ns: int, end_ns: int) -> None:
        """Stay where the image has crept to, and creep elsewhere when the tilt is over."""
        moved = self._crept(start_ns)
        change = self._change
        self._stays = self._stays + moved
        self._change = _Change(
            change.start_ns, change.end_ns, change.before + moved, change.after + moved
        )
        speed = self._config.creep_nm_per_s * self._chance.standard_normal(2)
        self._creep = end_ns, speed

    def slip_next(self, size_nm: float | None) -> None:
        """Let the next tilt slip by so much, or take that back."""
        self._slip_next_nm = size_nm

    def drift(self, t_ns: int, speed_nm_per_s: float | None) -> None:
        """Drift from now on, or stay where it has drifted to."""
        if self._drifts is not None:
            moved = self._drifts[1] * (max(0, t_ns - self._drifts[0]) * 1e-9)
            change = self._change
            self._stays = self._stays + moved
            self._change = _Change(
                change.start_ns, change.end_ns, change.before + moved, change.after + moved
            )
            self._drifts = None
        if speed_nm_per_s is not None:
            turn = np.random.default_rng([self._seed, 2]).uniform(0.0, 2.0 * math.pi)
            along = np.array([math.sin(turn), math.cos(turn)])
            self._drifts = t_ns, speed_nm_per_s * along

    def _smooth_nm(self, tilt_deg: float) -> Vector:
        """A Gaussian process over the tilt, by random waves (Rahimi and Recht, NIPS 2007)."""
        waves = np.cos(self._per_deg * tilt_deg + self._phases).sum(axis=1)
        return self._sd_nm(SMOOTH_PART) * math.sqrt(2.0 / _WAVES) * waves

    def _free_nm(self, tilt_deg: float) -> Vector:
        step = round((tilt_deg + 360.0) * _ANGLES_PER_DEG)
        free = np.random.default_rng([self._seed, _COURSE_STREAM, step])
        return self._sd_nm(1.0 - SMOOTH_PART) * free.standard_normal(2)

    def _sd_nm(self, part: float) -> float:
        return self._config.jitter_nm * math.sqrt(self._config.reproducible * part)
