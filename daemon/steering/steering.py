"""Decide from what the analysis has measured whether a cycle goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from ..schedule.plan import Decide


class Tell(Protocol):
    """How an event is sent; see `engine.Outgoing.event`."""

    def __call__(self, level: str, source: str, message: str, **more: Any) -> None:
        """Send it."""
        ...


class Steering:
    """What is known of the necks of each series, and the decisions made from it.

    Parameters
    ----------
    tell : callable
        Takes the decisions as events, with what they rest on.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._neck_ratio: dict[str, float | None] = {}
        self._news = asyncio.Event()

    def note(self, series: str, neck_ratio: float | None) -> None:
        """Take in the median r_n / r_p of a series; None if nothing could be measured."""
        self._neck_ratio[series] = neck_ratio
        self._news.set()

    def restore(self, neck_ratio: Mapping[str, float | None]) -> None:
        """Begin with what was measured before the run was interrupted."""
        self._neck_ratio.update(neck_ratio)

    async def go_on(self, decision: Decide) -> bool:
        """Whether the cycle goes on; waits for the measurement, but not longer than agreed."""
        until = decision.until
        if decision.before is None:
            self._tell("info", "steering", f"{decision.series} is the first: the cycle goes on")
            return True
        try:
            async with asyncio.timeout(until.timeout_s):
                before = await self._known(decision.before)
                now = await self._known(decision.series)
        except TimeoutError:
            before = now = None
        if not before or now is None:
            goes_on = until.otherwise == "continue"
            self._tell(
                "warning",
                "steering",
                f"the necks of {decision.before} and {decision.series} were not known within "
                f"{until.timeout_s:g} s: the cycle {'goes on' if goes_on else 'ends'}, "
                "as the recipe says",
            )
            return goes_on
        growth = now / before - 1.0
        goes_on = growth >= until.neck_growth_below
        self._tell(
            "info",
            "steering",
            f"necks grew by {growth:.2%} from {decision.before} to {decision.series} "
            f"(bound {until.neck_growth_below:.2%}): the cycle {'goes on' if goes_on else 'ends'}",
            growth=growth,
        )
        return goes_on

    async def _known(self, series: str) -> float | None:
        while series not in self._neck_ratio:
            self._news.clear()
            await self._news.wait()
        return self._neck_ratio[series]
