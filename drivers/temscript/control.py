"""A temscript server as an instrument: its version, its name, and values that are checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from ...protocols.core.errors import BadMessage
from ...protocols.wires import temscript
from ..base import DeviceLost, DeviceRefused, Identity
from ..links.tcp import address_of
from .http import TemscriptHttp

T = TypeVar("T")


class TemscriptServer:
    """What stage and beam share: the link, its identity, and values that are checked.

    Parameters
    ----------
    device, endpoint : str
        For messages, and such as ``http://127.0.0.1:8080``.
    where : str
        Path of the endpoint in the rig, for messages.
    """

    def __init__(self, device: str, endpoint: str, where: str) -> None:
        address_of(endpoint, "http", where)
        self.device = device
        self.link = TemscriptHttp(device, endpoint)

    async def connect(self, timeout_s: float) -> Identity:
        """Open the link and identify the microscope; DeviceLost after `timeout_s` wall seconds."""
        await self.link.close()
        self.link.open()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._identify(timeout_s)
        except TimeoutError:
            await self.link.close()
            raise DeviceLost(
                self.device,
                "read the version",
                f"{self.link.endpoint} was not done within {timeout_s:.3g} s",
                "Restart the microscope's server",
            ) from None
        except BaseException:
            await self.link.close()
            raise

    async def _identify(self, timeout_s: float) -> Identity:
        text = await self.link.get(temscript.VERSION, timeout_s)
        version = self.checked(temscript.VERSION, text, lambda v, _: temscript.parse_version(v))
        if version < temscript.MIN_VERSION:
            raise DeviceRefused(
                self.device,
                "read the version",
                f"temscript {text} at {self.link.endpoint}",
                "Install temscript 2.0 or later on the microscope",
            )
        family = await self.link.get(temscript.FAMILY, timeout_s)
        serial = await self.link.get(temscript.MICROSCOPE_ID, timeout_s)
        return Identity("Thermo Fisher", str(family), str(serial), f"temscript {text}")

    def checked(self, name: str, value: object, parse: Callable[[Any, str], T]) -> T:
        """Return a value, or DeviceRefused where the endpoint carries something else."""
        try:
            return parse(value, name)
        except BadMessage as error:
            raise DeviceRefused(
                self.device,
                f"read {name}",
                f"{self.link.endpoint} sent an invalid value: {error}",
                "Check that the rig's endpoint names a temscript server and that the "
                "microscope has this part",
            ) from None

    async def number(self, name: str) -> float:
        """Value of an endpoint that is a number; raises as :meth:`checked`."""
        return self.checked(name, await self.link.get(name), temscript.parse_number)
