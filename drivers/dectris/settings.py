"""What a DECTRIS detector is set to for an acquisition, and what it must be."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ...protocols.wires import simplon
from ..base import GRACE_S, DeviceRefused
from ..common.armed_detector import refused, size_text
from .rest import RestLink

TIME_TOLERANCE = 0.01  # of an exposure; the instrument takes its dead time from it
SAME_TIME = 0.002  # of an exposure, by which a setting that is there already may differ


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
    pixel_mask : str
        ``applied``: pixels of the detector's mask come as the highest number, which the analysis
        leaves out; ``off``: they come with what they count; ``unchanged``: as the detector is set.
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
    pixel_mask: Literal["applied", "off", "unchanged"] = "applied"
    check_hash: bool = False


class DetectorSettings:
    """Parameters of the detector that an acquisition needs.

    Parameters
    ----------
    device : str
        For messages.
    rest : RestLink
        To the control unit.
    options : SimplonOptions
        From the rig.
    """

    def __init__(self, device: str, rest: RestLink, options: SimplonOptions) -> None:
        self._device, self._rest, self._options = device, rest, options

    async def refuse_other_depth(self, timeout_s: float) -> None:
        """DeviceRefused if pixels have another bit depth than the rig says."""
        found = (await self._rest.get(simplon.BIT_DEPTH_IMAGE, timeout_s)).value
        if found != self._options.bit_depth:
            raise refused(
                self._device,
                f"acquire pixels of {self._options.bit_depth} bits",
                f"it has {found!r}",
                "Set the rig's detector.options.bit_depth to what the detector has",
            )

    async def configure(self, frames: int, exposure_s: float, frames_per_trigger: int) -> float:
        """Set what an acquisition needs; time in s from one frame to the next."""
        options = self._options
        try:
            await self._keep(simplon.STREAM_FORMAT, options.stream_format, "stream")
        except DeviceRefused:
            if options.stream_format != "legacy":
                raise  # an older control unit has one format and does not know the parameter
        await self._keep(simplon.STREAM_MODE, "enabled", "stream")
        await self._keep(simplon.HEADER_DETAIL, "basic", "stream")
        if options.pixel_mask != "unchanged":
            # An end that replays recorded frames does not know the parameter.
            with contextlib.suppress(DeviceRefused):
                await self._keep(simplon.PIXEL_MASK_APPLIED, options.pixel_mask == "applied")
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
            raise refused(
                self._device,
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
            raise refused(self._device, f"set {name} to {value}", f"it has {found!r}")

    async def _seconds(self, name: str) -> float:
        found = (await self._rest.get(name)).value
        if type(found) not in (int, float) or not math.isfinite(found):
            raise refused(self._device, f"read config {name}", f"it answered {found!r}")
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
            raise refused(
                self._device,
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
                raise refused(self._device, f"read config {name}", f"it answered {found!r}")
            pixels.append(found)
        return pixels[0], pixels[1]


def left_s(deadline: float) -> float:
    """Wall seconds until a moment of ``time.monotonic``; 0 when it is past."""
    return max(0.0, deadline - time.monotonic())
