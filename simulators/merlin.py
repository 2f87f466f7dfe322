"""Server of the Merlin wire (two TCP sockets) in front of the simulated specimen.

What is served is a scan: IMAGEX and IMAGEY, which a real Merlin only reports, are settable here
and stand for the columns and rows of a scan generator, one pixel of the image per scan point, and
ACQUISITIONTIME is the time of the whole frame. A frame shows the specimen at mid-exposure, rows
with the beam blanked are dark. Frames are never dropped: a consumer that lags makes the next
trigger busy.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..protocols import merlin as wire
from ..protocols.timebase import ExperimentClock
from .hosting import address, background, end, listen
from .world import Exposure, Scene, World

MAX_PIXELS = 4096
_BACKLOG = 3
_DTYPES: dict[str, type[np.unsignedinteger[Any]]] = {
    "U08": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
}
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
    "CONTINUOUSRW": (_WHOLE, 0, 1, 0),
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
    world: World, clock: ExperimentClock, control: str, data: str, fill_frames: int = 0
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
        When not 0, a benchmark: so many Poisson frames are made when an acquisition starts and
        sent again and again, as fast as they are asked for and taken; beam, exposure time and
        stage play no part.

    Yields
    ------
    tuple of str
        The endpoints, with the ports in use.

    Raises
    ------
    BadInput
        If an endpoint cannot be bound.
    """
    with (
        listen(control, "tcp", "detector.endpoint") as commands,
        listen(data, "tcp", "detector.options.data_endpoint") as frames,
    ):
        server = _Server(world, clock, fill_frames)
        try:
            async with background(
                _accept(commands, server.converse), _accept(frames, server.feed), server.send_all()
            ):
                yield address(commands, "tcp"), address(frames, "tcp")
        finally:
            await server.stop()
            server.close()


async def _accept(listener: socket.socket, serve_one: Callable[[socket.socket], Any]) -> None:
    """Give each connection a task of its own; they end with this one."""
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    serving: set[asyncio.Task[None]] = set()
    try:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            task = asyncio.create_task(serve_one(connection))
            serving.add(task)
            task.add_done_callback(serving.discard)
    finally:
        await end(list(serving))


@dataclass(frozen=True)
class _Outgoing:
    """A message for the data socket: an acquisition header, or a frame still being rendered."""

    acquisition: int
    head: bytes
    pixels: asyncio.Future[bytes] | None = None


