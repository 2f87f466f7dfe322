"""DECTRIS' control unit as an instrument: its state, what it is, and what it is set to."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ...protocols.wires import simplon
from ..base import GRACE_S, DeviceRefused, Identity
from ..common.armed_detector import size_text
from .rest import NoSuchParameter, RestLink

# Wall seconds. What the instrument takes for these is from memory: no manual gives a number.
INITIALIZE_S = 120.0
ARM_S = 30.0
STATE_POLL_S = 0.02
TIME_TOLERANCE = 0.01  # of an exposure; the instrument takes its dead time from it
SAME_TIME = 0.002  # of an exposure, by which a setting that is there already may differ
_RESTING = ("idle", "na", "error")


class SimplonOptions(BaseModel):
    """How frames come, and what the instrument is expected to be.

    Attributes
    ----------
    data_endpoint : str or None
        Of the stream; by default the control unit's host and the format's usual port.
    stream_format : str
        ``legacy`` (JSON) or ``cbor`` (newer control units).
    bit_depth : int
        Of a pixel as it travels; checked.
    compression : str
        ``bslz4`` goes into the file as it comes; others are undone here.
    trigger_mode : str
        ``ints``: `trigger` starts the exposures; ``exts``, ``exte``: a signal at the instrument
        does, ``exte`` for each frame.
    initialize : bool
        Whether an instrument that has just been switched on is initialized, which may take
        minutes, or refused.
    state : str
        ``optional`` for an end that does not tell its state, as a replay of recorded frames.
    channel : str or None
        Which threshold's frames to take where there are several.
    check_hash : bool
        Whether frames are compared with the hash that they carry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str | None = None
    stream_format: Literal["legacy", "cbor"] = "legacy"
    bit_depth: Literal[8, 16, 32] = 16
    compression: Literal["bslz4", "lz4", "none"] = "bslz4"
    trigger_mode: Literal["ints", "exts", "exte"] = "ints"
    initialize: bool = True
    state: Literal["required", "optional"] = "required"
    channel: str | None = None
    check_hash: bool = False


