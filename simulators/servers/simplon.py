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
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zmq
import zmq.asyncio
from aiohttp import web

from ...protocols.config.faults import FaultName
from ...protocols.core.bitshuffle import Bitshuffle
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import simplon as wire
from ..world.dark_signal import factory_mask
from ..world.microscope import World
from .frame_source import Scan, Scanner
from .simplon_frames import Drawn, FrameEncoder, FrameStream
from .simplon_settings import Configuration, Unsettable
from .sockets import background, bind, serve_http
from .wire_faults import WireFaults

FAULTS: frozenset[FaultName] = frozenset(
    {
        "hang", "disconnect", "garbage", "short-frame", "wrong-length", "slow", "error",
        "blank-frame", "same-frame",
    }
)  # fmt: skip
_SEND_QUEUE = 16  # messages in the socket; what is in there still comes after an abort
_DTYPES: dict[int, type[np.unsignedinteger[Any]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32}


@dataclass(frozen=True)
class Variant:
    """Which detector is served.

    Attributes
    ----------
    bit_depth : int
        Of a pixel.
    initialized : bool
        Whether it has been initialized before.
    header_apart : bool
        Whether the start of a series comes as two messages, as from LiberTEM-live's simulator.
    ends_itself : bool
        Whether a series is over with its last image, as LiberTEM-live's client expects it and its
        simulator does it, and not only when it is disarmed, as the API's reference has it.
    """

    bit_depth: Literal[8, 16, 32] = 16
    initialized: bool = False
    header_apart: bool = False
    ends_itself: bool = False


@asynccontextmanager
async def serve(
    world: World,
    clock: ExperimentClock,
    control: str,
    data: str,
    fill_frames: int = 0,
    variant: Variant = Variant(),
    faults: WireFaults | None = None,
) -> AsyncIterator[tuple[str, str]]:
    """Serve until the context ends.

    Parameters
    ----------
    world, clock : World, ExperimentClock
        The world whose specimen to image, and the time of exposures.
    control, data : str
        Endpoints such as ``http://127.0.0.1:80`` and ``tcp://127.0.0.1:9999``; port 0 lets the
        system choose.
    fill_frames : int
        See `Scanner`.
    variant : Variant
        Which detector it is.
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
    context = zmq.asyncio.Context()
    # From the first connection on: set at the end, it can hang libzmq (its issue 3252).
    context.setsockopt(zmq.LINGER, 0)
    try:
        push = context.socket(zmq.PUSH)
        push.setsockopt(zmq.SNDHWM, _SEND_QUEUE)
        data = bind(push, data, "detector.options.data_endpoint")
        faults = faults or WireFaults(())
        async with _serving(world, clock, control, push, fill_frames, variant, faults) as found:
            yield found, data
    finally:
        context.destroy(linger=0)


@asynccontextmanager
async def _serving(
    world: World,
    clock: ExperimentClock,
    control: str,
    push: zmq.asyncio.Socket,
    fill_frames: int,
    variant: Variant,
    faults: WireFaults,
) -> AsyncIterator[str]:
    configuration = Configuration(world.recording.shape if world.recording else None)
    configuration.set_bit_depth(variant.bit_depth)
    frames = FrameStream(
        push,
        configuration,
        faults,
        header_apart=variant.header_apart,
        ends_itself=variant.ends_itself,
    )
    state: wire.State = "idle" if variant.initialized else "na"
    server = _SimplonServer(world, clock, frames, configuration, fill_frames, faults, state)
    try:
        async with serve_http(
            control, "detector.endpoint", server.handle, wire.MAX_BODY_BYTES
        ) as found:
            try:
                async with background(frames.send_all()):
                    yield found
            finally:
                faults.clear()  # what hangs would keep its handler
                await server.stop()
    finally:
        server.close()


class _Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class _SimplonServer:
    """The control unit: state, parameters and commands.

    Parameters
    ----------
    world, clock : World, ExperimentClock
        What is imaged, and when.
    frames : FrameStream
        Where images go.
    configuration : Configuration
        Of the detector.
    fill_frames : int
        See `Scanner`.
    faults : WireFaults
        Switches of its faults.
    state : str
        At the start.
    """

    def __init__(
        self,
        world: World,
        clock: ExperimentClock,
        frames: FrameStream,
        configuration: Configuration,
        fill_frames: int,
        faults: WireFaults,
        state: wire.State,
    ) -> None:
        self._frames, self._faults = frames, faults
        self._configuration = configuration
        self._state: wire.State = state
        self._world = world
        self._scanner: Scanner[Drawn] = Scanner(world, clock, frames.deliver, fill_frames, faults)
        self._compressor = Bitshuffle()

    def close(self) -> None:
        self._scanner.close()

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
        if self._state == "na" and module == "detector":
            raise _Refusal(400, "the detector is not initialized")
        if task == "config" and method == "GET":
            return self._get(module, name)
        if task == "config" and method == "PUT":
            return self._put(module, name, body)
        raise _Refusal(404, f"{method} of {path[:100]} is not known")

    def _status(self, module: str, name: str) -> bytes:
        if module == "detector" and name == wire.STATE:
            return wire.encode_parameter(wire.Parameter(self._state))
        if self._state == "na":
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
            return wire.encode_changed(self._configuration.names(module))
        try:
            return wire.encode_parameter(self._configuration.get(module, name))
        except KeyError:
            raise _Refusal(404, f"{module} has no parameter {name[:60]!r}") from None

    def _put(self, module: str, name: str, body: bytes) -> bytes:
        if self._state not in {"idle", "na"}:
            raise _Refusal(400, f"the detector's state is {self._state}")
        try:
            return wire.encode_changed(
                self._configuration.put(module, name, wire.parse_setting(body))
            )
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
        if self._state == "na" and name != wire.INITIALIZE:
            raise _Refusal(400, "the detector is not initialized")
        await commands[name]()
        return wire.encode_series(self._frames.series) if name in wire.SERIES_COMMANDS else b""

    async def _initialize(self) -> None:
        await self.stop()
        self._state = "idle"

    async def _arm(self) -> None:
        if self._state != "idle":
            raise _Refusal(400, f"the detector's state is {self._state}")
        settings = self._configuration.series()
        self._state = "ready"
        self._frames.series += 1
        dtype = _DTYPES[settings.bit_depth]
        world = self._world.config
        bad = factory_mask(world.detector, settings.shape, world.seed)
        masked = bad if settings.mask_applied else None
        encoder = FrameEncoder(self._compressor, settings.compression, settings.cbor, masked)
        await self._scanner.begin(
            Scan(
                settings.frames,
                settings.shape,
                settings.count_time_s,
                settings.frame_time_s,
                dtype,
                int(np.iinfo(dtype).max),
                encoder.encode,
            )
        )
        self._frames.begin()
        if settings.external:
            self._state = "acquire"
            self._expose(settings.frames)

    async def _trigger(self) -> None:
        settings = self._configuration.series()
        if self._state != "ready" or not self._scanner.left or settings.external:
            raise _Refusal(400, f"no trigger is waited for; the detector's state is {self._state}")
        self._state = "acquire"
        # The answer comes when the frames are exposed; that it does is from memory (wire card C1).
        await asyncio.wait([self._expose(settings.images_per_trigger)])

    def _expose(self, frames: int) -> asyncio.Task[None]:
        task, series = self._scanner.expose(frames), self._frames.series

        def over(ended: asyncio.Task[None]) -> None:
            if self._state == "acquire" and series == self._frames.series and not ended.cancelled():
                self._state = "ready"

        task.add_done_callback(over)
        return task

    async def stop(self) -> None:
        """End the series, if there is one; images on their way are discarded."""
        if self._state not in {"ready", "acquire"}:
            return
        if abandoned := bool(self._scanner.left):
            self._frames.discard()
        self._state = "idle"
        await self._scanner.stop()
        self._frames.end(abandoned=abandoned)


async def _break_off(request: web.Request, raw: bytes) -> web.StreamResponse:
    """Answer half, and hang up."""
    response = web.StreamResponse(headers={"Content-Length": str(len(raw) + 2)})
    await response.prepare(request)
    await response.write(raw[: len(raw) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
