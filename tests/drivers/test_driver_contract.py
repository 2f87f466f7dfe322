"""One test set that every driver class passes, whoever is or is not at the end of its wire.

Each driver stands against our simulator of its wire, which is told to misbehave; a row of
`SUBJECTS` is all that a driver needs here.
"""

import asyncio
import contextlib
import importlib.util
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import psutil
import pytest

from pyrotome.drivers import base
from pyrotome.drivers.base import (
    Beam,
    BeamReach,
    DeviceError,
    DeviceLost,
    DeviceRefused,
    Identity,
    OutOfRange,
    Stage,
    StagePosition,
)
from pyrotome.drivers.registry import driver_class, installed
from pyrotome.protocols.config.faults import parse_fault
from pyrotome.protocols.config.recipe import BeamSettings
from pyrotome.protocols.config.rig import (
    ROLES,
    BeamRig,
    DetectorRig,
    HeaterRig,
    Rig,
    StageRig,
    simulated_rig,
)
from pyrotome.protocols.config.shift_calibration import ShiftCalibration, save_shift_calibration
from pyrotome.protocols.config.simulated import SimulatedColumn
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.simulation import WIRES, Simulation, running

RIGS = {"heater": HeaterRig, "stage": StageRig, "beam": BeamRig, "detector": DetectorRig}


@dataclass(frozen=True)
class Subject:
    """What the tests have to know of a driver.

    `entry` is what its rig says, on ports that the simulator chooses; `says` are words of the
    instrument, in the error when it refuses. `scheme` is that of its endpoint.
    """

    role: str
    module: str
    entry: dict[str, Any]
    says: str
    scheme: str = "tcp"


ANY = "tcp://127.0.0.1:0"
CALIBRATION = str(
    Path(__file__).resolve().parents[2] / "examples" / "rigs" / "chip_calibration.json"
)
SUBJECTS = {
    "dens-impulse": Subject(
        "heater",
        "impulse",
        {"endpoint": ANY, "options": {"data_endpoint": ANY}},
        "invalidOperation, the heating controller reports a fault",
    ),
    "keithley-2400": Subject(
        "heater",
        "keithley",
        {"endpoint": "serial://auto", "options": {"calibration_file": CALIBRATION}},
        r"error -200 \(Execution error\)",
    ),
    "keithley-2450": Subject(
        "heater",
        "keithley",
        {"endpoint": ANY, "options": {"calibration_file": CALIBRATION}},
        r"error -200 \(Execution error\)",
    ),
    "temscript-stage": Subject(
        "stage", "temscript", {"endpoint": "http://127.0.0.1:0"}, "500 .*instrument error", "http"
    ),
    "temscript-beam": Subject(
        "beam", "temscript", {"endpoint": "http://127.0.0.1:0"}, "500 .*instrument error", "http"
    ),
    "instamatic-stage": Subject(
        "stage", "instamatic", {"endpoint": ANY}, "TEMCommunicationError.*a simulated fault"
    ),
    "instamatic-beam": Subject(
        "beam", "instamatic", {"endpoint": ANY}, "TEMCommunicationError.*a simulated fault"
    ),
    "secop": Subject("heater", "secop", {"endpoint": ANY}, "HardwareError.*a simulated fault"),
    "merlin": Subject(
        "detector",
        "merlin",
        {"endpoint": ANY, "options": {"data_endpoint": ANY}},
        r"error 1 \(busy\)",
    ),
    "dectris-simplon": Subject(
        "detector",
        "dectris",
        {"endpoint": "http://127.0.0.1:0", "options": {"data_endpoint": ANY}},
        "500.*the detector has a fault",
        "http",
    ),
}


def present(driver: str) -> str:
    """Name of a driver, skipping while its module is not there."""
    module = f"pyrotome.drivers.{SUBJECTS[driver].module}"
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    return driver


@pytest.fixture(params=list(SUBJECTS))
def driver(request: pytest.FixtureRequest) -> str:
    return present(request.param)


@pytest.fixture
def subject(driver: str) -> Subject:
    return SUBJECTS[driver]


def test_every_installed_driver_is_walked():
    ours = {name for name, point in installed().items() if point.value.startswith("pyrotome.")}
    assert ours == set(SUBJECTS)


def test_every_driver_of_ours_has_a_simulator():
    assert set(WIRES) == set(SUBJECTS)


