"""Fixtures: a clock and a simulation of a rig that a test may change."""

from contextlib import asynccontextmanager

import pytest

from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.config.simulated import SimulatorRig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.simulation import running

# Few particles are placed in no time, and the wires are the same.
FEW = SimulatorRig.model_validate({"specimen": {"kind": "cu-sintering", "particles": 4}})


@pytest.fixture
def simulate():
    """Context manager: the simulated microscope in this process."""

    @asynccontextmanager
    async def start(simulator=None, speed=1.0, fill_frames=0, log=None):
        rig = simulated_rig().model_copy(update={"simulator": simulator or FEW})
        clock = ClockConfig.of(ExperimentClock(speed))
        config = SimulatorConfig(rig=rig, clock=clock, log=None if log is None else str(log))
        async with running(config, fill_frames) as simulation:
            yield simulation

    return start
