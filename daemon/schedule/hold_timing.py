"""The four moments of a hold, and the time between its crossings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HoldTiming:
    """One hold as it happened; moments in UTC nanoseconds on the experiment clock."""

    commanded_up_ns: int
    crossed_up_ns: int
    commanded_down_ns: int
    crossed_down_ns: int

    @property
    def achieved_s(self) -> float:
        """Time between the crossings of the midpoint."""
        return (self.crossed_down_ns - self.crossed_up_ns) * 1e-9