GRACE_S = 1.0
# Other waits of single drivers, in wall seconds.
SHORTER_S = {"STALE_GRACE_S": 0.3, "SILENCE_S": 1.0, "OFF_TIMEOUT_S": 0.6}
# What a busy computer adds; a driver that waits for ever does not come back in that time.
SLACK_S = 60.0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    """Short deadlines in every driver module, where they are defaults of arguments too."""
    driver_class(driver, SUBJECTS[driver].role)
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("pyrotome.drivers.")]
    functions: set[FunctionType] = set()
    for module in modules:
        functions |= set(_functions(module))
        if getattr(module, "GRACE_S", None) is base.GRACE_S and module is not base:
            monkeypatch.setattr(module, "GRACE_S", GRACE_S)
        for name, seconds in SHORTER_S.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, seconds)
    for function in functions:
        defaults = function.__defaults__ or ()
        if any(value is base.GRACE_S for value in defaults):
            shorter = tuple(GRACE_S if v is base.GRACE_S else v for v in defaults)
            monkeypatch.setattr(function, "__defaults__", shorter)
        for name, value in (function.__kwdefaults__ or {}).items():
            if value is base.GRACE_S:
                monkeypatch.setitem(function.__kwdefaults__, name, GRACE_S)


def _functions(holder: ModuleType | type) -> list[FunctionType]:
    found: list[FunctionType] = []
    for value in vars(holder).values():
        if isinstance(value, FunctionType):
            found.append(value)
        elif (
            isinstance(value, type)
            and value is not holder
            and value.__module__.startswith("pyrotome.drivers.")
        ):
            found += _functions(value)
    return found


# Against our simulators.


@dataclass
class Site:
    """A device before the simulated instrument, and what both have in common by their role."""

    device: Any
    simulation: Simulation
    subject: Subject
    commands: int = 0

    def switch(self, fault: str) -> None:
        self.simulation.switch(parse_fault(f"{self.subject.role}:{fault}"))

    def can(self, fault: str) -> bool:
        return fault in self.simulation.faults[self.subject.role].possible

    async def command(self) -> None:
        """Something that the instrument has to do, seen in its world."""
        self.commands += 1
        await ROLE[self.subject.role].command(self)

    async def begin(self) -> None:
        """Something that lasts."""
        await ROLE[self.subject.role].begin(self)

    async def read(self) -> None:
        """A value, compared with the truth."""
        await ROLE[self.subject.role].read(self)

    async def see_safe(self) -> None:
        """Wait until the world is safe."""
        end = time.monotonic() + SLACK_S
        while not ROLE[self.subject.role].is_safe(self):
            assert time.monotonic() < end, "the world is not safe"
            await asyncio.sleep(0.02)

    @property
    def now_ns(self) -> int:
        return self.simulation.clock.now_ns()


@dataclass(frozen=True)
class Behaviour:
    command: Callable[[Site], Awaitable[None]]
    begin: Callable[[Site], Awaitable[None]]
    read: Callable[[Site], Awaitable[None]]
    is_safe: Callable[[Site], bool]


async def heat(site: Site) -> None:
    target_c = 120.0 + 10.0 * (site.commands % 5)
    await site.device.set_temperature(target_c)
    async with asyncio.timeout(SLACK_S):
        async for sample in site.device.samples():
            if abs(sample.temperature_c - target_c) < 4:
                break
        # A chip moves within milliseconds, and on a busy computer a reading may be older.
        while abs(site.simulation.world.heater.temperature_c(site.now_ns) - target_c) >= 12:
            await asyncio.sleep(0.02)


async def ramp(site: Site) -> None:
    await site.device.start_ramp(400.0, 60.0)
    await site.simulation.clock.sleep(5.0)
    assert site.simulation.world.heater.temperature_c(site.now_ns) > 40


async def read_temperature(site: Site) -> None:
    sample = await anext(aiter(site.device.samples()))
    assert abs(sample.temperature_c - site.simulation.world.heater.temperature_c(sample.t_ns)) < 8


def is_cold(site: Site) -> bool:
    return site.simulation.world.heater.temperature_c(site.now_ns) < 60


async def tilt(site: Site) -> None:
    target_deg = 3.0 * (1 + site.commands % 5)
    at = await site.device.move_to(target_deg)
    assert abs(at.tilt_deg - target_deg) < 0.1
    assert abs(site.simulation.world.stage.true_tilt_deg(site.now_ns) - target_deg) < 0.1


