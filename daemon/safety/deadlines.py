"""Deadlines of the safe state: how long beam and heater have to confirm it."""

from __future__ import annotations

import math

from ...drivers.base import Heater

# A safing step that has not confirmed by then counts as failed, and the next one is taken.
SAFING_STEP_TIMEOUT_S = 10.0


def heater_timeout_s(heater: Heater) -> float:
    """Wall seconds in which a heater should confirm that it is at its safe level.

    A chip that may only cool slowly is given the time that its whole range takes.
    """
    limits = heater.rig.limits
    cooling_s = (limits.temperature_c - limits.safe_c) / (limits.rate_c_per_s or math.inf)
    return SAFING_STEP_TIMEOUT_S + heater.clock.wall_s(cooling_s)
