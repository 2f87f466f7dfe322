"""Servers of the Keithley wires: a 2450 on TCP, a 2400 on a pseudo-terminal at its baud rate.

Bytes take the time that the baud rate gives them, in both directions. A refused query is not
answered. The pseudo-terminal lives as long as the server; clients may come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ...protocols.config.faults import FaultName
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ...protocols.core.lines import LineDecoder
from ..world.microscope import World
from .sockets import background
from .source_meter import MODEL_2400, MODEL_2450, SourceMeter
from .tcp import serve_tcp
from .wire_faults import WireFaults

SERIAL = "serial:"
AUTO = "serial://auto"
BITS_PER_BYTE = 10  # 8N1
DEFAULT_BAUD = 9600
BAUDS = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600)

FAULTS_TCP: frozenset[FaultName] = frozenset(
    {"hang", "disconnect", "garbage", "short-frame", "slow", "error", "bulge-jumps"}
)
# A cable that is pulled would take the pseudo-terminal's name with it.
FAULTS_SERIAL: frozenset[FaultName] = FAULTS_TCP - {"disconnect"}


@asynccontextmanager
async def serve_2450(
    world: World, clock: ExperimentClock, endpoint: str, faults: WireFaults
) -> AsyncIterator[str]:
    """Serve a 2450 until the context ends.

    Parameters
    ----------
    world : World
        The world whose chip it heats.
    clock : ExperimentClock
        Its time.
    endpoint : str
        Such as ``tcp://127.0.0.1:5025``; port 0 lets the system choose.
    faults : WireFaults
        Switches of the wire.

    Yields
    ------
    str
        The endpoint, with the port in use.

    Raises
    ------
    BadInput
        If the endpoint cannot be bound.
    """
    meter = SourceMeter(world, clock, MODEL_2450)
    wire = MeterWire(meter, clock, faults, b"\n", 0.0)

    async def converse(connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        async def receive() -> bytes:
            return await loop.sock_recv(connection, 4096)

        async def send(raw: bytes) -> None:
            await loop.sock_sendall(connection, raw)

        await wire.converse(receive, send)

    async with serve_tcp(endpoint, "heater.endpoint", converse) as found:
        yield found


@asynccontextmanager
async def serve_2400(
    world: World, clock: ExperimentClock, endpoint: str, baud: int, faults: WireFaults
) -> AsyncIterator[str]:
    """Serve a 2400 on a pseudo-terminal until the context ends.

    Parameters
    ----------
    world, clock, faults
        As of `serve_2450`.
    endpoint : str
        ``serial://auto``, or ``serial://`` and a path at which to put a link to the terminal.
    baud : int
        At which its bytes travel.

    Yields
    ------
    str
        The endpoint with the path in use, such as ``serial:///dev/pts/7``.

    Raises
    ------
    BadInput
        If the path cannot be used or the baud rate does not exist.
    """
    if baud not in BAUDS:
        known = ", ".join(map(str, BAUDS))
        raise BadInput("heater.options.baud", f"{baud} is not one of {known}")
    meter = SourceMeter(world, clock, MODEL_2400)
    wire = MeterWire(meter, clock, faults, b"\r", BITS_PER_BYTE / baud)
    ours, theirs = os.openpty()
    try:
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        with _linked(endpoint, os.ttyname(theirs)) as found:
            # `theirs` stays open: otherwise ours would end whenever a client leaves.
            async with background(_converse_on(ours, wire)):
                yield found
    finally:
        os.close(ours)
        os.close(theirs)


@contextlib.contextmanager
def _linked(endpoint: str, terminal: str):
    if endpoint == AUTO:
        yield f"serial://{terminal}"
        return
    if not endpoint.startswith(SERIAL) or not (path := Path(_path(endpoint))).is_absolute():
        raise BadInput("heater.endpoint", f"'{endpoint}' should read as {AUTO} or serial:///PATH")
    try:
        path.symlink_to(terminal)
    except OSError as error:
        problem = error.strerror or str(error)
        raise BadInput("heater.endpoint", f"cannot put a terminal at {path}: {problem}") from None
    try:
        yield f"serial://{path}"
    finally:
        path.unlink(missing_ok=True)


def _path(endpoint: str) -> str:
    rest = endpoint.removeprefix(SERIAL)
    return rest.removeprefix("//")


async def _converse_on(terminal: int, wire: MeterWire) -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(terminal, arrived.set)

    async def receive() -> bytes:
        while True:
            arrived.clear()
            with contextlib.suppress(BlockingIOError):
                return os.read(terminal, 4096)
            await arrived.wait()

    async def send(raw: bytes) -> None:
        # A client that does not read loses what its buffer does not hold, as on a serial line.
        with contextlib.suppress(BlockingIOError):
            os.write(terminal, raw)

    try:
        await wire.converse(receive, send)
    finally:
        loop.remove_reader(terminal)


class MeterWire:
    """Carries lines to the instrument and answers back, at the speed of the line.

    Parameters
    ----------
    meter : SourceMeter
        The instrument.
    clock : ExperimentClock
        Its time.
    faults : WireFaults
        Switches of the wire.
    end : bytes
        What ends an answer.
    byte_s : float
        Experiment seconds that a byte takes.
    """

    def __init__(
        self,
        meter: SourceMeter,
        clock: ExperimentClock,
        faults: WireFaults,
        end: bytes,
        byte_s: float,
    ) -> None:
        self._meter, self._clock, self._faults = meter, clock, faults
        self._end, self._byte_s = end, byte_s
        self._one_at_a_time = asyncio.Lock()

    async def converse(
        self, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Answer one client until it leaves."""
        decoder = LineDecoder()
        clock = self._clock
        carried_ns = 0
        while data := await receive():
            for line, count in _lines(decoder, data):
                carried_ns = max(carried_ns, clock.now_ns()) + int(count * self._byte_s * 1e9)
                await clock.sleep_until_ns(carried_ns)
                if line is None:
                    continue
                async with self._one_at_a_time:
                    if not await self._answer(line, send):
                        return

    async def _answer(self, line: str, send: Callable[[bytes], Awaitable[None]]) -> bool:
        faults = self._faults
        await faults.delay()
        refuse = "READ" in line.upper() and faults.strikes("error")
        answer = await self._meter.execute(line, refuse)
        if answer is None:
            return True
        raw = answer.encode("ascii") + self._end
        if faults.strikes("disconnect"):
            await send(raw[: len(raw) // 2])
            return False
        raw = faults.spoil(raw)
        if faults.strikes("short-frame"):
            raw = raw[: -max(1, len(raw) // 4)]
        await self._clock.sleep(len(raw) * self._byte_s)
        await send(raw)
        return True


def _lines(decoder: LineDecoder, data: bytes) -> list[tuple[str | None, int]]:
    """Lines that bytes complete, each with how many of the bytes it took; the rest at the end."""
    found: list[tuple[str | None, int]] = []
    start = 0
    for place, byte in enumerate(data):
        if byte in b"\r\n":
            count = place + 1 - start
            lines = decoder.feed(data[start : place + 1])
            found.append((lines[0] if lines else None, count))
            start = place + 1
    if start < len(data):
        decoder.feed(data[start:])
        found.append((None, len(data) - start))
    return found
