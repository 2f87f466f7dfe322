"""Start the servers of a rig on one world: what `__main__` runs, and tests run in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..protocols.loading import BadInput
from ..protocols.process import SimulatorConfig
from ..protocols.rig import CuSintering, Rig, SimulatorRig
from ..protocols.timebase import ExperimentClock
from . import impulse, merlin, temscript
from .journal import Journal
from .sintering import DoesNotFit
from .world import World


@dataclass(frozen=True)
class Simulation:
    """Servers that are running.

    Attributes
    ----------
    devices : dict
        Role to ``{"endpoint": ..., "options": {...}}`` as a rig writes them, with the ports in
        use; roles with other drivers are absent.
    world : World
        What stands behind them.
    clock : ExperimentClock
        Their time.
    """

    devices: dict[str, dict[str, Any]]
    world: World
    clock: ExperimentClock

    def rig(self, rig: Rig) -> Rig:
        """The rig with the endpoints in use."""
        return rig.model_copy(
            update={
                role: getattr(rig, role).model_copy(update=found)
                for role, found in self.devices.items()
            }
        )


@asynccontextmanager
async def running(config: SimulatorConfig, fill_frames: int = 0) -> AsyncIterator[Simulation]:
    """Serve every wire of a rig that can be simulated until the context ends.

    Parameters
    ----------
    config : SimulatorConfig
        Rig, clock and log; a rig without a ``simulator`` part cannot be served.
    fill_frames : int
        See `merlin.serve`.

    Raises
    ------
    BadInput
        If an endpoint is in use, or a file of the rig cannot be read or written.
    """
    rig, clock = config.rig, config.clock.clock()
    if rig.simulator is None:
        raise BadInput("simulator", "this rig describes no simulated microscope")
    journal = Journal(Path(config.log) if config.log else None)
    try:
        world = World(rig.simulator, clock.now_ns(), journal)
    except DoesNotFit as error:
        raise BadInput("simulator.specimen.particles", str(error)) from None
    warm_up()
    devices: dict[str, dict[str, Any]] = {}
    async with AsyncExitStack() as stack:
        stack.callback(world.close)
        if rig.heater.driver == "dens-impulse":
            control, data = await stack.enter_async_context(
                impulse.serve(
                    world,
                    clock,
                    rig.heater.endpoint,
                    _data_endpoint(rig.heater.options, rig.heater.endpoint),
                    rig.simulator.chip.sample_every_s,
                )
            )
            devices["heater"] = _entry(control, rig.heater.options, data)
        # Stage and column sit behind one server where the rig names one endpoint for both.
        http: dict[str, str] = {}
        for role, driver in (("stage", "temscript-stage"), ("beam", "temscript-beam")):
            entry = rig.stage if role == "stage" else rig.beam
            if entry.driver != driver:
                continue
            if entry.endpoint not in http:
                http[entry.endpoint] = await stack.enter_async_context(
                    temscript.serve(world, clock, entry.endpoint)
                )
            devices[role] = {"endpoint": http[entry.endpoint], "options": entry.options}
        if rig.detector.driver == "merlin":
            control, data = await stack.enter_async_context(
                merlin.serve(
                    world,
                    clock,
                    rig.detector.endpoint,
                    _data_endpoint(rig.detector.options, rig.detector.endpoint),
                    fill_frames,
                )
            )
            devices["detector"] = _entry(control, rig.detector.options, data)
        yield Simulation(devices, world, clock)


@cache
def warm_up() -> None:
    """Compile what numba has to, so that the first frame is not late."""
    world = World(SimulatorRig(specimen=CuSintering(particles=2)), 0)
    exposure = world.begin_exposure(2_000_000, 1e-3, (4, 4))
    scene = world.scene(exposure.middle_ns)
    world.frame(exposure, scene, world.beam_on(exposure))


def _data_endpoint(options: dict[str, Any], control: str) -> str:
    """The endpoint of samples or frames; a wire's usual neighbour when the rig is silent."""
    found = options.get("data_endpoint")
    if isinstance(found, str):
        return found
    return control.rpartition(":")[0] + ":0"


def _entry(control: str, options: dict[str, Any], data: str) -> dict[str, Any]:
    return {"endpoint": control, "options": {**options, "data_endpoint": data}}
