"""Detector: a Quantum Detectors Merlin (Medipix3) over its two TCP sockets."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from ...protocols.config.rig import DetectorRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.manifest import FrameDtype
from ...protocols.wires import merlin
from ...protocols.wires.merlin import FrameHeader
from ..base import GRACE_S, DetectorFrame, DeviceError, DeviceRefused, Endpoints, Identity
from ..common.armed_detector import Acquisition, ArmedDetector
from ..links.errors import no_answer
from ..links.tcp import address_of
from .control import ControlLink
from .data import Damaged, MerlinImage
from .data_link import DataLink

DRAIN_QUIET_S = 0.05  # wall seconds of silence after which nothing more is on its way
_DTYPES: dict[int, FrameDtype] = {1: "uint8", 6: "uint8", 12: "uint16", 24: "uint32"}


class MerlinOptions(BaseModel):
    """Data socket (by default the control port plus one), counter depth in bits, chips.

    `chips` is how many the sensor has; images that say otherwise are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str | None = None
    depth: Literal[1, 6, 12, 24] = 12
    chips: Literal[1, 4] | None = None


class MerlinDetector(ArmedDetector[Acquisition]):
    """Armed for a number of frames; each soft trigger starts one or several."""

    summary: ClassVar[str] = "Quantum Detectors Merlin (Medipix3)"
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
        async with self._data.reading:
            self._data.header_due = True
            await self._control.ask("CMD", merlin.STARTACQUISITION)
            await self._data.header(GRACE_S)
            self._data.header_due = False
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
        async with self._data.reading:
            found = await self._data.next(request, wall_s)
            while isinstance(found, Damaged):
                self._count_damaged(armed, request, found.why)
                found = await self._data.next(request, wall_s)
        received_ns = self.clock.now_ns()
        if not isinstance(found, MerlinImage):
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
            await self._control.stop()
        finally:
            if armed.last_number < armed.frames:
                await self._end_acquisition()
            self._armed = None

    async def _end_acquisition(self) -> None:
        """Discard what is still on its way."""
        self._armed = None
        await self._data.drain(DRAIN_QUIET_S, GRACE_S)