async def begin_tilting(site: Site) -> None:
    move = asyncio.create_task(site.device.move_to(-60.0))
    await site.simulation.clock.sleep(1.0)
    assert site.simulation.world.stage.is_moving(site.now_ns)
    move.cancel()
    await asyncio.wait([move])


async def read_tilt(site: Site) -> None:
    at = await site.device.position()
    assert abs(at.tilt_deg - site.simulation.world.stage.true_tilt_deg(at.t_ns)) < 0.5


async def unblank(site: Site) -> None:
    await site.device.blank()
    assert site.simulation.world.column.state(site.now_ns).blanked
    await site.device.unblank()
    assert not await site.device.is_blanked()
    assert not site.simulation.world.column.state(site.now_ns).blanked


async def begin_unblanking(site: Site) -> None:
    await site.device.unblank()


async def read_blanker(site: Site) -> None:
    assert await site.device.is_blanked() == site.simulation.world.column.state(site.now_ns).blanked


async def expose(site: Site) -> None:
    await site.device.arm(2, 0.05, (64, 32))
    for number in (1, 2):
        await site.device.trigger()
        await see_frame(site, number)
    await site.device.disarm()


async def see_frame(site: Site, number: int) -> None:
    frame = await site.device.read_frame()
    data = frame.data if hasattr(frame.data, "max") else frame.data.decompress()
    assert frame.number == number
    assert data.shape == (64, 32)
    assert data.dtype.kind == "u"
    assert data.max() == 0  # the beam is blanked: anything else came from elsewhere


async def begin_exposing(site: Site) -> None:
    await site.device.arm(3, 5.0, (64, 32))
    await site.device.trigger()


async def read_frame(site: Site) -> None:
    await site.device.arm(1, 0.05, (64, 32))
    await site.device.trigger()
    await see_frame(site, 1)
    await site.device.disarm()


ROLE = {
    "heater": Behaviour(heat, ramp, read_temperature, is_cold),
    "stage": Behaviour(
        tilt,
        begin_tilting,
        read_tilt,
        lambda site: not site.simulation.world.stage.is_moving(site.now_ns),
    ),
    "beam": Behaviour(
        unblank,
        begin_unblanking,
        read_blanker,
        lambda site: site.simulation.world.column.state(site.now_ns).blanked,
    ),
    # Nothing in the world tells an idle detector; the command that follows does.
    "detector": Behaviour(expose, begin_exposing, read_frame, lambda _: True),
}


@pytest.fixture
async def site(driver: str, subject: Subject, quick: None, tmp_path: Path) -> AsyncIterator[Site]:
    """A device that is not connected, and the simulator of its wire alone."""
    if driver not in WIRES:
        pytest.skip(f"no simulator of the wire of {driver} yet")
    rig = simulated_rig().model_dump(by_alias=True)
    for role in ROLES:  # drivers that no simulator knows are not served
        rig[role] = {"driver": "none", "endpoint": "none"}
    rig[subject.role] = {"driver": driver, **subject.entry}
    if subject.role == "stage":
        rig["stage"]["limits"] = {"speed": "20 deg/s", "settle": "0.1 s", **LINEAR_AXES}
    if subject.role == "beam":
        rig["beam"] |= optics_of(driver, tmp_path / "shift.json")
    rig["simulator"] = {"specimen": {"kind": "cu-sintering", "particles": 4}}
    model = Rig.model_validate(rig)
    clock = ExperimentClock(10.0)
    async with running(SimulatorConfig(rig=model, clock=ClockConfig.of(clock))) as simulation:
        entry = simulation.rig(model).device(subject.role)
        cls = driver_class(driver, subject.role)
        device = cls(f"{subject.role} ({driver})", entry, simulation.clock)
        yield Site(device, simulation, subject)
        await device.disconnect()


@pytest.fixture
async def connected(site: Site) -> Site:
    await site.device.connect(SLACK_S)
    return site


