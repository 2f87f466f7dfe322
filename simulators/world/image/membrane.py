"""The membrane of the chip: it bulges when it is hot, and moves and drifts when a hold is over.

A hold is over when the setpoint has fallen by 20 K from its highest since the last one; what stays
of the bulge then grows with the fall. Positions are functions of time between the calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....protocols.config.simulated import SimulatedChip

FLAT_AT_C = 25.0
OVER_BELOW_C = 20.0
# Scatter of what one hold leaves, from hold to hold: of the drift's speed, of its decay, and of
# the direction of jump and drift.
SPEED_SCATTER = 0.3
DECAY_FROM, DECAY_TO = 0.7, 1.4
DIRECTION_SCATTER_DEG = 23.0


@dataclass(frozen=True)
class _Drift:
    """What moves after a hold: a jump at once, and a drift that decays."""

    start_ns: int
    jump_nm: tuple[float, float]
    speed_nm_per_s: tuple[float, float]
    decay_s: float

    def at(self, t_ns: int) -> tuple[float, float]:
        since_s = (t_ns - self.start_ns) * 1e-9
        if since_s < 0.0:
            return 0.0, 0.0
        lasted_s = self.decay_s * -math.expm1(-since_s / self.decay_s)
        (jump_y, jump_x), (vy, vx) = self.jump_nm, self.speed_nm_per_s
        return jump_y + vy * lasted_s, jump_x + vx * lasted_s


class Membrane:
    """The membrane, from one moment on, flat.

    Parameters
    ----------
    config : SimulatedChip
        Sizes of its motions.
    seed : sequence of int
        Of the chip's direction and of what scatters from hold to hold.
    """

    def __init__(self, config: SimulatedChip, seed: Sequence[int]) -> None:
        self._config = config
        self._chance = np.random.default_rng(list(seed))
        self._direction = float(self._chance.uniform(0.0, 2.0 * math.pi))
        # Highest setpoint since the last fall, or the lowest in the present one.
        self._turned_c = FLAT_AT_C
        self._falling = False
        self._latest_ns: int | None = None
        self._share = 0.0
        self._stays_nm = 0.0
        self._drifts: list[_Drift] = []
        self.jumped_nm = 0.0
        self.still = config.hysteresis == config.hold_jump_nm == config.drift_nm_per_s == 0

    def advance_to(self, t_ns: int, setpoint_c: float) -> None:
        """Take note of the setpoint, which may have changed since the last call."""
        if self.still:
            return
        before_ns, self._latest_ns = self._latest_ns, t_ns
        if self._falling:
            if setpoint_c < self._turned_c:
                self._stays_nm += self._share * (self._turned_c - setpoint_c)
                self._turned_c = setpoint_c
            elif setpoint_c > self._turned_c + OVER_BELOW_C:
                self._falling, self._turned_c = False, setpoint_c
            return
        self._turned_c = max(self._turned_c, setpoint_c)
        if setpoint_c < self._turned_c - OVER_BELOW_C:
            # A step is noticed late where time is stepped by hand; it came with the last call.
            self._hold_is_over(t_ns if before_ns is None else before_ns)
            self._stays_nm += self._share * (self._turned_c - setpoint_c)
            self._falling, self._turned_c = True, setpoint_c

    def rise_nm(self, temperature_c: float) -> float:
        """Height over the flat membrane at a temperature, with what earlier holds have left."""
        rise = self._config.bulge_nm_per_k * (temperature_c - FLAT_AT_C)
        return rise + self._stays_nm + self.jumped_nm

    def offset_nm(self, t_ns: int) -> tuple[float, float]:
        """Lateral displacement (y, x) of the specimen."""
        found = [drift.at(t_ns) for drift in self._drifts]
        return sum(y for y, _ in found), sum(x for _, x in found)

    def _hold_is_over(self, t_ns: int) -> None:
        config, chance = self._config, self._chance
        scatter = math.radians(DIRECTION_SCATTER_DEG) * float(chance.standard_normal())
        towards = self._direction + scatter
        along = (math.sin(towards), math.cos(towards))
        speed = config.drift_nm_per_s * (1.0 + SPEED_SCATTER * float(chance.standard_normal()))
        decay_s = config.drift_decay_s * float(chance.uniform(DECAY_FROM, DECAY_TO))
        self._share = (
            config.hysteresis * config.bulge_nm_per_k * (1.0 + float(chance.standard_normal()))
        )
        jump = (config.hold_jump_nm * along[0], config.hold_jump_nm * along[1])
        self._drifts.append(_Drift(t_ns, jump, (speed * along[0], speed * along[1]), decay_s))
