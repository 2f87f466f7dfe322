"""Carry out a hold that lasts, from crossing to crossing of the midpoint, as long as requested."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Literal

from ...protocols.messages.manifest import HoldPlan
from ..runtime.gc_pause import collector_away
from ..schedule.hold_timing import HoldTiming
from .heater_watch import HeaterWatch

# Wall seconds before the end of a hold from which on the garbage collector is off.
_QUIET_S = 0.5
# Number of past holds whose latencies predict that of the next one.
_FALLS = 9

HoldMoment = Literal["commanded_up", "crossed_up", "commanded_down", "crossed_down"]


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
