"""Bring beam and heater to their safe state, again and again until they have confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .deadlines import SAFING_STEP_TIMEOUT_S, heater_timeout_s

if TYPE_CHECKING:
    from ....drivers.base import Beam, Heater

GIVE_UP_S = 60.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 2.0


async def confirmed(
    action: str,
    act: Callable[[], Awaitable[object]],
    timeout_s: float,
    give_up_s: float,
    report: Callable[[str], None],
) -> bool:
    """Repeat an action until it is confirmed, or until there is no time left.

    Parameters
    ----------
    action : str
        What is done, for the reports.
    act : callable
        Does it; returns when confirmed, raises otherwise.
    timeout_s : float
        Wall seconds that one attempt has.
    give_up_s : float
        Wall seconds after which no further attempt begins.
    report : callable
        Takes each new problem.

    Returns
    -------
    bool
        Whether it was confirmed.
    """
    retry_s, reported = FIRST_RETRY_S, ""
    end = asyncio.get_running_loop().time() + give_up_s
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                await act()
        except Exception as error:
            problem = str(error) or "not confirmed in time"
            if problem != reported:
                reported = problem
                report(f"NOT {action}: {problem}")
        else:
            return True
        if asyncio.get_running_loop().time() + retry_s > end:
            return False
        await asyncio.sleep(retry_s)
        retry_s = min(2.0 * retry_s, LONGEST_RETRY_S)


async def make_safe(
    beam: Beam, heater: Heater, report: Callable[[str], None]
) -> dict[str, int | None]:
    """Blank the beam and bring the heater to its safe level, both at once.

    Parameters
    ----------
    beam, heater : Beam, Heater
        Not connected, or connected.
    report : callable
        Takes what is confirmed, and each problem.

    Returns
    -------
    dict
        Moments on the experiment clock in ns: ``beam_blanked_ns``, ``heater_commanded_ns``,
        ``heater_safe_ns``; None for what was not confirmed.
    """
    clock = heater.clock

    async def one(
        action: str, act: Callable[[], Awaitable[object]], timeout_s: float
    ) -> int | None:
        give_up_s = GIVE_UP_S + timeout_s - SAFING_STEP_TIMEOUT_S
        if not await confirmed(action, act, timeout_s, give_up_s, report):
            return None
        report(action)
        return clock.now_ns()

    began_ns = clock.now_ns()
    blanked_ns, safe_ns = await asyncio.gather(
        one("beam blanked", beam.make_safe, SAFING_STEP_TIMEOUT_S),
        one("heater at its safe level", heater.make_safe, heater_timeout_s(heater)),
    )
    sent_ns = heater.safe_sent_ns or (None if safe_ns is None else began_ns)
    await asyncio.gather(beam.disconnect(), heater.disconnect(), return_exceptions=True)
    return {
        "beam_blanked_ns": blanked_ns,
        "heater_commanded_ns": sent_ns,
        "heater_safe_ns": safe_ns,
    }
