"""Detector: a DECTRIS camera (ELA, QUADRO, ARINA, SINGLA, EIGER2) that speaks SIMPLON 1.8."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel

from ...protocols.config.rig import DetectorRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.messages.manifest import FrameDtype
from ...protocols.wires import simplon_stream
from ...protocols.wires.simplon_stream import Image, Pixels, SeriesEnd, SeriesStart
from ..base import GRACE_S, DetectorFrame, DeviceError, DeviceLost, Endpoints, Identity
from ..common.armed_detector import Acquisition, ArmedDetector, refused
from ..links.errors import not_connected
from ..links.tcp import address_of
from ..readings import FrameData
from .control import INITIALIZE_S, ControlUnit
from .data import StreamLink
from .settings import SimplonOptions, left_s

# Within which a trigger is refused, if it is at once: wall seconds, and part of an exposure, for
# the beam stays on meanwhile.
REFUSAL_S, REFUSAL_PART = 0.003, 0.02
ANSWER_S = 0.1  # wall seconds for which the beam stays on until a trigger is answered
DRAIN_QUIET_S = 0.05  # wall seconds of silence after which nothing more is on its way
SMALLEST_LIMIT_BYTES = 1 << 22
_DTYPES: dict[int, FrameDtype] = {8: "uint8", 16: "uint16", 32: "uint32"}
_EXTERNAL = ("exts", "exte")


@dataclass
class _Series(Acquisition):
    """An acquisition as the instrument numbers them, and the answer to its latest trigger."""

    series: int = 0
    frame_time_s: float = 0.0
    answer: asyncio.Task[None] | None = None
    failed: asyncio.Future[DeviceError] = field(default_factory=asyncio.Future)


class SimplonDetector(ArmedDetector[_Series]):
    """Control over HTTP, frames over ZeroMQ, compressed frames passed on as they come."""

    summary: ClassVar[str] = "DECTRIS detector with the SIMPLON API 1.8"
    marks_by_highest: ClassVar[bool] = True
    Options: ClassVar[type[BaseModel]] = SimplonOptions
    endpoints: ClassVar[Endpoints] = {
        "endpoint": ("http://HOST:80",),
        "data_endpoint": ("tcp://HOST:9999",),
    }
    start_timeout_s: ClassVar[float] = INITIALIZE_S + 30.0

    def __init__(self, name: str, rig: DetectorRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.options = SimplonOptions.model_validate(rig.options)
        host, _ = address_of(rig.endpoint, "http", "detector.endpoint")
        usual = {"legacy": simplon_stream.PORT_V1, "cbor": simplon_stream.PORT_V2}
        data = self.options.data_endpoint or f"tcp://{host}:{usual[self.options.stream_format]}"
        address_of(data, "tcp", "detector.options.data_endpoint")
        self._control = ControlUnit(name, rig.endpoint, self.options)
        self._stream = StreamLink(name, data)

    @property
    def _is_connected(self) -> bool:
        return self._control.is_open

    @property
    def dtype(self) -> FrameDtype:
        """Pixel type that the bit depth gives."""
        return _DTYPES[self.options.bit_depth]

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """See that the instrument is initialized and its high voltage on; connect the stream.

        Raises
        ------
        DeviceRefused
            If it speaks another version, is not initialized and may not be, its high voltage is
            off, or its pixels have another bit depth than the rig says.
        """
        await self.disconnect()
        self._control.open()
        try:
            deadline = await self._control.get_ready(timeout_s)
            await self._open_stream(
                await self._control.settings.size(left_s(deadline)), left_s(deadline)
            )
            return await self._control.identity(left_s(deadline))
        except BaseException:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        """Close both links; tasks that wait on them see the device lost."""
        self._forget()
        self._stream.close()
        await self._control.close()

    async def make_safe(self) -> None:
        """Abort any acquisition, from whatever state, and see that the detector rests.

        Once more where an exchange fails; neither the stream nor an initialized detector is
        needed.
        """
        self._forget()
        was_open = self._control.is_open
        self._control.open()
        try:
            try:
                await self._control.abort()
            except DeviceError:
                await self._control.abort()
        except BaseException:
            if not was_open:
                await self._control.close()
            raise
        await self._stream.drain(DRAIN_QUIET_S, GRACE_S)

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        """Prepare so many frames; returns when the stream has announced the series.

        Raises
        ------
        OutOfRange
            If the frame is larger than the rig allows, or numbers or exposure make no sense.
        DeviceRefused
            If the detector has another frame size or bit depth, or does not keep a value.
        """
        self._refuse_beyond_limits(frames, exposure_s, shape, frames_per_trigger)
        if not self._control.is_open:
            raise not_connected(self.name, "arm")
        if self._armed is not None:
            await self.disarm()
        await self._control.abort()  # a client that died may have left the detector armed
        await self._control.settings.set_size(shape)
        frame_time_s = await self._control.settings.configure(
            frames, exposure_s, frames_per_trigger
        )
        await self._control.settings.refuse_other_depth(GRACE_S)
        if not self._stream.accepts(_frame_bytes(shape)):
            await self._open_stream(shape, GRACE_S)
        await self._stream.drain(0.0, GRACE_S)
        series = await self._control.arm()
        armed = _Series(
            frames,
            frames_per_trigger,
            exposure_s,
            shape,
            series=series,
            frame_time_s=frame_time_s,
        )
        await self._start_of(armed)
        self._armed = armed

    def period_s(self, exposure_s: float) -> float:
        """Frame time of the acquisition that is armed."""
        return exposure_s if self._armed is None else self._armed.frame_time_s

    async def trigger(self) -> int:
        """Start the exposures of one trigger; returns when the command went out.

        The instrument probably answers only when they are over. If that answer is a refusal,
        `read_frame` raises it.
        """
        armed = self._acquisition("expose a frame")
        armed.due += armed.frames_per_trigger
        if self.options.trigger_mode in _EXTERNAL:
            return self.clock.now_ns()
        if armed.answer is not None:
            await asyncio.wait([armed.answer])
        if armed.failed.done():
            raise armed.failed.result()
        went_out: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        armed.answer = asyncio.create_task(self._fire(armed, went_out), name=f"{self.name} trigger")
        await asyncio.wait((armed.answer, went_out), return_when="FIRST_COMPLETED")
        if not armed.answer.done():
            part_s = REFUSAL_PART * self.clock.wall_s(armed.frame_time_s)
            await asyncio.wait([armed.answer], timeout=min(REFUSAL_S, part_s))
        if armed.failed.done():
            raise armed.failed.result()
        if not went_out.done():
            raise not_connected(self.name, "expose a frame")  # closed meanwhile
        return went_out.result()

    async def exposed(self) -> bool:
        """Wait for the answer to the trigger, which comes when its exposures are over."""
        answer = self._acquisition("expose a frame").answer
        if answer is None:
            return True
        done, _ = await asyncio.wait([answer], timeout=ANSWER_S)
        return bool(done)

    async def read_frame(self) -> DetectorFrame:
        """Wait for the next frame; a number left out is a frame that was lost or damaged.

        Raises
        ------
        DeviceRefused
            If the trigger was refused, or the frame is of another kind.
        DeviceLost
            If it does not come in time, came damaged, or the series has ended.
        """
        request = "read a frame"
        armed = self._acquisition(request)
        deadline = time.monotonic() + self.clock.wall_s(armed.frame_time_s) + GRACE_S
        while True:
            parts = await self._stream.receive(request, left_s(deadline), armed.failed)
            received_ns = self.clock.now_ns()
            try:
                found = simplon_stream.parse(parts)
                if isinstance(found, SeriesEnd) and found.series == armed.series:
                    raise _ended(self.name, armed)
                if not isinstance(found, Image) or found.series != armed.series:
                    continue  # of a series before
                pixels = _channel(self.name, found, self.options.channel)
                data = await _frame_data(pixels, found, check_hash=self.options.check_hash)
            except BadMessage as error:
                if not simplon_stream.resembles_image(parts):
                    continue  # noise
                self._count_damaged(armed, request, str(error))
                continue
            self._check_frame(armed, found.frame + 1, pixels.shape, pixels.dtype, self.dtype)
            armed.arrive(found.frame + 1)
            return DetectorFrame(armed.last_number, data, received_ns)

    async def disarm(self) -> None:
        """End the acquisition; frames on their way are discarded. Harmless when not armed."""
        armed = self._armed
        if armed is None:
            return
        complete = armed.last_number == armed.frames
        self._forget()
        await self._control.end(complete=complete)
        if not complete:
            await self._stream.drain(DRAIN_QUIET_S, GRACE_S)

    # The stream

    async def _open_stream(self, shape: tuple[int, int], timeout_s: float) -> None:
        await self._stream.open(max(_frame_bytes(shape), SMALLEST_LIMIT_BYTES), timeout_s)

    async def _start_of(self, armed: _Series) -> None:
        """Wait for the message that begins the series; earlier messages are old."""
        request = f"start series {armed.series}"
        deadline = time.monotonic() + GRACE_S
        while True:
            parts = await self._stream.receive(request, left_s(deadline), armed.failed)
            with contextlib.suppress(BadMessage):
                found = simplon_stream.parse(parts)
                if isinstance(found, SeriesStart) and found.series == armed.series:
                    return

    async def _fire(self, armed: _Series, went_out: asyncio.Future[int]) -> None:
        def sent() -> None:
            if not went_out.done():
                went_out.set_result(self.clock.now_ns())

        wall_s = self.clock.wall_s(armed.frames_per_trigger * armed.frame_time_s) + GRACE_S
        try:
            await self._control.trigger(wall_s, sent)
        except DeviceError as error:
            if not armed.failed.done():
                armed.failed.set_result(error)

    def _forget(self) -> None:
        """Drop the acquisition; what its last trigger is answered no longer matters."""
        armed, self._armed = self._armed, None
        if armed is not None and armed.answer is not None:
            armed.answer.cancel()


def _frame_bytes(shape: tuple[int, int]) -> int:
    """Of the largest frame of a shape, uncompressed."""
    return 4 * shape[0] * shape[1]


async def _frame_data(pixels: Pixels, image: Image, *, check_hash: bool) -> FrameData:
    if check_hash and not image.intact():
        raise BadMessage("an image whose hash does not match")
    if (chunk := pixels.chunk()) is not None:
        return chunk
    if pixels.compression == "none" and not pixels.big_endian:
        return pixels.array()
    return await asyncio.to_thread(pixels.array)


def _channel(device: str, image: Image, wanted: str | None) -> Pixels:
    channels = image.channels
    if wanted is None and len(channels) == 1:
        return next(iter(channels.values()))
    if wanted is None or wanted not in channels:
        raise refused(
            device,
            "read a frame",
            f"the frame has the channels {', '.join(channels)}",
            "Name one of them in the rig's detector.options.channel",
        )
    return channels[wanted]


def _ended(device: str, armed: _Series) -> DeviceError:
    error = DeviceLost(
        device,
        "read a frame",
        f"it ended the series after {armed.last_number} of {armed.frames} frames",
        "Check that no other client uses the detector",
    )
    if not armed.failed.done():
        armed.failed.set_result(error)
    return error