@contextlib.contextmanager
def bounded(seconds: float):
    """Fail where something ends, but long after every deadline."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def files_open() -> int:
    return psutil.Process().num_fds()


async def files_settle(before: int) -> None:
    """Wait until no more files are open than before."""
    end = time.monotonic() + SLACK_S
    while files_open() > before and time.monotonic() < end:
        await asyncio.sleep(0.02)
    assert files_open() <= before


async def test_connects_identifies_and_works(site, driver):
    identity = await site.device.connect(SLACK_S)
    assert identity.vendor
    assert identity.model
    assert str(identity).startswith(identity.vendor)
    await site.command()
    await site.read()
    await site.command()
    await site.device.disconnect()
    with pytest.raises(DeviceLost, match=rf"{driver}.*not connected.*Connect first"):
        await site.command()
    await site.device.connect(SLACK_S)
    await site.command()


async def test_hang_before_connecting(site, driver):
    site.switch("hang")
    with bounded(0.5 + SLACK_S), pytest.raises(DeviceLost) as caught:
        await site.device.connect(0.5)
    assert driver in str(caught.value)
    assert caught.value.remedy
    site.switch("none")
    await site.device.connect(SLACK_S)
    await site.command()


async def test_hang_during_a_command(connected, driver):
    site = connected
    await site.command()
    site.switch("hang")
    with bounded(4 * GRACE_S + SLACK_S), pytest.raises(DeviceLost) as caught:
        await site.command()
    assert driver in str(caught.value)
    assert caught.value.remedy
    site.switch("none")
    await site.device.connect(SLACK_S)
    await site.command()


async def test_disconnected_in_the_middle_of_an_exchange(connected):
    site = connected
    if not site.can("disconnect"):
        pytest.skip("this wire has no connection that could break")
    await site.command()
    site.switch("disconnectx1")
    with bounded(4 * GRACE_S + SLACK_S), pytest.raises(DeviceLost):
        await site.command()
    await site.device.connect(SLACK_S)
    await site.command()
    await site.read()


@pytest.mark.parametrize("fault", ["garbage", "short-frame", "wrong-length"])
async def test_bad_bytes_are_understood_or_told_and_never_taken_for_a_value(connected, fault):
    site = connected
    if not site.can(fault):
        pytest.skip("this wire cannot have it")
    for work, times in ((site.read, "x1"), (site.command, "x1"), (site.command, "")):
        site.switch(f"{fault}{times}")
        with bounded(8 * GRACE_S + 2 * SLACK_S), contextlib.suppress(DeviceError):
            await work()
        site.switch("none")
        await site.device.connect(SLACK_S)
        await site.command()
        await site.read()


async def test_a_late_answer_is_no_answer_to_the_next_question(connected):
    site = connected
    site.switch(f"slow={GRACE_S * 1.6} sx1")
    with contextlib.suppress(DeviceLost):
        await site.command()
    for _ in range(3):
        with contextlib.suppress(DeviceLost):
            await site.read()
        await asyncio.sleep(0.15)
    site.switch("none")
    await site.device.connect(SLACK_S)
    await site.command()
    await site.read()


async def test_refusal_in_the_words_of_the_instrument(connected, driver, subject):
    site = connected
    if not site.can("error"):
        pytest.skip("this wire cannot refuse")
    site.switch("error")
    with pytest.raises(DeviceRefused, match=subject.says) as caught:
        await site.command()
    assert driver in str(caught.value)
    site.switch("none")
    with contextlib.suppress(DeviceError):  # what a refusal leaves behind is cleared by this
        await site.device.make_safe()
    # The instrument's word that it is well again may be on its way.
    async with asyncio.timeout(SLACK_S):
        while True:
            try:
                await site.command()
            except DeviceRefused:
                await asyncio.sleep(0.05)
            else:
                break


async def test_safe_without_having_been_connected(site):
    with bounded(SLACK_S):
        await site.device.make_safe()
    await site.see_safe()
    await site.device.connect(SLACK_S)
    await site.command()


async def test_safe_from_rest(connected):
    site = connected
    await site.device.make_safe()
    await site.see_safe()
    await site.command()
    await site.device.make_safe()
    await site.see_safe()
    await site.command()


async def test_safe_in_the_middle_of_things(connected):
    site = connected
    await site.begin()
    await site.device.make_safe()
    await site.see_safe()
    await site.command()


async def test_safe_while_a_command_is_under_way(connected):
    site = connected
    site.switch("slow=200 ms")
    command = asyncio.create_task(site.command())
    await asyncio.sleep(0.1)
    site.switch("none")
    command.cancel()  # as the daemon does first
    with bounded(SLACK_S):
        await site.device.make_safe()
    assert command.done()
    await site.see_safe()
    await site.command()


@pytest.mark.parametrize("fault", ["disconnectx1", "hang", "garbagex1"])
async def test_safe_after_a_loss(connected, fault):
    site = connected
    if not site.can(fault.removesuffix("x1")):
        pytest.skip("this wire cannot have it")
    await site.begin()
    site.switch(fault)
    with contextlib.suppress(DeviceError, AssertionError):
        await asyncio.wait_for(site.command(), SLACK_S)
    site.switch("none")
    await site.device.make_safe()
    await site.see_safe()
    await site.device.connect(SLACK_S)
    await site.command()


@pytest.mark.parametrize("fault", ["disconnectx1", "garbagex1"])
async def test_safe_over_a_wire_that_fails_once(connected, fault):
    site = connected
    if not site.can(fault.removesuffix("x1")):
        pytest.skip("this wire cannot have it")
    await site.begin()
    site.switch(fault)
    await site.device.make_safe()
    await site.see_safe()


async def test_safe_over_a_wire_that_hangs_is_an_error_in_time(connected):
    site = connected
    site.switch("hang")
    with bounded(8 * GRACE_S + SLACK_S), pytest.raises(DeviceError):
        await site.device.make_safe()


async def test_nothing_stays_open(site):
    await site.device.connect(SLACK_S)
    await site.command()
    await site.device.disconnect()
    await asyncio.sleep(0.2)
    before, tasks = files_open(), asyncio.all_tasks()
    for fault in ("none", "disconnectx1", "garbagex1"):
        await site.device.connect(SLACK_S)
        if fault == "none" or site.can(fault.removesuffix("x1")):
            site.switch(fault)
            with contextlib.suppress(DeviceError):
                await site.command()
            site.switch("none")
        await site.device.disconnect()
    await files_settle(before + 1)  # a server may be about to take the end of one connection
    left = {task for task in asyncio.all_tasks() - tasks if not task.done()}
    assert not {task for task in left if site.device.name in task.get_name()}


# Axes and deflectors, where a driver has them.

LINEAR_AXES = {
    "x": ["-900 um", "900 um"],
    "y": ["-900 um", "900 um"],
    "z": ["-150 um", "150 um"],
    "xy_backlash": "300 nm",
}
FIELD_NM = 1000.0
SETTINGS = BeamSettings.model_validate(
    {
        "voltage": "300 kV",
        "current": "2 pA",
        "dwell": "500 ns",
        "frame": [256, 256],
        "pixel_size": f"{FIELD_NM / 256} nm",
    }
)


def optics_of(driver: str, path: Path) -> dict[str, Any]:
    """Shift, calibrated for the simulated column, and focus, as this wire has them."""
    steps = driver == "instamatic-beam"
    calibration = {
        "unit": "step" if steps else "nm",
        "matrix_nm": SimulatedColumn().shift_matrix,
        "covariance_nm2": [[1e-4 * (row == column) for column in range(4)] for row in range(4)],
        "zero": [32_768.0, 32_768.0] if steps else [0.0, 0.0],
        "largest_nm": 300.0,
        "field_nm": FIELD_NM,
        "voltage_kv": 300.0,
        "date": "2026-11-27T10:00:00Z",
    }
    save_shift_calibration(path, ShiftCalibration.model_validate(calibration))
    by = "stage" if steps else "probe_defocus"
    return {"shift": {"calibration_file": str(path)}, "focus": {"by": by}}


STAGES = pytest.mark.parametrize("driver", ["temscript-stage", "instamatic-stage"], indirect=True)
BEAMS = pytest.mark.parametrize("driver", ["temscript-beam", "instamatic-beam"], indirect=True)


@STAGES
async def test_a_stage_moves_the_axes_that_are_named(connected):
    site, stage = connected, connected.device
    reach = await stage.reach()
    assert all(-900_000 in reach[axis] and 900_001 not in reach[axis] for axis in "xy")
    assert (reach["z"].low, reach["z"].high) == pytest.approx((-150_000, 150_000))
    at = await stage.move_to(6.0, x_nm=600.0, y_nm=-300.0, z_nm=800.0)
    assert (at.x_nm, at.y_nm, at.z_nm) == pytest.approx((600.0, -300.0, 800.0), abs=1.0)
    y, x = site.simulation.world.image_truth(site.now_ns).offset_nm
    # The specimen is 15 nm off the axis, and the drives have no play here.
    assert (y, x) == pytest.approx((-300.0, 600.0 * 0.9945 + 800.0 * 0.1045), abs=20.0)
    at = await stage.move_to(3.0)
    assert (at.x_nm, at.y_nm, at.z_nm) == pytest.approx((600.0, -300.0, 800.0), abs=1.0)
    at = await stage.move_to(3.0, z_nm=0.0)
    assert (at.tilt_deg, at.z_nm) == pytest.approx((3.0, 0.0), abs=0.1)


@STAGES
async def test_what_a_stage_is_not_to_do_moves_nothing(connected):
    site, stage = connected, connected.device
    before = site.simulation.world.stage.readback(site.now_ns)
    for axes, problem in (
        ({"x_nm": 1e6}, "move x to 1e\\+06 nm: the rig's limits are .*nothing was sent"),
        ({"z_nm": -150_100.0}, "move z to .*nothing was sent"),
        ({"y_nm": 25_000.0}, "move y to .* at most 20000 nm by the rig; nothing was sent"),
        ({"y_nm": float("nan")}, "move y to nan"),
        ({"x_nm": 10.0, "z_nm": 1e6}, "move z to"),
    ):
        with pytest.raises(OutOfRange, match=problem):
            await stage.move_to(5.0, **axes)
    assert site.simulation.world.stage.readback(site.now_ns) == pytest.approx(before, abs=0.02)
    site.switch("xy-ignored")
    with pytest.raises(DeviceRefused, match="move x to 2000 nm: the stage is ready at 0 nm in x"):
        await stage.move_to(0.0, x_nm=2000.0)
    site.switch("none")
    assert (await stage.move_to(0.0, x_nm=2000.0)).x_nm == pytest.approx(2000.0, abs=1.0)


@STAGES
async def test_an_axis_without_limits_is_not_moved(connected):
    stage = connected.device
    limits = stage.rig.limits.model_copy(update={"z_nm": None})
    rig = stage.rig.model_copy(update={"limits": limits})
    other = type(stage)(stage.name, rig, stage.clock)
    await other.connect(SLACK_S)
    reach = await other.reach()
    assert reach["z"] is None
    with pytest.raises(
        DeviceRefused, match=r"move z to 5 nm: .*nothing was sent.*stage\.limits\.z"
    ):
        await other.move_to(1.0, z_nm=5.0)
    await other.disconnect()


@BEAMS
async def test_a_beam_is_shifted_and_focused_and_read_back(connected):
    site, beam = connected, connected.device
    assert (await beam.reach()).shift_nm is None, "nothing is known before it is prepared"
    await beam.prepare(SETTINGS)
    reach = await beam.reach()
    assert (reach.shift_nm, reach.needs_calibration) == (1500.0, None)
    assert -20_000 in reach.defocus_nm
    sent_ns = site.now_ns
    confirmed_ns = await beam.deflect((120.0, -80.0))
    assert sent_ns + 30_000_000 <= confirmed_ns <= site.now_ns
    truth = site.simulation.world.image_truth(site.now_ns)
    assert truth.deflected_nm == pytest.approx((120.0, -80.0), abs=0.8)
    assert (await beam.deflection()).shift_nm == pytest.approx((120.0, -80.0), abs=0.8)
    for height_nm in (700.0, -300.0, 0.0):
        await beam.focus(height_nm)
        truth = site.simulation.world.image_truth(site.now_ns)
        assert truth.defocus_nm == pytest.approx(-height_nm, abs=1.0)
    await beam.prepare(SETTINGS)
    await beam.make_safe()
    truth = site.simulation.world.image_truth(site.now_ns)
    assert truth.deflected_nm == pytest.approx((120.0, -80.0), abs=0.8), "it stays where it was"


@BEAMS
async def test_deflectors_are_set_in_their_own_unit_for_a_calibration(connected):
    site, beam = connected, connected.device
    with pytest.raises(DeviceRefused, match="not been prepared; nothing was sent"):
        await beam.deflect_units((0.0, 0.0))
    beam.calibration = None
    await beam.prepare(SETTINGS)
    first = (await beam.deflection()).units
    await beam.deflect_units((first[0] + 200.0, first[1]))
    truth = site.simulation.world.image_truth(site.now_ns)
    assert truth.deflected_nm == pytest.approx((0.0, -200.0))
    with pytest.raises(OutOfRange, match="nothing was sent"):
        await beam.deflect_units((first[0], first[1] + 1501.0))


@BEAMS
async def test_a_scan_is_turned_or_that_is_refused(connected):
    site, beam = connected, connected.device
    await beam.prepare(SETTINGS)
    optics = site.simulation.world.column.state(site.now_ns).optics
    if (await beam.reach()).rotation_deg is None:
        with pytest.raises(DeviceRefused, match=r"turn the scan.*nothing was sent"):
            await beam.turn_scan(30.0)
        assert optics.rotation_deg == 0.0
        return
    for angle_deg in (-135.0, 45.0, 0.0):
        await beam.turn_scan(angle_deg)
        assert optics.rotation_deg == pytest.approx(angle_deg)


@BEAMS
async def test_what_a_beam_is_not_to_do_sends_nothing(connected):
    site, beam = connected, connected.device
    await beam.prepare(SETTINGS)
    for work, problem in (
        (beam.deflect((1200.0, -1200.0)), "rig's limit is 1500 nm; nothing was sent"),
        (beam.deflect((float("nan"), 0.0)), "nothing was sent"),
        (beam.focus(20_001.0), "rig's limit is 20000 nm; nothing was sent"),
    ):
        with pytest.raises(OutOfRange, match=problem):
            await work
    wider = SETTINGS.model_copy(update={"pixel_nm": 2 * SETTINGS.pixel_nm})
    await beam.prepare(wider)
    assert "field of 1000 nm" in (await beam.reach()).needs_calibration
    with pytest.raises(DeviceRefused, match="field of 1000 nm, and the field is 2000 nm; nothing"):
        await beam.deflect((10.0, 0.0))
    assert site.simulation.world.image_truth(site.now_ns).deflected_nm == (0.0, 0.0)


@BEAMS
async def test_deflectors_that_stop_and_that_forget(connected):
    site, beam = connected, connected.device
    await beam.prepare(SETTINGS)
    site.switch("shift-clips=60nm")
    await beam.deflect((50.0, 0.0))
    with pytest.raises(DeviceRefused, match=r"shift the beam by .*were set to .* and read \("):
        await beam.deflect((0.0, 90.0))
    site.switch("none")
    site.switch("shift-forgets")
    with contextlib.suppress(DeviceRefused):  # a busy computer reads back after they forgot
        await beam.deflect((0.0, 90.0))
    await site.simulation.clock.sleep(0.5)
    assert (await beam.deflection()).shift_nm == pytest.approx((0.0, 0.0), abs=0.8)


class OldStage(Stage):
    """A driver of somebody else's, from before a stage had other axes."""

    async def connect(self, timeout_s=1.0):
        return Identity("other", "stage")

    async def disconnect(self):
        pass

    async def make_safe(self):
        pass

    async def move_to(self, tilt_deg):
        return StagePosition(0, tilt_deg)

    async def position(self):
        return StagePosition(0, 0.0)

    async def tilt_limits_deg(self):
        return -60.0, 60.0

    async def stop(self):
        pass


