"""Start the servers of a rig on one world: what `__main__` runs, and tests run in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..protocols.config.faults import PHYSICAL, Fault, FaultName
from ..protocols.config.rig import ROLES, BeamRig, DetectorRig, HeaterRig, Rig, Role, StageRig
from ..protocols.config.simulated import CuSintering, SimulatorRig, ZrZrO2
from ..protocols.core.clock import ExperimentClock
from ..protocols.core.errors import BadInput
from ..protocols.messages.process import SimulatorConfig
from .servers import impulse, instamatic, keithley, merlin, secop, simplon, temscript
from .servers.sockets import background
from .servers.wire_faults import WireFaults
from .world.copper import DoesNotFit
from .world.microscope import World
from .world.truth_log import TruthLog


@dataclass(frozen=True)
class Site:
    """What a server stands on."""

    world: World
    clock: ExperimentClock
    faults: WireFaults
    fill_frames: int


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
    faults : dict
        Role to the switches of its wire.
    """

    devices: dict[str, dict[str, Any]]
    world: World
    clock: ExperimentClock
    faults: dict[Role, WireFaults]

    def rig(self, rig: Rig) -> Rig:
        """The rig with the endpoints in use."""
        return rig.model_copy(
            update={
                role: getattr(rig, role).model_copy(update=found)
                for role, found in self.devices.items()
            }
        )

    def switch(self, fault: Fault) -> None:
        """Turn a fault on now, or clear them; BadInput if the wire cannot have it."""
        switches = self.faults.get(fault.role)
        if switches is None:
            raise BadInput(f"{fault.role}:{fault.name}", f"the {fault.role} is not simulated")
        switches.switch(fault)

    def schedule(self, faults: Sequence[Fault]) -> list[Coroutine[Any, Any, None]]:
        """Turn on those that are due at once; work that turns on the others in their time.

        Their times count from now.
        """
        now_ns = self.clock.now_ns()
        later: list[Coroutine[Any, Any, None]] = []
        for fault in faults:
            if fault.start_s <= 0:
                self.switch(fault)
            if fault.start_s > 0 or fault.duration_s is not None:
                later.append(self._carry_out(fault, now_ns + int(fault.start_s * 1e9)))
        return later

    async def _carry_out(self, fault: Fault, started_ns: int) -> None:
        if fault.start_s > 0:
            await self.clock.sleep_until_ns(started_ns)
            self.switch(fault)
        if fault.duration_s is not None:
            await self.clock.sleep_until_ns(started_ns + int(fault.duration_s * 1e9))
            self.faults[fault.role].clear(fault.name)


@dataclass(frozen=True)
class Wire:
    """One kind of server: which faults it can have, and how it is opened for a rig's entry.

    `open` yields the endpoint and options under which the rig finds it. Roles that name the same
    wire and endpoint share one server.
    """

    faults: frozenset[FaultName]
    open: Callable[[Site, Any], AbstractAsyncContextManager[dict[str, Any]]]


@asynccontextmanager
async def _impulse(site: Site, entry: HeaterRig) -> AsyncIterator[dict[str, Any]]:
    async with impulse.serve(
        site.world,
        site.clock,
        entry.endpoint,
        _data_endpoint(entry.options, entry.endpoint),
        site.world.config.chip.sample_every_s,
        site.faults,
    ) as (control, data):
        yield _entry(control, entry.options, data)


@asynccontextmanager
async def _temscript(site: Site, entry: StageRig | BeamRig) -> AsyncIterator[dict[str, Any]]:
    async with temscript.serve(site.world, site.clock, entry.endpoint, site.faults) as endpoint:
        yield {"endpoint": endpoint}


@asynccontextmanager
async def _merlin(site: Site, entry: DetectorRig) -> AsyncIterator[dict[str, Any]]:
    async with merlin.serve(
        site.world,
        site.clock,
        entry.endpoint,
        _data_endpoint(entry.options, entry.endpoint),
        site.fill_frames,
        chips=4 if entry.options.get("chips") == 4 else 1,
        faults=site.faults,
    ) as (control, data):
        yield _entry(control, entry.options, data)


@asynccontextmanager
async def _keithley_2400(site: Site, entry: HeaterRig) -> AsyncIterator[dict[str, Any]]:
    baud = entry.options.get("baud", keithley.DEFAULT_BAUD)
    async with keithley.serve_2400(
        site.world, site.clock, entry.endpoint, baud, site.faults
    ) as endpoint:
        yield {"endpoint": endpoint}


@asynccontextmanager
async def _keithley_2450(site: Site, entry: HeaterRig) -> AsyncIterator[dict[str, Any]]:
    async with keithley.serve_2450(site.world, site.clock, entry.endpoint, site.faults) as endpoint:
        yield {"endpoint": endpoint}


@asynccontextmanager
async def _secop(site: Site, entry: HeaterRig) -> AsyncIterator[dict[str, Any]]:
    module = entry.options.get("module") or secop.DEFAULT_MODULE
    async with secop.serve(
        site.world, site.clock, entry.endpoint, site.faults, module=str(module)
    ) as endpoint:
        yield {"endpoint": endpoint}


@asynccontextmanager
async def _instamatic(site: Site, entry: StageRig | BeamRig) -> AsyncIterator[dict[str, Any]]:
    async with instamatic.serve(site.world, site.clock, entry.endpoint, site.faults) as endpoint:
        yield {"endpoint": endpoint}


