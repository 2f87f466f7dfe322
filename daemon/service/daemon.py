"""The daemon: one rig, its devices and streams, and one experiment at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from ... import __version__
from ...drivers.base import DeviceError
from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Point,
)
from ..access.access_control import AccessControl
from ..access.people import LOCAL
from ..acquisition.heater_watch import HeaterWatch
from ..resume.interrupted_run import InterruptedRun
from ..resume.run_journal import journal_path
from ..run.context import RunContext
from ..run.experiment import Experiment, Outcome
from ..runtime.event_bus import Event, EventBus
from ..safety.devices import Devices
from ..safety.guardian_handle import GuardianHandle
from ..safety.observer import Observer
from ..safety.safing import Safing
from ..safety.topics import RunPrepared
from ..schedule.plan import Plan
from ..schedule.states import Busy, State, StateMachine
from ..streaming.mqtt import MqttReport
from ..streaming.publisher import Publisher
from ..streaming.telemetry_hub import TelemetryHub
from .heater_connection import HeaterConnection

__all__ = ["Busy", "Daemon", "exit_code"]

# Wall seconds between looks at keys and connections.
_ACCESS_INTERVAL_S = 0.25
# How long messages that were not sent yet may hold up the end.
_LINGER_MS = 500


class Daemon:
    """Everything that lives as long as the daemon does.

    Use :func:`running_daemon`, which opens it and closes it again.

    Parameters
    ----------
    rig : Rig
        With the endpoints in use.
    rig_text : str
        The rig as it was written.
    clock : ExperimentClock
        The one clock.
    bus : EventBus
        Connects the daemon's parts; subscribe to it to hear of events and states.
    guardian : GuardianHandle, optional
        Watching already.
    fall_back_ports : bool
        Whether to take any free port if the monitor's is in use.
    rig_file : str, optional
        Where the rig was read.
    """

    def __init__(
        self,
        rig: Rig,
        rig_text: str,
        clock: ExperimentClock,
        bus: EventBus,
        guardian: GuardianHandle | None = None,
        fall_back_ports: bool = False,
        rig_file: str | None = None,
    ) -> None:
        self.rig, self.clock, self.bus, self.guardian = rig, clock, bus, guardian
        self._rig_text, self._rig_file = rig_text, rig_file
        # Whatever refuses the rig does so before a socket or a context is open.
        self.devices = Devices.of(rig, clock)
        self.mqtt = MqttReport(rig.mqtt) if rig.mqtt is not None else None
        self.machine = StateMachine(bus.publish)
        self.zmq_context = zmq.asyncio.Context()
        # Connections from outside are served by a thread of their own.
        self._public_context = zmq.asyncio.Context()
        # From the first connection on: set at the end, it can hang libzmq (its issue 3252).
        for context in (self.zmq_context, self._public_context):
            context.setsockopt(zmq.LINGER, _LINGER_MS)
        # Events from before the hub exists are published when the daemon is open.
        self._early_events: list[Event] = []
        try:
            self._open_monitor(fall_back_ports)
        except BaseException:
            self._end_contexts()
            raise
        self.hub = TelemetryHub(bus, self.publisher, clock, self.status)
        self.watch = HeaterWatch(self.devices.heater, clock)
        self.observer = Observer(rig, self.devices, clock, bus)
        self.safing = Safing(self.devices, self.machine, bus, self.observer, self.abort)
        self._heater = HeaterConnection(self.devices, self.watch, bus)
        self.identities: dict[str, str] = {}
        self.experiment: Experiment | None = None
        self.last_outcome: Outcome | None = None
        self._run: asyncio.Task[Outcome] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        bus.subscribe(RunPrepared, self._on_run_prepared, required=True)

    def _open_monitor(self, fall_back_ports: bool) -> None:
        """Access control and the publisher, which raise BadInput where the rig is wrong."""
        public = self._public_context
        end_early = self.bus.subscribe(Event, self._early_events.append)
        self.access_control = AccessControl(self.rig, public, self.bus.event)
        self.publisher = Publisher(
            public, self.rig.streams.monitor, fall_back_ports,
            lambda socket, on_gone: self.access_control.protect(socket, "the monitor", on_gone),
        )  # fmt: skip
        end_early()

    def _end_contexts(self) -> None:
        self.zmq_context.destroy(linger=_LINGER_MS)
        self._public_context.destroy(linger=_LINGER_MS)

    # --- lifetime -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect every device and start to watch them.

        Raises
        ------
        DeviceError
            If a device does not answer.
        """
        self.access_control.open()
        identities = await self.devices.connect()
        self.identities = {role: str(identity) for role, identity in identities.items()}
        essential: dict[str, Coroutine[Any, Any, None]] = {
            "follow heater": self._heater.follow(),
            "report": self.hub.report(),
            "access control": self._look_after_access(),
            "observer": self.observer.watch(),
            "retry unconfirmed": self.devices.retry_unconfirmed(
                lambda text: self.bus.event("warning", "safing", text)
            ),
        }
        for name, work in essential.items():
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(self.safing.task_ended)
            self._tasks.append(task)
        others = {"monitor": self.publisher.look_after()}
        if self.mqtt is not None:
            others["mqtt"] = self.mqtt.report(self.publisher, self.bus)
        self._tasks += [asyncio.create_task(work, name=name) for name, work in others.items()]

    async def _look_after_access(self) -> None:
        for event in self._early_events:
            self.bus.publish(event)
        while True:
            self.access_control.look(asyncio.get_running_loop().time())
            await asyncio.sleep(_ACCESS_INTERVAL_S)

    async def close(self) -> None:
        """End what runs, disconnect, close the sockets."""
        if self._run is not None and not self._run.done():
            self.running().stop("aborted", "the daemon is stopping")
            await asyncio.gather(self._run, return_exceptions=True)
        await self.safing.finish()
        await self.devices.disconnect()
        await self.access_control.close()
        self.publisher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end_contexts()

    # --- status ---------------------------------------------------------------------------------

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
            "lease": self.access_control.lease.state(time.monotonic()),
            "subscribers": len(self.publisher.connections),
            "losses": {
                "monitor": self.publisher.losses(),
                "mqtt": {"skipped": self.mqtt.skipped if self.mqtt is not None else 0},
            },
        }
        if experiment is not None:
            run = experiment.status()
            status = {**status, **run, "losses": status["losses"] | run["losses"]}
        return status

    # --- experiments ----------------------------------------------------------------------------

    def start(
        self, plan: Plan, recipe_text: str, output: Path, resume: InterruptedRun | None = None
    ) -> Experiment:
        """Start an experiment, or resume one that was interrupted, as a task of its own.

        Raises
        ------
        Busy
            If one is under way, a person must first clear the panic, a rule of the supervisor is
            violated that would end it at once, or no guardian watches.
        """
        self._check_ready()
        experiment = self.experiment_for(plan, recipe_text, output, resume)
        self.experiment = experiment
        self.observer.run_begins(experiment.engine.progress, plan.recipe.limits.temperature_c)
        self.safing.run_begins(experiment)
        self._run = asyncio.create_task(self._run_one(experiment), name="experiment")
        return experiment

    def _check_ready(self) -> None:
        if self.machine.state is State.PANICKED:
            raise Busy(
                "the daemon is panicked: a person must look at beam and heater, then "
                "`pyrotome clear`"
            )
        if self.experiment is not None:
            raise Busy("an experiment is under way; wait for it or abort it")
        if self.machine.state is not State.IDLE:
            raise Busy("everything is being made safe; try again")
        for trip in self.observer.supervisor.persisting:
            if trip.action != "warn":
                raise Busy(f"supervisor: {trip.rule}: {trip.message}, and that is not over")
        if self.guardian is not None and not self.guardian.watching:
            raise Busy("no guardian watches; another one is being started")

    def _on_run_prepared(self, prepared: RunPrepared) -> None:
        if self.guardian is not None:
            self.guardian.journal(journal_path(prepared.run_file))

    def experiment_for(
        self, plan: Plan, recipe_text: str, output: Path, resume: InterruptedRun | None = None
    ) -> Experiment:
        """An experiment with this daemon's devices and streams, not started."""
        context = RunContext(
            self.rig, self._rig_text, self._rig_file, self.clock, self.zmq_context, self.devices,
            self.identities, self.watch, self.observer, self.machine, self.bus, self.hub,
        )  # fmt: skip
        return Experiment(plan, recipe_text, output, context, resume)

    async def _run_one(self, experiment: Experiment) -> Outcome:
        try:
            self.last_outcome = await experiment.run()
            return self.last_outcome
        finally:
            self.observer.run_ends()
            self.safing.run_ends()
            if self.guardian is not None:
                self.guardian.journal(None)
            self.experiment = None
            self.hub.publish_state()

    async def wait(self) -> Outcome:
        """Wait for the experiment under way."""
        if self._run is None:
            raise Busy("no experiment is under way")
        outcome = await asyncio.shield(self._run)
        if self.mqtt is not None:
            self.mqtt.tell_without_answer(self.bus)
        return outcome

    def running(self) -> Experiment:
        """The experiment under way; raises Busy if there is none."""
        if self.experiment is None:
            raise Busy("no experiment is under way")
        return self.experiment

    def pause(self) -> None:
        """Pause the experiment under way."""
        if self.machine.state not in (State.PREPARING, State.RUNNING, State.PAUSED):
            raise Busy(f"nothing to pause: the daemon is {self.machine.state}")
        self.running().pause()

    def resume(self, at: Point | None = None, who: str = LOCAL) -> None:
        """Continue after a pause.

        Parameters
        ----------
        at : Point, optional
            Where the specimen stands that was not found, as a person has seen it.
        who : str
            Who says so.

        Raises
        ------
        Busy
            If the experiment is not paused.
        BadInput
            If `at` cannot be.
        """
        experiment = self.running()
        if not experiment.pause_requested:
            raise Busy("nothing to resume: the experiment is not paused")
        if at is not None:
            if self.machine.state is not State.PAUSED:
                raise Busy("the experiment has not paused yet: an exposure or hold is under way")
            said = experiment.engine.point_out(at)
            self.bus.event("info", "tracker", f"'{who}' says: {said}; it is looked for there",
                           who=who)  # fmt: skip
        experiment.engine.resume()

    async def abort(self, reason: str = "aborted by the operator") -> Outcome:
        """End the experiment under way, safely, and wait until its file is closed."""
        self.running().stop("aborted", reason)
        return await self.wait()


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