class OldBeam(Beam):
    """A driver of somebody else's, from before a beam could be shifted."""

    async def connect(self, timeout_s=1.0):
        return Identity("other", "beam")

    async def disconnect(self):
        pass

    async def make_safe(self):
        pass

    async def prepare(self, settings):
        pass

    async def blank(self):
        return 0

    async def unblank(self):
        return 0

    async def is_blanked(self):
        return True


async def test_a_driver_without_such_axes_says_so():
    stage = OldStage("stage (old)", StageRig(driver="old", endpoint=""), ExperimentClock())
    reach = await stage.reach()
    assert 60.0 in reach["tilt"]
    assert reach["x"] is reach["y"] is reach["z"] is None
    assert (await stage.move_to(5.0)).tilt_deg == 5.0
    beam = OldBeam("beam (old)", BeamRig(driver="old", endpoint=""), ExperimentClock())
    assert await beam.reach() == BeamReach()
    for work in (beam.deflect((1.0, 1.0)), beam.focus(1.0), beam.deflection()):
        with pytest.raises(DeviceRefused, match=r"beam \(old\): cannot .*nothing was sent"):
            await work
    OldBeam.check_rig(beam.rig)
    shifts = BeamRig.model_validate({"driver": "old", "endpoint": "", "shift": {}})
    with pytest.raises(BadInput, match=r"beam\.shift: old cannot shift the beam; leave it out"):
        OldBeam.check_rig(shifts)


