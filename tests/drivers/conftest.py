"""Real ends on loopback: servers that misbehave, temscript's own server, LiberTEM's Merlin."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from foreign_programs import compile_merlin_simulator

from pyrotome.protocols.config.rig import Rig, simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock
from pyrotome.protocols.messages.process import ClockConfig, SimulatorConfig
from pyrotome.simulators.simulation import Simulation, running

BIN = Path(sys.executable).parent

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start TCP servers with a handler of the test's own; returns their ports."""
    servers: list[asyncio.Server] = []
    handling: set[asyncio.Task[None]] = set()

    async def start(handler: Handler) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            handling.add(task)
            # A task that streams start must not end cancelled: they report that as an error.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
            writer.close()
            handling.discard(task)

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()
    for task in tuple(handling):
        task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Ports that nobody listens on."""

    def choose() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return choose


@pytest.fixture(scope="module")
def temscript_server() -> Iterator[str]:
    """Endpoint of temscript's own server with its null microscope: not written by us."""
    program = BIN / "temscript-server"
    if not program.exists():
        pytest.skip("temscript is not installed (extra 'interop')")
    with run_server([program, "--null", "--host", "127.0.0.1"], "--port") as (port,):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def started() -> Callable[..., contextlib.AbstractContextManager[list[int]]]:
    """Run servers as processes of their own."""
    return run_server


@contextlib.contextmanager
def run_server(command: list[object], *port_options: str) -> Iterator[list[int]]:
    """Run a server until its ports listen, and stop it afterwards."""
    ports: list[int] = []
    for _ in port_options:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    words = [str(word) for word in command]
    for option, port in zip(port_options, ports, strict=True):
        words += [option, str(port)]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        while not all(listens(port) for port in ports):
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{words[0]} did not start (exit code {process.poll()})")
            time.sleep(0.1)
        yield ports
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens, told from the kernel's table: a connection would disturb."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    return any(
        f":{port:04X} " in line.split(" 00000000:0000")[0] + " "
        for line in lines
        if line.split()[3] == "0A"
    )


@pytest.fixture(scope="session")
def libertem_merlin() -> Path:
    """The program of LiberTEM-live's Merlin simulator; skips where it is absent."""
    program = shutil.which("libertem-live-mib-sim", path=str(BIN))
    if program is None:
        pytest.skip("libertem-live is not installed (extra 'interop')")
    compile_merlin_simulator(Path(program))
    return Path(program)


Simulate = Callable[..., contextlib.AbstractAsyncContextManager[tuple[Simulation, Rig]]]


@pytest.fixture
def simulate() -> Simulate:
    """Our own simulators on free ports; gives the simulation and a rig that names its ports."""

    @contextlib.asynccontextmanager
    async def start(
        speed: float = 1.0, fill_frames: int = 0, **changes: object
    ) -> AsyncIterator[tuple[Simulation, Rig]]:
        rig = simulated_rig().model_dump(by_alias=True)
        for path, value in changes.items():
            role, _, key = path.partition("__")
            rig[role][key] = {**rig[role][key], **value} if isinstance(value, dict) else value
        clock = ExperimentClock(speed)
        config = SimulatorConfig(rig=Rig.model_validate(rig), clock=ClockConfig.of(clock))
        async with running(config, fill_frames) as simulation:
            yield simulation, simulation.rig(config.rig)

    return start
