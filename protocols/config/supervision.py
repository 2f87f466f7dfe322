"""What a rig may say about supervisor and guardian: each rule's bound, delay and action."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..core.documents import Strict
from ..core.units import AngleDeg, DifferenceC, DurationS, Fraction, LengthNm, RateCPerS

Action = Literal["warn", "pause", "safe"]


class _RuleSettings(Strict):
    """What is left out stays as the table of rules has it (``daemon/safety/supervisor.py``).

    `delay` is experiment time for which something has to be wrong before the rule trips.
    """

    delay_s: DurationS | None = Field(default=None, alias="delay", ge=0)
    action: Action | None = None


class StaleSettings(_RuleSettings):
    """`bound`: experiment time without a new reading."""

    bound: DurationS | None = Field(default=None, gt=0)


class TemperatureSettings(_RuleSettings):
    """`bound`: a difference of temperatures."""

    bound: DifferenceC | None = Field(default=None, gt=0)


class RateSettings(_RuleSettings):
    """`bound`: change of the temperature while the setpoint stands still."""

    bound: RateCPerS | None = Field(default=None, gt=0)


class MovingSettings(_RuleSettings):
    """`bound`: tilt; `distance` is that of x, y and z."""

    bound: AngleDeg | None = Field(default=None, gt=0)
    distance_nm: LengthNm = Field(default=200.0, alias="distance", gt=0)


class ColumnSettings(_RuleSettings):
    """A rule about something that is so or not: it has no bound."""


class SupervisorRig(Strict):
    """Changes of the supervisor's rules, and what the chip's own controller does beyond a setpoint.

    After a step upwards the temperature may exceed the setpoint by `overshoot` of the step, which
    goes away with `overshoot_decay`: so much is granted on top of every bound.
    """

    overshoot: Fraction = Field(default=0.25, ge=0, le=1)
    overshoot_decay_s: DurationS = Field(default=8.0, alias="overshoot_decay", gt=0)
    stale: StaleSettings = StaleSettings()
    implausible: TemperatureSettings = TemperatureSettings()
    over_temperature: TemperatureSettings = TemperatureSettings()
    rate: RateSettings = RateSettings()
    progress: TemperatureSettings = TemperatureSettings()
    unblanked: ColumnSettings = ColumnSettings()
    moving: MovingSettings = MovingSettings()
    vacuum: ColumnSettings = ColumnSettings()


class GuardianRig(Strict):
    """`timeout`: wall time without the daemon's heartbeat after which the guardian acts."""

    timeout_s: DurationS = Field(default=2.0, alias="timeout", ge=0.5, le=60)
