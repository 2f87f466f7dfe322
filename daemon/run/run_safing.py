"""The safe end of a run: devices made safe in order, and the moments noted in the journal."""

from __future__ import annotations

import asyncio
from typing import Any

from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import MadeSafe
from ..resume.run_journal import Journal
from ..runtime.event_bus import EventBus
from ..safety.devices import Devices, SafingStep

# Wall seconds in which work that was stopped should be over.
LEAVING_TIMEOUT_S = 20.0


class RunSafing:
    """Makes the devices of a run safe when it ends early.

    Parameters
    ----------
    devices : Devices
        Connected.
    clock : ExperimentClock
        Time of the journal's entries.
    bus : EventBus
        Takes an event for each step.
    journal : Journal
        Takes when the beam was blanked and the heater was commanded and safe.
    """

    def __init__(
        self, devices: Devices, clock: ExperimentClock, bus: EventBus, journal: Journal
    ) -> None:
        self._devices, self._clock, self._bus, self._journal = devices, clock, bus, journal
        self._leaving: asyncio.Future[Any] | None = None

    def leave(self, work: asyncio.Future[Any]) -> None:
        """Wait for stopped work only after the heater is safe: it must not delay that."""
        self._leaving = work

    async def make_safe(self, reason: str) -> bool:
        """Make everything safe, with events; returns whether beam and heater confirmed."""
        self._bus.event("warning", "engine", f"making safe: {reason}")
        confirmed = await self._devices.make_safe(self._on_step, self._work_is_over)
        if not confirmed:
            text = "beam or heater not confirmed safe: look at them now"
            self._bus.event("error", "engine", text)
        return confirmed

    async def rest(self) -> None:
        """Leave the devices safe after a whole run; raises DeviceError."""
        await self._devices.beam.make_safe()
        await self._devices.heater.make_safe()
        text = "acquisition complete, beam blanked, heater at its safe level"
        self._bus.event("info", "engine", text)

    async def make_safe_silently(self) -> bool:
        """Make everything safe when events may be what has failed."""
        return await self._devices.make_safe(lambda _: None, self._work_is_over)

    async def _work_is_over(self) -> None:
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            await asyncio.wait([leaving], timeout=LEAVING_TIMEOUT_S)
            if leaving.done() and not leaving.cancelled():
                leaving.exception()  # an error after the stop is not why the run ends

    def _on_step(self, step: SafingStep) -> None:
        self._bus.event(step.level, "safing", step.text, took_s=step.took_s)
        if not step.confirmed:
            return
        now_ns = self._clock.now_ns()
        begun_ns = now_ns - int(step.took_s * self._clock.speed * 1e9)
        if step.role == "beam":
            self._journal.note(MadeSafe(beam_blanked_ns=now_ns))
        elif step.role == "heater":
            sent_ns = max(begun_ns, self._devices.heater.safe_sent_ns or 0)
            self._journal.note(MadeSafe(heater_commanded_ns=sent_ns, heater_safe_ns=now_ns))
