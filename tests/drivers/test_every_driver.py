"""What must hold for every driver, whoever is or is not at the other end of its wire."""

import asyncio
import time

import psutil
import pytest

from pyrotome.drivers.base import DeviceError, DeviceLost, DeviceRefused
from pyrotome.drivers.registry import driver_class, installed
from pyrotome.protocols.loading import BadInput
from pyrotome.protocols.rig import BeamRig, DetectorRig, HeaterRig, StageRig
from pyrotome.protocols.timebase import ExperimentClock

RIGS = {"heater": HeaterRig, "stage": StageRig, "beam": BeamRig, "detector": DetectorRig}
OWN = {
    "dens-impulse": "heater",
    "temscript-stage": "stage",
    "temscript-beam": "beam",
    "merlin": "detector",
}
# One command of each role, to be refused when nothing is connected.
COMMANDS = {
    "heater": lambda device: device.set_temperature(100.0),
    "stage": lambda device: device.move_to(1.0),
    "beam": lambda device: device.blank(),
    "detector": lambda device: device.arm(1, 0.1, (64, 64)),
}
TIMEOUT_S = 0.4
SLACK_S = 1.5


def make(driver: str, port: int, data_port: int | None = None, **options):
    role = OWN[driver]
    scheme = "http" if driver.startswith("temscript") else "tcp"
    if scheme == "tcp":
        options["data_endpoint"] = f"tcp://127.0.0.1:{data_port or port}"
    rig = RIGS[role](driver=driver, endpoint=f"{scheme}://127.0.0.1:{port}", options=options)
    return driver_class(driver, role)(f"{role} ({driver})", rig, ExperimentClock())


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


def test_every_installed_driver_is_walked():
    ours = {name for name, point in installed().items() if point.value.startswith("pyrotome.")}
    assert ours == set(OWN)


@pytest.mark.parametrize("driver", OWN)
async def test_nobody_listens(driver, free_port):
    device = make(driver, free_port())
    fds = psutil.Process().num_fds()
    started = time.monotonic()
    with pytest.raises(DeviceLost, match=r"nobody listens at .*127.0.0.1"):
        await device.connect(TIMEOUT_S)
    assert time.monotonic() - started < TIMEOUT_S + SLACK_S
    await device.disconnect()
    assert psutil.Process().num_fds() <= fds


@pytest.mark.parametrize("driver", OWN)
async def test_silent_server(driver, serve):
    device = make(driver, await serve(silence))
    started = time.monotonic()
    with pytest.raises(DeviceLost, match="within"):
        await device.connect(TIMEOUT_S)
    assert time.monotonic() - started < TIMEOUT_S + SLACK_S
    with pytest.raises(DeviceLost):
        await COMMANDS[OWN[driver]](device)
    await device.disconnect()


@pytest.mark.parametrize("handler", [hang_up, hang_up_when_asked, garbage, http_not_found])
@pytest.mark.parametrize("driver", OWN)
async def test_wrong_server(driver, handler, serve):
    device = make(driver, await serve(handler))
    started = time.monotonic()
    with pytest.raises((DeviceLost, DeviceRefused)) as caught:
        await device.connect(TIMEOUT_S)
    assert time.monotonic() - started < TIMEOUT_S + SLACK_S
    assert driver in str(caught.value)
    assert caught.value.remedy
    await device.disconnect()


@pytest.mark.parametrize("driver", OWN)
async def test_nothing_stays_open_after_a_failed_connect(driver, serve):
    device = make(driver, await serve(silence))
    process = psutil.Process()
    with pytest.raises(DeviceLost):
        await device.connect(0.1)
    await asyncio.sleep(0.1)
    before = process.num_fds()
    for _ in range(3):
        with pytest.raises(DeviceLost):
            await device.connect(0.1)
    end = time.monotonic() + 2
    while process.num_fds() > before and time.monotonic() < end:
        await asyncio.sleep(0.02)
    assert process.num_fds() <= before


@pytest.mark.parametrize("driver", OWN)
async def test_commands_before_connecting(driver, free_port):
    device = make(driver, free_port())
    with pytest.raises(DeviceLost, match=r"not connected.*Connect first"):
        await COMMANDS[OWN[driver]](device)


@pytest.mark.parametrize("driver", OWN)
async def test_safe_cannot_be_confirmed_by_nobody(driver, free_port):
    device = make(driver, free_port())
    with pytest.raises(DeviceError):
        await device.make_safe()
    await device.disconnect()


@pytest.mark.parametrize("driver", OWN)
async def test_disconnecting_twice_is_harmless(driver, free_port):
    device = make(driver, free_port())
    await device.disconnect()
    await device.disconnect()


@pytest.mark.parametrize("driver", OWN)
@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:5000", "ftp://h:1", "tcp://h", "tcp://h:x", "tcp://"]
)
def test_endpoint_that_is_none(driver, endpoint):
    rig = RIGS[OWN[driver]](driver=driver, endpoint=endpoint)
    with pytest.raises(BadInput, match=rf"{OWN[driver]}\.endpoint.*://HOST:PORT"):
        driver_class(driver, OWN[driver])("x", rig, ExperimentClock())


@pytest.mark.parametrize("driver", OWN)
def test_unknown_option_is_refused(driver):
    with pytest.raises(ValueError, match="colour"):
        driver_class(driver, OWN[driver]).Options.model_validate({"colour": 1})


@pytest.mark.parametrize("driver", OWN)
def test_channels_name_their_units(driver):
    channels = driver_class(driver, OWN[driver]).channels
    for name, unit in channels.items():
        assert name.isidentifier()
        assert name == "blanked" or name.endswith(f"_{unit.removeprefix('deg').lower() or 'deg'}")
