"""Run, serve or simulate in a terminal until done or until a signal comes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...protocols.config.faults import Fault
from ...protocols.config.rig import ROLES, Rig
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import EXIT_DONE, EXIT_INTERRUPTED
from ..control.server import ControlServer
from ..resume.interrupted_run import InterruptedRun
from ..resume.run_journal import journal_path
from ..run.experiment import Experiment, Outcome
from ..runtime.event_bus import EventBus
from ..runtime.processes import ChildFailed
from ..runtime.terminal import Terminal
from ..schedule.plan import Plan
from ..service.daemon import Daemon, exit_code
from ..service.startup import DaemonOptions, running_daemon, start_simulators
from ..streaming.telemetry_hub import PublishedEvent, PublishedState
from .describe import describe_file
from .progress import ProgressView

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on Ctrl-C, SIGTERM and the terminal's end instead of dying."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def _shown(bus: EventBus, view: ProgressView) -> Iterator[None]:
    """Show events and states in the terminal meanwhile."""
    ends = (
        bus.subscribe(PublishedState, lambda published: view.show(published.status)),
        bus.subscribe(PublishedEvent, lambda published: view.event(published.header)),
    )
    try:
        yield
    finally:
        for end in ends:
            end()


def _starting(rig: Rig) -> str:
    what = "starting its simulators and " if rig.simulator is not None else ""
    return f"[dim]{rig.name}: {what}connecting[/dim]"


@dataclass(frozen=True)
class ForegroundRun:
    """One experiment to run in the foreground.

    Attributes
    ----------
    plan : Plan
        What to do.
    recipe_text, rig_text : str
        Texts of recipe and rig, for the run file.
    rig : Rig
        The instrument.
    rig_file : str or None
        Where the rig was read; None for the built-in one, or that of a resumed run.
    output : Path
        The run file.
    speed : float
        Experiment seconds per wall second.
    resumed : InterruptedRun or None
        The run that continues in `output`.
    """

    plan: Plan
    recipe_text: str
    rig: Rig
    rig_text: str
    rig_file: str | None
    output: Path
    speed: float
    resumed: InterruptedRun | None = None


async def run_foreground(
    run: ForegroundRun, simulator_log: Path | None = None, faults: Sequence[Fault] = ()
) -> int:
    """Run one experiment with live progress and a summary.

    Parameters
    ----------
    run : ForegroundRun
        The experiment.
    simulator_log : Path or None
        Where the simulated world writes its own log.
    faults : sequence of Fault
        What goes wrong with the simulated microscope.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    BadInput, DeviceError, ChildFailed
        If the experiment cannot be started.
    """
    terminal = Terminal(2)
    console = terminal.console()
    this_task = asyncio.current_task()
    assert this_task is not None
    experiment: Experiment | None = None
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        if experiment is None:
            this_task.cancel()
        else:
            experiment.stop("aborted", "interrupted at the keyboard")

    def start(daemon: Daemon) -> None:
        nonlocal experiment
        experiment = daemon.start(run.plan, run.recipe_text, run.output, run.resumed)

    # Without a rig file, a second run beside this one must not fail for its ports.
    free_ports = run.rig_file is None
    try:
        with _on_signals(interrupt):
            console.print(_starting(run.rig), highlight=False)
            options = DaemonOptions(
                speed=run.speed,
                simulator_log=simulator_log,
                simulator_faults=faults,
                fall_back_ports=free_ports,
                rig_file=run.rig_file,
                not_before_ns=run.resumed.last_ns + 1 if run.resumed is not None else 0,
                expendable=True,
            )
            async with running_daemon(run.rig, run.rig_text, options) as daemon:
                outcome = await _controlled_run(daemon, start, run, free_ports, console)
    except asyncio.CancelledError:
        if not interrupted:
            raise
        console.print("interrupted before the experiment had started")
        terminal.drain()
        return EXIT_INTERRUPTED
    terminal.drain()
    _summary(outcome, run.output, console)
    terminal.drain()
    return exit_code(outcome, interrupted)


async def _controlled_run(
    daemon: Daemon,
    start: Callable[[Daemon], None],
    run: ForegroundRun,
    free_ports: bool,
    console: Console,
) -> Outcome:
    """Start the experiment and wait for its end, with progress in the terminal and control."""
    control = ControlServer(daemon, run.rig.streams.control, free_ports, accept_submit=False)
    try:
        console.print(
            f"[dim]watch with[/dim] pyrotome watch --endpoint "
            f"{daemon.publisher.endpoint}[dim], control on[/dim] {control.endpoint}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        with ProgressView(console, run.speed) as view, _shown(daemon.bus, view):
            start(daemon)
            return await daemon.wait()
    finally:
        await control.close()


def _summary(outcome: Outcome, output: Path, console: Console) -> None:
    if output.exists():
        try:
            _print_out(describe_file(output))
        except BadInput as error:  # another program has it open; the outcome is shown below
            console.print(str(error), highlight=False, soft_wrap=True)
    style = "green" if outcome.status == "complete" else "red"
    console.print(f"[{style}]{outcome.status}[/{style}]", outcome.reason, highlight=False)
    if output.exists():
        console.print(f"{output}", highlight=False, soft_wrap=True)
    if journal_path(output).exists():
        text = f"[dim]resume with[/dim] pyrotome run --resume {output}"
        console.print(text, highlight=False, soft_wrap=True)


def _print_out(text: Any) -> None:
    """Print on standard output; that it is closed does not matter to the run."""
    if sys.__stdout__ is None:  # closed from the start
        return
    try:
        Console().print(text)
        sys.stdout.flush()
    except OSError:
        # The rest of the buffer is discarded, or Python would try again when it ends.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


async def _until_signal() -> None:
    stopped = asyncio.Event()
    with _on_signals(stopped.set):
        await stopped.wait()


async def serve_until_stopped(rig: Rig, rig_text: str, speed: float) -> int:
    """Serve control requests until a signal comes; returns the exit code."""
    console = Terminal(2).console()
    console.print(_starting(rig), highlight=False)
    options = DaemonOptions(speed=speed, expendable=True)
    async with running_daemon(rig, rig_text, options) as daemon:
        control = ControlServer(daemon, rig.streams.control)
        try:
            for role, identity in daemon.identities.items():
                console.print(f"{role:>9}  {identity}", highlight=False)
            console.print(
                f"serving '{rig.name}': control on {control.endpoint}, monitor on "
                f"{daemon.publisher.endpoint}; Ctrl-C stops it",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
            view = ProgressView(console, speed)
            daemon.bus.subscribe(PublishedEvent, lambda published: view.event(published.header))
            await _until_signal()
            if daemon.experiment is not None:
                await daemon.abort("the daemon was stopped")
        finally:
            await control.close()
    return EXIT_DONE


@contextmanager
def _lines_typed(on_lines: Callable[[bytes], None]) -> Iterator[None]:
    """Call `on_lines` with what is typed on standard input; its end does not matter."""
    loop, source = asyncio.get_running_loop(), sys.__stdin__.fileno() if sys.__stdin__ else -1
    buffer = bytearray()

    def arrived() -> None:
        with suppress(OSError):  # no terminal, or none of ours
            if os.tcgetpgrp(source) != os.getpgrp():
                # Reading in the background would stop the process.
                loop.remove_reader(source)
                loop.call_later(1.0, loop.add_reader, source, arrived)
                return
        data = os.read(source, 4096)
        if not data:
            loop.remove_reader(source)
        buffer.extend(data)
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        for line in lines:
            on_lines(line + b"\n")

    if source < 0:  # closed
        yield
        return
    try:
        loop.add_reader(source, arrived)
    except PermissionError:  # a file, which is there at once
        on_lines(Path(f"/dev/fd/{source}").read_bytes())
    try:
        yield
    finally:
        loop.remove_reader(source)


async def simulate_until_stopped(
    rig: Rig, speed: float, log: Path | None, faults: Sequence[Fault] = ()
) -> int:
    """Run the simulators alone, print their endpoints, and wait for a signal.

    Lines on standard input switch faults; the simulators answer each on standard error.
    """
    console = Console()
    served, child = await start_simulators(rig, ExperimentClock(speed), log, faults)
    stopped = asyncio.Event()
    died = False

    def over(_name: str, _status: int) -> None:
        nonlocal died
        died = True
        stopped.set()

    def forward(lines: bytes) -> None:
        if child.process.stdin is not None and lines.strip():
            child.process.stdin.write(lines if lines.endswith(b"\n") else lines + b"\n")

    try:
        child.on_death(over)
        for role in ROLES:
            entry = served.device(role)
            more = "".join(f"  {k} {v}" for k, v in entry.options.items())
            console.print(
                f"{role:>9}  {entry.driver}  {entry.endpoint}{more}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        if sys.__stdin__ is not None and sys.__stdin__.isatty():
            console.print(
                "[dim]type a fault, such as heater:hang, or heater:none to clear it[/dim]"
            )
        with _lines_typed(forward), _on_signals(stopped.set):
            await stopped.wait()
    finally:
        await child.stop()
    if died:
        raise ChildFailed(f"the simulators ended with status {child.process.returncode}")
    return EXIT_DONE
