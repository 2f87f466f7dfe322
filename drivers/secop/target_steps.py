"""Ramps of a SECoP module that has none: its target is changed step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...protocols.core.clock import ExperimentClock
from ..base import DeviceError
from .control import ModuleControl


class TargetSteps:
    """One ramp at a time, in a task of its own.

    Parameters
    ----------
    device : str
        For the task's name.
    control : ModuleControl
        Of the module.
    clock : ExperimentClock
        Of the ramp.
    on_end : callable
        Called with the error that ends a ramp early.
    """

    def __init__(
        self,
        device: str,
        control: ModuleControl,
        clock: ExperimentClock,
        on_end: Callable[[DeviceError], None],
    ) -> None:
        self._device, self._control, self._clock, self._on_end = device, control, clock, on_end
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a ramp has been started and not been ended since."""
        return self._task is not None

    async def start(
        self, start_c: float, target_c: float, duration_s: float, every_s: float, request: str
    ) -> int:
        """Ramp from one temperature to another.

        Parameters
        ----------
        start_c, target_c : float
            In degC.
        duration_s, every_s : float
            Of the ramp and of a step, in experiment seconds.
        request : str
            For messages.

        Returns
        -------
        int
            Moment at which the ramp began.
        """
        await self.end()
        started_ns = self._clock.now_ns()

        async def step() -> None:
            fraction = 0.0
            try:
                while fraction < 1:
                    await self._clock.sleep(min(every_s, duration_s))
                    elapsed_s = (self._clock.now_ns() - started_ns) * 1e-9
                    fraction = min(1.0, elapsed_s / duration_s) if duration_s > 0 else 1.0
                    step_c = start_c + fraction * (target_c - start_c)
                    await self._control.change_target(step_c, request)
            except DeviceError as error:
                self._on_end(error)

        self._task = asyncio.create_task(step(), name=f"{self._device} steps")
        return started_ns

    async def end(self) -> None:
        """End the ramp under way; harmless when there is none."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
