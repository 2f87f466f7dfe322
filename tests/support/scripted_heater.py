"""A heater that follows commands along given step responses, and a watch that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from pyrotome.daemon.acquisition.heater_watch import HeaterWatch
from pyrotome.drivers.base import DeviceLost, Heater, HeaterSample, Identity
from pyrotome.protocols.config.rig import HeaterRig
from pyrotome.protocols.core.clock import ExperimentClock

MS = 1_000_000


class ScriptedHeater(Heater):
    """Follows commands along given step responses, sampled every 10 ms of its clock."""

    def __init__(self, clock: ExperimentClock, rise_s: float, fall_s: float) -> None:
        rig = HeaterRig(driver="scripted", endpoint="none")
        super().__init__("heater (scripted)", rig, clock)
        self.rise_s, self.fall_s = rise_s, fall_s
        self.commands: list[tuple[int, float]] = [(clock.now_ns(), 200.0)]
        self.silent = False

    async def connect(self, timeout_s: float = 1.0) -> Identity:
        return Identity("test", "scripted")

    async def disconnect(self) -> None: ...

    async def make_safe(self) -> None: ...

    async def set_temperature(self, temperature_c: float) -> int:
        self.commands.append((self.clock.now_ns(), temperature_c))
        return self.commands[-1][0]

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        raise NotImplementedError

    async def hold_here(self) -> None: ...

    def temperature(self, t_ns: int) -> float:
        """Linear from the previous setpoint to the new one within the rise or fall time."""
        (_, before), (start_ns, target) = ([(0, 200.0), *self.commands])[-2:]
        travel_s = self.rise_s if target > before else self.fall_s
        part = min(1.0, max(0.0, (t_ns - start_ns) * 1e-9 / travel_s))
        return before + part * (target - before)

    async def samples(self) -> AsyncIterator[HeaterSample]:
        t_ns = self.clock.now_ns()
        while True:
            t_ns += 10 * MS
            await self.clock.sleep_until_ns(t_ns)
            if self.silent:
                raise DeviceLost(self.name, "read samples", "none came")
            yield HeaterSample(t_ns, self.temperature(t_ns), self.commands[-1][1])


async def follow(watch: HeaterWatch, act: Callable[[], object]) -> None:
    task = asyncio.create_task(watch.follow(lambda _sample: None))
    try:
        await act()  # type: ignore[misc]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
