"""A simulated microscope beside the daemon's parts, and a daemon on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from microscope import RIG, Microscope

from pyrotome.daemon.runtime.event_bus import EventBus
from pyrotome.daemon.safety.devices import Devices
from pyrotome.daemon.service.daemon import Daemon
from pyrotome.protocols.config.rig import Rig, load_rig
from pyrotome.protocols.core.clock import ExperimentClock


@pytest.fixture(scope="session")
def shared_microscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Microscope]:
    """Simulators that all tests of a process share; stage and column are two servers."""
    stage = {**RIG["stage"], "endpoint": "http://127.0.0.1:0"}
    microscope = Microscope(tmp_path_factory.mktemp("microscope"), stage=stage)
    yield microscope
    microscope.close()


@pytest.fixture
def microscope(shared_microscope: Microscope) -> Iterator[Microscope]:
    """The shared microscope without faults, its log counted from here."""
    shared_microscope.well()
    shared_microscope.mark()
    yield shared_microscope
    shared_microscope.well()


@pytest.fixture
def rig(microscope: Microscope) -> Rig:
    """The rig of a daemon that takes the simulated microscope for a real one."""
    return load_rig(microscope.write_rig())[0]


@pytest.fixture
async def devices(rig: Rig) -> AsyncIterator[Devices]:
    """The four devices, connected."""
    devices = Devices.of(rig, ExperimentClock())
    await devices.connect()
    yield devices
    await devices.disconnect()


@pytest.fixture
def open_daemon(rig: Rig) -> Callable[..., AbstractAsyncContextManager[Daemon]]:
    """Start a daemon without a guardian; it is closed afterwards."""

    @asynccontextmanager
    async def begin(**changes: Any) -> AsyncIterator[Daemon]:
        changed = rig.model_copy(update=changes)
        daemon = Daemon(changed, "name: test", ExperimentClock(), EventBus(), fall_back_ports=True)
        try:
            await daemon.open()
            yield daemon
        finally:
            await daemon.close()

    return begin


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """Where a run file may go."""
    return tmp_path / "run.nxs"
