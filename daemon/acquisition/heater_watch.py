"""Follow the heater's readings: temperature at a moment, crossings, settling."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from statistics import median

from ...drivers.base import GRACE_S, DeviceLost, Heater, HeaterSample
from ...protocols.core.clock import ExperimentClock

# Readings kept for looking back: 40 s at 100 Hz, far more than one exposure.
_KEPT = 4096
# When waiting becomes a failure.
PROGRESS_TIMEOUT_S = 60.0


class HeaterWatch:
    """The latest readings of a heater, and waits for what they will show.

    Parameters
    ----------
    heater : Heater
        Connected.
    clock : ExperimentClock
        Time of the readings.
    """

    def __init__(self, heater: Heater, clock: ExperimentClock) -> None:
        self.heater, self.clock = heater, clock
        self._samples: deque[HeaterSample] = deque(maxlen=_KEPT)
        self._waiters: set[asyncio.Future[None]] = set()
        self._lost: BaseException | None = None

    async def follow(self, on_sample: Callable[[HeaterSample], object]) -> None:
        """Call `on_sample` with every reading until the heater is lost; run as a task."""
        try:
            async for sample in self.heater.samples():
                self._samples.append(sample)
                on_sample(sample)
                self._wake()
        except BaseException as error:
            self._lost = error
            raise
        finally:
            self._wake()

    def reconnected(self) -> None:
        """Forget that the heater was lost, and its readings before that."""
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

    def median_c(self, from_ns: int, until_ns: int) -> float | None:
        """Median temperature of the readings between two moments; None without any.

        Of a long time, those of its end that are still kept.
        """
        within = [s.temperature_c for s in self._samples if from_ns <= s.t_ns <= until_ns]
        return median(within) if within else None

    def temperature_at(self, t_ns: int) -> float:
        """Temperature at a moment: linear between readings, the nearest reading outside them.

        Raises
        ------
        DeviceLost
            If there has been no reading at all.
        """
        if not self._samples:
            raise DeviceLost(self.heater.name, "read the temperature", "no reading has come yet")
        after = self._samples[-1]
        if t_ns >= after.t_ns:
            return after.temperature_c
        # The moment is nearly always recent.
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
            If none comes before the deadline; the message says what was waited for.
        """
        while True:
            latest = self.latest
            if latest is not None and latest.t_ns > after_ns:
                return _later_than(self._samples, after_ns)[0]
            if self._lost is not None:
                raise DeviceLost(
                    self.heater.name, f"wait for {what}", f"{self._lost}"
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
                    self.heater.name, f"wait for {what}", "none came in time"
                ) from None
            finally:
                self._waiters.discard(waiter)

    async def crossing(self, level_c: float, rising: bool, after_ns: int) -> int:
        """Moment at which the temperature passes a level, interpolated between readings.

        Raises
        ------
        DeviceLost
            If the temperature does not pass it within the progress timeout.
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
                    f"pass {level_c:.1f} degC",
                    f"it reads {sample.temperature_c:.1f} degC after {PROGRESS_TIMEOUT_S:g} s",
                    "Check the chip's contact and the heater's limits",
                )
            before, seen_ns = sample, sample.t_ns

    async def settled(
        self, target_c: float, after_ns: int, timeout_s: float = PROGRESS_TIMEOUT_S
    ) -> None:
        """Wait until the temperature has stayed near a target for the settling time of the rig.

        Parameters
        ----------
        target_c : float
            Target temperature, in degC.
        after_ns : int
            Time of the command; earlier readings do not count.
        timeout_s : float
            Experiment time to wait from now, or from `after_ns` if that is later.

        Raises
        ------
        DeviceLost
            If the temperature has not settled by the timeout.
        """
        limits = self.heater.rig.limits
        what = f"the temperature to settle at {target_c:g} degC"
        now_ns = self.clock.now_ns()
        deadline_ns = max(after_ns, now_ns) + int(timeout_s * 1e9)
        inside_since: int | None = None
        # Earlier readings count: a chip that has been there for long is settled at once.
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
                    f"settle at {target_c:g} degC",
                    f"it reads {sample.temperature_c:.1f} degC after {timeout_s:g} s",
                    "Check the chip's contact and the heater's limits",
                )


def _later_than(samples: deque[HeaterSample], after_ns: int) -> list[HeaterSample]:
    """Readings later than a moment, oldest first; fast if they are few."""
    later: list[HeaterSample] = []
    for sample in reversed(samples):
        if sample.t_ns <= after_ns:
            break
        later.append(sample)
    later.reverse()
    return later
