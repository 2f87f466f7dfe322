"""From the journal of an interrupted run and what its file holds: where and with what it goes on.

Pure. `History` is what the journal says, `Recorded` what the file says, `resume_point` concludes.
The rules are those of decision 11.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..protocols.journal import (
    Begun,
    Carried,
    Decision,
    Ended,
    Exposed,
    MadeSafe,
    Moment,
    MomentName,
    Necks,
    Noted,
    RunLine,
    Trigger,
)
from ..protocols.loading import BadInput
from ..protocols.manifest import HoldPlan, Interruption, StackPlan
from .dose import ROUNDING
from .heating import HoldTiming
from .plan import HeatTo, HoldAt, Operation, Plan, RampTo, TakeStack

# What is left of a hold and shorter than this counts as held: to heat up and down takes longer.
SHORTEST_HOLD_S = 0.02


@dataclass(frozen=True)
class Rest:
    """What is left of an operation; as it stands here, all of it.

    Attributes
    ----------
    places : tuple of int or None
        Frames to take, in the order of the stack; None for all.
    done_s : float
        Part of a hold that was held, or of a ramp that was gone through.
    commanded_up_ns, crossed_up_ns : int or None
        When a hold that was interrupted had begun.
    over : HoldTiming or None
        The hold is over, and when it was; it remains to be told.
    goes_on : bool or None
        What a decision was, if it has been made.
    """

    places: tuple[int, ...] | None = None
    done_s: float = 0.0
    commanded_up_ns: int | None = None
    crossed_up_ns: int | None = None
    over: HoldTiming | None = None
    goes_on: bool | None = None

    def since_its_rise(self, timing: HoldTiming) -> HoldTiming:
        """The moments of a hold's last part, and when it had first begun."""
        return HoldTiming(
            _first(self.commanded_up_ns, timing.commanded_up_ns),
            _first(self.crossed_up_ns, timing.crossed_up_ns),
            timing.commanded_down_ns,
            timing.crossed_down_ns,
        )


ALL = Rest()


