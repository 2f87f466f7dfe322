"""The one notion of time: UTC nanoseconds that may run faster than the wall when simulated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime


class ExperimentClock:
    """Monotonic time mapped to UTC nanoseconds, running at `speed`.

    Parameters
    ----------
    speed : float
        Experiment seconds per wall second; other than 1 only where all hardware is simulated.
    epoch_utc_ns : int, optional
        UTC at the start; read from the system when absent.
    epoch_monotonic_ns : int, optional
        Monotonic time at the start. On one machine, two processes given the same epochs and
        speed agree on the time exactly.
    monotonic_ns : callable
        The monotonic source, injected by tests.
    """

    def __init__(
        self,
        speed: float = 1.0,
        epoch_utc_ns: int | None = None,
        epoch_monotonic_ns: int | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be positive, got {speed}")
        self.speed = speed
        self._monotonic_ns = monotonic_ns
        self.epoch_monotonic_ns = (
            monotonic_ns() if epoch_monotonic_ns is None else epoch_monotonic_ns
        )
        self.epoch_utc_ns = time.time_ns() if epoch_utc_ns is None else epoch_utc_ns

    def now_ns(self) -> int:
        """UTC nanoseconds on this clock; never steps back."""
        elapsed = self._monotonic_ns() - self.epoch_monotonic_ns
        if self.speed != 1.0:
            elapsed = int(elapsed * self.speed)
        return self.epoch_utc_ns + elapsed

    def now_s(self) -> float:
        """Seconds since the clock's start."""
        return (self.now_ns() - self.epoch_utc_ns) * 1e-9

    def wall_s(self, experiment_s: float) -> float:
        """Wall seconds that an experiment duration takes."""
        return experiment_s / self.speed

    async def sleep(self, experiment_s: float) -> None:
        """Wait for a duration of experiment time."""
        await asyncio.sleep(max(0.0, experiment_s / self.speed))

    async def sleep_until_ns(self, t_ns: int) -> None:
        """Wait until a moment of experiment time; returns at once when it is past."""
        while (remaining_ns := t_ns - self.now_ns()) > 0:
            await asyncio.sleep(remaining_ns * 1e-9 / self.speed)


def iso_utc(t_ns: int) -> str:
    """ISO 8601 with milliseconds and Z, as in ``2026-11-20T10:00:00.000Z``."""
    seconds, nanoseconds = divmod(t_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds // 1_000_000:03d}Z"
