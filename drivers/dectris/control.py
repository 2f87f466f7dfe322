"""DECTRIS' control unit as an instrument: its state, what it is, and what it is set to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ...protocols.wires import simplon
from ..base import GRACE_S, DeviceRefused, Identity
from ..common.armed_detector import refused
from .rest import NoSuchParameter, RestLink
from .settings import DetectorSettings, SimplonOptions, left_s

# Wall seconds. How long the instrument needs for these is from memory: no manual gives a number.
INITIALIZE_S = 120.0
ARM_S = 30.0
STATE_POLL_S = 0.02
_RESTING = ("idle", "na", "error")


class ControlUnit:
    """State and commands of the instrument; `settings` holds its parameters.

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
        self.settings = DetectorSettings(device, self._rest, options)

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
        """Check that it is the right instrument, initialized, and with its high voltage on.

        Returns
        -------
        float
            The moment (``time.monotonic``) at which `timeout_s` is over; initializing, which
            may take minutes, does not count.

        Raises
        ------
        DeviceRefused
            If it speaks another version, is not initialized and may not be, its high voltage is
            off, or its pixels have another bit depth than the rig names.
        """
        deadline = time.monotonic() + timeout_s
        version = await self._rest.version(left_s(deadline))
        if version != simplon.API_VERSION:
            raise refused(
                self._device,
                "use its API",
                f"it speaks version {version!r}",
                f"This driver needs {simplon.API_VERSION}",
            )
        if await self._state(left_s(deadline)) == "na":
            await self._initialize()
            deadline = time.monotonic() + timeout_s
        await self._refuse_without_voltage(left_s(deadline))
        await self.settings.refuse_other_depth(left_s(deadline))
        return deadline

    async def identity(self, timeout_s: float) -> Identity:
        """What the instrument is; unknown fields are empty."""
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
        """State of the detector, or None from a server that has none."""
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
            raise refused(
                self._device,
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
                raise refused(
                    self._device,
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
            raise refused(
                self._device,
                "prepare the detector",
                f"its high voltage is {found!r}",
                "Wait until it is up, or switch it on at the detector",
            )

    async def _text(self, name: str, timeout_s: float) -> str:
        try:
            return str((await self._rest.get(name, timeout_s)).value)
        except DeviceRefused:
            return ""
