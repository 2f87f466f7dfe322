"""Watch the heater's readings: temperature at a moment, crossings, settling; time a hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Literal

from ...drivers.base import GRACE_S, DeviceLost, Heater, HeaterSample
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.manifest import HoldPlan
from ..runtime.gc_pause import collector_away
from ..schedule.hold_timing import HoldTiming

# Readings kept for looking back: 40 s at 100 Hz, far more than one exposure.
_KEPT = 4096
# When waiting becomes a failure.
PROGRESS_TIMEOUT_S = 60.0
# Wall seconds before the end of a hold from which on nothing is collected.
_QUIET_S = 0.5
# Holds from whose latencies that of the next one is reckoned.
_FALLS = 9

HoldMoment = Literal["commanded_up", "crossed_up", "commanded_down", "crossed_down"]


class HeaterWatch:
    """The latest readings of a heater, and waiting for what they will show."""

    def __init__(self, heater: Heater, clock: ExperimentClock) -> None:
        self.heater, self.clock = heater, clock
        self._samples: deque[HeaterSample] = deque(maxlen=_KEPT)
        self._waiters: set[asyncio.Future[None]] = set()
        self._lost: BaseException | None = None

    async def follow(self, told: Callable[[HeaterSample], None]) -> None:
        """Take readings until the heater is lost, telling each; run as a task."""
        try:
            async for sample in self.heater.samples():
                self._samples.append(sample)
                told(sample)
                self._wake()
        except BaseException as error:
            self._lost = error
            raise
        finally:
            self._wake()

    def found_again(self) -> None:
        """Forget that the heater was lost, and the readings from before."""
        self._lost = None
        self._samples.clear()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    @property
    def latest(self) -> HeaterSample | None:
        """The newest reading."""
        return self._samples[-1] if self._samples else None

    def temperature_at(self, t_ns: int) -> float:
        """Temperature at a moment, linear between readings, the nearest one outside them.

        Raises
        ------
        DeviceLost
            If there has been no reading at all.
        """
        if not self._samples:
            raise DeviceLost(self.heater.name, "a temperature", "no reading has come yet")
        after = self._samples[-1]
        if t_ns >= after.t_ns:
            return after.temperature_c
        # What is asked for is nearly always recent.
        for before in reversed(self._samples):
            if before.t_ns <= t_ns:
                weight = (t_ns - before.t_ns) / (after.t_ns - before.t_ns)
                return before.temperature_c + weight * (after.temperature_c - before.temperature_c)
            after = before
        return after.temperature_c

    async def next_sample(self, after_ns: int, what: str, deadline_ns: int) -> HeaterSample:
        """The first reading later than a moment.

        Raises
        ------
        DeviceLost
            If none comes before the deadline, with `what` was waited for.
        """
        while True:
            latest = self.latest
            if latest is not None and latest.t_ns > after_ns:
                return _later_than(self._samples, after_ns)[0]
            if self._lost is not None:
                raise DeviceLost(
                    self.heater.name, f"readings, waiting for {what}", f"{self._lost}"
                ) from self._lost
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            patience_s = self.clock.wall_s((deadline_ns - self.clock.now_ns()) * 1e-9) + GRACE_S
            try:
                # Not wait_for: it forgets a cancellation that comes together with a reading.
                async with asyncio.timeout(max(patience_s, 0.01)):
                    await waiter
            except TimeoutError:
                raise DeviceLost(
                    self.heater.name, f"readings, waiting for {what}", "none came in time"
                ) from None
            finally:
                self._waiters.discard(waiter)

    async def crossing(self, level_c: float, rising: bool, after_ns: int) -> int:
        """Moment at which the temperature passes a level, interpolated between readings.

        Raises
        ------
        DeviceLost
            If it has not happened within the progress timeout.
        """
        way = "above" if rising else "below"
        what = f"the temperature to go {way} {level_c:.1f} degC"
        deadline_ns = after_ns + int(PROGRESS_TIMEOUT_S * 1e9)
        before: HeaterSample | None = next(
            (s for s in reversed(self._samples) if s.t_ns <= after_ns), None
        )
        seen_ns = after_ns
        while True:
            sample = await self.next_sample(seen_ns, what, deadline_ns)
            beyond = sample.temperature_c >= level_c if rising else sample.temperature_c <= level_c
            if beyond:
                if before is None or before.temperature_c == sample.temperature_c:
                    return sample.t_ns
                weight = (level_c - before.temperature_c) / (
                    sample.temperature_c - before.temperature_c
                )
                weight = min(1.0, max(0.0, weight))
                return before.t_ns + int(weight * (sample.t_ns - before.t_ns))
            if sample.t_ns > deadline_ns:
                raise DeviceLost(
                    self.heater.name,
                    f"to pass {level_c:.1f} degC",
                    f"it reads {sample.temperature_c:.1f} degC after {PROGRESS_TIMEOUT_S:g} s",
                    "Check the chip's contact and the heater's limits",
                )
            before, seen_ns = sample, sample.t_ns

    async def settled(
        self, target_c: float, after_ns: int, timeout_s: float = PROGRESS_TIMEOUT_S
    ) -> None:
        """Wait until the temperature has stayed near a target for as long as the rig says.

        Parameters
        ----------
        target_c : float
            Where it should be.
        after_ns : int
            Readings before this moment, when the command went out, do not count.
        timeout_s : float
            Experiment time to wait from now, or from `after_ns` if that is later.

        Raises
        ------
        DeviceLost
            If it has not by the timeout.
        """
        limits = self.heater.rig.limits
        what = f"the temperature to settle at {target_c:g} degC"
        now_ns = self.clock.now_ns()
        deadline_ns = max(after_ns, now_ns) + int(timeout_s * 1e9)
        inside_since: int | None = None
        # A chip that has long been there need not prove it anew.
        seen_ns = max(after_ns, now_ns - int((2 * limits.settle_s + 0.1) * 1e9))
        while True:
            sample = await self.next_sample(seen_ns, what, deadline_ns)
            seen_ns = sample.t_ns
            if abs(sample.temperature_c - target_c) <= limits.tolerance_c:
                inside_since = sample.t_ns if inside_since is None else inside_since
                if sample.t_ns - inside_since >= limits.settle_s * 1e9:
                    return
            else:
                inside_since = None
            if sample.t_ns > deadline_ns:
                raise DeviceLost(
                    self.heater.name,
                    f"to settle at {target_c:g} degC",
                    f"it reads {sample.temperature_c:.1f} degC after {timeout_s:g} s",
                    "Check the chip's contact and the heater's limits",
                )


def _later_than(samples: deque[HeaterSample], after_ns: int) -> list[HeaterSample]:
    """Readings later than a moment, oldest first; quick when they are few."""
    later: list[HeaterSample] = []
    for sample in reversed(samples):
        if sample.t_ns <= after_ns:
            break
        later.append(sample)
    later.reverse()
    return later


class HoldTimer:
    """Carries out holds timed from crossing to crossing of the midpoint temperature.

    The command to cool is given early by the time that it takes from there to the midpoint: what
    the chip takes, what the driver does until it can send, and how late a busy event loop wakes up.
    That latency is learned from the holds themselves, as the median of the latest; for the first
    one, the latency of its own rise is the estimate.
    """

    def __init__(self, watch: HeaterWatch) -> None:
        self.watch = watch
        self._falls_s: deque[float] = deque(maxlen=_FALLS)

    async def hold(
        self, plan: HoldPlan, told: Callable[[HoldMoment, int], None] | None = None
    ) -> HoldTiming:
        """Standby to processing, the time asked for, and back to standby.

        Parameters
        ----------
        plan : HoldPlan
            What to do.
        told : callable
            Takes each moment of the hold as soon as it is known.

        Raises
        ------
        DeviceError
            From the heater; the caller brings it to safety.
        """
        heater, clock = self.watch.heater, self.watch.clock
        tell: Callable[[HoldMoment, int], None] = told or (lambda _what, _at_ns: None)
        midpoint_c = 0.5 * (plan.standby_c + plan.target_c)
        with collector_away():
            asked_ns = clock.now_ns()
            up_ns = await heater.set_temperature(plan.target_c)
            tell("commanded_up", up_ns)
            crossed_up_ns = await self.watch.crossing(midpoint_c, True, up_ns)
        tell("crossed_up", crossed_up_ns)
        rise_s = (crossed_up_ns - asked_ns) * 1e-9
        fall_s = median(self._falls_s) if self._falls_s else rise_s
        due_ns = max(clock.now_ns(), crossed_up_ns + int((plan.requested_s - fall_s) * 1e9))
        await clock.sleep_until_ns(due_ns - int(_QUIET_S * clock.speed * 1e9))
        with collector_away():
            await clock.sleep_until_ns(due_ns)
            down_ns = await heater.set_temperature(plan.standby_c)
            tell("commanded_down", down_ns)
            crossed_down_ns = await self.watch.crossing(midpoint_c, False, down_ns)
        tell("crossed_down", crossed_down_ns)
        self._falls_s.append((crossed_down_ns - due_ns) * 1e-9)
        return HoldTiming(up_ns, crossed_up_ns, down_ns, crossed_down_ns)
