"""An instrument that cannot be used ends `run` and `serve`, and nothing is left running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from microscope import RIG, Microscope

from pyrotome.daemon.safety.devices import Devices
from pyrotome.daemon.service.startup import running_daemon
from pyrotome.drivers import registry
from pyrotome.drivers.base import DeviceLost
from pyrotome.drivers.instamatic.column import InstamaticStage
from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.core.errors import BadInput

# A command that has not ended by then hangs: no deadline of a driver is as long.
HANGS_S = 120.0


@pytest.fixture(scope="module")
def instruments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Microscope]:
    """Simulated instruments in a process of their own, which the daemon takes for real ones."""
    stage = {**RIG["stage"], "endpoint": "http://127.0.0.1:0"}
    microscope = Microscope(tmp_path_factory.mktemp("microscope"), stage=stage)
    yield microscope
    microscope.close()


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def nonsense_server() -> Iterator[int]:
    """A port at which another program answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(b"220 mail.example.org ESMTP\r\n" + bytes(range(256)))
                        connection.settimeout(0.5)
                        connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def processes_with(marker: str) -> list[int]:
    """Processes whose environment holds a text."""
    found: list[int] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("PYROTOME_TEST") == marker:
                found.append(process.pid)
    return found


def ended(cli: Any, *arguments: str) -> Any:
    """Run a command until it ends by itself; nothing that it has started may be left."""
    marker = uuid.uuid4().hex
    done = subprocess.run(
        [sys.executable, "-m", "pyrotome.daemon", *arguments],
        cwd=cli.folder, capture_output=True, text=True, timeout=HANGS_S, check=False,
        env={**os.environ, "COLUMNS": "200", "PYROTOME_TEST": marker},
    )  # fmt: skip
    assert processes_with(marker) == []
    assert "Traceback" not in done.stderr, done.stderr
    return done


# Every driver before every wrong end: tests/drivers/test_driver_contract.py.
@pytest.mark.parametrize(
    ("role", "server", "command"),
    [
        ("heater", silent_server, "run"),
        ("stage", nonsense_server, "serve"),
        ("beam", silent_server, "serve"),
        ("detector", nonsense_server, "run"),
    ],
)
def test_somebody_else_at_the_address(
    cli: Any, instruments: Microscope, role: str, server: Any, command: str
) -> None:
    with server() as port:
        scheme = "http" if role in ("stage", "beam") else "tcp"
        entry = instruments.rig.device(role)  # pyright: ignore[reportArgumentType]
        endpoint = f"{scheme}://127.0.0.1:{port}"
        changed = {"driver": entry.driver, "endpoint": endpoint, "options": entry.options}
        rig = instruments.write_rig(f"{role}-{command}.yaml", **{role: changed})
        recipe = [cli.recipe(), "-o", "run.nxs"] if command == "run" else []
        done = ended(cli, command, *recipe, "--rig", str(rig))
    assert done.returncode == 3, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"pyrotome: {role} ({entry.driver}): cannot ")
    assert f"127.0.0.1:{port}" in last
    assert not (cli.folder / "run.nxs").exists()


@pytest.mark.parametrize("role", ["heater", "detector"])
def test_nobody_at_the_address_of_the_data(
    cli: Any, instruments: Microscope, role: str, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        entry = instruments.rig.device(role)  # pyright: ignore[reportArgumentType]
        changed = {
            "driver": entry.driver, "endpoint": entry.endpoint,
            "options": {**entry.options, "data_endpoint": nobody},
        }  # fmt: skip
        rig = instruments.write_rig(f"{role}-data.yaml", **{role: changed})
        done = ended(cli, "run", cli.recipe(), "--rig", str(rig), "-o", "run.nxs")
    assert done.returncode == 3, done.stderr
    assert f"nothing listens at {nobody}" in done.stderr


# Drivers of others, which may do anything.


class Odd(InstamaticStage):
    """A stage that fails as told."""

    endpoints: ClassVar = {}
    start_timeout_s: ClassVar[float] = 0.2
    how: ClassVar[str] = ""

    def __init__(self, name: str, rig: Any, clock: Any) -> None:
        if self.how == "made":
            raise RuntimeError("no camera link")
        if self.how == "refused":
            raise BadInput("stage.endpoint", "should be a name of a link")
        super().__init__(name, rig, clock)

    async def connect(self, timeout_s: float = 5.0) -> Any:
        if self.how == "never":
            await asyncio.Event().wait()
        raise KeyError("axis")


@pytest.fixture
def odd_rig(monkeypatch: pytest.MonkeyPatch, instruments: Microscope) -> Rig:
    real = registry.driver_class

    def found(name: str, role: Any) -> type[Any]:
        return Odd if name == "odd" else real(name, role)

    monkeypatch.setattr(registry, "driver_class", found)
    stage = instruments.rig.stage.model_copy(
        update={"driver": "odd", "endpoint": "tcp://127.0.0.1:1"}
    )
    streams = {"monitor": "tcp://127.0.0.1:*", "control": "tcp://127.0.0.1:*"}
    body = {"stage": stage, "simulator": None}
    return instruments.rig.model_copy(
        update={**body, "streams": instruments.rig.streams.model_copy(update=streams)}
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [("raises", r"its driver failed: KeyError\('axis'\)"), ("never", "was not done within 0.2 s")],
)
async def test_a_driver_that_does_anything_else_than_connect_is_a_lost_device(
    monkeypatch: pytest.MonkeyPatch, odd_rig: Rig, how: str, words: str
) -> None:
    monkeypatch.setattr(Odd, "how", how)
    devices = Devices.of(odd_rig, ExperimentClock())
    with pytest.raises(DeviceLost, match=rf"stage \(odd\): cannot connect: .*{words}") as caught:
        await devices.connect()
    assert caught.value.remedy
    with pytest.raises(DeviceLost, match="not connected"):
        await devices.beam.is_blanked()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("made", r"stage: the driver 'odd' does not accept this entry: RuntimeError\('no camera"),
        ("refused", "stage.endpoint: should be a name of a link"),
    ],
)
async def test_a_driver_that_refuses_its_entry_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, odd_rig: Rig, how: str, words: str
) -> None:
    monkeypatch.setattr(Odd, "how", how)
    with pytest.raises(BadInput, match=words):
        async with running_daemon(odd_rig, "name: odd"):
            pytest.fail("it started")