class ControlUnit:
    """What the driver asks of the instrument, apart from frames.

    Parameters
    ----------
    device : str
        For messages.
    endpoint : str
        Such as ``http://127.0.0.1:80``.
    options : SimplonOptions
        From the rig.
    """

    def __init__(self, device: str, endpoint: str, options: SimplonOptions) -> None:
        self._device, self._options = device, options
        self._rest = RestLink(device, endpoint)

    @property
    def is_open(self) -> bool:
        """Whether exchanges are possible."""
        return self._rest.is_open

    def open(self) -> None:
        """Allow exchanges; nothing is sent yet."""
        self._rest.open()

    async def close(self) -> None:
        """Close every connection; exchanges under way fail as lost."""
        await self._rest.close()

    async def get_ready(self, timeout_s: float) -> float:
        """See that it is the right instrument, initialized, and with its high voltage on.

        Returns
        -------
        float
            The moment (``time.monotonic``) at which `timeout_s` is over; initializing, which
            takes longer than an answer may, does not count.

        Raises
        ------
        DeviceRefused
            If it speaks another version, is not initialized and may not be, its high voltage is
            off, or its pixels have another bit depth than the rig says.
        """
        deadline = time.monotonic() + timeout_s
        version = await self._rest.version(left_s(deadline))
        if version != simplon.API_VERSION:
            raise self._refused(
                "use its API",
                f"it speaks version {version!r}",
                f"This driver needs {simplon.API_VERSION}",
            )
        if await self._state(left_s(deadline)) == "na":
            await self._initialize()
            deadline = time.monotonic() + timeout_s
        await self._refuse_without_voltage(left_s(deadline))
        await self.refuse_other_depth(left_s(deadline))
        return deadline

    async def identity(self, timeout_s: float) -> Identity:
        """What it says that it is; what it does not say is empty."""
        deadline = time.monotonic() + timeout_s
        return Identity(
            "DECTRIS",
            await self._text(simplon.DESCRIPTION, left_s(deadline)),
            await self._text(simplon.DETECTOR_NUMBER, left_s(deadline)),
            await self._text(simplon.SOFTWARE_VERSION, left_s(deadline)),
        )

    async def arm(self) -> int:
        """Arm; number of the series."""
        series = await self._rest.command(simplon.ARM, ARM_S)
        assert series is not None
        return series

    async def trigger(self, timeout_s: float, sent: Callable[[], None]) -> None:
        """Start the exposures of one trigger; `sent` is called when that has gone out."""
        await self._rest.command(simplon.TRIGGER, timeout_s, sent)

    async def end(self, *, complete: bool) -> None:
        """End a series, and wait until nothing goes on any more."""
        await self._rest.command(simplon.DISARM if complete else simplon.ABORT)
        await self._rests()

    async def _state(self, timeout_s: float = GRACE_S) -> str | None:
        """What it says, or None from an end that says nothing."""
        try:
            return str((await self._rest.status(simplon.STATE, timeout_s)).value)
        except NoSuchParameter as error:
            if self._options.state == "optional":
                return None
            raise NoSuchParameter(
                self._device,
                error.request,
                error.cause,
                "If the server has no state, set the rig's detector.options.state to 'optional'",
            ) from None

    async def _initialize(self) -> None:
        if not self._options.initialize:
            raise self._refused(
                "prepare the detector",
                "it is not initialized",
                "Initialize the detector, or set the rig's detector.options.initialize to true",
            )
        await self._rest.command(simplon.INITIALIZE, INITIALIZE_S)

    async def abort(self) -> None:
        """End whatever goes on; an instrument that rests is left alone."""
        if await self._state() not in _RESTING:
            await self._rest.command(simplon.ABORT)
            await self._rests()

    async def _rests(self) -> None:
        """Wait until nothing goes on any more."""
        deadline = time.monotonic() + GRACE_S
        while (state := await self._state()) not in (*_RESTING, None):
            if time.monotonic() > deadline:
                raise self._refused(
                    "end the acquisition",
                    f"its state is still {state!r}",
                    "See the log of the detector's control unit",
                )
            await asyncio.sleep(STATE_POLL_S)

    async def _refuse_without_voltage(self, timeout_s: float) -> None:
        try:
            found = (await self._rest.status(simplon.HIGH_VOLTAGE, timeout_s)).value
        except NoSuchParameter:
            return  # a sensor that has none
        if found != simplon.HIGH_VOLTAGE_READY:
            raise self._refused(
                "prepare the detector",
                f"its high voltage is {found!r}",
                "Wait until it is up, or switch it on at the detector",
            )

    async def refuse_other_depth(self, timeout_s: float) -> None:
        """DeviceRefused if pixels have another bit depth than the rig says."""
        found = (await self._rest.get(simplon.BIT_DEPTH_IMAGE, timeout_s)).value
        if found != self._options.bit_depth:
            raise self._refused(
                f"acquire pixels of {self._options.bit_depth} bits",
                f"it has {found!r}",
                "Set the rig's detector.options.bit_depth to what the detector has",
            )

    async def _text(self, name: str, timeout_s: float) -> str:
        try:
            return str((await self._rest.get(name, timeout_s)).value)
        except DeviceRefused:
            return ""

    async def configure(self, frames: int, exposure_s: float, frames_per_trigger: int) -> float:
        """Set what an acquisition needs; time in s from one frame to the next."""
        options = self._options
        try:
            await self._keep(simplon.STREAM_FORMAT, options.stream_format, "stream")
        except DeviceRefused:
            if options.stream_format != "legacy":
                raise  # a control unit of before the newer format, which needs not be told
        await self._keep(simplon.STREAM_MODE, "enabled", "stream")
        await self._keep(simplon.HEADER_DETAIL, "basic", "stream")
        each = options.trigger_mode == "exte"
        settings = {
            simplon.TRIGGER_MODE: options.trigger_mode,
            simplon.NIMAGES: 1 if each else frames_per_trigger,
            simplon.NTRIGGER: frames if each else frames // frames_per_trigger,
            simplon.COMPRESSION: options.compression,
        }
        for name, value in settings.items():
            await self._keep(name, value)
        # In this order the instrument takes its dead time from the exposure, and frames follow
        # each other as closely as they can (wire card C1).
        for name in (simplon.COUNT_TIME, simplon.FRAME_TIME):
            found = await self._seconds(name)
            if not exposure_s * (1 - SAME_TIME) <= found <= exposure_s:
                await self._rest.put(name, exposure_s)
        for name, value in settings.items():
            await self._refuse_unless(name, value)
        count_s, frame_s = [
            await self._seconds(name) for name in (simplon.COUNT_TIME, simplon.FRAME_TIME)
        ]
        if abs(count_s - exposure_s) > TIME_TOLERANCE * exposure_s or frame_s < count_s:
            raise self._refused(
                f"make exposures of {exposure_s:g} s",
                f"it set a count time of {count_s:g} s and a frame time of {frame_s:g} s",
                "Choose an exposure that the detector supports",
            )
        return frame_s

    async def _keep(self, name: str, value: Any, module: simplon.Module = "detector") -> None:
        """Set a parameter unless it is so already; what is not written cannot be refused."""
        if (await self._rest.get(name, module=module)).value != value:
            await self._rest.put(name, value, module=module)

    async def _refuse_unless(self, name: str, value: Any) -> None:
        found = (await self._rest.get(name)).value
        if found != value:
            raise self._refused(f"set {name} to {value}", f"it has {found!r}")

    async def _seconds(self, name: str) -> float:
        found = (await self._rest.get(name)).value
        if type(found) not in (int, float) or not math.isfinite(found):
            raise self._refused(f"read config {name}", f"it answered {found!r}")
        return float(found)

    async def set_size(self, shape: tuple[int, int]) -> None:
        """See that frames have a shape (rows, columns); DeviceRefused if they cannot."""
        has = await self.size(GRACE_S)
        if has == shape:
            return
        # A camera's size is fixed and says so; the simulator's is that of a scan.
        names = (simplon.Y_PIXELS, simplon.X_PIXELS)
        if all([(await self._rest.get(name)).writable for name in names]):
            with contextlib.suppress(DeviceRefused):
                for name, pixels in zip(names, shape, strict=True):
                    await self._rest.put(name, pixels)
                has = await self.size(GRACE_S)
        if has != shape:
            raise self._refused(
                f"acquire frames of {size_text(shape)} pixels",
                f"the detector has {size_text(has)} and does not change",
                "Set the recipe's beam.frame to what the detector has",
            )

    async def size(self, timeout_s: float) -> tuple[int, int]:
        """(rows, columns) of a frame."""
        pixels: list[int] = []
        for name in (simplon.Y_PIXELS, simplon.X_PIXELS):
            found = (await self._rest.get(name, timeout_s)).value
            if type(found) is not int or not 1 <= found <= 65_536:
                raise self._refused(f"read config {name}", f"it answered {found!r}")
            pixels.append(found)
        return pixels[0], pixels[1]

    def _refused(self, request: str, cause: str, remedy: str = "") -> DeviceRefused:
        return DeviceRefused(
            self._device, request, cause, remedy or "Check that no other client uses the detector"
        )


def left_s(deadline: float) -> float:
    """Wall seconds until a moment of ``time.monotonic``; 0 when it is past."""
    return max(0.0, deadline - time.monotonic())
