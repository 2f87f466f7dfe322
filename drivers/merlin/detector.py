"""Detector: a Quantum Detectors Merlin (Medipix3) over its two TCP sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ...protocols.config.rig import DetectorRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.manifest import FrameDtype
from ...protocols.wires import merlin
from ...protocols.wires.merlin import FrameHeader
from ..base import (
    GRACE_S,
    DetectorFrame,
    DeviceError,
    DeviceLost,
    DeviceRefused,
    Endpoints,
    Identity,
)
from ..common.armed_detector import ArmedDetector
from ..links.errors import no_answer
from ..links.tcp import address_of
from .control import ControlLink
from .data import Damaged, MerlinImage
from .data_link import DataLink
from .extra_frames import MerlinAcquisition

DRAIN_QUIET_S = 0.05  # wall seconds of silence after which nothing more is on its way
_NOT_RAW = (
    "Switch raw mode off in the Merlin software, so that it sends counts (U08, U16 or U32), and "
    "start again"
)
# Wall seconds after an exposure within which the frame that was triggered follows an extra one.
FOLLOWS_S = 1.0
_DTYPES: dict[int, FrameDtype] = {1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}


class MerlinOptions(BaseModel):
    """Data socket (by default the control port plus one), counter depth in bits, chips.

    `chips` is how many the sensor has; images that say otherwise are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str | None = None
    depth: Literal[1, 6, 12, 24] = 12
    chips: Literal[1, 4] | None = None


class MerlinDetector(ArmedDetector[MerlinAcquisition]):
    """Armed for a number of frames; each soft trigger starts one or several."""

    summary: ClassVar[str] = "Quantum Detectors Merlin (Medipix3)"
    marks_by_highest: ClassVar[bool] = True
    Options: ClassVar[type[BaseModel]] = MerlinOptions
    endpoints: ClassVar[Endpoints] = {
        "endpoint": ("tcp://HOST:6341",),
        "data_endpoint": ("tcp://HOST:6342",),
    }

    def __init__(self, name: str, rig: DetectorRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.options = MerlinOptions.model_validate(rig.options)
        host, port = address_of(rig.endpoint, "tcp", "detector.endpoint")
        self._control = ControlLink(name, (host, port))
        data_address = (
            (host, port + 1)
            if self.options.data_endpoint is None
            else address_of(self.options.data_endpoint, "tcp", "detector.options.data_endpoint")
        )
        self._data = DataLink(name, data_address)
        # Images that may be extra ones, while the next is waited for; and those that are not.
        self._early: list[MerlinImage] = []
        self._accepted: deque[MerlinImage] = deque()

    @property
    def _is_connected(self) -> bool:
        return self._control.is_open

    @property
    def dtype(self) -> FrameDtype:
        """Pixel type that the counter depth gives."""
        return _DTYPES[self.options.depth]

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Connect both sockets and read the software's version."""
        await self.disconnect()
        try:
            async with asyncio.timeout(timeout_s):
                await self._control.open(timeout_s)
                reply = await self._control.ask("GET", merlin.SOFTWAREVERSION, None, timeout_s)
                await self._data.open(timeout_s)
        except TimeoutError:
            await self.disconnect()
            raise no_answer(self.name, "connect", self.rig.endpoint, timeout_s) from None
        except BaseException:
            await self.disconnect()
            raise
        return Identity("Quantum Detectors", "Merlin", firmware=reply.value or "")

    async def disconnect(self) -> None:
        """Close both sockets; tasks that wait on them see the device lost."""
        await self._control.close()
        await self._data.close()
        self._armed = None

    async def make_safe(self) -> None:
        """Stop any acquisition, connecting first if need be."""
        if self._control.is_open:
            try:
                await self._control.stop()
            except DeviceError:
                pass  # the same error comes again below, if it stays
            else:
                return await self._end_acquisition()
        await self.connect()
        return await self._control.stop()

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
        await self._control.stop()  # a client that died may have left the detector armed
        await self._data.expect(shape)
        await self._control.set_size(shape)
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
        # One image for each exposure; what does not know the setting has one counter.
        with contextlib.suppress(DeviceRefused):
            await self._control.ask("SET", merlin.ENABLECOUNTER1, "0")
        async with self._data.reading:
            self._data.header_due = True
            await self._control.ask("CMD", merlin.STARTACQUISITION)
            await self._data.header(GRACE_S)
            self._data.header_due = False
        self._early.clear()
        self._accepted.clear()
        self._armed = MerlinAcquisition(frames, frames_per_trigger, exposure_s, shape)

    async def trigger(self) -> int:
        """Start the exposures of one trigger; returns when the command went out."""
        armed = self._acquisition("expose a frame")
        sent_ns = self.clock.now_ns()
        armed.due += armed.frames_per_trigger
        armed.triggered_ns = sent_ns
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
        async with self._data.reading:
            image = await self._triggered_image(armed, request, wall_s)
        received_ns = self.clock.now_ns()
        number = armed.number(image.header)
        self._check(armed, image.header, number)
        dropped = armed.keep(image.header)
        return DetectorFrame(number, image.data, received_ns, dropped)

    async def _triggered_image(
        self, armed: MerlinAcquisition, request: str, timeout_s: float
    ) -> MerlinImage:
        """The next image that a trigger has started; others before it are dropped."""
        while True:
            while self._accepted:
                image = self._accepted.popleft()
                if not armed.is_second_counter(image.header):
                    return image
                armed.drop(image.header)
            exposed_s = self.clock.wall_s(armed.exposure_s * armed.frames_per_trigger)
            wait_s = exposed_s + FOLLOWS_S if self._early else timeout_s
            try:
                image = await self._image(armed, request, wait_s)
            except DeviceLost:
                if not self._early:
                    raise
                # They are those of this trigger, and the clock of the detector stands still.
                armed.clock_runs = False
                self._accepted.extend(self._early)
                self._early.clear()
                continue
            if armed.began_too_early(image.header):
                self._early.append(image)
                continue
            for extra in self._early:
                armed.drop(extra.header)
            self._early.clear()
            self._accepted.append(image)

    async def _image(self, armed: MerlinAcquisition, request: str, timeout_s: float) -> MerlinImage:
        """The next image that came whole; of either counter."""
        found = await self._data.next(request, timeout_s)
        while isinstance(found, Damaged):
            if found.raw:
                raise self._refused(request, f"it sent {found.why}", _NOT_RAW)
            self._count_damaged(armed, request, found.why)
            found = await self._data.next(request, timeout_s)
        if not isinstance(found, MerlinImage):
            raise self._refused(request, "it started another acquisition")
        return found

    def _check(self, armed: MerlinAcquisition, header: FrameHeader, number: int) -> None:
        pixel_type = merlin.PIXEL_TYPES[self.options.depth]
        if self.options.chips not in (None, header.chips):
            raise self._refused(
                f"read a frame of {self.options.chips} chips",
                f"it sent one of {header.chips}",
                "Set the rig's detector.options.chips to what the sensor has",
            )
        self._check_frame(armed, number, header.shape, header.pixel_type, pixel_type)

    async def disarm(self) -> None:
        """End the acquisition; frames on their way are discarded. Harmless when not armed."""
        armed = self._armed
        if armed is None:
            return
        try:
            await self._control.stop()
        finally:
            if armed.last_number < armed.frames:
                await self._end_acquisition()
            self._armed = None

    async def _end_acquisition(self) -> None:
        """Discard what is still on its way."""
        self._armed = None
        await self._data.drain(DRAIN_QUIET_S, GRACE_S)
