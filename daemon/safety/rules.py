"""What the supervisor's rules are made of: limits, violations, setpoint history. No I/O."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from ...drivers.base import HeaterSample
from ...protocols.config.rig import HeaterLimits
from ...protocols.config.supervision import SupervisorRig
from .observations import Observation, Reading

STILL_C = 0.5  # setpoints that differ by less are the same


@dataclass(frozen=True)
class Violation:
    """One observation that violates a rule.

    Attributes
    ----------
    value, bound : float
        The value found and its bound, in the unit of the rule.
    text : str
        The same in words.
    at_once : bool
        Whether the rule trips without its delay.
    since_ns : int or None
        Start of the violation, if it is later than the first violating observation.
    unit : str or None
        Unit of value and bound, if it is not the unit of the rule.
    """

    value: float
    bound: float
    text: str
    at_once: bool = False
    since_ns: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class RuleLimits:
    """The limits that a rule checks against.

    Attributes
    ----------
    bound : float
        Bound of the rule, in its unit.
    heater : HeaterLimits
        Limits of the chip.
    supervisor : SupervisorRig
        Settings of the supervisor in the rig.
    """

    bound: float
    heater: HeaterLimits
    supervisor: SupervisorRig


class SetpointHistory:
    """When the setpoint moved, and the overshoot that is still legitimate.

    Attributes
    ----------
    limit_c : float or None
        Highest temperature of the recipe that runs.
    excess_c : float
        Overshoot that the chip's own controller may show after a step upwards, in K; it decays.
    moved_ns : int
        Time of the first reading with the present setpoint.
    """

    def __init__(self, limits: HeaterLimits, rig: SupervisorRig) -> None:
        self._limits, self._rig = limits, rig
        self.limit_c: float | None = None
        self.forget()

    def forget(self) -> None:
        """Start again with the next reading."""
        self.excess_c = 0.0
        self.moved_ns = 0
        self._setpoint_c: float | None = None
        self._still_c = math.nan
        self._t_ns = 0

    def follow(self, sample: HeaterSample) -> None:
        """Add the setpoint of a reading."""
        before_c, setpoint_c = self._setpoint_c, sample.setpoint_c
        if not math.isfinite(setpoint_c):
            return
        if before_c is None:
            before_c = min(setpoint_c, self._limits.safe_c)
        passed_s = max(0, sample.t_ns - self._t_ns) * 1e-9
        self.excess_c *= math.exp(-min(passed_s / self._rig.overshoot_decay_s, 700.0))
        if setpoint_c > before_c:
            highest_c = self._rig.overshoot * (self._limits.temperature_c - self._limits.safe_c)
            added_c = self._rig.overshoot * (setpoint_c - before_c)
            self.excess_c = min(self.excess_c + added_c, max(0.0, highest_c))
        if not abs(setpoint_c - self._still_c) <= STILL_C:
            self._still_c, self.moved_ns = setpoint_c, sample.t_ns
        self._setpoint_c, self._t_ns = setpoint_c, sample.t_ns

    @property
    def decay_c_per_s(self) -> float:
        """Highest legitimate rate at which the overshoot decays, in K/s."""
        return 2.0 * self.excess_c / self._rig.overshoot_decay_s


class Check(ABC):
    """The condition of one rule.

    A check keeps what it needs of earlier observations and decides about the present one. The
    delay of the rule is applied by the supervisor.
    """

    takes: ClassVar[tuple[type[Observation], ...]] = (Reading,)

    def __init__(self, limits: RuleLimits, setpoints: SetpointHistory) -> None:
        self.limits, self.setpoints = limits, setpoints

    @abstractmethod
    def check(self, observation: Observation) -> Violation | None:
        """The violation in an observation of a kind in `takes`; None if there is none."""

    def forget(self) -> None:  # noqa: B027 (many keep nothing)
        """Forget earlier readings: the heater was connected again."""
