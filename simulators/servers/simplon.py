"""Server of DECTRIS' SIMPLON wires (HTTP, and ZeroMQ for frames) before the simulated specimen.

What is served is a scan: the numbers of pixels, which a camera only reports, are settable here and
stand for the columns and rows of a scan generator, and count_time is the time of the whole frame.
Both formats of the stream leave by one socket, where a real control unit has two. An external
trigger comes at once, and again as soon as it can be taken. Frames are never dropped: a consumer
that lags keeps the exposures waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import zmq
import zmq.asyncio
from aiohttp import web

from ...protocols.config.faults import FaultName
from ...protocols.core import lz4
from ...protocols.core.bitshuffle import Bitshuffle
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import simplon as wire
from ...protocols.wires import simplon_stream as stream
from ..world.microscope import World
from .frame_source import Counts, Scan, Scanner, Shot
from .simplon_settings import Settings, Unsettable
from .sockets import address, background, bind, listen
from .wire_faults import WireFaults

FAULTS: frozenset[FaultName] = frozenset(
    {"hang", "disconnect", "garbage", "short-frame", "wrong-length", "slow", "error"}
)
_BACKLOG = 4
_SEND_QUEUE = 16  # messages in the socket; what is in there still comes after an abort
_RECHECK_MS = 50
_CHANNEL = "threshold_1"
_DTYPES: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32}


@asynccontextmanager
async def serve(
    world: World,
    clock: ExperimentClock,
    control: str,
    data: str,
    fill_frames: int = 0,
    *,
    bit_depth: Literal[8, 16, 32] = 16,
    initialized: bool = False,
    header_apart: bool = False,
    ends_itself: bool = False,
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
        Endpoints such as ``http://127.0.0.1:80`` and ``tcp://127.0.0.1:9999``; port 0 lets the
        system choose.
    fill_frames : int
        See `Scanner`.
    bit_depth : int
        Of a pixel.
    initialized : bool
        Whether it has been initialized before.
    header_apart : bool
        Whether the start of a series comes as two messages, as from LiberTEM-live's simulator.
    ends_itself : bool
        Whether a series is over with its last image, as LiberTEM-live's client expects it and its
        simulator does it, and not only when it is disarmed, as the API's reference has it.
    faults : WireFaults, optional
        By which it misbehaves.

    Yields
    ------
    tuple of str
        The endpoints, with the ports in use.

    Raises
    ------
    BadInput
        If an endpoint cannot be bound.
    """
    with listen(control, "http", "detector.endpoint") as listener:
        context = zmq.asyncio.Context()
        try:
            push = context.socket(zmq.PUSH)
            push.setsockopt(zmq.SNDHWM, _SEND_QUEUE)
            data = bind(push, data, "detector.options.data_endpoint")
            faults = faults or WireFaults(())
            server = _Server(world, clock, push, fill_frames, faults)
            server.settings.set_bit_depth(bit_depth)
            server.header_apart, server.ends_itself = header_apart, ends_itself
            server.state = "idle" if initialized else "na"
            app = web.Application(client_max_size=wire.MAX_BODY_BYTES)
            app.router.add_route("*", "/{path:.*}", server.handle)
            runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
            try:
                await runner.setup()
                await web.SockSite(runner, listener).start()
                async with background(server.send_all()):
                    yield address(listener, "http"), data
            finally:
                faults.clear()  # what hangs would keep its handler
                await server.stop()
                await runner.cleanup()
                server.close()
        finally:
            context.destroy(linger=0)


class _Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True)
class _Drawn:
    """Pixels and their hash."""

    pixels: stream.Pixels
    md5: str


@dataclass(frozen=True)
class _Outgoing:
    """A message of a series, or the shot that one is made of."""

    series: int
    parts: list[stream.Buffer]
    shot: Shot[_Drawn] | None = None


