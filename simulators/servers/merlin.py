"""Server of the Merlin wire (two TCP sockets) in front of the simulated specimen.

What is served is a scan: IMAGEX and IMAGEY, which a real Merlin only reports, are settable here
and stand for the columns and rows of a scan generator, one pixel of the image per scan point, and
ACQUISITIONTIME is the time of the whole frame. Frames are never dropped: a consumer that lags
makes the next trigger busy.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import numpy as np

from ...protocols.config.faults import FaultName
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import merlin as wire
from ..world.microscope import World
from .frame_source import Scan, Scanner, Shot
from .tcp import serve_tcp
from .wire_faults import WireFaults

FAULTS: frozenset[FaultName] = frozenset(
    {
        "hang", "disconnect", "garbage", "short-frame", "wrong-length", "slow", "error",
        "extra-frames", "blank-frame", "same-frame",
    }
)  # fmt: skip
MAX_PIXELS = 4096
_BACKLOG = 3
_LIE_BYTES = 2_000_000_000
_DTYPES: dict[str, type[np.unsignedinteger[Any]]] = {
    "U08": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
}
_LAYOUTS = {1: "1x1", 4: "2x2"}
_SCAN = (wire.IMAGEY, wire.IMAGEX)  # in the order of an array's shape
_WHOLE, _REAL = "whole", "real"
# Variable -> kind, lowest, highest, value at the start.
_SETTINGS: dict[str, tuple[str, float, float, float]] = {
    wire.NUMFRAMESTOACQUIRE: (_WHOLE, 1, 10_000_000, 1),
    wire.NUMFRAMESPERTRIGGER: (_WHOLE, 1, 10_000_000, 1),
    wire.ACQUISITIONTIME: (_REAL, 0.001, 1e7, 10.0),
    wire.ACQUISITIONPERIOD: (_REAL, 0.0, 1e7, 0.0),
    wire.COUNTERDEPTH: (_WHOLE, 1, 24, 12),
    wire.TRIGGERSTART: (_WHOLE, 0, 5, wire.TRIGGER_INTERNAL),
    wire.TRIGGERSTOP: (_WHOLE, 0, 5, wire.TRIGGER_INTERNAL),
    wire.IMAGEX: (_WHOLE, 1, MAX_PIXELS, 256),
    wire.IMAGEY: (_WHOLE, 1, MAX_PIXELS, 256),
    wire.CONTINUOUSRW: (_WHOLE, 0, 1, 0),
    "ENABLECOUNTER1": (_WHOLE, 0, 2, 0),
    "GAIN": (_WHOLE, 0, 3, 0),
    "COLOURMODE": (_WHOLE, 0, 1, 0),
    "CHARGESUMMING": (_WHOLE, 0, 1, 0),
    "FILLMODE": (_WHOLE, 0, 3, 0),
    "FILEENABLE": (_WHOLE, 0, 1, 0),
    "OPERATINGENERGY": (_REAL, 0.0, 1500.0, 300.0),
    **{f"THRESHOLD{k}": (_REAL, 0.0, 1500.0, 0.0) for k in range(8)},
}


@asynccontextmanager
async def serve(
    world: World,
    clock: ExperimentClock,
    control: str,
    data: str,
    fill_frames: int = 0,
    *,
    chips: Literal[1, 4] = 1,
    faults: WireFaults | None = None,
) -> AsyncIterator[tuple[str, str]]:
    """Serve until the context ends.

    Parameters
    ----------
    world : World
        The world whose specimen to image.
    clock : ExperimentClock
        Time of exposures.
    control, data : str
        Endpoints such as ``tcp://127.0.0.1:6341``; port 0 lets the system choose.
    fill_frames : int
        See `Scanner`.
    chips : int
        Of the sensor; four are laid out in a square.
    faults : WireFaults, optional
        Switches of its faults.

    Yields
    ------
    tuple of str
        The endpoints, with the ports in use.

    Raises
    ------
    BadInput
        If an endpoint cannot be bound.
    """
    server = _MerlinServer(world, clock, fill_frames, chips, faults or WireFaults(()))
    where = "detector.options.data_endpoint"
    try:
        async with (
            serve_tcp(control, "detector.endpoint", server.converse) as commands,
            serve_tcp(data, where, server.feed, server.send_all()) as frames,
        ):
            yield commands, frames
    finally:
        await server.stop()
        server.close()


@dataclass(frozen=True)
class _Outgoing:
    """A message for the data socket: an acquisition header, or a frame still being drawn.

    `second` is the header of the image of the second counter, which follows with its own counts.
    """

    acquisition: int
    head: bytes
    pixels: asyncio.Future[bytes] | None = None
    second: bytes = b""


class _Settings:
    """Variables that commands read and set.

    Parameters
    ----------
    only_shape : tuple of int or None
        (rows, columns) that cannot be changed.
    """

    def __init__(self, only_shape: tuple[int, int] | None) -> None:
        self._only_shape = only_shape
        self._values = {name: start for name, (_, _, _, start) in _SETTINGS.items()}
        if only_shape is not None:
            self._values[wire.IMAGEY], self._values[wire.IMAGEX] = only_shape

    def get(self, name: str) -> str | None:
        """Text of a variable; None for an unknown name."""
        value = self._values.get(name)
        return None if value is None else f"{value:.10g}"

    def set(self, name: str, text: str) -> int:
        """Set a variable; the code of the answer."""
        if name not in _SETTINGS:
            return wire.ERROR_UNKNOWN
        kind, low, high, _ = _SETTINGS[name]
        try:
            value = float(text)
        except ValueError:
            return wire.ERROR_RANGE
        # `low <= value` is false for NaN.
        if not low <= value <= high or (kind == _WHOLE and value != int(value)):
            return wire.ERROR_RANGE
        if name == wire.COUNTERDEPTH and int(value) not in wire.PIXEL_TYPES:
            return wire.ERROR_RANGE
        only = self._only_shape if name in _SCAN else None
        if only is not None and value != only[_SCAN.index(name)]:
            return wire.ERROR_RANGE
        self._values[name] = value
        return wire.ERROR_OK

    def real(self, name: str) -> float:
        """Value of a variable."""
        return self._values[name]

    def whole(self, name: str) -> int:
        """Value of a variable that is a whole number."""
        return int(self._values[name])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.whole(wire.IMAGEY), self.whole(wire.IMAGEX)

    @property
    def pixel_type(self) -> str:
        """Of an image."""
        return wire.PIXEL_TYPES[self.whole(wire.COUNTERDEPTH)]


class _MerlinServer:
    def __init__(
        self,
        world: World,
        clock: ExperimentClock,
        fill_frames: int,
        chips: int,
        faults: WireFaults,
    ) -> None:
        self._world, self._chips, self._faults = world, chips, faults
        self._settings = _Settings(None if world.recording is None else world.recording.shape)
        self._scanner: Scanner[bytes] = Scanner(world, clock, self._deliver, fill_frames, faults)
        self._consumers: set[socket.socket] = set()
        self._queue: asyncio.Queue[_Outgoing] = asyncio.Queue(_BACKLOG)
        self._acquisition = 0
        self._armed = False
        self._sent = 0
        self._extra = 0

    def close(self) -> None:
        self._scanner.close()

    async def converse(self, connection: socket.socket) -> None:
        """Answer the commands of one client until it leaves."""
        loop, faults = asyncio.get_running_loop(), self._faults
        decoder = wire.MpxDecoder(commands=True)
        while received := await loop.sock_recv(connection, 65_536):
            for body in decoder.feed(received):
                await faults.delay()
                raw = wire.encode_reply(await self._answer(body))
                if faults.strikes("disconnect"):
                    await loop.sock_sendall(connection, raw[: len(raw) // 2])
                    return
                await loop.sock_sendall(connection, faults.spoil(raw))

    async def feed(self, connection: socket.socket) -> None:
        """Keep one consumer of frames on the list until it leaves; what it says is ignored."""
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._consumers.add(connection)
        try:
            while await loop.sock_recv(connection, 4096):
                pass
        finally:
            self._consumers.discard(connection)

    async def send_all(self) -> None:
        """Send what is queued, in order, to every consumer."""
        while True:
            item = await self._queue.get()
            pixels = b"" if item.pixels is None else await item.pixels
            await self._faults.delay()
            if item.acquisition != self._acquisition:
                continue
            if item.pixels is None:
                await self._send_to_all(item.head)
                continue
            await self._send_image(item.head, pixels)
            if item.second:
                await self._send_to_all(item.second, b"\xff" * len(pixels))
            if item.acquisition == self._acquisition:
                self._sent += 1
                if self._sent == self._settings.whole(wire.NUMFRAMESTOACQUIRE):
                    self._armed = False

    async def _send_image(self, head: bytes, pixels: bytes) -> None:
        faults = self._faults
        if faults.strikes("wrong-length"):
            head = wire.prefix(_LIE_BYTES) + head[wire.PREFIX_BYTES :]
        if faults.strikes("short-frame"):
            pixels = pixels[: len(pixels) // 2]
        head = faults.spoil(head)
        if faults.strikes("disconnect"):
            await self._send_to_all(head, pixels[: len(pixels) // 2])
            for consumer in self._consumers:
                # Whoever waits for its words sees the end, and closes it.
                with suppress(OSError):
                    consumer.shutdown(socket.SHUT_RDWR)
            self._consumers.clear()
        else:
            await self._send_to_all(head, pixels)

    async def _send_to_all(self, head: bytes, pixels: bytes = b"") -> None:
        for consumer in list(self._consumers):
            try:
                await _send(consumer, head, pixels)
            except OSError:
                self._consumers.discard(consumer)

    async def _answer(self, body: bytes) -> wire.Reply:
        try:
            command = wire.parse_command(body)
        except BadMessage:
            return wire.Reply("CMD", "UNKNOWN", wire.ERROR_UNKNOWN)
        if self._faults.strikes("error"):
            return wire.Reply(command.kind, command.name, wire.ERROR_BUSY)
        if command.kind == "GET":
            value = self._get(command.name)
            if value is None:
                return wire.Reply("GET", command.name, wire.ERROR_UNKNOWN, "")
            return wire.Reply("GET", command.name, wire.ERROR_OK, value)
        if command.kind == "SET":
            known = self._settings.get(command.name) is not None
            code = wire.ERROR_BUSY
            if not (self._armed and known):
                code = self._settings.set(command.name, command.value or "")
            return wire.Reply("SET", command.name, code)
        return wire.Reply("CMD", command.name, await self._command(command.name))

    def _get(self, name: str) -> str | None:
        if name == wire.DETECTORSTATUS:
            return str(self._status())
        if name == wire.SOFTWAREVERSION:
            return "pyrotome simulator"
        if name == "TEMPERATURE":
            return "25.0"
        return self._settings.get(name)

    async def _command(self, name: str) -> int:
        if name == wire.STARTACQUISITION:
            return await self._start()
        if name in wire.SOFTTRIGGER_ALIASES:
            return self._trigger()
        if name in {wire.STOPACQUISITION, "ABORT", "RESET"}:
            await self.stop()
            return wire.ERROR_OK
        return wire.ERROR_UNKNOWN

    def _status(self) -> int:
        if self._scanner.exposing or self._queue.qsize():
            return wire.STATUS_BUSY
        return wire.STATUS_ARMED if self._armed else wire.STATUS_IDLE

    async def _start(self) -> int:
        if self._armed:
            return wire.ERROR_BUSY
        self._armed = True
        self._acquisition += 1
        self._sent = self._extra = 0
        pixel_type = self._settings.pixel_type
        await self._scanner.begin(
            Scan(
                self._settings.whole(wire.NUMFRAMESTOACQUIRE),
                self._settings.shape,
                self._settings.real(wire.ACQUISITIONTIME) * 1e-3,
                self._settings.real(wire.ACQUISITIONPERIOD) * 1e-3,
                _DTYPES[pixel_type],
                2 ** self._settings.whole(wire.COUNTERDEPTH) - 1,
                partial(wire.pixels_to_wire, pixel_type=pixel_type),
            )
        )
        header = wire.AcquisitionHeader(
            self._settings.whole(wire.NUMFRAMESTOACQUIRE),
            self._settings.whole(wire.NUMFRAMESPERTRIGGER),
            self._settings.whole(wire.COUNTERDEPTH),
        )
        head = wire.frame(wire.encode_acquisition_header(header))
        await self._queue.put(_Outgoing(self._acquisition, head))
        if self._settings.real(wire.TRIGGERSTART) == wire.TRIGGER_INTERNAL:
            self._scanner.expose(self._settings.whole(wire.NUMFRAMESTOACQUIRE))
        return wire.ERROR_OK

    def _trigger(self) -> int:
        soft = self._settings.real(wire.TRIGGERSTART) == wire.TRIGGER_SOFT
        if not soft or not (self._armed and self._scanner.left):
            return wire.ERROR_UNKNOWN
        if self._scanner.exposing or self._queue.full():
            return wire.ERROR_BUSY
        self._scanner.expose(self._settings.whole(wire.NUMFRAMESPERTRIGGER))
        return wire.ERROR_OK

    async def stop(self) -> None:
        """End the acquisition; frames on their way are discarded."""
        self._armed = False
        self._acquisition += 1
        await self._scanner.stop()
        while not self._queue.empty():
            self._queue.get_nowait()

    async def _deliver(self, shot: Shot[bytes]) -> None:
        number, second = shot.number + self._extra, b""
        head = _head(self._settings, self._chips, number, shot.start_ns)
        if self._faults.strikes("extra-frames"):
            self._extra += 1
            second = _head(self._settings, self._chips, number + 1, shot.end_ns, counter=1)
        await self._queue.put(_Outgoing(self._acquisition, head, shot.drawn, second))


def _head(settings: _Settings, chips: int, number: int, start_ns: int, counter: int = 0) -> bytes:
    """Prefix and header of an image."""
    rows, columns = settings.shape
    moment = datetime.fromtimestamp(start_ns * 1e-9, UTC)
    header = wire.FrameHeader(
        sequence=number,
        width=columns,
        height=rows,
        pixel_type=settings.pixel_type,
        counter_depth=settings.whole(wire.COUNTERDEPTH),
        data_offset=wire.header_bytes(chips),
        chips=chips,
        layout=_LAYOUTS[chips],
        shutter_s=settings.real(wire.ACQUISITIONTIME) * 1e-3,
        timestamp=f"{moment:%Y-%m-%d %H:%M:%S.%f}",
        counter=counter,
    )
    return wire.prefix(header.body_bytes) + wire.encode_frame_header(header)


async def _send(consumer: socket.socket, head: bytes, pixels: bytes) -> None:
    """Send both in one system call where the kernel has room."""
    loop = asyncio.get_running_loop()
    try:
        sent = consumer.sendmsg((head, pixels))
    except BlockingIOError:
        sent = 0
    if sent < len(head):
        await loop.sock_sendall(consumer, head[sent:])
        sent = len(head)
    if sent < len(head) + len(pixels):
        await loop.sock_sendall(consumer, memoryview(pixels)[sent - len(head) :])