# Nobody, or somebody else, at the other end.

TIMEOUT_S = 0.4
# One command of each role, to be refused when nothing is connected.
COMMANDS = {
    "heater": lambda device: device.set_temperature(100.0),
    "stage": lambda device: device.move_to(1.0),
    "beam": lambda device: device.blank(),
    "detector": lambda device: device.arm(1, 0.1, (64, 64)),
}


@pytest.fixture
def make(driver: str, subject: Subject) -> Callable[[int], Any]:
    def make(port: int):
        options = dict(subject.entry.get("options", {}))
        if "data_endpoint" in options:
            options["data_endpoint"] = f"tcp://127.0.0.1:{port}"
        endpoint = f"{subject.scheme}://127.0.0.1:{port}"
        rig = RIGS[subject.role](driver=driver, endpoint=endpoint, options=options)
        name = f"{subject.role} ({driver})"
        return driver_class(driver, subject.role)(name, rig, ExperimentClock())

    return make


async def silence(reader, writer):
    while await reader.read(65_536):
        pass


async def hang_up(reader, writer):
    writer.close()


async def hang_up_when_asked(reader, writer):
    await reader.read(1)


async def garbage(reader, writer):
    writer.write(bytes(range(256)) * 64)
    await writer.drain()
    await reader.read(1)


