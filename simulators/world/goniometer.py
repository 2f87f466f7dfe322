"""The stage: finite speed, settling wobble, backlash, and where it brings the specimen.

Positions are functions of time within the path under way, so nothing has to be integrated. The
encoder sits on the drive: it shows the target exactly after arrival (plus noise), while the
specimen lags by half the backlash, against the direction of the last travel, and wobbles until it
has settled. x and y have their play as well. Image coordinates here are those of a scan whose
columns lie along the tilt axis: the specimen, shifted by the stage and lifted by its z and by the
chip's membrane, is turned about that axis. What else moves it is in `stage_errors.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from ...protocols.config.simulated import SimulatedGoniometer
from .chip import AMBIENT_C
from .image.stage_errors import StageErrors

TILT, SECOND_TILT = "a_deg", "b_deg"
LINEAR_AXES = ("x_nm", "y_nm", "z_nm")
# The second tilt is there for the wire; a single-tilt holder does not move it.
AXES = (*LINEAR_AXES, TILT, SECOND_TILT)
XY_LIMIT_NM, Z_LIMIT_NM = 1.0e6, 3.0e5
LINEAR_SPEED_NM_PER_S = 20_000.0
WOBBLE_DEG = 0.05
DRIFT_PER_STEP_C = 150.0
CREEP_DEG_PER_S = 0.2


@dataclass(frozen=True)
class _Path:
    """Piecewise linear course of one axis: knots of (time in ns, value)."""

    knots: tuple[tuple[int, float], ...]

    def at(self, t_ns: int) -> float:
        start_ns = self.knots[0][0]
        if t_ns >= self.knots[-1][0]:
            return self.knots[-1][1]
        times = [(t - start_ns) * 1e-9 for t, _ in self.knots]
        return float(np.interp((t_ns - start_ns) * 1e-9, times, [v for _, v in self.knots]))


class Goniometer:
    """The stage, from one moment on.

    Parameters
    ----------
    config : SimulatedGoniometer
        Speed, limits and errors.
    t_ns : int
        When it stands at zero.
    rng : numpy.random.Generator
        For what differs from one stage to another (directions of errors); not kept.
    """

    def __init__(self, config: SimulatedGoniometer, t_ns: int, rng: np.random.Generator) -> None:
        self.config = config
        self._paths = {axis: _Path(((t_ns, 0.0),)) for axis in AXES}
        self._slipped: dict[str, float] = dict.fromkeys(AXES, 0.0)
        play_nm = config.xy_backlash_nm
        self._half_play: dict[str, float] = {TILT: 0.5 * config.backlash_deg}
        self._half_play |= dict.fromkeys(("x_nm", "y_nm"), 0.5 * play_nm)
        self._creeps_from_ns: int | None = None
        phase, direction, height = rng.uniform(0.0, 2.0 * math.pi, 3)
        self._y_phase = float(phase)
        self._drift_direction = (math.cos(direction), math.sin(direction))
        self._off_axis_nm = config.eucentric_error_nm * math.cos(height)
        self._height_nm = config.eucentric_error_nm * math.sin(height)
        self.errors = StageErrors(config, int(rng.integers(1 << 62)), t_ns)
        self.xy_ignored = False
        self._z_stuck_nm: float | None = None

    def limits(self, axis: str) -> tuple[float, float]:
        """Lowest and highest position of an axis, in the unit of its name."""
        if axis == TILT:
            return self.config.tilt_deg
        if axis == SECOND_TILT:
            return 0.0, 0.0
        limit_nm = Z_LIMIT_NM if axis == "z_nm" else XY_LIMIT_NM
        return -limit_nm, limit_nm

    def limits_of_all(self) -> dict[str, tuple[float, float]]:
        """Limits of every axis."""
        return {axis: self.limits(axis) for axis in AXES}

    def move(
        self,
        t_ns: int,
        targets: dict[str, float],
        speed: float = 1.0,
        method: Literal["GO", "MOVE"] = "GO",
    ) -> None:
        """Start towards targets, from wherever the stage is.

        Parameters
        ----------
        t_ns : int
            Now.
        targets : dict
            Axis to position, in the unit of its name; axes that are absent stay or go on.
        speed : float
            Fraction of the full speed.
        method : {"GO", "MOVE"}
            MOVE returns the tilt to zero before the other axes move, as the instrument does.

        Raises
        ------
        ValueError
            If an axis or position does not exist; nothing moves.
        """
        if not 0.0 < speed <= 1.0:
            raise ValueError(f"speed {speed:g} is not a fraction of the full speed (0 to 1)")
        for axis, target in targets.items():
            if axis not in self._paths:
                raise ValueError(f"the stage has no axis '{axis}'; it has {', '.join(AXES)}")
            low, high = self.limits(axis)
            if not low - 1e-9 <= target <= high + 1e-9:
                raise ValueError(f"{axis} {target:g} is beyond the limits {low:g} to {high:g}")
        if self.xy_ignored:
            targets = {axis: to for axis, to in targets.items() if axis not in ("x_nm", "y_nm")}
        tilt_speed = self.config.speed_deg_per_s * speed
        begin_ns = t_ns
        if method == "MOVE":
            here = self.encoder(t_ns, TILT)
            back = self._slip(t_ns)
            begin_ns = t_ns + _travel_ns(here, tilt_speed)
            arrive_ns = begin_ns
            for axis in LINEAR_AXES:
                if axis in targets:
                    arrive_ns = max(arrive_ns, self._start(t_ns, begin_ns, axis, targets[axis]))
            goal = targets.get(TILT, here)
            end_ns = arrive_ns + _travel_ns(goal, tilt_speed)
            self._slipped[TILT] = back
            self._paths[TILT] = _Path(
                _distinct(((t_ns, here), (begin_ns, 0.0), (arrive_ns, 0.0), (end_ns, goal)))
            )
            self.errors.tilts(t_ns, end_ns, 0.0, goal)
            return
        for axis, target in targets.items():
            if axis == TILT:
                self._slipped[TILT] = self._slip(t_ns)
                here = self.encoder(t_ns, TILT)
                end_ns = t_ns + _travel_ns(target - here, tilt_speed)
                self._paths[TILT] = _Path(_distinct(((t_ns, here), (end_ns, target))))
                self.errors.tilts(t_ns, end_ns, here, target)
            elif axis in LINEAR_AXES:
                self._start(t_ns, t_ns, axis, target)

    def encoder(self, t_ns: int, axis: str = TILT) -> float:
        """What the encoder of an axis stands at, in the unit of its name."""
        at = self._paths[axis].at(t_ns)
        if axis == TILT and self._creeps_from_ns is not None:
            begin_ns = max(self._creeps_from_ns, self._paths[TILT].knots[-1][0])
            at += CREEP_DEG_PER_S * max(0, t_ns - begin_ns) * 1e-9
        return at

    def creep(self, t_ns: int, on: bool) -> None:
        """Let the stage creep from now on wherever it has arrived, or stand where it is now."""
        if on == (self._creeps_from_ns is not None):
            return
        here = self.encoder(t_ns)
        self._creeps_from_ns = t_ns if on else None
        if not on and not self.moving(t_ns):
            self._paths[TILT] = _Path(((t_ns, here),))

    def readback(self, t_ns: int, rng: np.random.Generator) -> dict[str, float]:
        """All axes as the stage reports them, with noise in the tilt."""
        values = {axis: self.encoder(t_ns, axis) for axis in AXES}
        if self.config.readback_noise_deg > 0:
            values[TILT] += self.config.readback_noise_deg * float(rng.standard_normal())
        return values

    def moving(self, t_ns: int) -> bool:
        """Whether any axis is under way."""
        return t_ns < self.arrival_ns()

    def arrival_ns(self) -> int:
        """When the motion under way ends, or ended."""
        return max(path.knots[-1][0] for path in self._paths.values())

    def target_deg(self) -> float:
        """Where the tilt goes."""
        return self._paths[TILT].knots[-1][1]

    def true_tilt_deg(self, t_ns: int) -> float:
        """Tilt of the specimen itself: encoder, less what is lost in the play, plus the wobble."""
        tilt = self.encoder(t_ns) + self._slip(t_ns) + self.errors.tilt_error_deg(t_ns)
        knots = self._paths[TILT].knots
        since_s = (t_ns - knots[-1][0]) * 1e-9
        if len(knots) > 1 and self.config.settling_s > 0 and 0 <= since_s < self.config.settling_s:
            progress = since_s / self.config.settling_s
            tilt += WOBBLE_DEG * math.exp(-4.6 * progress) * math.sin(6.0 * math.pi * progress)
        return tilt

    def shift_nm(self, t_ns: int, holder_c: float, rise_nm: float = 0.0) -> tuple[float, float]:
        """Displacement of the image, (y, x), positive towards higher rows and columns.

        Parameters
        ----------
        t_ns : int
            When.
        holder_c : float
            Temperature of the holder, which follows the chip slowly and drags the specimen along.
        rise_nm : float
            Height of the membrane over the flat one.
        """
        tilt = math.radians(self.true_tilt_deg(t_ns))
        drift = self.config.drift_nm * (holder_c - AMBIENT_C) / DRIFT_PER_STEP_C
        off_axis = (self._off_axis_nm + self.config.offset_nm) * (math.cos(tilt) - 1.0)
        height = self._over_axis_nm(t_ns, rise_nm) * math.sin(tilt)
        x = off_axis + height + drift * self._drift_direction[1]
        x += self.true_nm(t_ns, "x_nm") * math.cos(tilt)
        along = 0.3 * self.config.eucentric_error_nm
        y = along * (math.sin(2.0 * tilt + self._y_phase) - math.sin(self._y_phase))
        y += drift * self._drift_direction[0] + self.true_nm(t_ns, "y_nm")
        error_y, error_x = self.errors.at(t_ns)
        return y + error_y, x + error_x

    def height_nm(self, t_ns: int, rise_nm: float = 0.0) -> float:
        """Height of the specimen along the beam over where it was at first, at tilt 0."""
        tilt = math.radians(self.true_tilt_deg(t_ns))
        across = self._off_axis_nm + self.config.offset_nm + self.true_nm(t_ns, "x_nm")
        at_first = self._height_nm + self.config.height_nm
        now = self._over_axis_nm(t_ns, rise_nm) * math.cos(tilt) - across * math.sin(tilt)
        return now - at_first

    def true_nm(self, t_ns: int, axis: str) -> float:
        """By how much the specimen itself was moved along x, y or z: the drive, less its play."""
        if axis == "z_nm":
            stuck_nm = self._z_stuck_nm
            return self.encoder(t_ns, axis) if stuck_nm is None else stuck_nm
        return self.encoder(t_ns, axis) + self._slip(t_ns, axis)

    def stick_z(self, t_ns: int, on: bool) -> None:
        """Let the specimen stay at its height whatever the drive of z does, or follow it again."""
        self._z_stuck_nm = self.true_nm(t_ns, "z_nm") if on else None

    def _over_axis_nm(self, t_ns: int, rise_nm: float) -> float:
        """Height of the specimen over the tilt axis, in the frame that tilts."""
        lifted = self.true_nm(t_ns, "z_nm") + rise_nm
        return self._height_nm + self.config.height_nm + lifted

    def _slip(self, t_ns: int, axis: str = TILT) -> float:
        """Specimen minus encoder: the play operator along the path up to now."""
        half = self._half_play[axis]
        if half == 0.0:
            return 0.0
        knots = self._paths[axis].knots
        true = knots[0][1] + self._slipped[axis]
        for (begin_ns, _), (end_ns, _) in pairwise(knots):
            if t_ns < begin_ns:
                break
            encoder = self.encoder(min(t_ns, end_ns), axis)
            true = min(max(true, encoder - half), encoder + half)
        return true - self.encoder(t_ns, axis)

    def _start(self, t_ns: int, begin_ns: int, axis: str, target: float) -> int:
        if axis in self._half_play:
            self._slipped[axis] = self._slip(t_ns, axis)
        here = self.encoder(t_ns, axis)
        end_ns = begin_ns + _travel_ns(target - here, LINEAR_SPEED_NM_PER_S)
        self._paths[axis] = _Path(_distinct(((t_ns, here), (begin_ns, here), (end_ns, target))))
        return end_ns


def _travel_ns(distance: float, speed: float) -> int:
    return int(abs(distance) / speed * 1e9)


def _distinct(knots: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """Knots at increasing times; of those at one time the last counts."""
    return tuple(sorted(dict(knots).items()))
