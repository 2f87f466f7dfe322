"""Detector: a Quantum Detectors Merlin (Medipix3) over its two TCP sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ...protocols.config.rig import DetectorRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.manifest import FrameDtype
from ...protocols.wires import merlin
from ...protocols.wires.merlin import AcquisitionHeader, FrameHeader
from ..base import GRACE_S, DetectorFrame, DeviceError, DeviceLost, DeviceRefused, Identity
from ..common.armed_detector import Acquisition, ArmedDetector, size_text
from ..links.errors import broken, no_answer, not_connected, reason
from ..links.tcp import address_of, end_tcp, open_tcp
from .control import ControlLink
from .data import Damaged, DataReader, Image

DRAIN_QUIET_S = 0.05  # wall seconds of silence after which nothing more is on its way
_DTYPES: dict[int, FrameDtype] = {1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}
_IMAGE_SIZE = {"rows": merlin.IMAGEY, "columns": merlin.IMAGEX}


class MerlinOptions(BaseModel):
    """Data socket (by default the control port plus one), counter depth in bits, chips.

    `chips` is how many the sensor has; images that say otherwise are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str | None = None
    depth: Literal[1, 6, 12, 24] = 12
    chips: Literal[1, 4] | None = None


class MerlinDetector(ArmedDetector):
    """Armed for a number of frames; each soft trigger starts one or several."""

    summary: ClassVar[str] = "Quantum Detectors Merlin (Medipix3)"
    Options: ClassVar[type[BaseModel]] = MerlinOptions

    def __init__(self, name: str, rig: DetectorRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.options = MerlinOptions.model_validate(rig.options)
        host, port = address_of(rig.endpoint, "tcp", "detector.endpoint")
        self._control = ControlLink(name, (host, port))
        self._data_address = (
            (host, port + 1)
            if self.options.data_endpoint is None
            else address_of(self.options.data_endpoint, "tcp", "detector.options.data_endpoint")
        )
        self._data_socket: Any = None
        self._reader: DataReader | None = None
        self._reading = asyncio.Lock()
        self._armed: Acquisition | None = None
        self._header_due = False

    @property
    def dtype(self) -> FrameDtype:
        """Pixel type that the counter depth gives."""
        return _DTYPES[self.options.depth]

    @property
    def _data_endpoint(self) -> str:
        return f"tcp://{self._data_address[0]}:{self._data_address[1]}"

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Connect both sockets and ask for the software's version."""
        await self.disconnect()
        try:
            async with asyncio.timeout(timeout_s):
                await self._control.open(timeout_s)
                reply = await self._control.ask("GET", merlin.SOFTWAREVERSION, None, timeout_s)
                await self._open_data(timeout_s)
        except TimeoutError:
            await self.disconnect()
            raise no_answer(self.name, "connect", self.rig.endpoint, timeout_s) from None
        except BaseException:
            await self.disconnect()
            raise
        return Identity("Quantum Detectors", "Merlin", firmware=reply.value or "")

    async def disconnect(self) -> None:
        """Close both sockets; whoever waits on them sees the device lost."""
        await self._control.close()
        await self._close_data()
        self._armed = None

    async def make_safe(self) -> None:
        """Stop any acquisition, connecting first if need be."""
        if self._control.is_open:
            try:
                await self._stop()
            except DeviceError:
                pass  # said again below, if it stays so
            else:
                return await self._end_acquisition()
        await self.connect()
        return await self._stop()

    async def arm(
        self, frames: int, exposure_s: float, shape: tuple[int, int], frames_per_trigger: int = 1
    ) -> None:
        """Prepare so many soft-triggered frames; returns when the detector is armed.

        Raises
        ------
        OutOfRange
            If the frame is larger than the rig allows, or number or exposure make no sense.
        DeviceRefused
            If the detector has another frame size and will not change it, or refuses a value.
        """
        self._refuse_beyond_limits(frames, exposure_s, shape, frames_per_trigger)
        if self._armed is not None:
            await self.disarm()
        await self._stop()  # a client that died may have left the detector armed
        async with self._reading:
            reader = self._reader
            if self._header_due or reader is None:
                # A header of before may be on its way; only a new connection is free of it.
                self._drop_data()
                reader = await self._open_data(GRACE_S)
            reader.expect(shape)
        await self._set_size(shape)
        exposure_ms = f"{exposure_s * 1e3:.9g}"
        settings = {
            merlin.COUNTERDEPTH: str(self.options.depth),
            merlin.NUMFRAMESTOACQUIRE: str(frames),
            merlin.NUMFRAMESPERTRIGGER: str(frames_per_trigger),
            merlin.ACQUISITIONTIME: exposure_ms,
            merlin.TRIGGERSTART: str(merlin.TRIGGER_SOFT),
        }
        if frames_per_trigger > 1:
            # From memory (no manual at hand): with reading and counting at once there is no dead
            # time between frames, except at 24 bits, which take both counters of a pixel.
            settings[merlin.CONTINUOUSRW] = str(int(self.options.depth < 24))
            settings[merlin.ACQUISITIONPERIOD] = exposure_ms
        for name, value in settings.items():
            await self._control.ask("SET", name, value)
        async with self._reading:
            self._header_due = True
            await self._control.ask("CMD", merlin.STARTACQUISITION)
            await self._header()
            self._header_due = False
        self._armed = Acquisition(frames, frames_per_trigger, exposure_s, shape)

    async def trigger(self) -> int:
        """Start the exposures of one trigger; returns when the command went out."""
        armed = self._acquisition("expose a frame")
        sent_ns = self.clock.now_ns()
        armed.due += armed.frames_per_trigger
        try:
            await self._control.ask("CMD", merlin.SOFTTRIGGER)
        except DeviceRefused:
            armed.due -= armed.frames_per_trigger
            raise
        return sent_ns

    async def read_frame(self) -> DetectorFrame:
        """Wait for the next frame; a number left out is a frame that was lost or damaged."""
        request = "read a frame"
        armed = self._acquisition(request)
        wall_s = self.clock.wall_s(armed.exposure_s) + GRACE_S
        async with self._reading:
            found = await self._next(request, wall_s)
            while isinstance(found, Damaged):
                if armed.damage():
                    raise DeviceLost(
                        self.name, request, f"it sent {found.why}", "Check the network and its load"
                    )
                found = await self._next(request, wall_s)
        received_ns = self.clock.now_ns()
        if not isinstance(found, Image):
            raise self._refused(request, "it started another acquisition")
        self._check(armed, found.header)
        armed.arrive(found.header.sequence)
        return DetectorFrame(found.header.sequence, found.data, received_ns)

    def _check(self, armed: Acquisition, header: FrameHeader) -> None:
        pixel_type = merlin.PIXEL_TYPES[self.options.depth]
        if self.options.chips not in (None, header.chips):
            raise self._refused(
                f"read a frame of {self.options.chips} chips",
                f"it sent one of {header.chips}",
                "Set the rig's detector.options.chips to what the sensor has",
            )
        self._check_frame(armed, header.sequence, header.shape, header.pixel_type, pixel_type)

    async def disarm(self) -> None:
        """End the acquisition; frames on their way are discarded. Harmless when not armed."""
        armed = self._armed
        if armed is None:
            return
        try:
            await self._stop()
        finally:
            if armed.last_number < armed.frames:
                await self._end_acquisition()
            self._armed = None

    async def _stop(self) -> None:
        try:
            await self._control.ask("CMD", merlin.STOPACQUISITION)
        except DeviceRefused:
            # Nothing to stop is as good; anything but idle is not.
            status = (await self._control.ask("GET", merlin.DETECTORSTATUS)).value
            if status != str(merlin.STATUS_IDLE):
                raise

    async def _end_acquisition(self) -> None:
        """Discard what is still on its way."""
        self._armed = None
        async with self._reading:
            if self._reader is None:
                return
            try:
                ceased = await self._reader.drain(DRAIN_QUIET_S, GRACE_S)
            except OSError:
                ceased = False
            if not ceased:
                self._drop_data()

    async def _header(self) -> None:
        """Wait until the acquisition says that it begins; what comes before it is of another."""
        request = "read the acquisition header"
        deadline = time.monotonic() + GRACE_S
        while not isinstance(
            await self._next(request, max(0.0, deadline - time.monotonic())), AcquisitionHeader
        ):
            pass

    async def _next(self, request: str, timeout_s: float) -> AcquisitionHeader | Image | Damaged:
        if self._reader is None:
            raise not_connected(self.name, request)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.next()
        except TimeoutError:
            raise no_answer(self.name, request, self._data_endpoint, timeout_s) from None
        except OSError as error:
            self._drop_data()
            raise broken(self.name, request, self._data_endpoint, reason(error)) from None

    async def _set_size(self, shape: tuple[int, int]) -> None:
        has = await self._size_of_detector()
        if has == shape:
            return
        with contextlib.suppress(DeviceRefused):
            for name, pixels in zip(_IMAGE_SIZE.values(), shape, strict=True):
                await self._control.ask("SET", name, str(pixels))
            has = await self._size_of_detector()
        if has != shape:
            raise self._refused(
                f"acquire frames of {size_text(shape)} pixels",
                f"the detector has {size_text(has)} and does not change",
                "Set the recipe's beam.frame to what the detector has",
            )

    async def _size_of_detector(self) -> tuple[int, int]:
        pixels: list[int] = []
        for name in _IMAGE_SIZE.values():
            value = (await self._control.ask("GET", name)).value or ""
            if not value.isdecimal():
                raise self._refused(f"read {name}", f"it answered {value!r}")
            pixels.append(int(value))
        return pixels[0], pixels[1]

    async def _open_data(self, timeout_s: float) -> DataReader:
        self._data_socket = await open_tcp(
            self.name, "connect the frame socket", self._data_address, timeout_s
        )
        self._reader = DataReader(self._data_socket)
        self._header_due = False
        return self._reader

    async def _close_data(self) -> None:
        if self._data_socket is not None:
            end_tcp(self._data_socket)
        async with self._reading:  # whoever reads has seen the end by now
            self._drop_data()

    def _drop_data(self) -> None:
        sock, self._data_socket, self._reader = self._data_socket, None, None
        if sock is not None:
            sock.close()

    def _acquisition(self, request: str) -> Acquisition:
        if self._armed is None:
            if not self._control.is_open:
                raise not_connected(self.name, request)
            raise self._refused(request, "it is not armed", "Arm it first")
        return self._armed
