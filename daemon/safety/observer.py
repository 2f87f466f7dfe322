"""The supervisor's eyes and hands: it is told of heater, column and stage from connect to close."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from ...drivers.base import DeviceError, HeaterSample, StagePosition
from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from .devices import Devices
from .observations import BeamObservation, Observation, Reading, StageObservation, Tick
from .supervisor import Supervisor, Trip

# Wall seconds.
TICK_S = 0.1
LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.2
LOOK_TIMEOUT_S = 2.0
# The column may fail to answer so often before that is worth an event.
_MUTE = 3


class Engine(Protocol):
    """What is observed of the engine, and the hooks through which it lets itself be observed."""

    exposing: bool
    between_exposures: Callable[[], Awaitable[None]]
    stage_seen: Callable[[StagePosition, StagePosition, str], None] | None

    @property
    def takes_frames(self) -> bool:
        """Whether frames are being exposed one after the other."""
        ...


class Observer:
    """Feeds the supervisor.

    Parameters
    ----------
    rig, devices, clock
        What is watched.
    tripped : callable
        Called with whatever the supervisor says.
    mute : callable
        Called with a text when the column does not answer for long.
    failed : callable
        Called, once, with a text when the supervisor itself goes wrong.
    """

    def __init__(
        self,
        rig: Rig,
        devices: Devices,
        clock: ExperimentClock,
        tripped: Callable[[Trip], None],
        mute: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        self.supervisor = Supervisor(rig)
        self._devices, self._clock = devices, clock
        self._tripped, self._mute, self._failed = tripped, mute, failed
        self._has_failed = False
        self._engine: Engine | None = None
        # Before pyrotome has blanked it once, the beam is whoever's sits at the microscope.
        self._beam_is_ours = False
        self._looked_s = time.monotonic()
        self._unanswered = 0

    # --- what is going on ----------------------------------------------------------------------

    def run_begins(self, engine: Engine, limit_c: float | None) -> None:
        """A run begins, with its recipe's highest temperature; its beam is not blanked yet."""
        self._engine, self._beam_is_ours = engine, False
        self.supervisor.run(limit_c)
        engine.between_exposures = self._between_exposures
        engine.stage_seen = self._stage_seen

    def beam_is_ours(self) -> None:
        """The beam has been blanked: from now on it is on for exposures only."""
        self._beam_is_ours = True

    def run_ends(self) -> None:
        """The run is over."""
        self._engine, self._beam_is_ours = None, True
        self.supervisor.run(None)

    # --- observations --------------------------------------------------------------------------

    def heater_sample(self, sample: HeaterSample) -> None:
        """Take in a reading of the heater."""
        self._see(Reading(self._clock.now_ns(), time.monotonic(), sample))

    def heater_connected(self) -> None:
        """The heater was found again."""
        self.supervisor.heater_connected()

    def _stage_seen(self, before: StagePosition, after: StagePosition, frames: str) -> None:
        self._see(StageObservation(self._clock.now_ns(), time.monotonic(), before, after, frames))

    def _see(self, observation: Observation) -> None:
        try:
            trips = self.supervisor.see(observation)
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                self._failed(f"unexpected in the supervisor: {error!r}")
            return
        for trip in trips:
            self._tripped(trip)

    async def watch(self) -> None:
        """Let time pass for the supervisor, and look at the column; until cancelled."""
        looking: asyncio.Task[None] | None = None
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._see(Tick(self._clock.now_ns(), time.monotonic()))
                # Between exposures the engine itself lets us look.
                busy = self._takes_frames or self._devices.safing
                if (looking is None or looking.done()) and not busy and self._is_due:
                    looking = asyncio.create_task(self._look(), name="look at the column")
        finally:
            if looking is not None:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _between_exposures(self) -> None:
        if self._is_due:
            await self._look()

    @property
    def _is_due(self) -> bool:
        every_s = LOOK_AGAIN_S if self.supervisor.in_doubt else LOOK_EVERY_S
        return time.monotonic() - self._looked_s >= every_s

    @property
    def _takes_frames(self) -> bool:
        return self._engine is not None and self._engine.takes_frames

    async def _look(self) -> None:
        engine, wanted = self._engine, self._takes_frames
        ours = self._beam_is_ours
        self._looked_s = time.monotonic()
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                state = await self._devices.beam.state()
        except (DeviceError, TimeoutError) as error:
            self._unanswered += 1
            if self._unanswered == _MUTE:
                self._mute(f"the column does not say how it stands: {str(error) or 'no answer'}")
            return
        self._unanswered = 0
        # What happened in the meantime may have opened the beam.
        same = engine is self._engine and wanted == self._takes_frames
        exposing = engine is not None and engine.exposing
        may_be_open = exposing or not same or not (ours and self._beam_is_ours)
        now_ns = self._clock.now_ns()
        self._see(BeamObservation(now_ns, time.monotonic(), state, may_be_open, wanted))
