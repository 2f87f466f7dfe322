"""The supervisor: one table of rules, and what trips when something is wrong for long enough.

Pure: it is told what was observed and when, and returns what trips. `watchdog.py` tells it, from
connect to disconnect, and does what the rules say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...protocols.config.rig import Rig
from ...protocols.config.supervision import Action
from .rules import (
    Course,
    Finding,
    Implausible,
    Judge,
    Moving,
    Observation,
    OverTemperature,
    Progress,
    Rate,
    Reading,
    Stale,
    Terms,
    Unblanked,
    Vacuum,
)

# Experiment seconds without a finding after which an occurrence is over.
OVER_S = 1.0


@dataclass(frozen=True)
class Rule:
    """One rule; a rig may change bound, delay and action, and cannot remove it.

    Attributes
    ----------
    judges : str
        What it is about, in words.
    judge : type of Judge
        Who looks.
    bound, unit
        What must not be passed; a rule about something that is so or not has no unit.
    delay_s : float
        Experiment time for which it has to be wrong.
    action : str
        ``warn``: say so. ``pause``: wait at standby for a person. ``safe``: end the run, beam
        blanked and heater at its safe level.
    """

    judges: str
    judge: type[Judge]
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
        "away from the setpoint and not on the way to it", Progress, 15.0, "K", 10.0, "safe"
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
    """A rule has tripped, or its occurrence is over.

    `value` and `bound` are in `unit`; `since_ns` is when it began, `t_ns` when this was said.
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
        """How loud the event is."""
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
        """What the event holds beside its text."""
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
    """A rule at work: since when it finds something, and whether that has tripped."""

    def __init__(self, name: str, rule: Rule, rig: Rig, course: Course) -> None:
        settings = getattr(rig.supervisor, name.replace("-", "_"))
        bound = getattr(settings, "bound", None)
        self.name, self.unit = name, rule.unit
        self.bound = rule.bound if bound is None else bound
        self.delay_ns = int((rule.delay_s if settings.delay_s is None else settings.delay_s) * 1e9)
        self.action: Action = settings.action or rule.action
        terms = Terms(self.bound, rig.heater.limits, rig.supervisor)
        self.judge = rule.judge(terms, course)
        self.since_ns: int | None = None
        self.last_ns = 0
        self.tripped: Trip | None = None

    def see(self, seen: Observation) -> Trip | None:
        found = self.judge.judge(seen)
        return self._nothing(seen.now_ns) if found is None else self._something(found, seen.now_ns)

    def _something(self, found: Finding, now_ns: int) -> Trip | None:
        self.last_ns = now_ns
        if self.since_ns is None:
            self.since_ns = now_ns
        if self.tripped is not None:
            return None
        since_ns = self.since_ns if found.since_ns is None else max(self.since_ns, found.since_ns)
        if not found.at_once and now_ns - since_ns < self.delay_ns:
            return None
        self.tripped = Trip(
            self.name, self.action, found.value, found.bound,
            self.unit if found.unit is None else found.unit, since_ns, now_ns, found.text,
        )  # fmt: skip
        return self.tripped

    def _nothing(self, now_ns: int) -> Trip | None:
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
    """Every rule at work on one rig.

    Parameters
    ----------
    rig : Rig
        Its limits, and its changes of the rules.
    rules : mapping, optional
        The table.
    """

    def __init__(self, rig: Rig, rules: Mapping[str, Rule] = RULES) -> None:
        self._course = Course(rig.heater.limits, rig.supervisor)
        self._rules = [_Watched(name, rule, rig, self._course) for name, rule in rules.items()]
        self._by_kind: dict[type, list[_Watched]] = {}

    def see(self, seen: Observation) -> list[Trip]:
        """Take in an observation; times must not go back.

        Returns
        -------
        list of Trip
            What has tripped by it, and what is over by it.
        """
        kind = type(seen)
        if isinstance(seen, Reading):
            self._course.follow(seen.sample)
        concerned = self._by_kind.get(kind)
        if concerned is None:
            concerned = [rule for rule in self._rules if kind in rule.judge.takes]
            self._by_kind[kind] = concerned
        trips: list[Trip] = []
        for rule in concerned:
            trip = rule.see(seen)
            if trip is not None:
                trips.append(trip)
        return trips

    def run(self, limit_c: float | None) -> None:
        """A run begins, whose recipe has a limit; or it is over (None)."""
        self._course.limit_c = limit_c

    def heater_connected(self) -> None:
        """The heater was lost and found again: earlier readings say nothing of later ones."""
        self._course.forget()
        for rule in self._rules:
            rule.judge.forget()

    @property
    def persisting(self) -> list[Trip]:
        """What has tripped and is not over."""
        return [rule.tripped for rule in self._rules if rule.tripped is not None]

    @property
    def in_doubt(self) -> bool:
        """Whether something is wrong that has not tripped yet: a closer look is worth it."""
        return any(r.since_ns is not None and r.tripped is None for r in self._rules)