class _Server:
    def __init__(
        self,
        world: World,
        clock: ExperimentClock,
        push: zmq.asyncio.Socket,
        fill_frames: int,
        faults: WireFaults,
    ) -> None:
        self._push, self._faults = push, faults
        # The same socket without an event loop, for when there is room in it.
        self._push_now = zmq.Socket.shadow(push.underlying)
        self.settings = Settings(world.recording.shape if world.recording else None)
        self.state: wire.State = "na"
        self.header_apart = self.ends_itself = False
        self._scanner: Scanner[_Drawn] = Scanner(world, clock, self._deliver, fill_frames)
        self._queue: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._room = asyncio.Semaphore(_BACKLOG)  # for images in the queue
        self._series = 0
        self._discarded = 0  # series whose images are no longer sent
        self._compressor = Bitshuffle()

    def close(self) -> None:
        self._scanner.close()

    # Control

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        faults = self._faults
        body = await request.read()
        await faults.delay()
        try:
            if faults.strikes("error"):
                raise _Refusal(500, "the detector has a fault")
            raw = await self._answer(request.method, request.path, body)
            # DECTRIS' own client would read an empty body as JSON if it said that it was.
            status, kind = 200, wire.MIME_JSON if raw else "text/plain"
        except _Refusal as error:
            raw, status, kind = str(error).encode(), error.status, "text/plain"
        if faults.strikes("disconnect"):
            return await _break_off(request, raw)
        if request.transport is not None and faults.strikes("garbage"):
            request.transport.write(faults.noise())
        return web.Response(body=raw, status=status, content_type=kind)

    async def _answer(self, method: str, path: str, body: bytes) -> bytes:
        if path.rstrip("/") == wire.VERSION_PATH and method == "GET":
            return wire.encode_parameter(wire.Parameter(wire.API_VERSION))
        try:
            module, task, name = wire.split_path(path)
        except BadMessage as error:
            raise _Refusal(404, str(error)) from None
        if task == "command" and module == "detector" and method == "PUT":
            return await self._command(name)
        if task == "status" and method == "GET":
            return self._status(module, name)
        if self.state == "na" and module == "detector":
            raise _Refusal(400, "the detector is not initialized")
        if task == "config" and method == "GET":
            return self._get(module, name)
        if task == "config" and method == "PUT":
            return self._put(module, name, body)
        raise _Refusal(404, f"{method} of {path[:100]} is not known")

    def _status(self, module: str, name: str) -> bytes:
        if module == "detector" and name == wire.STATE:
            return wire.encode_parameter(wire.Parameter(self.state))
        if self.state == "na":
            raise _Refusal(400, "the detector is not initialized")
        found = {
            ("detector", wire.HIGH_VOLTAGE): wire.HIGH_VOLTAGE_READY,
            ("detector", "error"): [],
            ("stream", wire.STATE): "ready",
        }.get((module, name))
        if found is None:
            raise _Refusal(404, f"{module} has no status {name[:60]!r}")
        return wire.encode_parameter(wire.Parameter(found))

    def _get(self, module: str, name: str) -> bytes:
        if name in {"", "keys"}:
            return wire.encode_changed(self.settings.names(module))
        try:
            return wire.encode_parameter(self.settings.get(module, name))
        except KeyError:
            raise _Refusal(404, f"{module} has no parameter {name[:60]!r}") from None

    def _put(self, module: str, name: str, body: bytes) -> bytes:
        if self.state not in {"idle", "na"}:
            raise _Refusal(400, f"the detector's state is {self.state}")
        try:
            return wire.encode_changed(self.settings.put(module, name, wire.parse_setting(body)))
        except KeyError:
            raise _Refusal(404, f"{module} has no parameter {name[:60]!r}") from None
        except (Unsettable, BadMessage) as error:
            raise _Refusal(400, str(error)) from None

    async def _command(self, name: str) -> bytes:
        commands: dict[str, Callable[[], Any]] = {
            wire.INITIALIZE: self._initialize,
            wire.ARM: self._arm,
            wire.TRIGGER: self._trigger,
            wire.DISARM: self.stop,
            wire.CANCEL: self.stop,
            wire.ABORT: self.stop,
        }
        if name in {"check_connections", "status_update", "hv_reset"}:
            return b""
        if name not in commands:
            raise _Refusal(404, f"there is no command {name[:60]!r}")
        if self.state == "na" and name != wire.INITIALIZE:
            raise _Refusal(400, "the detector is not initialized")
        await commands[name]()
        return wire.encode_series(self._series) if name in wire.SERIES_COMMANDS else b""

    async def _initialize(self) -> None:
        await self.stop()
        self.state = "idle"

    async def _arm(self) -> None:
        if self.state != "idle":
            raise _Refusal(400, f"the detector's state is {self.state}")
        settings = self.settings
        self.state = "ready"
        self._series += 1
        dtype = _DTYPES[settings.bit_depth]
        draw = _Draw(self._compressor, settings.compression, settings.cbor)
        await self._scanner.begin(
            Scan(
                settings.frames,
                settings.shape,
                settings.count_time_s,
                settings.frame_time_s,
                dtype,
                int(np.iinfo(dtype).max),
                draw.encode,
            )
        )
        if settings.streaming:
            for parts in self._start():
                self._queue.put_nowait(_Outgoing(self._series, parts))
        if settings.external:
            self.state = "acquire"
            self._expose(settings.frames)

    async def _trigger(self) -> None:
        settings = self.settings
        if self.state != "ready" or not self._scanner.left or settings.external:
            raise _Refusal(400, f"no trigger is waited for; the detector's state is {self.state}")
        self.state = "acquire"
        # The answer comes when the frames are exposed; that it does is from memory (wire card C1).
        await asyncio.wait([self._expose(settings.images_per_trigger)])

    def _expose(self, frames: int) -> asyncio.Task[None]:
        task, series = self._scanner.expose(frames), self._series

        def over(ended: asyncio.Task[None]) -> None:
            if self.state == "acquire" and series == self._series and not ended.cancelled():
                self.state = "ready"

        task.add_done_callback(over)
        return task

    async def stop(self) -> None:
        """End the series, if there is one; images on their way are discarded."""
        if self.state not in {"ready", "acquire"}:
            return
        if abandoned := bool(self._scanner.left):
            self._discarded = self._series
        self.state = "idle"
        await self._scanner.stop()
        if self.settings.streaming and not (self.ends_itself and not abandoned):
            # Images that are no longer wanted are passed over on the way out.
            self._queue.put_nowait(_Outgoing(self._series, self._end()))

    # Stream

    async def send_all(self) -> None:
        """Send what is queued, in order, to whoever pulls."""
        while True:
            item = await self._queue.get()
            drawn = None if item.shot is None else await item.shot.drawn
            await self._faults.delay()
            if item.shot is None or drawn is None:
                await self._send(item, item.parts)
                continue
            if self._wanted(item):
                if self._faults.strikes("garbage"):
                    await self._send(item, [self._faults.noise()])
                await self._send(item, self._image(item.shot, drawn))
                if self.ends_itself and item.shot.number == self.settings.frames:
                    await self._send(item, self._end())
            self._room.release()

    async def _send(self, item: _Outgoing, parts: list[stream.Buffer]) -> None:
        while self._wanted(item):
            with suppress(zmq.Again):
                self._push_now.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
                return
            await self._push.poll(_RECHECK_MS, zmq.POLLOUT)  # pyright: ignore[reportCallIssue]

    def _wanted(self, item: _Outgoing) -> bool:
        """Not what is old, when another series has begun or its images have been abandoned."""
        return item.series == self._series and (item.shot is None or item.series != self._discarded)

    async def _deliver(self, shot: Shot[_Drawn]) -> None:
        if self.settings.streaming:
            await self._room.acquire()
            self._queue.put_nowait(_Outgoing(self._series, [], shot))

    @property
    def _unique_id(self) -> str:
        return f"pyrotome-{self._series:08d}"

    def _start(self) -> list[list[stream.Buffer]]:
        settings = self.settings
        if settings.cbor:
            config = settings.described_v2(_CHANNEL)
            return [stream.encode_start_v2(self._series, self._unique_id, config)]
        config = settings.described_v1() if settings.header_detail != "none" else None
        return stream.encode_start_v1(
            self._series,
            config,
            apart=self.header_apart,
            appendix=settings.header_appendix,
        )

    def _image(self, shot: Shot[_Drawn], drawn: _Drawn) -> list[stream.Buffer]:
        pixels = drawn.pixels
        if self._faults.strikes("wrong-length"):
            pixels = replace(pixels, shape=(2 * pixels.shape[0], pixels.shape[1]))
        if self._faults.strikes("short-frame"):
            pixels = replace(pixels, raw=pixels.raw[: len(pixels.raw) // 2])
        image = stream.Image(
            self._series,
            shot.number - 1,
            {_CHANNEL: pixels},
            shot.start_ns,
            shot.end_ns,
            int(self.settings.count_time_s * 1e9),
            drawn.md5,
        )
        if self.settings.cbor:
            return stream.encode_image_v2(image, self._unique_id)
        return stream.encode_image_v1(image, self.settings.image_appendix)

    def _end(self) -> list[stream.Buffer]:
        if self.settings.cbor:
            return stream.encode_end_v2(self._series, self._unique_id)
        return stream.encode_end_v1(self._series)


@dataclass(frozen=True)
class _Draw:
    """Makes of counts what travels, in a thread."""

    compressor: Bitshuffle
    compression: str
    cbor: bool

    def encode(self, counts: Counts) -> _Drawn:
        raw: bytes
        compression: stream.Compression
        if self.compression == "bslz4":
            chunk = self.compressor.compress(counts)
            raw, compression = chunk.tobytes(), "bslz4"
            self.compressor.release(chunk)
        elif self.compression == "none":
            raw, compression = counts.tobytes(), "none"
        elif self.cbor:
            raw, compression = lz4.compress_hdf5(counts.tobytes()), "lz4-hdf5"
        else:
            raw, compression = lz4.compress_block(counts.tobytes()), "lz4"
        rows, columns = counts.shape
        pixels = stream.Pixels((rows, columns), counts.dtype.name, compression, raw)
        return _Drawn(pixels, "" if self.cbor else stream.md5_of(raw))


async def _break_off(request: web.Request, raw: bytes) -> web.StreamResponse:
    """Answer half, and hang up."""
    response = web.StreamResponse(headers={"Content-Length": str(len(raw) + 2)})
    await response.prepare(request)
    await response.write(raw[: len(raw) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
