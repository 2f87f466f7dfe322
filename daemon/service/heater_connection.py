"""Follow the heater as long as the daemon lives, and reconnect it when it is lost."""

from __future__ import annotations

import asyncio
import contextlib

from ...drivers.base import DeviceError
from ..acquisition.heater_watch import HeaterWatch
from ..runtime.event_bus import EventBus
from ..safety.devices import Devices
from ..safety.topics import HeaterLost, HeaterReconnected

_RECONNECT_S = 2.0


class HeaterConnection:
    """Publishes every heater sample on the event bus, and what becomes of the connection.

    Parameters
    ----------
    devices : Devices
        Connected.
    watch : HeaterWatch
        Follows the heater's readings.
    bus : EventBus
        Gets `HeaterSample`, `HeaterLost` and `HeaterReconnected`.
    """

    def __init__(self, devices: Devices, watch: HeaterWatch, bus: EventBus) -> None:
        self._devices, self._watch, self._bus = devices, watch, bus

    async def follow(self) -> None:
        """Publish the heater's readings, until cancelled."""
        while True:
            try:
                await self._watch.follow(self._bus.publish)
            except DeviceError as error:
                self._bus.publish(HeaterLost(error))
            await asyncio.sleep(_RECONNECT_S)
            if self._devices.may_reconnect:
                await self._reconnect_unless_safing()

    async def _reconnect_unless_safing(self) -> None:
        """Reconnect in a task of its own, which safing cancels to connect the heater itself."""
        task = asyncio.create_task(self._reconnect(), name="reconnect heater")
        self._devices.reconnecting = task
        try:
            await asyncio.wait([task])
        finally:
            self._devices.reconnecting = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _reconnect(self) -> None:
        with contextlib.suppress(DeviceError):
            await self._devices.heater.disconnect()
            await self._devices.heater.connect()
            self._watch.reconnected()
            self._bus.publish(HeaterReconnected())
            self._bus.event("info", "heater", "connected again")
