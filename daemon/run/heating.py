"""Operations of the heater: go to a temperature, hold it, ramp, and wait until it is reached."""

from __future__ import annotations

from dataclasses import asdict

from ...drivers.base import Heater
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import Moment, MomentName
from ...protocols.messages.manifest import HoldPlan
from ..acquisition.heater_watch import PROGRESS_TIMEOUT_S, HeaterWatch
from ..acquisition.outgoing import Outgoing
from ..resume.remaining import RemainingWork
from ..resume.run_journal import Journal
from ..schedule.hold_timing import HoldTiming
from ..schedule.plan import HeatTo, HoldAt
from .hold_timer import HoldTimer


class Heating:
    """Carries out what a plan asks of the heater.

    Parameters
    ----------
    heater : Heater
        Connected.
    watch : HeaterWatch
        Follows the heater's readings.
    clock : ExperimentClock
        The clock of the experiment.
    journal : Journal
        Takes the moments of heating.
    out : Outgoing
        Takes the holds.

    Attributes
    ----------
    commanded_ns : int
        When the latest command was sent to the heater.
    """

    def __init__(
        self,
        heater: Heater,
        watch: HeaterWatch,
        clock: ExperimentClock,
        journal: Journal,
        out: Outgoing,
    ) -> None:
        self._heater, self._watch, self._clock = heater, watch, clock
        self._journal, self._out = journal, out
        self._timer = HoldTimer(watch)
        self.commanded_ns = clock.now_ns()

    def _moment(self, what: MomentName, at_ns: int) -> None:
        self._journal.note(Moment(what=what, at_ns=at_ns))

    async def heat(self, operation: HeatTo, done_s: float) -> None:
        """Go to a temperature and stay there; `done_s` of the stay are done already."""
        await self.go_to(operation.to_c, operation.rate_c_per_s)
        reached_ns = self._clock.now_ns()
        self._moment("reached", reached_ns)
        await self._clock.sleep_until_ns(reached_ns + int((operation.hold_s - done_s) * 1e9))

    async def go_to(self, to_c: float, rate_c_per_s: float | None) -> None:
        """Go to a temperature, at a rate if one is given, and wait until it is reached.

        Raises
        ------
        DeviceError
            From the heater, or if the temperature does not settle in time.
        """
        travel_s = 0.0
        if rate_c_per_s is None:
            self.commanded_ns = await self._heater.set_temperature(to_c)
            limit = self._heater.rig.limits.rate_c_per_s
        else:
            limit = rate_c_per_s
        latest = self._watch.latest
        if limit is not None and latest is not None:
            travel_s = abs(to_c - latest.temperature_c) / limit
        if rate_c_per_s is not None:
            self.commanded_ns = await self._heater.start_ramp(to_c, travel_s)
        await self.settled(to_c, travel_s)

    async def go_back_to(self, to_c: float, rate_c_per_s: float | None) -> None:
        """Go back to the temperature at which a run was interrupted; a hot chip cools at once."""
        latest = self._watch.latest
        hotter = latest is not None and latest.temperature_c > to_c
        await self.go_to(to_c, None if hotter else rate_c_per_s)

    async def settled(self, target_c: float, travel_s: float = 0.0) -> None:
        """Wait until the temperature has settled after the latest command."""
        timeout_s = travel_s + PROGRESS_TIMEOUT_S
        await self._watch.settled(target_c, self.commanded_ns, timeout_s)

    async def hold(self, operation: HoldAt, rest: RemainingWork) -> HoldTiming:
        """Carry out what is left of a hold, report it, wait for standby; returns its moments."""
        plan = operation.hold
        timing, achieved_s = rest.finished, rest.done_s
        if timing is None:
            left_s = plan.requested_s - rest.done_s
            left = plan.model_copy(update={"requested_s": left_s})
            timing = await self._timer.hold(left, self._moment)
            achieved_s += timing.achieved_s
            self.commanded_ns = timing.commanded_down_ns
            timing = rest.whole_hold(timing)
        self.report_hold(plan, timing, achieved_s)
        await self.settled(plan.standby_c)
        return timing

    def report_hold(self, plan: HoldPlan, timing: HoldTiming, achieved_s: float) -> None:
        """Send the moments of a hold to the file, and an event to people."""
        requested = f"requested {plan.requested_s:g} s at {plan.target_c:g} degC"
        median_c = self._watch.median_c(timing.crossed_up_ns, timing.crossed_down_ns)
        measured = "" if median_c is None else f" at {median_c:.1f} degC (median)"
        self._out.event(
            "info",
            "engine",
            f"hold {plan.index}: {achieved_s:.3f} s{measured}; {requested}",
            hold={"index": plan.index, **asdict(timing)},
        )
        self._out.hold(plan.index, timing)

    async def start_ramp(self, to_c: float, duration_s: float) -> None:
        """Begin a linear ramp."""
        self.commanded_ns = await self._heater.start_ramp(to_c, duration_s)
        self._moment("ramp", self.commanded_ns)
