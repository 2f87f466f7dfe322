"""Start and end everything around a daemon: simulators, guardian, connections."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...drivers.registry import check_drivers
from ...protocols.config.faults import Fault
from ...protocols.config.rig import Rig, Role
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import EXIT_BAD_INPUT
from ...protocols.messages.process import ClockConfig, SimulatorConfig
from ..runtime.event_bus import EventBus
from ..runtime.gc_pause import gc_frozen
from ..runtime.processes import Child, ChildFailed
from ..safety.guardian_handle import GuardianHandle
from ..safety.topics import GuardianActed
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
        If an endpoint is not available, or a wire cannot have a requested fault.
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


@dataclass(frozen=True)
class DaemonOptions:
    """How a daemon is started.

    Attributes
    ----------
    speed : float
        Experiment seconds per wall second; 1 for real instruments.
    simulator_log : Path or None
        Where the simulated world writes its own log.
    simulator_faults : sequence of Fault
        Faults of the simulated instruments.
    fall_back_ports : bool
        Whether to take free ports if the usual ones are in use.
    rig_file : str or None
        Where the rig was read.
    not_before_ns : int
        The clock starts no earlier, so that time stamps in a resumed file stay monotonic.
    expendable : bool
        Whether this process is the daemon alone: the guardian kills it when its event loop is
        blocked.
    """

    speed: float = 1.0
    simulator_log: Path | None = None
    simulator_faults: Sequence[Fault] = ()
    fall_back_ports: bool = False
    rig_file: str | None = None
    not_before_ns: int = 0
    expendable: bool = False


_DEFAULTS = DaemonOptions()


@asynccontextmanager
async def running_daemon(
    rig: Rig, rig_text: str, options: DaemonOptions = _DEFAULTS
) -> AsyncIterator[Daemon]:
    """A connected daemon, with its guardian, and its simulators if the rig has some.

    Parameters
    ----------
    rig : Rig
        The instruments.
    rig_text : str
        The rig as it was written, for run files.
    options : DaemonOptions
        How to start it.

    Yields
    ------
    Daemon
        Everything is ended afterwards.

    Raises
    ------
    BadInput
        If the rig is wrong, or the options are for simulated instruments and the rig is real.
    DeviceError
        If a device does not answer.
    ChildFailed
        If the simulators cannot start.
    """
    check_drivers(rig)
    if rig.simulator is None:
        _refuse_simulation(rig, options)
    clock = ExperimentClock(options.speed, max(time.time_ns(), options.not_before_ns))
    simulators: Child | None = None
    try:
        with lock_instruments(rig):
            if rig.simulator is not None:
                simulators = await Child.spawn("simulators", "pyrotome.simulators")

            async def serve() -> Rig:
                if simulators is None:
                    return rig
                log, faults = options.simulator_log, options.simulator_faults
                return await begin_simulators(simulators, rig, clock, log, faults)

            async with guarded_daemon(
                rig, rig_text, clock, simulators, options, serve=serve
            ) as daemon:
                yield daemon
    finally:
        if simulators is not None:
            await simulators.stop()


def _refuse_simulation(rig: Rig, options: DaemonOptions) -> None:
    where = f"rig '{rig.name}'"
    if options.speed != 1.0:
        raise BadInput(where, "--speed works with simulated time only, and this rig is real")
    if options.simulator_faults:
        raise BadInput(where, "--simulator-fault: nothing is simulated, it is real")


@asynccontextmanager
async def guarded_daemon(
    rig: Rig,
    rig_text: str,
    clock: ExperimentClock,
    simulators: Child | None = None,
    options: DaemonOptions = _DEFAULTS,
    serve: Callable[[], Awaitable[Rig]] | None = None,
) -> AsyncIterator[Daemon]:
    """A connected daemon with its guardian; both are ended afterwards, the simulators are not.

    Parameters
    ----------
    rig, rig_text, clock
        Of the daemon.
    simulators : Child, optional
        The process of the instruments; the guardian keeps it alive when this process dies.
    options : DaemonOptions
        Ports, rig file, and whether the process may be killed.
    serve : callable, optional
        Awaited while the guardian's process imports its modules; returns the rig with the
        endpoints in use.
    """
    bus = EventBus()
    guardian = GuardianHandle(
        options.expendable,
        simulators,
        lambda level, text: bus.event(level, "guardian", text),
        lambda reason: bus.publish(GuardianActed(reason)),
        lambda reason: bus.publish(GuardianActed(reason)),
    )
    daemon: Daemon | None = None
    try:
        await guardian.spawn(rig)
        if serve is not None:
            rig = await serve()
        ports, file = options.fall_back_ports, options.rig_file
        daemon = Daemon(rig, rig_text, clock, bus, guardian, ports, file)
        # Only now: what a driver has against the rig is told by this process.
        await guardian.begin(rig, clock)
        await daemon.open()
        with gc_frozen():
            yield daemon
    finally:
        if daemon is not None:
            await daemon.close()
        await guardian.stop(daemon is not None and daemon.machine.state is State.PANICKED)
