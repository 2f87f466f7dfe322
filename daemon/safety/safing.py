"""Safing: what brings the devices to safety, and when: trips, errors, the emergency stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from ...drivers.base import DeviceError, DeviceLost
from ..runtime.event_bus import EventBus
from ..schedule.states import Busy, State, StateMachine
from .devices import Devices, SafingStep
from .observer import Observer
from .supervisor import Trip
from .topics import GuardianActed, HeaterLost, SupervisorFailed


class RunUnderWay(Protocol):
    """What safing needs of the run under way, which makes its own devices safe when it ends."""

    closing: bool
    safe_confirmed: bool

    def stop(self, status: str, reason: str, error: BaseException | None = None) -> None:
        """End the run early, safely."""

    @property
    def pause_requested(self) -> bool:
        """Whether a pause has been requested."""
        ...

    def pause(self) -> None:
        """Pause at the next standby."""


class Safing:
    """Acts on trips, lost devices and emergency stops.

    A run under way is stopped and makes the devices safe itself, in order, with its file closed
    after it. Without a run, the devices are made safe here.

    Parameters
    ----------
    devices : Devices
        Connected.
    machine : StateMachine
        Goes to `safing`, and to `panicked` if beam or heater do not confirm.
    bus : EventBus
        Brings trips and other reasons; gets events.
    observer : Observer
        Told when the beam is blanked.
    abort : callable
        Ends the run under way for a reason and waits until its file is closed.
    """

    def __init__(
        self,
        devices: Devices,
        machine: StateMachine,
        bus: EventBus,
        observer: Observer,
        abort: Callable[[str], Awaitable[object]],
    ) -> None:
        self._devices, self._machine, self._bus = devices, machine, bus
        self._observer, self._abort = observer, abort
        self._run: RunUnderWay | None = None
        self._task: asyncio.Task[tuple[bool, list[SafingStep]]] | None = None
        bus.subscribe(Trip, self._on_trip, required=True)
        bus.subscribe(HeaterLost, self._on_heater_lost, required=True)
        bus.subscribe(SupervisorFailed, self._on_supervisor_failed, required=True)
        bus.subscribe(GuardianActed, self._on_guardian_acted, required=True)

    def run_begins(self, run: RunUnderWay) -> None:
        """A run is under way from now on."""
        self._run = run

    def run_ends(self) -> None:
        """No run is under way any more."""
        self._run = None

    # --- reasons --------------------------------------------------------------------------------

    def _on_trip(self, trip: Trip) -> None:
        self._bus.event(trip.level, "supervisor", str(trip), **trip.body())
        if trip.over or trip.action == "warn":
            return
        if trip.action == "safe":
            lost = DeviceLost(self._devices.heater.name, "read samples", trip.message)
            self.end_safely(f"supervisor: {trip}", lost if trip.rule == "stale" else None)
        elif self._run is not None and not self._run.pause_requested:
            self._run.pause()

    def _on_heater_lost(self, lost: HeaterLost) -> None:
        self._bus.event("error", "heater", str(lost.error))
        if self._run is not None:
            self._run.stop("failed", str(lost.error), lost.error)

    def _on_supervisor_failed(self, failed: SupervisorFailed) -> None:
        self.end_safely(f"supervisor: {failed.problem}")

    def _on_guardian_acted(self, acted: GuardianActed) -> None:
        self._bus.event("error", "guardian", acted.reason)
        self.end_safely(f"guardian: {acted.reason}")

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """End safely if a task failed that runs as long as the daemon."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end_safely(f"unexpected in '{task.get_name()}': {error!r}", error)

    def end_safely(self, reason: str, error: BaseException | None = None) -> None:
        """End the run under way as failed, or make the devices safe if there is none."""
        if self._run is not None and not self._run.closing:
            self._run.stop("failed", reason, error)
        else:
            self._bus.event("warning", "supervisor", f"making safe: {reason}")
            self._begin()

    # --- what is done ---------------------------------------------------------------------------

    def _begin(self) -> asyncio.Task[tuple[bool, list[SafingStep]]]:
        """Make the devices safe beside everything else; once at a time."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._make_devices_safe(), name="safing")
        return self._task

    async def _make_devices_safe(self) -> tuple[bool, list[SafingStep]]:
        steps: list[SafingStep] = []

        def on_step(step: SafingStep) -> None:
            steps.append(step)
            self._bus.event(step.level, "safing", step.text, took_s=step.took_s)

        idle = self._machine.state is State.IDLE
        if idle:
            self._machine.to(State.SAFING)
        self._observer.beam_is_ours()
        confirmed = False
        try:
            confirmed = await self._devices.make_safe(on_step)
        finally:
            if idle:
                self._machine.to(State.IDLE if confirmed else State.PANICKED)
            elif self._run is not None and not confirmed:
                self._run.safe_confirmed = False
        if not confirmed:
            text = "beam or heater has not confirmed that it is safe: check both now"
            self._bus.event("error", "safing", text)
        return confirmed, steps

    async def safe(self) -> list[SafingStep]:
        """The emergency stop: beam blanked and heater at its safe level, from any state.

        Returns
        -------
        list of SafingStep
            What was done; empty if a run under way did it.

        Raises
        ------
        DeviceError
            If beam or heater does not confirm.
        """
        run = self._run
        if run is not None and not run.closing:
            await self._abort("emergency stop")
            if not run.safe_confirmed:
                raise DeviceError(
                    "rig", "make everything safe", "beam or heater did not confirm",
                    "Check beam and heater now",
                )  # fmt: skip
            return []
        confirmed, steps = await asyncio.shield(self._begin())
        if not confirmed:
            raise DeviceError(
                "rig", "make everything safe", "; ".join(s.problem for s in steps if s.problem),
                "Check beam and heater now",
            )  # fmt: skip
        return steps

    async def clear(self) -> list[SafingStep]:
        """Clear a panic after a person has looked; beam and heater must confirm that they are safe.

        Raises
        ------
        Busy
            If the daemon is not panicked.
        DeviceError
            If beam or heater still does not confirm; the daemon stays panicked.
        """
        if self._machine.state is not State.PANICKED:
            raise Busy(f"nothing to clear: the daemon is {self._machine.state}")
        steps = await self.safe()
        if self._machine.state is State.PANICKED:
            self._machine.to(State.IDLE)
            self._bus.event("warning", "control", "a person has cleared the panic")
        return steps

    async def finish(self) -> None:
        """Wait until a safing that has begun is over."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
