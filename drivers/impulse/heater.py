"""Heater: a DENSsolutions chip behind the Impulse software (ZeroMQ and JSON)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import ClassVar

import zmq.asyncio
from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.rig import HeaterRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.wires import impulse
from ...protocols.wires.impulse import Request, UnitConversion
from ..base import (
    GRACE_S,
    DeviceError,
    DeviceLost,
    DeviceRefused,
    Endpoints,
    HeaterSample,
    Identity,
)
from ..common.sampled_heater import SampledHeater
from ..links.errors import not_connected
from ..links.tcp import address_of, check_listens, left_s
from .control import ImpulseControl
from .data import ImpulseData

_log = logging.getLogger(__name__)

SETPOINT_TOLERANCE_C = 0.5
DATA_PORT = 5556


class ImpulseOptions(BaseModel):
    """Where the samples come from, and for how long they may stay away (experiment seconds).

    By default they come from port 5556 of the computer that takes the commands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    data_endpoint: str | None = None
    stale_s: float = Field(default=2.0, gt=0)


class ImpulseHeater(SampledHeater):
    """Commands over REQ, samples and events over SUB.

    A restart of Impulse shows in the numbers of its samples, which begin anew, and is a loss: the
    heater stays where it was at the restart, and its units may be others. Commands are refused
    until `connect` has gone through the handshake again.

    Attributes
    ----------
    control : ImpulseControl
        Commands, units, and what Impulse has shown its operator.
    data : ImpulseData
        Samples and events; counts lost samples.
    """

    summary: ClassVar[str] = "DENSsolutions heating holder through the Impulse software"
    Options: ClassVar[type[BaseModel]] = ImpulseOptions
    endpoints: ClassVar[Endpoints] = {
        "endpoint": ("tcp://HOST:5557",),
        "data_endpoint": ("tcp://HOST:5556",),
    }
    channels: ClassVar[Mapping[str, str]] = {
        "temperature_c": "degC",
        "setpoint_c": "degC",
        "power_w": "W",
        "current_a": "A",
        "voltage_v": "V",
        "resistance_ohm": "ohm",
    }

    def __init__(self, name: str, rig: HeaterRig, clock: ExperimentClock) -> None:
        self.options = ImpulseOptions.model_validate(rig.options)
        super().__init__(name, rig, clock, self.options.stale_s)
        host, port = address_of(rig.endpoint, "tcp", "heater.endpoint")
        usual = rig.endpoint.removesuffix(f":{port}") + f":{DATA_PORT}"
        self._data_endpoint = (
            usual if self.options.data_endpoint is None else self.options.data_endpoint
        )
        data_address = address_of(self._data_endpoint, "tcp", "heater.options.data_endpoint")
        self._addresses = ((host, port), data_address)
        self._context: zmq.asyncio.Context | None = None
        self.control = ImpulseControl(name, rig.endpoint)
        self.data = ImpulseData(
            name,
            self._data_endpoint,
            clock,
            self.control,
            self._publish,
            self._on_restart,
        )
        self._restarted = ""

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Wait for control, read the units, and see the first sample arrive.

        Raises
        ------
        DeviceRefused
            If Impulse keeps control to itself, has no heating channel, or advertises units
            that are not known.
        """
        deadline = time.monotonic() + timeout_s
        await self._take_control(deadline)
        try:
            await self._subscribe(deadline)
        except BaseException:
            await self.disconnect()
            raise
        return Identity("DENSsolutions", "Impulse")

    async def disconnect(self) -> None:
        """Close both sockets; iterators of samples end. The heater goes on as it is."""
        await self.data.close()
        self._end_samples()
        self.control.close()
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)
        self._restarted = ""

    async def make_safe(self) -> None:
        """Go to the rig's safe temperature at the rig's rate; returns when the samples say so.

        A command that failed is repeated once, over a new socket, and after a new handshake where
        Impulse was restarted.
        """
        if not self.control.is_open or self._restarted:
            # Samples are only needed to confirm: the command goes out even if none come.
            await self._take_control(time.monotonic() + GRACE_S)
        try:
            await self._ramp_to_safe()
        except DeviceError:
            if self._restarted:
                await self._take_control(time.monotonic() + GRACE_S)
            await self._ramp_to_safe()
        try:
            await self._see_safe()
        except DeviceLost:
            if not self._restarted:
                raise
            await self._take_control(time.monotonic() + GRACE_S)
            await self._ramp_to_safe()
            await self._see_safe()

    async def set_temperature(self, temperature_c: float) -> int:
        """Go there at once, or at the rig's rate where it names one."""
        request = f"go to {temperature_c:g} degC"
        self._refuse_beyond_limits(temperature_c, request)
        return await self._ramp(temperature_c, self._shortest_time_s(temperature_c), request)

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        """Go there linearly in a given time.

        Raises
        ------
        OutOfRange
            If that is hotter or faster than the rig allows; nothing is sent.
        """
        request = f"ramp to {temperature_c:g} degC in {duration_s:g} s"
        self._refuse_beyond_limits(temperature_c, request)
        self._refuse_too_fast(temperature_c, duration_s, request)
        return await self._ramp(temperature_c, duration_s, request)

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        request = "hold the temperature"
        if self._restarted:
            raise _restart_error(self.name, request, self._restarted)
        await self.control.command(Request(impulse.STOP_RAMP), request, self.clock)

    def _check_usable(self, request: str) -> None:
        if self._restarted:
            raise _restart_error(self.name, request, self._restarted)
        if not self.data.is_open:
            raise not_connected(self.name, request)

    def _sample_source(self) -> tuple[str, str, str]:
        remedy = "Check that Impulse is running and that an experiment is started in it"
        return self._data_endpoint, self.control.shown_text, remedy

    # Commands

    async def _ramp(self, temperature_c: float, duration_s: float, request: str) -> int:
        if self._restarted:
            raise _restart_error(self.name, request, self._restarted)
        setpoint = self.control.units.get("temperatureSetpoint", UnitConversion())
        command = impulse.start_ramp(setpoint.outward(temperature_c), duration_s)
        return await self.control.command(command, request, self.clock)

    async def _ramp_to_safe(self) -> None:
        safe_c = self.rig.limits.safe_c
        duration_s = self._shortest_time_s(safe_c)
        self.safe_sent_ns = await self._ramp(safe_c, duration_s, _safe_request(safe_c))

    async def _see_safe(self) -> None:
        """Wait until a sample has the safe setpoint."""
        safe_c = self.rig.limits.safe_c
        request = _safe_request(safe_c)
        if not self.data.is_open:
            await self._subscribe(time.monotonic() + GRACE_S)
        deadline = time.monotonic() + self.clock.wall_s(self._shortest_time_s(safe_c)) + GRACE_S
        with self._fanout.reader() as inbox:
            latest: HeaterSample | None = None
            while (remaining_s := deadline - time.monotonic()) > 0:
                latest = await self._next(inbox, request, remaining_s)
                if latest is None:
                    raise not_connected(self.name, request)
                if abs(latest.setpoint_c - safe_c) <= SETPOINT_TOLERANCE_C:
                    return
        seen = "no sample" if latest is None else f"a setpoint of {latest.setpoint_c:.1f} degC"
        raise DeviceRefused(
            self.name,
            request,
            f"it accepted the command and still sends {seen}{self.control.shown_text}",
            "Turn the heater off at its controller",
        )

    # Connecting

    async def _take_control(self, deadline: float) -> None:
        """Connect the control socket, wait for control and read the units."""
        await self.disconnect()
        await check_listens(self.name, "connect", self._addresses[0], left_s(deadline))
        self._context = zmq.asyncio.Context()
        # From the first connection on: set at the end, it can hang libzmq (its issue 3252).
        self._context.setsockopt(zmq.LINGER, 0)
        self.control.open(self._context)
        try:
            await self.control.wait_for_control(deadline)
            await self.control.read_units(deadline)
        except BaseException:
            await self.disconnect()
            raise

    async def _subscribe(self, deadline: float) -> None:
        if self._context is None:
            raise not_connected(self.name, "read samples")
        await check_listens(self.name, "connect", self._addresses[1], left_s(deadline))
        self.data.open(self._context)
        with self._fanout.reader() as inbox:
            await self._next(inbox, "read a first sample", left_s(deadline))

    def _on_restart(self, found: str) -> None:
        self._restarted = f"Impulse at {self.rig.endpoint} was restarted: {found}"
        _log.warning("%s: %s", self.name, self._restarted)
        self._end_samples(_restart_error(self.name, "read samples", self._restarted))


def _restart_error(device: str, request: str, found: str) -> DeviceLost:
    return DeviceLost(device, request, found, "Connect again, and check the heater")


def _safe_request(safe_c: float) -> str:
    return f"go to the safe temperature of {safe_c:g} degC"