@asynccontextmanager
async def _simplon(site: Site, entry: DetectorRig) -> AsyncIterator[dict[str, Any]]:
    depth = entry.options.get("bit_depth")
    async with simplon.serve(
        site.world,
        site.clock,
        entry.endpoint,
        _data_endpoint(entry.options, entry.endpoint.replace("http://", "tcp://", 1)),
        site.fill_frames,
        simplon.Variant(bit_depth=depth if depth in {8, 32} else 16),
        faults=site.faults,
    ) as (control, data):
        yield _entry(control, entry.options, data)


_TEMSCRIPT = Wire(temscript.FAULTS, _temscript)
_INSTAMATIC = Wire(instamatic.FAULTS, _instamatic)
# The drivers whose instruments can be simulated.
WIRES: dict[str, Wire] = {
    "dens-impulse": Wire(impulse.FAULTS, _impulse),
    "keithley-2400": Wire(keithley.FAULTS_SERIAL, _keithley_2400),
    "keithley-2450": Wire(keithley.FAULTS_TCP, _keithley_2450),
    "temscript-stage": _TEMSCRIPT,
    "temscript-beam": _TEMSCRIPT,
    "instamatic-stage": _INSTAMATIC,
    "instamatic-beam": _INSTAMATIC,
    "secop": Wire(secop.FAULTS, _secop),
    "merlin": Wire(merlin.FAULTS, _merlin),
    "dectris-simplon": Wire(simplon.FAULTS, _simplon),
}


@asynccontextmanager
async def running(config: SimulatorConfig, fill_frames: int = 0) -> AsyncIterator[Simulation]:
    """Serve every wire of a rig that can be simulated until the context ends.

    Parameters
    ----------
    config : SimulatorConfig
        Rig, clock, log and faults; a rig without a ``simulator`` part cannot be served.
    fill_frames : int
        When not 0, a benchmark: the detector sends so many ready-made frames in turn.

    Raises
    ------
    BadInput
        If an endpoint is in use, a file of the rig cannot be read or written, or a wire cannot
        have a requested fault.
    """
    rig, clock = config.rig, config.clock.clock()
    if rig.simulator is None:
        raise BadInput("simulator", "this rig describes no simulated microscope")
    for fault in config.faults:
        _check_fault(rig, fault)
    truth_log = TruthLog(Path(config.log) if config.log else None)
    try:
        world = World(rig.simulator, clock.now_ns(), truth_log)
    except DoesNotFit as error:
        raise BadInput("simulator.specimen.particles", str(error)) from None
    warm_up(atoms=world.atoms is not None)
    faults: dict[Role, WireFaults] = {}
    devices: dict[str, dict[str, Any]] = {}
    opened: dict[tuple[Wire, str], tuple[dict[str, Any], WireFaults]] = {}
    async with AsyncExitStack() as stack:
        stack.callback(world.close)
        for role in ROLES:
            entry = rig.device(role)
            wire = WIRES.get(entry.driver)
            if wire is None:
                continue
            key = (wire, entry.endpoint)
            if key not in opened:
                switches = WireFaults(
                    wire.faults, rig.simulator.seed, _inject_faults(world, clock, wire)
                )
                site = Site(world, clock, switches, fill_frames)
                opened[key] = await stack.enter_async_context(wire.open(site, entry)), switches
            found, faults[role] = opened[key]
            devices[role] = {"options": entry.options, **found}
        for switches in faults.values():  # what hangs would keep its server
            stack.callback(switches.clear)
        simulation = Simulation(devices, world, clock, faults)
        await stack.enter_async_context(background(*simulation.schedule(config.faults)))
        yield simulation


def _inject_faults(
    world: World, clock: ExperimentClock, wire: Wire
) -> Callable[[Mapping[FaultName, Fault]], None] | None:
    """What passes the faults behind a wire on to the world."""
    behind = frozenset(wire.faults & PHYSICAL.keys())
    if not behind:
        return None

    def pass_on(on: Mapping[FaultName, Fault]) -> None:
        sizes: dict[FaultName, float] = {n: f.size for n, f in on.items() if n in behind}
        world.inject_faults(clock.now_ns(), behind, sizes)

    return pass_on


def _check_fault(rig: Rig, fault: Fault) -> None:
    wire = WIRES.get(rig.device(fault.role).driver)
    if wire is None:
        raise BadInput(f"{fault.role}:{fault.name}", f"the {fault.role} is not simulated")
    WireFaults(wire.faults).check(fault)


@cache
def warm_up(*, atoms: bool = False) -> None:
    """Compile what numba has to for spheres or atoms, so that the first frame is not late."""
    specimen = ZrZrO2(kind="zr-zro2", atoms=20) if atoms else CuSintering(particles=2)
    world = World(SimulatorRig(specimen=specimen), 0)
    exposure = world.scan.begin(2_000_000, 1e-3, (4, 4))
    state = world.scan.state(exposure.middle_ns)
    world.scan.frame(exposure, state, world.scan.beam_on(exposure))


def _data_endpoint(options: dict[str, Any], control: str) -> str:
    """The endpoint of samples or frames; a wire's usual neighbour when the rig is silent."""
    found = options.get("data_endpoint")
    if isinstance(found, str):
        return found
    return control.rpartition(":")[0] + ":0"


def _entry(control: str, options: dict[str, Any], data: str) -> dict[str, Any]:
    return {"endpoint": control, "options": {**options, "data_endpoint": data}}
