"""Record how monotonic time maps to UTC, with the uncertainty of each reading."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...protocols.core.clock import ExperimentClock

INTERVAL_S = 60.0
_TRIES = 5


@dataclass(frozen=True)
class ClockPair:
    """One reading of both clocks; UTC was read within `uncertainty_ns` of `monotonic_ns`."""

    monotonic_ns: int
    utc_ns: int
    uncertainty_ns: int
    experiment_ns: int


def read_pair(
    clock: ExperimentClock,
    monotonic_ns: Callable[[], int] = time.monotonic_ns,
    utc_ns: Callable[[], int] = time.time_ns,
) -> ClockPair:
    """Read UTC between two readings of the monotonic clock; the best of a few tries.

    Parameters
    ----------
    clock : ExperimentClock
        Read as well.
    monotonic_ns, utc_ns : callable
        The clocks, in nanoseconds.
    """
    best: ClockPair | None = None
    for _ in range(_TRIES):
        before = monotonic_ns()
        utc = utc_ns()
        after = monotonic_ns()
        if best is None or after - before < 2 * best.uncertainty_ns:
            centre = (before + after) // 2
            best = ClockPair(centre, utc, (after - before + 1) // 2, clock.now_ns())
    assert best is not None
    return best


async def keep_record(clock: ExperimentClock, record: Callable[[ClockPair], None]) -> None:
    """Record a pair at once and then once a wall minute, until cancelled."""
    while True:
        record(read_pair(clock))
        await asyncio.sleep(INTERVAL_S)
