"""Heat of the operation under way that the specimen of an interrupted run received. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.manifest import HoldPlan
from ..schedule.hold_timing import HoldTiming
from ..schedule.plan import CalibrateShifts, HeatTo, HoldAt, Plan, RampTo
from .journal_history import History, first_of
from .remaining import NOTHING_DONE, Conditions, Recorded, RemainingWork

# A shorter remainder of a hold counts as held: heating up and down takes longer.
SHORTEST_HOLD_S = 0.02


def hot_s(
    t_ns: NDArray[np.int64], temperature_c: NDArray[np.float64], level_c: float, from_ns: int
) -> float:
    """Seconds that a heater's log shows at a level or above it.

    Parameters
    ----------
    t_ns, temperature_c : ndarray of shape (samples,)
        The log, in order of time; linear between its samples.
    level_c : float
        The level.
    from_ns : int
        Samples before it do not count.

    Returns
    -------
    float
        Seconds.
    """
    first = int(np.searchsorted(t_ns, from_ns))
    t, c = t_ns[first:], temperature_c[first:] - level_c
    if t.size < 2:
        return 0.0
    low, high = np.minimum(c[:-1], c[1:]), np.maximum(c[:-1], c[1:])
    span = np.where(high > low, high - low, 1.0)
    part = np.where(low >= 0, 1.0, np.clip(high, 0.0, None) / span)
    return float((np.diff(t) * 1e-9 * part).sum())


class RemainingHeat:
    """How much of the heat of the operation under way the specimen has received.

    Parameters
    ----------
    plan : Plan
        The plan of the run.
    history : History
        From its journal.
    recorded : Recorded
        From its file.
    now : Conditions
        When it resumes.
    """

    def __init__(self, plan: Plan, history: History, recorded: Recorded, now: Conditions) -> None:
        self._plan, self._history, self._recorded, self._now = plan, history, recorded, now
        at_end = history.index == len(plan.operations)
        self._operation = None if at_end or not history.begun else plan.operations[history.index]
        self.problems: list[str] = []
        # Time of the last reading of the heater.
        seen_ns = int(recorded.heater_ns[-1]) if recorded.heater_ns.size else 0
        self._seen_ns = seen_ns
        self._off_ns = self._off(max([seen_ns, *history.moments.values()]))

    def _level_c(self) -> float | None:
        """Temperature from which time counts for the operation; None where none does."""
        match self._operation:
            case HoldAt(hold=hold):
                return 0.5 * (hold.standby_c + hold.target_c)
            case HeatTo(to_c=to_c, hold_s=hold_s) if hold_s > 0:
                return to_c - self._now.tolerance_c
            case _:
                return None

    def _off(self, seen_ns: int) -> int:
        """When the specimen began to cool, as far as it is known."""
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
            self.problems.append(
                "the chip still reads processing temperature: the whole interruption is counted as "
                "hold time"
            )
            return self._now.t_ns
        if history.heater_off_ns is None:
            self.problems.append(
                "cooling was not recorded: hold time is counted up to the last temperature reading"
            )
        return first_of(history.heater_off_ns, seen_ns)

    def _falling_s(self, level_c: float, target_c: float) -> float:
        """Seconds to cool to the level after the command, where the chip's rate is limited."""
        confirmed = self._history.heater_off_ns is not None
        rate = self._now.rate_c_per_s
        return (target_c - level_c) / rate if confirmed and rate else 0.0

    def rest(self) -> tuple[float, RemainingWork]:
        """Seconds of the operation under way that are done, and what remains of it."""
        history, carried = self._history, self._history.carried
        if history.index in history.decisions:
            return 0.0, RemainingWork(goes_on=history.decisions[history.index])
        operations = self._plan.operations
        if history.deflectors is not None and isinstance(
            operations[history.index] if history.index < len(operations) else None, CalibrateShifts
        ):
            return 0.0, RemainingWork(deflectors=history.deflectors)
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
        return done_s, RemainingWork(done_s=done_s) if done_s else NOTHING_DONE

    def _rest_of_hold(self, hold: HoldPlan) -> tuple[float, RemainingWork]:
        history, carried, recorded = self._history, self._history.carried, self._recorded
        moments = history.moments
        up_ns = _or(carried.commanded_up_ns, moments.get("commanded_up"))
        crossed_ns = _or(carried.crossed_up_ns, moments.get("crossed_up"))
        done_s = carried.done_s
        if history.begun:
            level_c = 0.5 * (hold.standby_c + hold.target_c)
            log = recorded.heater_ns, recorded.heater_c
            done_s += hot_s(*log, level_c, history.begun_ns) + self._unrecorded_of(hold)
        finished = None
        if "commanded_down" in moments or hold.requested_s - done_s < SHORTEST_HOLD_S:
            down_ns = moments.get("commanded_down", self._off_ns)
            cooled_ns = moments.get("crossed_down", max(down_ns, self._off_ns))
            finished = HoldTiming(
                first_of(up_ns, down_ns), first_of(crossed_ns, down_ns), down_ns, cooled_ns
            )
        if not done_s and up_ns is None and finished is None:
            return 0.0, NOTHING_DONE
        return done_s, RemainingWork(
            done_s=done_s, commanded_up_ns=up_ns, crossed_up_ns=crossed_ns, finished=finished
        )

    def _unrecorded_of(self, hold: HoldPlan) -> float:
        """Seconds above the midpoint after the last reading, in the hold under way."""
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
        """Seconds at processing temperature since the last reading, of all holds."""
        total_s = 0.0
        if isinstance(self._operation, HoldAt):
            total_s += self._unrecorded_of(self._operation.hold)
        for timing, _ in self._history.held.values():
            since_ns = max(timing.crossed_up_ns, self._seen_ns)
            total_s += max(0.0, (timing.crossed_down_ns - since_ns) * 1e-9)
        return total_s


def _or(known: int | None, otherwise: int | None) -> int | None:
    return otherwise if known is None else known
