"""The daemon's handle on its guardian process: heartbeats, the run's journal, a replacement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from ..runtime.processes import Child, ChildFailed
from .guardian.config import GuardianConfig
from .guardian.messages import (
    EXIT_ACTED,
    EXIT_UNCONFIRMED,
    HEARTBEAT,
    end_line,
    journal_line,
)

HEARTBEAT_INTERVAL_S = 0.1
RETRY_S = 5.0
MODULE = "pyrotome.daemon.safety.guardian"


class GuardianHandle:
    """Keeps one guardian process at work.

    Parameters
    ----------
    kill : bool
        Whether the guardian kills this process when its event loop is blocked.
    simulators : Child or None
        Its standard input stays open in the guardian, so that the simulated heater outlives this
        process and can be made safe.
    notify : callable
        Called with level and text of what becomes of the guardian.
    on_acted : callable
        Called with the reason when the guardian has made beam and heater safe while this process
        was blocked.
    on_unavailable : callable
        Called with the reason when a guardian that died cannot be replaced.
    """

    def __init__(
        self,
        kill: bool,
        simulators: Child | None,
        notify: Callable[[str, str], None],
        on_acted: Callable[[str], None],
        on_unavailable: Callable[[str], None],
    ) -> None:
        self._kill, self._simulators = kill, simulators
        self._notify, self._on_acted, self._on_unavailable = notify, on_acted, on_unavailable
        self._config: GuardianConfig | None = None
        self._drivers: Sequence[str] = ()
        self._journal: Path | None = None
        self._child: Child | None = None
        self._beating: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self.watching = False

    async def spawn(self, rig: Rig) -> None:
        """Start the process, which imports the rig's drivers; it does not watch yet."""
        self._drivers = (rig.heater.driver, rig.beam.driver)
        await self._spawn()

    async def _spawn(self) -> None:
        pipe = None if self._simulators is None else self._simulators.input_fileno
        self._child = await Child.spawn(
            "guardian", MODULE, *self._drivers, pass_fds=() if pipe is None else (pipe,)
        )

    async def begin(self, rig: Rig, clock: ExperimentClock) -> None:
        """Let the process watch; the rig has the endpoints in use.

        Raises
        ------
        ChildFailed
            If it cannot.
        """
        self._config = GuardianConfig.of(rig, clock, self._kill)
        await self._watch()

    async def _watch(self) -> None:
        child, config = self._child, self._config
        assert child is not None
        assert config is not None
        await child.begin(config)
        self._child = child
        child.on_death(self._died)
        self.watching = True
        self._write(journal_line(self._journal))
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat(), name="heartbeat")

    async def _beat(self) -> None:
        while True:
            self._write(HEARTBEAT)
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    @property
    def process(self) -> asyncio.subprocess.Process | None:
        """The guardian process; None while there is none."""
        return None if self._child is None else self._child.process

    def journal(self, path: Path | None) -> None:
        """Name the journal where the guardian notes what it does; None: no run is under way."""
        self._journal = path
        self._write(journal_line(path))

    def _write(self, line: str) -> None:
        pipe = None if self._child is None else self._child.process.stdin
        if self.watching and pipe is not None and not pipe.is_closing():
            pipe.write(line.encode())

    def _died(self, _name: str, status: int) -> None:
        self.watching = False
        self._child = None
        if status in (EXIT_ACTED, EXIT_UNCONFIRMED):
            self._on_acted("the event loop stood still, and the guardian made beam and heater safe")
        else:
            self._notify("error", f"the guardian died with exit status {status}")
        self._restarting = asyncio.create_task(self._restart(), name="restart guardian")

    async def _restart(self) -> None:
        attempts = 0
        while not self.watching:
            try:
                await self._spawn()
                await self._watch()
            except (ChildFailed, OSError) as error:
                if attempts == 0:
                    self._on_unavailable(f"the guardian cannot be restarted: {error}")
                attempts += 1
                await asyncio.sleep(RETRY_S)
        self._notify("warning", "another guardian watches")

    async def stop(self, unsafe: bool = False) -> None:
        """End the process in order: it does nothing to the devices.

        Parameters
        ----------
        unsafe : bool
            Whether beam or heater have not confirmed that they are safe: then the guardian goes on
            by itself until they have.
        """
        for task in (self._restarting, self._beating):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._beating = self._restarting = None
        self._write(end_line(unsafe))
        self.watching = False
        child, self._child = self._child, None
        if child is not None:
            await child.stop()
