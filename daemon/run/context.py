"""What every run of a daemon shares: rig, devices, clock, states, streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import zmq.asyncio

from ...protocols.config.rig import Rig
from ...protocols.core.clock import ExperimentClock
from ..acquisition.heater_watch import HeaterWatch
from ..runtime.event_bus import EventBus
from ..safety.devices import Devices
from ..safety.observer import Observer
from ..schedule.states import StateMachine
from ..streaming.telemetry_hub import TelemetryHub


@dataclass(frozen=True)
class RunContext:
    """What a daemon lends to each run.

    Attributes
    ----------
    rig : Rig
        With the endpoints in use.
    rig_text : str
        The rig as it was written, for the file.
    rig_file : str or None
        Where the rig was read.
    clock : ExperimentClock
        The one clock.
    zmq_context : zmq.asyncio.Context
        Of the link to recorder and analysis.
    devices : Devices
        Connected.
    identities : mapping
        What each device says it is, by role.
    watch : HeaterWatch
        Follows the heater.
    observer : Observer
        Feeds the supervisor.
    machine : StateMachine
        The daemon's state.
    bus : EventBus
        Takes events.
    hub : TelemetryHub
        Makes stream messages.
    """

    rig: Rig
    rig_text: str
    rig_file: str | None
    clock: ExperimentClock
    zmq_context: zmq.asyncio.Context
    devices: Devices
    identities: Mapping[str, str]
    watch: HeaterWatch
    observer: Observer
    machine: StateMachine
    bus: EventBus
    hub: TelemetryHub

    @property
    def simulated(self) -> bool:
        """Whether the devices are simulated."""
        return self.rig.simulator is not None
