"""Impulse's control socket: the handshake, the units it advertises, and commands answered by ok."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import zmq.asyncio

from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import impulse
from ...protocols.wires.impulse import Reply, Request, UnitConversion
from ..base import GRACE_S, DeviceRefused
from ..links.errors import not_connected
from ..links.tcp import left_s
from ..links.zmq_request import RequestLink

STATUS_POLL_S = 0.2  # wall seconds
MAX_SHOWN = 5


class ImpulseControl:
    """Commands over REQ.

    Parameters
    ----------
    device, endpoint : str
        For messages, and where Impulse listens.

    Attributes
    ----------
    units : dict
        Property of a sample to the conversion from its advertised unit.
    shown : deque of str
        What Impulse has shown its operator in popups and notifications, the latest last.
    """

    def __init__(self, device: str, endpoint: str) -> None:
        self._device, self._endpoint = device, endpoint
        self._link: RequestLink | None = None
        self.units: dict[str, UnitConversion] = {}
        self.shown: deque[str] = deque(maxlen=MAX_SHOWN)

    @property
    def shown_text(self) -> str:
        """What Impulse showed last, to be added to a cause; empty if it showed nothing."""
        return f"; it shows '{self.shown[-1]}'" if self.shown else ""

    @property
    def is_open(self) -> bool:
        """Whether commands are possible."""
        return self._link is not None

    def open(self, context: zmq.asyncio.Context) -> None:
        """Allow commands; nothing is sent yet."""
        self._link = RequestLink(self._device, self._endpoint, context)

    def close(self) -> None:
        """Close the socket; a command under way fails as lost."""
        self.shown.clear()
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def ask(
        self, command: Request, request: str, timeout_s: float = GRACE_S, sent: Any = None
    ) -> Reply:
        """Answer to a request.

        Raises
        ------
        DeviceRefused
            If it is not ``ok``, or is not an answer of Impulse.
        DeviceLost
            If none comes by the deadline.
        """
        if self._link is None:
            raise not_connected(self._device, request)
        raw = await self._link.exchange(impulse.encode_request(command), request, timeout_s, sent)
        try:
            reply = impulse.parse_reply(raw)
        except BadMessage as error:
            raise self._not_impulse(request, error) from None
        if not reply.ok:
            raise DeviceRefused(
                self._device,
                request,
                f"Impulse at {self._endpoint} answered {reply.describe()}{self.shown_text}",
                "See the Impulse window",
            )
        return reply

    async def command(self, command: Request, request: str, clock: ExperimentClock) -> int:
        """Send a command that must be answered by ok; raises as :meth:`ask`.

        Returns
        -------
        int
            Moment at which it went out, on the clock.
        """
        sent_ns = clock.now_ns()

        def went_out() -> None:
            nonlocal sent_ns
            sent_ns = clock.now_ns()

        await self.ask(command, request, GRACE_S, went_out)
        return sent_ns

    async def wait_for_control(self, deadline: float) -> None:
        """Wait until Impulse gives control to this client; DeviceRefused if it does not."""
        request = "read the status"
        while True:
            reply = await self.ask(Request(impulse.GET_STATUS), request, left_s(deadline))
            status = reply.data.get("status")
            if status == impulse.STATUS_CONTROL:
                return
            if time.monotonic() + STATUS_POLL_S > deadline:
                raise DeviceRefused(
                    self._device,
                    "take control",
                    f"Impulse is in the state {status!r}",
                    "Give control to the API in the Impulse window",
                )
            await asyncio.sleep(STATUS_POLL_S)

    async def read_units(self, deadline: float) -> None:
        """Read the unit of each property of a sample.

        Raises
        ------
        DeviceRefused
            If there is no heating channel, or a unit is not known.
        """
        request = "read the data channels"
        reply = await self.ask(Request(impulse.GET_CHANNELS), request, left_s(deadline))
        channels = reply.data.get("activeChannels")
        if not isinstance(channels, list) or "heat" not in channels:
            raise DeviceRefused(
                self._device,
                request,
                f"Impulse has {channels!r} and no 'heat'",
                "Check that a heating holder is connected and its chip is loaded",
            )
        request = "read the properties of samples"
        command = Request(impulse.GET_PROPERTIES, {"channelName": "heat"})
        reply = await self.ask(command, request, left_s(deadline))
        names: Any = reply.data.get("properties")
        present = [name for name in impulse.QUANTITIES if isinstance(names, list) and name in names]
        missing = [name for name in impulse.REQUIRED if name not in present]
        # Attested in every sample, not in every list of properties.
        if [name for name in missing if name != "experimentDuration"]:
            raise self._not_impulse(request, f"no {', '.join(missing)} among {names!r}")
        units: dict[str, UnitConversion] = {}
        for name in present:
            request = f"read the unit of {name}"
            command = impulse.property_information(name)
            reply = await self.ask(command, request, left_s(deadline))
            try:
                unit = impulse.PropertyInformation.parse(reply.data).unit
                units[name] = impulse.unit_conversion(name, unit)
            except BadMessage as error:
                raise self._not_impulse(request, error) from None
        self.units = units

    def _not_impulse(self, request: str, why: object) -> DeviceRefused:
        return DeviceRefused(
            self._device,
            request,
            f"{self._endpoint} sent an answer that is not Impulse's: {why}",
            "Check that the rig's endpoint names Impulse's control port (5557)",
        )
