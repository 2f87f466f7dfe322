"""What is left of the operation under way when a run was interrupted: its heat and its frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.manifest import HoldPlan, StackPlan
from ..schedule.dose import ROUNDING
from ..schedule.hold_timing import HoldTiming
from ..schedule.plan import AcquireStack, HeatTo, HoldAt, Plan, RampTo
from .journal_history import History, first_of

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
            first_of(self.commanded_up_ns, timing.commanded_up_ns),
            first_of(self.crossed_up_ns, timing.crossed_up_ns),
            timing.commanded_down_ns,
            timing.crossed_down_ns,
        )


ALL = Rest()


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


class HeatLeft:
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
        log, now_c = self._recorded.heater_c, self._now.temperature_c
        was_hot = bool({"reached", "crossed_up"} & history.moments.keys()) or (
            isinstance(self._operation, HoldAt)
            and log.size > 0
            and log[-1] >= (level_c or math.inf)
        )
        if level_c is None or not was_hot or "commanded_down" in history.moments:
            return first_of(history.heater_off_ns, seen_ns)
        if now_c is not None and now_c >= level_c:
            self.problems.append("the specimen is hot: it has been so all the time, which counts")
            return self._now.t_ns
        if history.heater_off_ns is None:
            self.problems.append(
                "nobody saw how the specimen cooled: it counts as hot until the last reading"
            )
        return first_of(history.heater_off_ns, seen_ns)

    def _falling_s(self, level_c: float, target_c: float) -> float:
        """Time to cool to the level after the command, where the chip's rate is limited."""
        confirmed = self._history.heater_off_ns is not None
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
                first_of(up_ns, down_ns), first_of(crossed_ns, down_ns), down_ns, cooled_ns
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


class FramesLeft:
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
        stack = operation.stack if isinstance(operation, AcquireStack | RampTo) else None
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