@dataclass(frozen=True)
class Held:
    """A hold that is over."""

    hold: HoldPlan
    timing: HoldTiming
    achieved_s: float


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes
    ----------
    resumed : int
        The how-many-th time.
    index : int
        Operation with which it goes on; the number of operations when all are done.
    rest : mapping
        What is left of operations of which a part is done, by index.
    start_c : float or None
        Temperature to which the specimen is brought first; None where nothing was heated before,
        or nothing is left that needs it.
    rate_c_per_s : float or None
        At which it is heated there, if the recipe names one.
    retakes : tuple
        Stacks that are done but lack frames: index of the operation, and places to take again.
    untold : tuple of Held
        Holds of which the file does not know yet.
    charged : mapping
        Electrons per nm^2 that each stack has cost.
    cut_off : Exposed or None
        The end of a trigger that was cut off, which the journal does not know yet.
    missing : mapping
        Frames that will not be taken any more, by stack.
    carried : Carried
        What was done of the operation `index`, for the journal.
    interruption : Interruption
        For the file.
    problems : tuple of str
        What a person should know.
    """

    resumed: int
    index: int
    rest: Mapping[int, Rest]
    start_c: float | None
    rate_c_per_s: float | None
    retakes: tuple[tuple[int, tuple[int, ...]], ...]
    untold: tuple[Held, ...]
    charged: Mapping[str, float]
    cut_off: Exposed | None
    missing: Mapping[str, tuple[int, ...]]
    necks: Mapping[str, float | None]
    carried: Carried
    interruption: Interruption
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Recorded:
    """What the file of an interrupted run holds, as far as it matters here.

    Attributes
    ----------
    there : mapping
        For each stack, which frames are recorded.
    heater_ns, heater_c : ndarray of shape (samples,)
        The heater's log, in order of time.
    holds : frozenset of int
        Indices of the holds whose end the file knows.
    last_ns : int
        The latest moment in the file.
    """

    there: Mapping[str, NDArray[np.bool_]]
    heater_ns: NDArray[np.int64]
    heater_c: NDArray[np.float64]
    holds: frozenset[int]
    last_ns: int

    def missing(self, stack: StackPlan) -> list[int]:
        """Places of a stack whose frames are not there."""
        return np.flatnonzero(~self.there[stack.name]).tolist()


@dataclass(frozen=True)
class Now:
    """The present: when, what the heater reads, its tolerance and its highest rate."""

    t_ns: int
    temperature_c: float | None = None
    tolerance_c: float = 3.0
    rate_c_per_s: float | None = None


@dataclass
class History:
    """What the journal says has been done."""

    run: str = ""
    resumed: int = 0
    index: int = 0
    begun: bool = False
    begun_ns: int = 0
    last_ns: int = 0
    visited: set[int] = field(default_factory=set[int])
    carried: Carried = field(default_factory=lambda: Carried(index=0))
    # Of the operation under way, since the run was last resumed.
    moments: dict[MomentName, int] = field(default_factory=dict[MomentName, int])
    held: dict[int, tuple[HoldTiming, float]] = field(
        default_factory=dict[int, tuple[HoldTiming, float]]
    )
    decisions: dict[int, bool] = field(default_factory=dict[int, bool])
    necks: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    exposed: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    charged: dict[str, float] = field(default_factory=dict[str, float])
    # A trigger whose end was not noted, and when it began; its dose is charged already.
    open: Trigger | None = None
    open_ns: int = 0
    beam_blanked_ns: int | None = None
    heater_safe_ns: int | None = None

    @classmethod
    def of(cls, entries: Iterable[Noted]) -> History:
        """Read a journal from its beginning."""
        history = cls()
        for noted in entries:
            history.take(noted)
        return history

    def take(self, noted: Noted) -> None:
        """Take in the next entry."""
        self.last_ns = max(self.last_ns, noted.t_ns)
        match noted.entry:
            case RunLine() as line:
                self.run, self.resumed = line.run, line.resumed
                if line.carried is not None:
                    self.index, self.carried = line.carried.index, line.carried
                self.begun, self.moments, self.open = False, {}, None
                self.beam_blanked_ns = self.heater_safe_ns = None
            case Begun(index=index):
                self._go_to(index)
                self.begun, self.begun_ns, self.moments = True, noted.t_ns, {}
                self.visited.add(index)
            case Ended(index=index, next=following):
                self.visited.add(index)
                if index == self.index and (timing := self.timing()) is not None:
                    self.held[index] = timing
                self._go_to(following)
                self.begun, self.moments = False, {}
            case Moment(what=what, at_ns=at_ns):
                self.moments[what] = at_ns
            case Trigger() as trigger:
                places = range(trigger.first, trigger.first + min(trigger.count, 100_000))
                self.exposed.setdefault(trigger.stack, set()).update(places)
                self._charge(trigger.stack, trigger.dose_e_per_nm2)
                self.open, self.open_ns = trigger, noted.t_ns
            case Exposed(stack=stack, dose_e_per_nm2=dose):
                if dose is not None and self.open is not None and self.open.stack == stack:
                    self._charge(stack, max(0.0, dose - self.open.dose_e_per_nm2))
                self.open = None
            case Decision(index=index, goes_on=goes_on):
                self.decisions[index] = goes_on
            case Necks(series=series, ratio=ratio):
                self.necks[series] = ratio
            case MadeSafe() as safe:
                self.beam_blanked_ns = self.beam_blanked_ns or safe.beam_blanked_ns
                self.heater_safe_ns = self.heater_safe_ns or safe.heater_safe_ns
            case _:
                pass

    def _go_to(self, index: int) -> None:
        if index != self.carried.index:
            self.carried = Carried(index=index)
        self.index = index

    def _charge(self, stack: str, dose: float) -> None:
        self.charged[stack] = self.charged.get(stack, 0.0) + dose

    def moment(self, what: MomentName) -> int | None:
        """When something happened to the operation under way, by the latest session."""
        return self.moments.get(what)

    def timing(self) -> tuple[HoldTiming, float] | None:
        """Moments and achieved time of the hold under way, if it is over."""
        try:
            up, crossed, down, cooled = (self.moments[what] for what in _HOLD_MOMENTS)
        except KeyError:
            return None
        first = HoldTiming(
            _first(self.carried.commanded_up_ns, up),
            _first(self.carried.crossed_up_ns, crossed),
            down,
            cooled,
        )
        return first, self.carried.done_s + (cooled - crossed) * 1e-9


_HOLD_MOMENTS: tuple[MomentName, ...] = (
    "commanded_up", "crossed_up", "commanded_down", "crossed_down",
)  # fmt: skip


def _first(known: int | None, otherwise: int) -> int:
    return otherwise if known is None else known


def resume_point(
    plan: Plan, history: History, recorded: Recorded, now: Now, why: str = ""
) -> ResumePoint:
    """Conclude where an interrupted run goes on.

    Parameters
    ----------
    plan : Plan
        The whole plan of the run.
    history : History
        From its journal.
    recorded : Recorded
        From its file.
    now : Now
        When it goes on, and how hot the specimen is.
    why : str
        Why it was interrupted, for the file.

    Raises
    ------
    BadInput
        If the journal speaks of operations that the plan does not have.
    """
    operations, index = plan.operations, history.index
    if index > len(operations) or any(i >= len(operations) for i in history.visited):
        raise BadInput(
            "journal", f"speaks of operation {index + 1}, the plan has {len(operations)}"
        )
    heat = _Heat(plan, history, recorded, now)
    done_s, rest = heat.rest()
    heated = done_s > 0 or (
        history.begun and (isinstance(operations[index], HeatTo) or bool(history.moments))
    )
    frames = _Frames(plan, history, recorded, {} if rest is ALL else {index: rest})
    if index < len(operations):
        frames.under_way(index, done_s, now.tolerance_c)
    frames.taken(index, heated)
    charged, cut_off = _charged(plan, history)
    frames.afford(charged)
    start_c = _start_c(operations, index)
    if index == len(operations) and not frames.again:
        start_c = None
    elif index < len(operations) and isinstance(ramp := operations[index], RampTo) and done_s > 0:
        gone_c = math.copysign(ramp.rate_c_per_s * done_s, ramp.to_c - ramp.from_c)
        start_c = ramp.from_c + gone_c
    since_ns = int(recorded.heater_ns[-1]) if recorded.heater_ns.size else recorded.last_ns
    return ResumePoint(
        resumed=history.resumed + 1,
        index=index,
        rest=frames.rest,
        start_c=start_c,
        rate_c_per_s=_rate(operations[:index]),
        retakes=tuple(sorted((i, tuple(sorted(places))) for i, places in frames.again.items())),
        untold=tuple(
            Held(operation.hold, timing, achieved_s)
            for i, (timing, achieved_s) in sorted(history.held.items())
            if isinstance(operation := operations[i], HoldAt)
            and operation.hold.index not in recorded.holds
        ),
        charged=charged,
        cut_off=cut_off,
        missing={name: tuple(sorted(places)) for name, places in frames.given_up.items()},
        necks=history.necks,
        carried=Carried(
            index=index,
            done_s=done_s,
            commanded_up_ns=rest.commanded_up_ns,
            crossed_up_ns=rest.crossed_up_ns,
        ),
        interruption=Interruption(
            from_ns=min(since_ns, now.t_ns),
            until_ns=now.t_ns,
            hot_s=heat.unrecorded_s(),
            reason=why,
        ),
        problems=(*heat.problems, *frames.problems),
    )


# --- heat -----------------------------------------------------------------------------------------


def _start_c(operations: Sequence[Operation], index: int) -> float | None:
    """Temperature at which an operation begins; None if nothing was heated before."""
    for operation in reversed(operations[:index]):
        match operation:
            case HeatTo(to_c=to_c) | RampTo(to_c=to_c):
                return to_c
            case HoldAt(hold=hold):
                return hold.standby_c
            case _:
                continue
    return None


def _rate(before: Sequence[Operation]) -> float | None:
    """The rate at which the recipe last said that the specimen should be heated."""
    rates = (op.rate_c_per_s for op in reversed(before) if isinstance(op, HeatTo))
    return next((rate for rate in rates if rate is not None), None)


def hot_s(
    t_ns: NDArray[np.int64], temperature_c: NDArray[np.float64], level_c: float, from_ns: int
) -> float:
    """Time that a heater's log shows at a level or above it, from a moment on.

    Parameters
    ----------
    t_ns, temperature_c : ndarray of shape (samples,)
        The log, in order of time; linear between its samples.
    level_c : float
        The level.
    from_ns : int
        Samples before do not count.
    """
    first = int(np.searchsorted(t_ns, from_ns))
    t, c = t_ns[first:], temperature_c[first:] - level_c
    if t.size < 2:
        return 0.0
    low, high = np.minimum(c[:-1], c[1:]), np.maximum(c[:-1], c[1:])
    span = np.where(high > low, high - low, 1.0)
    part = np.where(low >= 0, 1.0, np.clip(high, 0.0, None) / span)
    return float((np.diff(t) * 1e-9 * part).sum())


class _Heat:
    """What the specimen has been through in the operation under way, up to now."""

    def __init__(self, plan: Plan, history: History, recorded: Recorded, now: Now) -> None:
        self._plan, self._history, self._recorded, self._now = plan, history, recorded, now
        at_end = history.index == len(plan.operations)
        self._operation = None if at_end or not history.begun else plan.operations[history.index]
        self.problems: list[str] = []
        # The last moment at which the heater was seen.
        seen_ns = int(recorded.heater_ns[-1]) if recorded.heater_ns.size else 0
        self._seen_ns = seen_ns
        self._off_ns = self._off(max([seen_ns, *history.moments.values()]))

    def _level_c(self) -> float | None:
        """Below this the operation under way does not count; None where it does not matter."""
        match self._operation:
            case HoldAt(hold=hold):
                return 0.5 * (hold.standby_c + hold.target_c)
            case HeatTo(to_c=to_c, hold_s=hold_s) if hold_s > 0:
                return to_c - self._now.tolerance_c
            case _:
                return None

    def _off(self, seen_ns: int) -> int:
        """When the specimen began to cool, as far as is known."""
        history, level_c = self._history, self._level_c()
        if history.heater_safe_ns is not None:
            return history.heater_safe_ns
        log = self._recorded.heater_c
        hot = {"reached", "crossed_up"} & history.moments.keys() or (
            isinstance(self._operation, HoldAt) and log.size and log[-1] >= (level_c or math.inf)
        )
        if level_c is None or not hot or "commanded_down" in history.moments:
            return seen_ns
        if self._now.temperature_c is not None and self._now.temperature_c >= level_c:
            self.problems.append(
                "the heater was not made safe: the specimen has been hot all the time, which counts"
            )
            return self._now.t_ns
        self.problems.append(
            "nobody saw how the specimen cooled: it counts as hot until the last reading"
        )
        return seen_ns

    def _falling_s(self, level_c: float, target_c: float) -> float:
        """Time to cool to the level after the command, where the chip's rate is limited."""
        confirmed = self._history.heater_safe_ns is not None
        rate = self._now.rate_c_per_s
        return (target_c - level_c) / rate if confirmed and rate else 0.0

    def rest(self) -> tuple[float, Rest]:
        """How much of the operation under way is done, and what is left of it."""
        history, carried = self._history, self._history.carried
        if history.index in history.decisions:
            return 0.0, Rest(goes_on=history.decisions[history.index])
        match self._operation:
            case HoldAt(hold=hold):
                return self._rest_of_hold(hold)
            case HeatTo():
                reached_ns = history.moment("reached")
                here_s = 0.0 if reached_ns is None else (self._off_ns - reached_ns) * 1e-9
                done_s = carried.done_s + max(0.0, here_s)
            case RampTo() as ramp:
                begun_ns = history.moment("ramp")
                here_s = 0.0 if begun_ns is None else (self._off_ns - begun_ns) * 1e-9
                done_s = min(ramp.duration_s, carried.done_s + max(0.0, here_s))
            case _:
                done_s = carried.done_s
                if history.index < len(self._plan.operations) and isinstance(
                    waiting := self._plan.operations[history.index], HoldAt
                ):
                    return self._rest_of_hold(waiting.hold)
        return done_s, Rest(done_s=done_s) if done_s else ALL

    def _rest_of_hold(self, hold: HoldPlan) -> tuple[float, Rest]:
        history, carried, recorded = self._history, self._history.carried, self._recorded
        moments = history.moments
        up_ns = _or(carried.commanded_up_ns, moments.get("commanded_up"))
        crossed_ns = _or(carried.crossed_up_ns, moments.get("crossed_up"))
        done_s = carried.done_s
        if history.begun:
            level_c = 0.5 * (hold.standby_c + hold.target_c)
            log = recorded.heater_ns, recorded.heater_c
            done_s += hot_s(*log, level_c, history.begun_ns) + self._unrecorded_of(hold)
        over = None
        if "commanded_down" in moments or hold.requested_s - done_s < SHORTEST_HOLD_S:
            down_ns = moments.get("commanded_down", self._off_ns)
            cooled_ns = moments.get("crossed_down", max(down_ns, self._off_ns))
            over = HoldTiming(
                _first(up_ns, down_ns), _first(crossed_ns, down_ns), down_ns, cooled_ns
            )
        if not done_s and up_ns is None and over is None:
            return 0.0, ALL
        return done_s, Rest(
            done_s=done_s, commanded_up_ns=up_ns, crossed_up_ns=crossed_ns, over=over
        )

    def _unrecorded_of(self, hold: HoldPlan) -> float:
        """Time above the midpoint after the last reading, in the hold under way."""
        history, recorded = self._history, self._recorded
        level_c = 0.5 * (hold.standby_c + hold.target_c)
        crossed_ns = history.moment("crossed_up")
        if recorded.heater_ns.size and recorded.heater_c[-1] >= level_c:
            since_ns = self._seen_ns
        elif crossed_ns is not None and crossed_ns >= self._seen_ns:
            since_ns = crossed_ns
        else:
            return 0.0
        down_ns = history.moment("crossed_down")
        if down_ns is None:
            command_ns = _or(history.moment("commanded_down"), self._off_ns)
            falling_s = self._falling_s(level_c, hold.target_c)
            down_ns = (command_ns or 0) + int(falling_s * 1e9)
        return max(0.0, (down_ns - since_ns) * 1e-9)

    def unrecorded_s(self) -> float:
        """Time at processing temperature since the last reading, in all."""
        total_s = 0.0
        if isinstance(self._operation, HoldAt):
            total_s += self._unrecorded_of(self._operation.hold)
        for timing, _ in self._history.held.values():
            since_ns = max(timing.crossed_up_ns, self._seen_ns)
            total_s += max(0.0, (timing.crossed_down_ns - since_ns) * 1e-9)
        return total_s


