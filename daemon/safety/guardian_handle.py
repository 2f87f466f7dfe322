"""The daemon's handle on its guardian: heartbeats, the run's journal, a new one when it dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.process import ClockConfig, GuardianConfig
from ..runtime.processes import Child, ChildFailed
from .guardian import EXIT_ACTED, EXIT_UNCONFIRMED

BEAT_S = 0.1
RETRY_S = 5.0
MODULE = "pyrotome.daemon.safety.guardian"


class Guardian:
    """One guardian at a time.

    Parameters
    ----------
    kill : bool
        Whether it kills this process when the event loop stands still.
    simulators : Child or None
        Whose standard input it holds open, so that there is a heater to make safe when this
        process has died.
    told : callable
        Called with level and text of what becomes of it.
    acted : callable
        Called when it has made beam and heater safe behind a daemon that stood still.
    failed : callable
        Called when no guardian could be had in place of one that died.
    """

    def __init__(
        self,
        kill: bool,
        simulators: Child | None,
        told: Callable[[str, str], None],
        acted: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        self._kill, self._simulators = kill, simulators
        self._told, self._acted, self._failed = told, acted, failed
        self._config: GuardianConfig | None = None
        self._journal: Path | None = None
        self._child: Child | None = None
        self._beating: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self.watching = False

    async def spawn(self) -> None:
        """Start the process, which imports what it needs; it does not watch yet."""
        pipe = None if self._simulators is None else self._simulators.input_fileno
        self._child = await Child.spawn(
            "guardian", MODULE, pass_fds=() if pipe is None else (pipe,)
        )

    async def begin(self, rig: Rig, clock: ExperimentClock) -> None:
        """Let it watch; the rig has the endpoints in use.

        Raises
        ------
        ChildFailed
            If it cannot.
        """
        self._config = GuardianConfig(rig=rig, clock=ClockConfig.of(clock), kill=self._kill)
        await self._watch()

    async def _watch(self) -> None:
        child, config = self._child, self._config
        assert child is not None
        assert config is not None
        await child.begin(config)
        self._child = child
        child.on_death(self._died)
        self.watching = True
        self._tell_journal()
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat_on(), name="heartbeat")

    async def _beat_on(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(BEAT_S)

    @property
    def process(self) -> asyncio.subprocess.Process | None:
        """The one at work."""
        return None if self._child is None else self._child.process

    def beat(self) -> None:
        """Say that the event loop goes round."""
        self._write("\n")

    def journal(self, path: Path | None) -> None:
        """Tell where to note what it does: the journal of the run under way, if there is one."""
        self._journal = path
        self._tell_journal()

    def _tell_journal(self) -> None:
        path = self._journal
        self._write(json.dumps({"journal": None if path is None else str(path)}) + "\n")

    def _write(self, line: str) -> None:
        pipe = None if self._child is None else self._child.process.stdin
        if self.watching and pipe is not None and not pipe.is_closing():
            pipe.write(line.encode())

    def _died(self, _name: str, status: int) -> None:
        self.watching = False
        self._child = None
        if status in (EXIT_ACTED, EXIT_UNCONFIRMED):
            self._acted("the event loop stood still, and the guardian made beam and heater safe")
        else:
            self._told("error", f"the guardian died with exit status {status}")
        self._restarting = asyncio.create_task(self._restart(), name="guardian again")

    async def _restart(self) -> None:
        tries = 0
        while not self.watching:
            try:
                await self.spawn()
                await self._watch()
            except (ChildFailed, OSError) as error:
                if tries == 0:
                    self._failed(f"no guardian can be had: {error}")
                tries += 1
                await asyncio.sleep(RETRY_S)
        self._told("warning", "another guardian watches")

    async def _be_still(self) -> None:
        for task in (self._restarting, self._beating):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._beating = self._restarting = None

    async def stop(self, unsafe: bool = False) -> None:
        """End it in order: it does nothing to the devices.

        When what they are left in is `unsafe`, it goes on by itself until they are not.
        """
        await self._be_still()
        self._write(json.dumps({"unsafe" if unsafe else "end": True}) + "\n")
        self.watching = False
        child, self._child = self._child, None
        if child is not None:
            await child.stop()
