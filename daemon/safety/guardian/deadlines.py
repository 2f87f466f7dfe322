"""Deadlines of the safe state: how long beam and heater may take to confirm it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ....drivers.base import Heater

# A step that is not confirmed by then has failed, and the next one is taken.
SAFING_STEP_TIMEOUT_S = 10.0


def heater_timeout_s(heater: Heater) -> float:
    """Wall seconds within which a heater must confirm that it is at its safe level.

    A chip with a limited cooling rate has the time that its whole range takes.
    """
    limits = heater.rig.limits
    cooling_s = (limits.temperature_c - limits.safe_c) / (limits.rate_c_per_s or math.inf)
    return SAFING_STEP_TIMEOUT_S + heater.clock.wall_s(cooling_s)
