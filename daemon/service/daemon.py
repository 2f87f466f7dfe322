"""The daemon: one rig, its devices and streams, and one experiment at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from ... import __version__
from ...drivers.base import DeviceError, DeviceLost, HeaterSample
from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
)
from ..access.access_control import AccessControl
from ..resume.interrupted_run import Interrupted
from ..resume.run_journal import journal_path
from ..run.experiment import Experiment, Outcome
from ..run.heater_watch import HeaterWatch
from ..runtime.processes import Child
from ..safety.devices import Devices, SafingStep
from ..safety.guardian_handle import GuardianHandle
from ..safety.observer import Observer
from ..safety.supervisor import Trip
from ..schedule.plan import Plan
from ..schedule.states import State, StateMachine
from ..streaming.mqtt import MqttReport
from ..streaming.publisher import Publisher

_log = logging.getLogger(__name__)

STATE_INTERVAL_S = 0.25
_LAG_INTERVAL_S = 0.05
# Lateness of the event loop that is worth an event.
LAG_WARNING_S = 0.2
_RECONNECT_S = 2.0


class Busy(Exception):
    """The daemon cannot do this in its present state."""


class Daemon:
    """Everything that lives as long as the daemon does.

    Use :func:`running_daemon`, which connects it and closes it again.
    """

    def __init__(
        self,
        rig: Rig,
        rig_text: str,
        clock: ExperimentClock,
        context: zmq.asyncio.Context,
        public: zmq.asyncio.Context,
        fall_back_ports: bool,
        rig_file: str | None = None,
    ) -> None:
        self.rig_file = rig_file
        self.rig, self.rig_text, self.clock, self.context = rig, rig_text, clock, context
        self.machine = StateMachine(self._state_changed)
        self.broker = MqttReport(rig.mqtt) if rig.mqtt is not None else None
        self.gate = AccessControl(rig, public, self._event)
        self.publisher = Publisher(
            public, rig.streams.monitor, clock, fall_back_ports,
            lambda socket, on_gone: self.gate.protect(socket, "the monitor", on_gone),
        )  # fmt: skip
        self.devices = Devices.of(rig, clock)
        self.watch = HeaterWatch(self.devices.heater, clock)
        self.identities: dict[str, str] = {}
        self.experiment: Experiment | None = None
        self.last_outcome: Outcome | None = None
        self.on_status: Callable[[dict[str, Any]], None] | None = None
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        self.publisher.on_event = self._event_published
        self._run: asyncio.Task[Outcome] | None = None
        self._lag_s = 0.0
        self.observer = Observer(
            rig, self.devices, clock, self._tripped,
            lambda text: self._event("warning", "supervisor", text),
            lambda text: self._end_safely(f"supervisor: {text}"),
        )  # fmt: skip
        self.guardian: GuardianHandle | None = None
        self.simulators: Child | None = None
        self._safing: asyncio.Task[tuple[bool, list[SafingStep]]] | None = None

    # --- devices --------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect every device; raises DeviceError if one does not answer."""
        self.gate.open()
        identities = await self.devices.connect()
        self.identities = {role: str(identity) for role, identity in identities.items()}

    async def follow_heater(self) -> None:
        """Publish the heater's readings as long as the daemon lives; reconnect when lost."""
        while True:
            try:
                await self.watch.follow(self._heater_sample)
            except DeviceError as error:
                self._event("error", "heater", str(error))
                if self.experiment is not None:
                    self.experiment.stop("failed", str(error), error)
            await asyncio.sleep(_RECONNECT_S)
            if self.devices.may_reconnect:
                again = asyncio.create_task(self._reconnect_heater(), name="heater again")
                self.devices.reconnecting = again
                try:
                    await asyncio.wait([again])
                finally:
                    self.devices.reconnecting = None
                    again.cancel()
                    await asyncio.gather(again, return_exceptions=True)

    async def _reconnect_heater(self) -> None:
        with contextlib.suppress(DeviceError):
            await self.devices.heater.disconnect()
            await self.devices.heater.connect()
            self.watch.found_again()
            self.observer.heater_connected()
            self._event("info", "heater", "connected again")

    def _heater_sample(self, sample: HeaterSample) -> None:
        values = {
            "temperature_c": sample.temperature_c,
            "setpoint_c": sample.setpoint_c,
            **sample.values,
        }
        self._telemetry("heater", values, sample.t_ns)
        self.observer.heater_sample(sample)

    # --- supervisor and guardian ----------------------------------------------------------------

    def _tripped(self, trip: Trip) -> None:
        """Do what the supervisor says."""
        self._event(trip.level, "supervisor", str(trip), **trip.body())
        experiment = self.experiment
        if trip.over or trip.action == "warn":
            return
        if trip.action == "safe":
            lost = DeviceLost(self.devices.heater.name, "read samples", trip.message)
            self._end_safely(f"supervisor: {trip}", lost if trip.rule == "stale" else None)
        elif experiment is not None and not experiment.engine.pause_requested:
            experiment.engine.pause()

    def _end_safely(self, reason: str, error: BaseException | None = None) -> None:
        """End the run under way as failed, or make the devices safe where there is none."""
        if self.experiment is not None and not self.experiment.closing:
            self.experiment.stop("failed", reason, error)
        else:
            self._event("warning", "supervisor", f"making safe: {reason}")
            self._begin_safing()

    def _begin_safing(self) -> asyncio.Task[tuple[bool, list[SafingStep]]]:
        """Make the devices safe beside whatever goes on; one such at a time."""
        if self._safing is None or self._safing.done():
            self._safing = asyncio.create_task(self._make_devices_safe(), name="safing")
        return self._safing

    async def _make_devices_safe(self) -> tuple[bool, list[SafingStep]]:
        steps: list[SafingStep] = []

        def told(step: SafingStep) -> None:
            steps.append(step)
            self._event(step.level, "safing", step.text, took_s=step.took_s)

        idle = self.machine.state is State.IDLE
        if idle:
            self.machine.to(State.SAFING)
        self.observer.beam_is_ours()
        confirmed = False
        try:
            confirmed = await self.devices.make_safe(told)
        finally:
            if idle:
                self.machine.to(State.IDLE if confirmed else State.PANICKED)
            elif self.experiment is not None and not confirmed:
                self.experiment.safe_confirmed = False
        if not confirmed:
            self._event("error", "safing", "beam or heater not confirmed safe: look at them now")
        return confirmed, steps

    def task_ended(self, task: asyncio.Task[None]) -> None:
        """One of the tasks that go on as long as the daemon does has ended."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end_safely(f"unexpected in '{task.get_name()}': {error!r}", error)

    def safe_at_last(self, text: str) -> None:
        """Say what has become safe after a safing that was not confirmed."""
        self._event("warning", "safing", text)

    def guardian_told(self, level: str, text: str) -> None:
        """Say what became of the guardian."""
        self._event(level, "guardian", text)

    def guardian_acted(self, reason: str) -> None:
        """The devices were made safe behind our back: the run under way is over."""
        self._event("error", "guardian", reason)
        self._end_safely(f"guardian: {reason}")

    def switch_fault(self, text: str) -> None:
        """Let a simulated wire misbehave, as `pyrotome simulate` does; it answers on its stderr."""
        pipe = None if self.simulators is None else self.simulators.process.stdin
        if pipe is None:
            raise Busy("nothing is simulated here")
        pipe.write(text.encode() + b"\n")

    # --- streams --------------------------------------------------------------------------------

    def _telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        if self.experiment is not None:
            self.experiment.streams.telemetry(device, values, t_ns)
        else:
            self.publisher.publish(
                f"telemetry/{device}", "telemetry", {"device": device, "values": values}, t_ns=t_ns
            )

    def _event(self, level: str, source: str, message: str, **more: Any) -> None:
        if self.experiment is not None:
            self.experiment.event(level, source, message, **more)
        else:
            body = {"level": level, "source": source, "message": message, **more}
            self.publisher.publish("event", "event", body)

    def _event_published(self, header: dict[str, Any]) -> None:
        if self.on_event is not None:
            try:
                self.on_event(header)
            except Exception as error:
                # A terminal that is gone must not keep the heater from safety.
                self.on_event = None
                _log.warning("events are shown no more: %r", error)

    def _state_changed(self, old: State, new: State) -> None:
        self._event("info", "state", f"{old} -> {new}", state=str(new))
        self._publish_state()

    def _publish_state(self) -> None:
        status = self.status()
        self.publisher.publish("state", "state", status)
        if self.on_status is not None:
            try:
                self.on_status(status)
            except Exception as error:
                self.on_status = None
                _log.warning("the state is shown no more: %r", error)

    async def tick(self) -> None:
        """Publish state, and measure how late the event loop wakes up; until cancelled."""
        loop = asyncio.get_running_loop()
        last_state = last_lag = loop.time()
        while True:
            asked = loop.time()
            await asyncio.sleep(_LAG_INTERVAL_S)
            now = loop.time()
            self._lag_s = max(self._lag_s, now - asked - _LAG_INTERVAL_S)
            if now - last_state >= STATE_INTERVAL_S:
                last_state = now
                self.gate.look(now)
                self._publish_state()
            if now - last_lag >= 1.0:
                last_lag = now
                status = self.experiment.status() if self.experiment is not None else {}
                analysis = status.get("analysis") or {}
                values = {
                    "loop_lag_s": round(self._lag_s, 6),
                    "backlog_frames": float(analysis.get("backlog", 0)),
                    "staleness_s": float(analysis.get("staleness_s", 0.0)),
                    "dose_e_per_nm2": float(status.get("dose_e_per_nm2", 0.0)),
                }
                if self._lag_s > LAG_WARNING_S:
                    self._event(
                        "warning",
                        "clock",
                        f"the event loop was late by {self._lag_s * 1e3:.0f} ms: something blocked "
                        "it, or the computer is too busy",
                        lag_s=round(self._lag_s, 6),
                    )
                self._lag_s = 0.0
                self._telemetry("daemon", values, self.clock.now_ns())

    # --- control --------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What ``pyrotome status --json`` prints."""
        experiment = self.experiment
        latest = self.watch.latest
        status: dict[str, Any] = {
            "state": str(self.machine.state),
            "rig": self.rig.name,
            "software": f"pyrotome {__version__}",
            "instruments": self.identities,
            "temperature_c": latest.temperature_c if latest is not None else None,
            "last_run": self.last_outcome.status if self.last_outcome is not None else None,
            "alarms": [str(trip) for trip in self.observer.supervisor.persisting],
            "guardian": self.guardian is not None and self.guardian.watching,
            "lease": self.gate.lease.state(time.monotonic()),
            "subscribers": len(self.publisher.connections),
            "losses": {
                "monitor": self.publisher.losses(),
                "mqtt": {"skipped": self.broker.skipped if self.broker is not None else 0},
            },
        }
        if experiment is not None:
            status |= experiment.status()
            status["losses"] |= experiment.losses()
        return status

    def start(
        self, plan: Plan, recipe_text: str, output: Path, interrupted: Interrupted | None = None
    ) -> Experiment:
        """Start an experiment, or go on with one that was interrupted, as a task of its own.

        Raises
        ------
        Busy
            If one is under way, a person must first clear the panic, the supervisor sees what
            would end it at once, or no guardian watches.
        """
        if self.machine.state is State.PANICKED:
            raise Busy(
                "the daemon is panicked: a person must look at beam and heater, then "
                "`pyrotome clear`"
            )
        if self.experiment is not None or self.machine.state is not State.IDLE:
            raise Busy(
                "an experiment is under way; wait for it or abort it"
                if self.experiment is not None
                else "everything is being made safe; try again"
            )
        for trip in self.observer.supervisor.persisting:
            if trip.action != "warn":
                raise Busy(f"supervisor: {trip.rule}: {trip.message}, and that is not over")
        if self.guardian is not None and not self.guardian.watching:
            raise Busy("no guardian watches; another one is being started")
        experiment = self.experiment_for(plan, recipe_text, output, interrupted)
        self.experiment = experiment
        self.observer.run_begins(experiment.engine, plan.recipe.limits.temperature_c)
        experiment.on_prepared = lambda: self._prepared(output)
        self._run = asyncio.create_task(self._run_one(experiment), name="experiment")
        return experiment

    def _prepared(self, output: Path) -> None:
        self.observer.beam_is_ours()
        if self.guardian is not None:
            self.guardian.journal(journal_path(output))

    def experiment_for(
        self, plan: Plan, recipe_text: str, output: Path, interrupted: Interrupted | None = None
    ) -> Experiment:
        """An experiment with this daemon's devices and streams, not started."""
        simulated = self.rig.simulator is not None
        return Experiment(
            plan, self.rig, (recipe_text, self.rig_text), output, self.devices, self.identities,
            self.watch, self.publisher, self.machine, self.clock, simulated, self.context,
            self.rig_file, interrupted,
        )  # fmt: skip

    async def _run_one(self, experiment: Experiment) -> Outcome:
        try:
            self.last_outcome = await experiment.run()
            return self.last_outcome
        finally:
            self.observer.run_ends()
            if self.guardian is not None:
                self.guardian.journal(None)
            self.experiment = None
            self._publish_state()

    async def wait(self) -> Outcome:
        """Wait for the experiment under way."""
        if self._run is None:
            raise Busy("no experiment is under way")
        return await asyncio.shield(self._run)

    def running(self) -> Experiment:
        """The experiment under way; raises Busy if there is none."""
        if self.experiment is None:
            raise Busy("no experiment is under way")
        return self.experiment

    def pause(self) -> None:
        """Pause the experiment under way."""
        if self.machine.state not in (State.PREPARING, State.RUNNING, State.PAUSED):
            raise Busy(f"nothing to pause: the daemon is {self.machine.state}")
        self.running().engine.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        experiment = self.running()
        if not experiment.engine.pause_requested:
            raise Busy("nothing to resume: the experiment is not paused")
        experiment.engine.resume()

    async def abort(self, reason: str = "aborted by the operator") -> Outcome:
        """End the experiment under way, safely, and wait until its file is closed."""
        self.running().stop("aborted", reason)
        return await self.wait()

    async def safe(self) -> list[SafingStep]:
        """The emergency stop: beam blanked and heater at its safe level, from any state."""
        experiment = self.experiment
        if experiment is not None and not experiment.closing:
            await self.abort("emergency stop")
            if not experiment.safe_confirmed:
                raise DeviceError(
                    "rig", "make everything safe", "beam or heater did not confirm",
                    "Look at them now",
                )  # fmt: skip
            return []
        confirmed, steps = await asyncio.shield(self._begin_safing())
        if not confirmed:
            raise DeviceError(
                "rig", "make everything safe", "; ".join(s.problem for s in steps if s.problem),
                "Look at beam and heater now",
            )  # fmt: skip
        return steps

    async def clear(self) -> list[SafingStep]:
        """Take back the panic: a person has looked, and beam and heater confirm that they are safe.

        Raises
        ------
        Busy
            If the daemon is not panicked.
        DeviceError
            If beam or heater still does not confirm; the daemon stays panicked.
        """
        if self.machine.state is not State.PANICKED:
            raise Busy(f"nothing to clear: the daemon is {self.machine.state}")
        steps = await self.safe()
        if self.machine.state is State.PANICKED:
            self.machine.to(State.IDLE)
            self._event("warning", "control", "a person has cleared the panic")
        return steps

    async def close(self) -> None:
        """End what runs, disconnect, close the sockets."""
        if self._run is not None and not self._run.done():
            self.running().stop("aborted", "the daemon is stopping")
            await asyncio.gather(self._run, return_exceptions=True)
        if self._safing is not None:
            await asyncio.gather(self._safing, return_exceptions=True)
        await self.devices.disconnect()
        await self.gate.close()
        self.publisher.close()


def exit_code(outcome: Outcome, interrupted: bool) -> int:
    """Exit code of a run."""
    if outcome.status == "complete":
        return EXIT_INTERRUPTED if interrupted else EXIT_DONE
    if outcome.status == "aborted" and interrupted:
        return EXIT_INTERRUPTED
    if isinstance(outcome.error, BadInput):
        return EXIT_BAD_INPUT
    if isinstance(outcome.error, DeviceError):
        return EXIT_DEVICE
    return EXIT_FAILED
