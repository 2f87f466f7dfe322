"""Start everything that makes a daemon, and end it again: simulators, guardian, connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from ...drivers.registry import check_drivers
from ...protocols.config.faults import Fault
from ...protocols.config.rig import Rig, Role
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import EXIT_BAD_INPUT
from ...protocols.messages.process import ClockConfig, SimulatorConfig
from ..runtime.gc_pause import start_frozen
from ..runtime.processes import Child, ChildFailed
from ..safety.guardian_handle import GuardianHandle
from ..schedule.states import State
from .daemon import Daemon
from .instrument_lock import lock_instruments


async def start_simulators(
    rig: Rig, clock: ExperimentClock, log: Path | None, faults: Sequence[Fault] = ()
) -> tuple[Rig, Child]:
    """Start the simulated world of a rig; returns the rig with the endpoints it serves.

    Raises
    ------
    BadInput
        If an endpoint cannot be had, or a wire cannot have a fault that is asked for.
    ChildFailed
        If the simulators cannot start.
    """
    child = await Child.spawn("simulators", "pyrotome.simulators")
    return await begin_simulators(child, rig, clock, log, faults), child


async def begin_simulators(
    child: Child, rig: Rig, clock: ExperimentClock, log: Path | None, faults: Sequence[Fault]
) -> Rig:
    """Let simulators that were spawned serve a rig; raises as `start_simulators` does."""
    config = SimulatorConfig(
        rig=rig,
        clock=ClockConfig.of(clock),
        log=str(log) if log is not None else None,
        faults=tuple(faults),
    )
    try:
        await child.begin(config)
    except ChildFailed as error:
        if error.status == EXIT_BAD_INPUT:
            raise BadInput("", str(error)) from None
        raise
    return served_by(rig, child)


def served_by(rig: Rig, simulators: Child) -> Rig:
    """The rig with the endpoints that running simulators have announced."""
    updates: dict[str, Any] = {}
    served: dict[Role, dict[str, Any]] = simulators.ready.get("devices", {})
    for role, where in served.items():
        entry = rig.device(role)
        updates[role] = entry.model_copy(
            update={
                "endpoint": where["endpoint"],
                "options": {**entry.options, **where.get("options", {})},
            }
        )
    return rig.model_copy(update=updates)


@asynccontextmanager
async def running_daemon(
    rig: Rig,
    rig_text: str,
    speed: float = 1.0,
    simulator_log: Path | None = None,
    fall_back_ports: bool = False,
    rig_file: str | None = None,
    not_before_ns: int = 0,
    simulator_faults: Sequence[Fault] = (),
    expendable: bool = False,
) -> AsyncIterator[Daemon]:
    """A connected daemon, with its guardian, and its simulators if the rig has some.

    All of it ends afterwards. `expendable` is for a process that is nothing but the daemon: the
    guardian kills it when its event loop stands still.

    Its clock begins at `not_before_ns`, if the system's is behind that: simulated time may have
    run ahead, and a file that is gone on with must not run backwards.

    Raises
    ------
    BadInput
        If the rig is wrong, or `speed` is not 1 and real hardware is in it.
    DeviceError
        If a device does not answer.
    ChildFailed
        If the simulators cannot start.
    """
    check_drivers(rig)
    if speed != 1.0 and rig.simulator is None:
        raise BadInput(
            f"rig '{rig.name}'", "--speed works with simulated time only, and this rig is real"
        )
    if simulator_faults and rig.simulator is None:
        raise BadInput(f"rig '{rig.name}'", "--simulator-fault: nothing is simulated, it is real")
    clock = ExperimentClock(speed, max(time.time_ns(), not_before_ns))
    simulators: Child | None = None
    guardian: GuardianHandle | None = None
    context = zmq.asyncio.Context()
    # Whoever comes from outside is served by a thread of their own.
    public = zmq.asyncio.Context()
    daemon: Daemon | None = None
    tasks: list[asyncio.Task[None]] = []
    locks = contextlib.ExitStack()
    try:
        locks.enter_context(lock_instruments(rig))
        if rig.simulator is not None:
            simulators = await Child.spawn("simulators", "pyrotome.simulators")
        guardian = GuardianHandle(
            expendable,
            simulators,
            lambda level, text: daemon and daemon.guardian_told(level, text),
            lambda reason: daemon and daemon.guardian_acted(reason),
            lambda reason: daemon and daemon.guardian_acted(reason),
        )
        await guardian.spawn(rig)  # which imports while the simulators do
        if simulators is not None:
            rig = await begin_simulators(simulators, rig, clock, simulator_log, simulator_faults)
        await guardian.begin(rig, clock)
        daemon = Daemon(rig, rig_text, clock, context, public, fall_back_ports, rig_file)
        daemon.guardian, daemon.simulators = guardian, simulators
        await daemon.connect()
        tasks.append(asyncio.create_task(daemon.follow_heater(), name="follow heater"))
        tasks.append(asyncio.create_task(daemon.tick(), name="tick"))
        tasks.append(asyncio.create_task(daemon.observer.watch(), name="observer"))
        pressing = daemon.devices.press_on(daemon.safe_at_last)
        tasks.append(asyncio.create_task(pressing, name="press on"))
        for task in tasks:
            task.add_done_callback(daemon.task_ended)
        tasks.append(asyncio.create_task(daemon.publisher.look_after(), name="monitor"))
        if daemon.broker is not None:
            tasks.append(asyncio.create_task(daemon.broker.report(daemon.publisher), name="mqtt"))
        with start_frozen():
            yield daemon
    finally:
        if daemon is not None:
            await daemon.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if guardian is not None:
            await guardian.stop(daemon is not None and daemon.machine.state is State.PANICKED)
        if simulators is not None:
            await simulators.stop()
        locks.close()
        context.destroy(linger=500)
        public.destroy(linger=500)