async def http_not_found(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 404 Unknown endpoint\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def echo(reader, writer):
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def test_nothing_listens(make, free_port):
    device = make(free_port())
    fds = files_open()
    with (
        bounded(TIMEOUT_S + SLACK_S),
        pytest.raises(DeviceLost, match=r"nothing listens at .*127.0.0.1"),
    ):
        await device.connect(TIMEOUT_S)
    await device.disconnect()
    assert files_open() <= fds


async def test_silent_server(make, subject, serve):
    device = make(await serve(silence))
    with bounded(TIMEOUT_S + SLACK_S), pytest.raises(DeviceLost, match="within"):
        await device.connect(TIMEOUT_S)
    with pytest.raises(DeviceLost):
        await COMMANDS[subject.role](device)
    await device.disconnect()


@pytest.mark.parametrize("handler", [hang_up, hang_up_when_asked, garbage, http_not_found, echo])
async def test_wrong_server(make, driver, handler, serve):
    device = make(await serve(handler))
    with (
        bounded(TIMEOUT_S + SLACK_S),
        pytest.raises((DeviceLost, DeviceRefused)) as caught,
    ):
        await device.connect(TIMEOUT_S)
    assert driver in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    await device.disconnect()


async def test_a_question_goes_out_once(make, serve):
    heard = []

    async def listen_and_hang_up(reader, writer):
        question = await reader.read(65_536)
        if question and not question.startswith(b"\xff"):  # ZeroMQ greets as often as it likes
            heard.append(question)

    device = make(await serve(listen_and_hang_up))
    with pytest.raises(DeviceLost):
        await device.connect(TIMEOUT_S)
    await device.disconnect()
    assert len(heard) <= 1


async def test_nothing_stays_open_after_a_failed_connect(make, serve):
    device = make(await serve(silence))
    with pytest.raises(DeviceLost):
        await device.connect(0.1)
    await asyncio.sleep(0.1)
    before = files_open()
    for _ in range(3):
        with pytest.raises(DeviceLost):
            await device.connect(0.1)
    await files_settle(before)


async def test_commands_before_connecting(make, subject, free_port):
    device = make(free_port())
    with pytest.raises(DeviceLost, match=r"not connected.*Connect first"):
        await COMMANDS[subject.role](device)


async def test_safe_cannot_be_confirmed_by_nobody(make, free_port):
    device = make(free_port())
    with pytest.raises(DeviceError):
        await device.make_safe()
    await device.disconnect()


async def test_disconnecting_twice_is_harmless(make, free_port):
    device = make(free_port())
    await device.disconnect()
    await device.disconnect()


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:5000", "ftp://h:1", "tcp://h", "tcp://h:x", "tcp://"]
)
def test_endpoint_that_is_none(driver, subject, endpoint):
    options = subject.entry.get("options", {})
    rig = RIGS[subject.role](driver=driver, endpoint=endpoint, options=options)
    with pytest.raises(BadInput, match=rf"{subject.role}\.endpoint.*://"):
        driver_class(driver, subject.role)("x", rig, ExperimentClock())


def test_unknown_option_is_refused(driver, subject):
    with pytest.raises(ValueError, match="colour"):
        driver_class(driver, subject.role).Options.model_validate({"colour": 1})


def test_every_driver_says_what_it_is_for(driver, subject):
    cls = driver_class(driver, subject.role)
    assert 10 < len(cls.summary) < 90
    assert cls.__doc__


def test_channels_name_their_units(driver, subject):
    channels = driver_class(driver, subject.role).channels
    for name, unit in channels.items():
        assert name.isidentifier()
        assert name == "blanked" or name.endswith(f"_{unit.removeprefix('deg').lower() or 'deg'}")
