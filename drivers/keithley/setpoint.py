"""The setpoint over time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SetpointProfile:
    """Setpoint over time: constant, or a linear ramp from one temperature to another.

    Times are in seconds of the readings' clock.
    """

    target_c: float
    from_c: float = 0.0
    start_s: float = 0.0
    duration_s: float = 0.0

    def at(self, t_s: float) -> float:
        """Setpoint at a moment; before the start where it was then."""
        if t_s >= self.start_s + self.duration_s:
            return self.target_c
        if t_s <= self.start_s:
            return self.from_c
        done = (t_s - self.start_s) / self.duration_s
        return self.from_c + done * (self.target_c - self.from_c)
