"""How fast a heater may go: the shortest time at the rig's rate, and ramps that are too fast."""

from __future__ import annotations

import math

from ...protocols.config.rig import HeaterLimits
from ..base import OutOfRange

# A ramp at exactly the rig's rate may come out slightly faster.
RATE_TOLERANCE = 1.02


def shortest_time_s(limits: HeaterLimits, distance_c: float) -> float:
    """Experiment seconds for a change of temperature at the rig's rate; 0 where it names none."""
    return 0.0 if limits.rate_c_per_s is None else distance_c / limits.rate_c_per_s


def refuse_too_fast(device: str, request: str, duration_s: float, shortest_s: float) -> None:
    """Refuse a ramp that the rig's rate does not allow.

    Raises
    ------
    OutOfRange
        If it takes less than `shortest_s`, or is not a finite time.
    """
    least_s = shortest_s / RATE_TOLERANCE
    if not (math.isfinite(duration_s) and duration_s >= least_s):
        raise OutOfRange(
            device,
            request,
            f"the rig's rate allows {least_s:g} s or more; nothing was sent",
            "Ramp slower, or raise the rig's limits.rate",
        )
