"""The observer: makes the supervisor's observations of heater, column and stage, idle or not."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from ...drivers.base import DeviceError, HeaterSample, StagePosition
from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from ..runtime.event_bus import EventBus
from .devices import Devices
from .observations import BeamObservation, Observation, Reading, StageObservation, Tick
from .supervisor import Supervisor
from .topics import HeaterReconnected, RunPrepared, SupervisorFailed

# Wall seconds.
TICK_S = 0.1
LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.2
LOOK_TIMEOUT_S = 2.0
# Failed requests to the column in a row that are worth an event.
_MUTE = 3


class RunActivity(Protocol):
    """What the observer needs to know of the run under way."""

    exposing: bool

    @property
    def takes_frames(self) -> bool:
        """Whether frames are being exposed one after the other."""
        ...


class Observer:
    """Feeds the supervisor with observations and publishes what trips.

    Parameters
    ----------
    rig : Rig
        Limits of the chip, and changes of the rules.
    devices : Devices
        Whose column is looked at.
    clock : ExperimentClock
        Time of the observations.
    bus : EventBus
        Brings heater samples; gets `Trip`, `SupervisorFailed`, and events.
    """

    def __init__(self, rig: Rig, devices: Devices, clock: ExperimentClock, bus: EventBus) -> None:
        self.supervisor = Supervisor(rig)
        self._devices, self._clock, self._bus = devices, clock, bus
        self._failed = False
        self._activity: RunActivity | None = None
        # Until pyrotome has blanked it once, a person at the microscope may have the beam on.
        self._beam_is_ours = False
        self._looked_s = time.monotonic()
        self._unanswered = 0
        bus.subscribe(HeaterSample, self._heater_sample, required=True)
        bus.subscribe(HeaterReconnected, self._heater_reconnected, required=True)
        bus.subscribe(RunPrepared, lambda _: self.beam_is_ours(), required=True)

    # --- what is going on ----------------------------------------------------------------------

    def run_begins(self, activity: RunActivity, limit_c: float | None) -> None:
        """Observe a run from now on.

        Parameters
        ----------
        activity : RunActivity
            What the run is doing.
        limit_c : float or None
            Highest temperature of its recipe.
        """
        # Its beam is not blanked yet.
        self._activity, self._beam_is_ours = activity, False
        self.supervisor.run(limit_c)

    def beam_is_ours(self) -> None:
        """The beam has been blanked: from now on it is on for exposures only."""
        self._beam_is_ours = True

    def run_ends(self) -> None:
        """Observe without a run from now on."""
        self._activity, self._beam_is_ours = None, True
        self.supervisor.run(None)

    # --- observations --------------------------------------------------------------------------

    def _heater_sample(self, sample: HeaterSample) -> None:
        self._observe(Reading(self._clock.now_ns(), time.monotonic(), sample))

    def _heater_reconnected(self, _: HeaterReconnected) -> None:
        self.supervisor.heater_connected()

    def stage_seen(self, before: StagePosition, after: StagePosition, frames: str) -> None:
        """Observe the stage: where it was before and after the exposure of some frames."""
        now_ns = self._clock.now_ns()
        self._observe(StageObservation(now_ns, time.monotonic(), before, after, frames))

    def _observe(self, observation: Observation) -> None:
        try:
            trips = self.supervisor.see(observation)
        except Exception as error:
            if not self._failed:
                self._failed = True
                problem = f"unexpected error in the supervisor: {error!r}"
                self._bus.publish(SupervisorFailed(problem))
            return
        for trip in trips:
            self._bus.publish(trip)

    async def watch(self) -> None:
        """Let time pass for the supervisor, and look at the column; until cancelled."""
        looking: asyncio.Task[None] | None = None
        try:
            while True:
                await asyncio.sleep(TICK_S)
                self._observe(Tick(self._clock.now_ns(), time.monotonic()))
                # Between exposures the engine waits for a look itself.
                busy = self._takes_frames or self._devices.safing
                if (looking is None or looking.done()) and not busy and self._is_due:
                    looking = asyncio.create_task(self._look(), name="look at the column")
        finally:
            if looking is not None:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def between_exposures(self) -> None:
        """Look at the column if it is time to; the engine waits for it before an exposure."""
        if self._is_due:
            await self._look()

    @property
    def _is_due(self) -> bool:
        every_s = LOOK_AGAIN_S if self.supervisor.in_doubt else LOOK_EVERY_S
        return time.monotonic() - self._looked_s >= every_s

    @property
    def _takes_frames(self) -> bool:
        return self._activity is not None and self._activity.takes_frames

    async def _look(self) -> None:
        activity, wanted = self._activity, self._takes_frames
        ours = self._beam_is_ours
        self._looked_s = time.monotonic()
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                state = await self._devices.beam.state()
        except (DeviceError, TimeoutError) as error:
            self._unanswered += 1
            if self._unanswered == _MUTE:
                why = str(error) or "no answer"
                text = f"the column does not report its state: {why}"
                self._bus.event("warning", "supervisor", text)
            return
        self._unanswered = 0
        # What happened in the meantime may have turned the beam on.
        same = activity is self._activity and wanted == self._takes_frames
        exposing = activity is not None and activity.exposing
        may_be_open = exposing or not same or not (ours and self._beam_is_ours)
        now_ns = self._clock.now_ns()
        self._observe(BeamObservation(now_ns, time.monotonic(), state, may_be_open, wanted))