def _or(known: int | None, otherwise: int | None) -> int | None:
    return otherwise if known is None else known


# --- dose -----------------------------------------------------------------------------------------


def _charged(plan: Plan, history: History) -> tuple[dict[str, float], Exposed | None]:
    """What every stack has cost, and how a trigger ended that was cut off."""
    charged, trigger = dict(history.charged), history.open
    if trigger is None:
        return charged, None
    beam, dose = plan.recipe.beam, trigger.dose_e_per_nm2
    if history.beam_blanked_ns is not None:
        on_s = (history.beam_blanked_ns - history.open_ns) * 1e-9
        dose = max(dose, beam.dose_per_frame_e_per_nm2 / beam.exposure_s * on_s)
    charged[trigger.stack] += dose - trigger.dose_e_per_nm2
    return charged, Exposed(stack=trigger.stack, dose_e_per_nm2=dose)


# --- frames ---------------------------------------------------------------------------------------


class _Frames:
    """Which frames are taken, which are taken again, and which stay missing."""

    def __init__(
        self, plan: Plan, history: History, recorded: Recorded, rest: dict[int, Rest]
    ) -> None:
        self._plan, self._history, self._recorded = plan, history, recorded
        self.rest = rest
        self.again: dict[int, list[int]] = {}
        self.given_up: dict[str, list[int]] = {}
        self.problems: list[str] = []

    def _lacking(self, index: int) -> tuple[StackPlan, list[int]] | None:
        operation = self._plan.operations[index]
        stack = operation.stack if isinstance(operation, TakeStack | RampTo) else None
        return None if stack is None else (stack, self._recorded.missing(stack))

    def under_way(self, index: int, done_s: float, tolerance_c: float) -> None:
        """What is left of the stack under way: what is missing; in a ramp, not what is past."""
        found = self._lacking(index)
        if found is None:
            return
        stack, missing = found
        operation, exposed = self._plan.operations[index], self._history.exposed.get(stack.name, ())
        places, past = missing, list[int]()
        if isinstance(operation, RampTo) and operation.frame_every_s is not None:
            tolerance_s = tolerance_c / operation.rate_c_per_s
            past = [
                place
                for place in missing
                if place in exposed and place * operation.frame_every_s < done_s - tolerance_s
            ]
            gone = set(past)
            places = [place for place in missing if place not in gone]
        if len(places) < stack.frames:
            rest = self.rest.get(index, ALL)
            self.rest[index] = Rest(places=tuple(places), done_s=rest.done_s)
        self._give_up(stack, past, "the ramp has gone past their temperature")

    def taken(self, index: int, heated: bool) -> None:
        """What stacks before lack: taken again while the specimen has not been heated since."""
        for i in reversed(range(index)):
            found = self._lacking(i)
            operation = self._plan.operations[i]
            if i in self._history.visited and found is not None and found[1]:
                stack, missing = found
                if heated or isinstance(operation, RampTo):
                    self._give_up(stack, missing, "the specimen has been heated since")
                else:
                    self.again[i] = missing
            if isinstance(operation, HeatTo | HoldAt | RampTo) and i in self._history.visited:
                heated = True

    def afford(self, charged: Mapping[str, float]) -> None:
        """Leave out what the dose budgets do not allow.

        What has never been exposed comes first, in the order of the schedule; what is to be taken
        again comes last.
        """
        recipe = self._plan.recipe
        limits, dose = recipe.limits, recipe.beam.dose_per_frame_e_per_nm2
        if limits.dose_e_per_nm2 is None and limits.dose_per_series_e_per_nm2 is None:
            return
        room = _frames_in(limits.dose_e_per_nm2, sum(charged.values()), dose)
        rooms = {
            stack.name: _frames_in(
                limits.dose_per_series_e_per_nm2 if stack.kind == "series" else None,
                charged.get(stack.name, 0.0),
                dose,
            )
            for stack in self._plan.stacks
        }
        refused: dict[int, list[int]] = {}
        for index, stack, place in (*self._wanted(False), *self._wanted(True)):
            if room >= 1 and rooms[stack] >= 1:
                room, rooms[stack] = room - 1, rooms[stack] - 1
            else:
                refused.setdefault(index, []).append(place)
        for index, places in refused.items():
            self._refuse(index, places)

    def _wanted(self, exposed: bool) -> Iterator[tuple[int, str, int]]:
        """Frames that are to be taken, of those exposed before or of the others."""
        for index in range(len(self._plan.operations)):
            found = self._lacking(index)
            if found is None or (index < self._history.index and index not in self.again):
                continue
            stack, missing = found
            before = self._history.exposed.get(stack.name, set())
            rest = self.rest.get(index, ALL)
            places = missing if rest.places is None else rest.places
            for place in self.again.get(index, places):
                if (place in before or index in self.again) is exposed:
                    yield index, stack.name, place

    def _refuse(self, index: int, places: list[int]) -> None:
        found = self._lacking(index)
        assert found is not None
        stack, missing = found
        out = set(places)
        if index in self.again:
            left = [place for place in self.again.pop(index) if place not in out]
            if left:
                self.again[index] = left
        else:
            rest = self.rest.get(index, ALL)
            planned = missing if rest.places is None else rest.places
            kept = tuple(place for place in planned if place not in out)
            self.rest[index] = Rest(places=kept, done_s=rest.done_s)
        self._give_up(stack, places, "the dose budget does not allow them")

    def _give_up(self, stack: StackPlan, places: list[int], why: str) -> None:
        if not places:
            return
        self.given_up.setdefault(stack.name, []).extend(places)
        angles = ", ".join(f"{stack.tilt_deg[place]:+g}°" for place in sorted(places)[:8])
        more = f" and {len(places) - 8} more" if len(places) > 8 else ""
        self.problems.append(
            f"{stack.name}: {len(places)} of {stack.frames} frames stay missing "
            f"({angles}{more}): {why}"
        )


def _frames_in(limit: float | None, charged: float, dose: float) -> float:
    """Frames for which a budget has room."""
    return math.inf if limit is None else max(0.0, (limit * ROUNDING - charged) / dose)
