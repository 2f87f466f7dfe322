"""Carry out a hold of exactly the requested time, from crossing to crossing of the midpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Literal

from ...protocols.messages.manifest import HoldPlan
from ..acquisition.heater_watch import HeaterWatch
from ..runtime.gc_pause import gc_paused
from ..schedule.hold_timing import HoldTiming

# Wall seconds before the end of a hold from which on the garbage collector is off.
_QUIET_S = 0.5
# Number of past holds whose latencies predict that of the next one.
_FALLS = 9

HoldMoment = Literal["commanded_up", "crossed_up", "commanded_down", "crossed_down"]


def _ignore(_moment: HoldMoment, _at_ns: int) -> None:
    """Do nothing."""


class HoldTimer:
    """Carries out holds timed from crossing to crossing of the midpoint temperature.

    The command to cool is sent early, by the latency from the command to the crossing: the response
    of the chip, the time until the driver can send, and the lag of a busy event loop. The latency
    is the median of the latest holds; for the first hold, it is the latency of its own rise.

    Parameters
    ----------
    watch : HeaterWatch
        Follows the heater that is commanded.
    """

    def __init__(self, watch: HeaterWatch) -> None:
        self.watch = watch
        self._falls_s: deque[float] = deque(maxlen=_FALLS)

    async def hold(
        self, plan: HoldPlan, on_moment: Callable[[HoldMoment, int], None] = _ignore
    ) -> HoldTiming:
        """From standby to processing for the requested time, and back to standby.

        Parameters
        ----------
        plan : HoldPlan
            Temperatures and time.
        on_moment : callable
            Called with name and time of each moment of the hold as soon as it is known.

        Raises
        ------
        DeviceError
            From the heater; the caller makes it safe.
        """
        heater, clock = self.watch.heater, self.watch.clock
        midpoint_c = 0.5 * (plan.standby_c + plan.target_c)
        with gc_paused():
            requested_ns = clock.now_ns()
            up_ns = await heater.set_temperature(plan.target_c)
            on_moment("commanded_up", up_ns)
            crossed_up_ns = await self.watch.crossing(midpoint_c, True, up_ns)
        on_moment("crossed_up", crossed_up_ns)
        rise_s = (crossed_up_ns - requested_ns) * 1e-9
        fall_s = median(self._falls_s) if self._falls_s else rise_s
        due_ns = max(clock.now_ns(), crossed_up_ns + int((plan.requested_s - fall_s) * 1e9))
        await clock.sleep_until_ns(due_ns - int(_QUIET_S * clock.speed * 1e9))
        with gc_paused():
            await clock.sleep_until_ns(due_ns)
            down_ns = await heater.set_temperature(plan.standby_c)
            on_moment("commanded_down", down_ns)
            crossed_down_ns = await self.watch.crossing(midpoint_c, False, down_ns)
        on_moment("crossed_down", crossed_down_ns)
        self._falls_s.append((crossed_down_ns - due_ns) * 1e-9)
        return HoldTiming(up_ns, crossed_up_ns, down_ns, crossed_down_ns)