class _Server:
    def __init__(self, world: World, clock: ExperimentClock, fill_frames: int) -> None:
        self._world, self._clock, self._fill_frames = world, clock, fill_frames
        self._values = {name: start for name, (_, _, _, start) in _SETTINGS.items()}
        if world.recording is not None:
            self._values[wire.IMAGEY], self._values[wire.IMAGEX] = world.recording.shape
        self._threads = ThreadPoolExecutor(2, "render")
        self._consumers: set[socket.socket] = set()
        self._queue: asyncio.Queue[_Outgoing] = asyncio.Queue(_BACKLOG)
        self._acquisition = 0
        self._armed = False
        self._left = 0
        self._sent = 0
        self._exposing: asyncio.Task[None] | None = None
        self._filling: list[bytes] = []

    def close(self) -> None:
        self._threads.shutdown(wait=True)

    async def converse(self, connection: socket.socket) -> None:
        """Answer the commands of one client until it leaves."""
        loop = asyncio.get_running_loop()
        decoder = wire.StreamDecoder()
        with connection, suppress(OSError):
            while received := await loop.sock_recv(connection, 65_536):
                for body in decoder.feed(received):
                    reply = await self._answer(body)
                    await loop.sock_sendall(connection, wire.encode_reply(reply))

    async def feed(self, connection: socket.socket) -> None:
        """Keep one consumer of frames on the list until it leaves; what it says is ignored."""
        loop = asyncio.get_running_loop()
        self._consumers.add(connection)
        try:
            with connection, suppress(OSError):
                while await loop.sock_recv(connection, 4096):
                    pass
        finally:
            self._consumers.discard(connection)

    async def send_all(self) -> None:
        """Send what is queued, in order, to every consumer."""
        while True:
            item = await self._queue.get()
            pixels = b"" if item.pixels is None else await item.pixels
            if item.acquisition != self._acquisition:
                continue
            for consumer in list(self._consumers):
                await self._send(consumer, item.head, pixels)
            if item.pixels is not None and item.acquisition == self._acquisition:
                self._sent += 1
                if self._sent == self._total:
                    self._armed = False

    async def _send(self, consumer: socket.socket, head: bytes, pixels: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(consumer, head)
            if pixels:
                await loop.sock_sendall(consumer, pixels)
        except OSError:
            self._consumers.discard(consumer)

    async def _answer(self, body: bytes) -> wire.Reply:
        try:
            command = wire.parse_command(body)
        except wire.BadMessage:
            return wire.Reply("CMD", "UNKNOWN", wire.ERROR_UNKNOWN)
        if command.kind == "GET":
            value = self._get(command.name)
            if value is None:
                return wire.Reply("GET", command.name, wire.ERROR_UNKNOWN, "")
            return wire.Reply("GET", command.name, wire.ERROR_OK, value)
        if command.kind == "SET":
            return wire.Reply("SET", command.name, self._set(command.name, command.value or ""))
        return wire.Reply("CMD", command.name, await self._command(command.name))

    def _get(self, name: str) -> str | None:
        if name == wire.DETECTORSTATUS:
            return str(self._status())
        if name == wire.SOFTWAREVERSION:
            return "pyrotome simulator"
        if name == "TEMPERATURE":
            return "25.0"
        value = self._values.get(name)
        return None if value is None else f"{value:.10g}"

    def _set(self, name: str, text: str) -> int:
        if name not in _SETTINGS:
            return wire.ERROR_UNKNOWN
        if self._armed:
            return wire.ERROR_BUSY
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
        recording = self._world.recording
        only = recording.shape if recording is not None and name in _SCAN else None
        if only is not None and value != only[_SCAN.index(name)]:
            return wire.ERROR_RANGE
        self._values[name] = value
        return wire.ERROR_OK

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
        if self._exposing is not None or self._queue.qsize():
            return wire.STATUS_BUSY
        return wire.STATUS_ARMED if self._armed else wire.STATUS_IDLE

    @property
    def _total(self) -> int:
        return int(self._values[wire.NUMFRAMESTOACQUIRE])

    @property
    def _shape(self) -> tuple[int, int]:
        return int(self._values[wire.IMAGEY]), int(self._values[wire.IMAGEX])

    @property
    def _depth(self) -> int:
        return int(self._values[wire.COUNTERDEPTH])

    async def _start(self) -> int:
        if self._armed:
            return wire.ERROR_BUSY
        self._armed = True
        self._acquisition += 1
        self._left, self._sent = self._total, 0
        if self._fill_frames:
            loop = asyncio.get_running_loop()
            self._filling = await loop.run_in_executor(self._threads, self._make_filling)
        header = wire.AcquisitionHeader(
            self._total, int(self._values[wire.NUMFRAMESPERTRIGGER]), self._depth
        )
        head = wire.frame(wire.encode_acquisition_header(header))
        await self._queue.put(_Outgoing(self._acquisition, head))
        if self._values[wire.TRIGGERSTART] == wire.TRIGGER_INTERNAL:
            self._expose(self._left)
        return wire.ERROR_OK

    def _trigger(self) -> int:
        if self._values[wire.TRIGGERSTART] != wire.TRIGGER_SOFT or not (self._armed and self._left):
            return wire.ERROR_UNKNOWN
        if self._exposing is not None or self._queue.full():
            return wire.ERROR_BUSY
        self._expose(min(self._left, int(self._values[wire.NUMFRAMESPERTRIGGER])))
        return wire.ERROR_OK

    def _expose(self, frames: int) -> None:
        # The scan begins with the command, before its answer goes out.
        work = self._fill(frames) if self._fill_frames else self._scan(frames, self._begin())
        task = asyncio.create_task(work, name="merlin exposure")
        self._exposing = task

        def over(ended: asyncio.Task[None]) -> None:
            if self._exposing is ended:
                self._exposing = None

        task.add_done_callback(over)

    async def stop(self) -> None:
        """End the acquisition; frames on their way are discarded."""
        task, self._exposing = self._exposing, None
        self._armed = False
        self._acquisition += 1
        if task is not None:
            await end([task])
        while not self._queue.empty():
            self._queue.get_nowait()
        if task is not None:
            self._world.abandon_exposure(self._clock.now_ns())

    def _begin(self) -> Exposure:
        exposure_s = self._values[wire.ACQUISITIONTIME] * 1e-3
        return self._world.begin_exposure(self._clock.now_ns(), exposure_s, self._shape)

    async def _scan(self, frames: int, exposure: Exposure) -> None:
        period_ns = int(self._values[wire.ACQUISITIONPERIOD] * 1e6)
        exposure_s = self._values[wire.ACQUISITIONTIME] * 1e-3
        dtype = _DTYPES[wire.PIXEL_TYPES[self._depth]]
        world, clock = self._world, self._clock
        for frame in range(frames):
            if frame:
                exposure = self._begin()
            await clock.sleep_until_ns(exposure.middle_ns)
            scene, on = world.scene(exposure.middle_ns), world.beam_on(exposure)
            # The beam will most likely stay as it is: draw the frame while the scan goes on.
            pixels = self._render(exposure, scene, on, dtype)
            await clock.sleep_until_ns(exposure.end_ns)
            if not np.array_equal(truly_on := world.end_exposure(exposure, scene), on):
                pixels = self._render(exposure, scene, truly_on, dtype)
            self._left -= 1
            number = self._total - self._left
            head = self._head(number, exposure_s, exposure.start_ns)
            await self._queue.put(_Outgoing(self._acquisition, head, pixels))
            if frames > 1:
                await clock.sleep_until_ns(exposure.start_ns + period_ns)

    def _render(
        self,
        exposure: Exposure,
        scene: Scene,
        on: np.ndarray[Any, np.dtype[np.float32]],
        dtype: type[np.unsignedinteger[Any]],
    ) -> asyncio.Future[bytes]:
        pixel_type = wire.PIXEL_TYPES[self._depth]

        def render() -> bytes:
            return wire.pixels_to_wire(self._world.frame(exposure, scene, on, dtype), pixel_type)

        return asyncio.get_running_loop().run_in_executor(self._threads, render)

    async def _fill(self, frames: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(frames):
            self._left -= 1
            number = self._total - self._left
            pixels: asyncio.Future[bytes] = loop.create_future()
            pixels.set_result(self._filling[number % len(self._filling)])
            exposure_s = self._values[wire.ACQUISITIONTIME] * 1e-3
            head = self._head(number, exposure_s, self._clock.now_ns())
            await self._queue.put(_Outgoing(self._acquisition, head, pixels))

    def _make_filling(self) -> list[bytes]:
        """Frames as they would look with the beam on for the whole exposure."""
        scene = self._world.scene(self._clock.now_ns())
        exposure_ns = int(self._values[wire.ACQUISITIONTIME] * 1e6)
        on = np.ones(self._shape[0], np.float32)
        pixel_type = wire.PIXEL_TYPES[self._depth]
        frames = [
            self._world.frame(
                Exposure(k, 0, exposure_ns, self._shape), scene, on, _DTYPES[pixel_type]
            )
            for k in range(self._fill_frames)
        ]
        return [wire.pixels_to_wire(frame, pixel_type) for frame in frames]

    def _head(self, number: int, exposure_s: float, start_ns: int) -> bytes:
        rows, columns = self._shape
        moment = datetime.fromtimestamp(start_ns * 1e-9, UTC)
        header = wire.FrameHeader(
            sequence=number,
            width=columns,
            height=rows,
            pixel_type=wire.PIXEL_TYPES[self._depth],
            counter_depth=self._depth,
            shutter_s=exposure_s,
            timestamp=f"{moment:%Y-%m-%d %H:%M:%S.%f}",
        )
        return wire.prefix(header.body_bytes) + wire.encode_frame_header(header)
