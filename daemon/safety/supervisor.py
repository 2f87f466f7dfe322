"""The supervisor: one table of rules; a rule trips when it is violated for longer than its delay.

Pure: it takes observations with their times and returns the rules that trip. `observer.py` makes
the observations from connect to disconnect; `safing.py` acts on what trips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...protocols.config.rig import Rig
from ...protocols.config.supervision import Action
from .column_rules import Moving, Unblanked, Vacuum
from .heater_rules import Implausible, NoProgress, OverTemperature, Rate, Stale
from .observations import Observation, Reading
from .rules import Check, RuleLimits, SetpointHistory, Violation

# Experiment seconds without a violation after which a trip is over.
OVER_S = 1.0


@dataclass(frozen=True)
class Rule:
    """One rule. A rig may change its bound, delay and action, but cannot remove it.

    Attributes
    ----------
    subject : str
        The condition that violates the rule, in words.
    check : type of Check
        Decides whether an observation violates the rule.
    bound, unit
        Highest permitted value and its unit; a yes-or-no rule has no unit.
    delay_s : float
        Experiment time for which the violation must last.
    action : str
        ``warn``: make an event. ``pause``: wait at standby for a person. ``safe``: end the run,
        beam blanked and heater at its safe level.
    """

    subject: str
    check: type[Check]
    bound: float
    unit: str
    delay_s: float
    action: Action


RULES: Mapping[str, Rule] = {
    "stale": Rule("no new reading of the heater", Stale, 5.0, "s", 0.0, "safe"),
    "implausible": Rule(
        "resistance, power and temperature that do not belong together",
        Implausible, 25.0, "K", 0.5, "safe",
    ),
    "over-temperature": Rule(
        "hotter than the rig's limit, or the recipe's while it runs",
        OverTemperature, 10.0, "K", 0.2, "safe",
    ),
    "rate": Rule(
        "faster than the rig's rate, or than a setpoint that stands still explains",
        Rate, 20.0, "K/s", 0.3, "safe",
    ),
    "progress": Rule(
        "away from the setpoint and not on the way to it", NoProgress, 15.0, "K", 10.0, "safe"
    ),
    "unblanked": Rule("the beam is on outside an exposure", Unblanked, 0.0, "", 0.5, "safe"),
    "moving": Rule("the stage moves during an exposure", Moving, 0.05, "deg", 0.0, "pause"),
    "vacuum": Rule(
        "column valves closed while frames are taken, or the vacuum not ready",
        Vacuum, 0.0, "", 0.0, "pause",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Trip:
    """A rule has tripped, or its violation is over (`over`).

    `value` and `bound` are in `unit`; the violation began at `since_ns` and tripped at `t_ns`.
    """

    rule: str
    action: Action
    value: float
    bound: float
    unit: str
    since_ns: int
    t_ns: int
    message: str
    over: bool = False

    @property
    def level(self) -> str:
        """Level of the event."""
        if self.over:
            return "info"
        return "error" if self.action == "safe" else "warning"

    def __str__(self) -> str:
        if self.over:
            return f"{self.rule}: over, {self.message}"
        bound = f", bound {self.bound:.4g} {self.unit}" if self.unit else ""
        lasted_s = (self.t_ns - self.since_ns) * 1e-9
        lasted = f", for {lasted_s:.1f} s" if lasted_s > 0 else ""
        return f"{self.rule}: {self.message}{bound}{lasted}, {self.action}"

    def body(self) -> dict[str, object]:
        """Details of the event."""
        return {
            "rule": self.rule,
            "action": self.action,
            "value": self.value,
            "bound": self.bound,
            "unit": self.unit,
            "since_ns": self.since_ns,
            "over": self.over,
        }


class _Watched:
    """One rule at work: since when it is violated, and whether it has tripped."""

    def __init__(self, name: str, rule: Rule, rig: Rig, setpoints: SetpointHistory) -> None:
        settings = getattr(rig.supervisor, name.replace("-", "_"))
        bound = getattr(settings, "bound", None)
        self.name, self.unit = name, rule.unit
        self.bound = rule.bound if bound is None else bound
        self.delay_ns = int((rule.delay_s if settings.delay_s is None else settings.delay_s) * 1e9)
        self.action: Action = settings.action or rule.action
        limits = RuleLimits(self.bound, rig.heater.limits, rig.supervisor)
        self.check = rule.check(limits, setpoints)
        self.since_ns: int | None = None
        self.last_ns = 0
        self.tripped: Trip | None = None

    def see(self, observation: Observation) -> Trip | None:
        found = self.check.check(observation)
        return (
            self._satisfied(observation.now_ns)
            if found is None
            else self._violated(found, observation.now_ns)
        )

    def _violated(self, violation: Violation, now_ns: int) -> Trip | None:
        self.last_ns = now_ns
        if self.since_ns is None:
            self.since_ns = now_ns
        if self.tripped is not None:
            return None
        since_ns = (
            self.since_ns if violation.since_ns is None else max(self.since_ns, violation.since_ns)
        )
        # A reading that is stamped in the future must not put off what follows from it.
        since_ns = min(since_ns, now_ns)
        if not violation.at_once and now_ns - since_ns < self.delay_ns:
            return None
        self.tripped = Trip(
            self.name, self.action, violation.value, violation.bound,
            self.unit if violation.unit is None else violation.unit,
            since_ns, now_ns, violation.text,
        )  # fmt: skip
        return self.tripped

    def _satisfied(self, now_ns: int) -> Trip | None:
        tripped = self.tripped
        if tripped is None:
            self.since_ns = None
            return None
        if self.delay_ns and now_ns - self.last_ns < OVER_S * 1e9:
            return None
        self.since_ns = self.tripped = None
        lasted_s = (now_ns - tripped.since_ns) * 1e-9
        return Trip(
            self.name, self.action, tripped.value, tripped.bound, self.unit, tripped.since_ns,
            now_ns, f"after {lasted_s:.1f} s", over=True,
        )  # fmt: skip


class Supervisor:
    """All rules at work on one rig.

    Parameters
    ----------
    rig : Rig
        Limits of the chip, and changes of the rules.
    rules : mapping, optional
        The table.
    """

    def __init__(self, rig: Rig, rules: Mapping[str, Rule] = RULES) -> None:
        self._setpoints = SetpointHistory(rig.heater.limits, rig.supervisor)
        self._rules = [_Watched(name, rule, rig, self._setpoints) for name, rule in rules.items()]
        self._by_kind: dict[type, list[_Watched]] = {}

    def see(self, observation: Observation) -> list[Trip]:
        """Check an observation; times must not decrease.

        Returns
        -------
        list of Trip
            Rules that trip now, and trips that are over now.
        """
        kind = type(observation)
        if isinstance(observation, Reading):
            self._setpoints.follow(observation.sample)
        concerned = self._by_kind.get(kind)
        if concerned is None:
            concerned = [rule for rule in self._rules if kind in rule.check.takes]
            self._by_kind[kind] = concerned
        trips: list[Trip] = []
        for rule in concerned:
            trip = rule.see(observation)
            if trip is not None:
                trips.append(trip)
        return trips

    def run(self, limit_c: float | None) -> None:
        """Set the highest temperature of the recipe that runs; None when no run is under way."""
        self._setpoints.limit_c = limit_c

    def heater_connected(self) -> None:
        """Forget earlier readings: the heater was connected again."""
        self._setpoints.forget()
        for rule in self._rules:
            rule.check.forget()

    @property
    def persisting(self) -> list[Trip]:
        """Trips that are not over."""
        return [rule.tripped for rule in self._rules if rule.tripped is not None]

    @property
    def in_doubt(self) -> bool:
        """Whether a rule is violated and has not tripped yet: observe more often."""
        return any(r.since_ns is not None and r.tripped is None for r in self._rules)
