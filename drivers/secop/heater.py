"""Heater: any sample environment that speaks SECoP and can be driven to a temperature."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.rig import HeaterRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.wires import secop
from ...protocols.wires.secop import BadMessage, Description, Message, Reading
from ..base import (
    GRACE_S,
    DeviceError,
    DeviceLost,
    DeviceRefused,
    Heater,
    HeaterSample,
    Identity,
    OutOfRange,
)
from ..common.heater_ramp import RATE_TOLERANCE, refuse_too_fast, shortest_time_s
from ..common.instrument_time import InstrumentTime
from ..common.sample_fanout import Fanout
from ..links.errors import not_connected
from ..links.tcp import address_of, left_s
from .connection import SecopLink
from .module import HeatingModule, choose

_log = logging.getLogger(__name__)

TARGET_TOLERANCE_C = 0.5
STALE_GRACE_S = 1.0  # wall seconds
MIN_POLL_S = 0.02  # wall seconds
CONFIRM_POLL_S = 0.1  # wall seconds
# A reading older than the one before by less than this was overtaken on its way; by more, the
# node's clock was set back.
OVERTAKEN_S = 1.0


class SecopOptions(BaseModel):
    """Which module of the node, and how it is read.

    Attributes
    ----------
    module : str or None
        Needed where several modules can be driven to a temperature.
    poll_s : float
        Experiment seconds without an update after which the temperature is requested.
    stale_s : float
        Experiment seconds for which readings may stay away.
    no_ramp : float or None
        Value of the parameter ``ramp`` that turns ramping off, if the node has one such.
    step_every_s : float or None
        For a module without ``ramp``: ramp by changing its target so often. Without it such a
        module refuses ramps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    module: str | None = None
    poll_s: float = Field(default=0.2, gt=0)
    stale_s: float = Field(default=5.0, gt=0)
    no_ramp: float | None = None
    step_every_s: float | None = Field(default=None, gt=0)


class SecopHeater(Heater):
    """Commands and updates over one connection; units, ranges and ramp as the node describes."""

    summary: ClassVar[str] = "sample environment that speaks SECoP (frappy and others)"
    Options: ClassVar[type[BaseModel]] = SecopOptions
    channels: ClassVar[Mapping[str, str]] = {"temperature_c": "degC", "setpoint_c": "degC"}

    def __init__(self, name: str, rig: HeaterRig, clock: ExperimentClock) -> None:
        super().__init__(name, rig, clock)
        self.options = SecopOptions.model_validate(rig.options)
        address = address_of(rig.endpoint, "tcp", "heater.endpoint")
        self._link = SecopLink(name, address, self._told)
        self._fanout = Fanout()
        self._module: HeatingModule | None = None
        self._ramp_found: float | None = None
        self._latest: HeaterSample | None = None
        self._time = InstrumentTime()
        self._last_t_s = -math.inf
        self._trouble = ""
        self._readings = 0
        self._poller: asyncio.Task[None] | None = None
        self._steps: asyncio.Task[None] | None = None

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Find the module, learn its units and ranges, and see a first reading.

        Raises
        ------
        DeviceRefused
            If there is no such module, it reports an error, or cannot do what the rig needs.
        """
        deadline = time.monotonic() + timeout_s
        description = await self._take_over(deadline)
        try:
            module = self._connected("get a first reading")
            self._refuse_what_the_rig_cannot_have(module)
            await self._read("value", "get a first reading", left_s(deadline))
            self._refuse_a_fault(module)
            if self._latest is None:
                raise self._wrong("get a first reading", "it answered without a reading")
        except BaseException:
            await self.disconnect()
            raise
        self._poller = asyncio.create_task(self._poll(), name=f"{self.name} polling")
        model = f"{description.equipment_id}:{module.name}"
        return Identity("SECoP", model, "", description.firmware)

    async def disconnect(self) -> None:
        """Close the connection; iterators of samples end. The heater goes on as it is."""
        await self._end_steps()
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.wait([poller])
            if not poller.cancelled() and (error := poller.exception()) is not None:
                _log.error("%s: polling had ended", self.name, exc_info=error)
        self._module = None
        await self._link.close()
        self._fanout.end()
        self._latest = None

    async def make_safe(self) -> None:
        """Go to the rig's safe temperature at the rig's rate; returns when the setpoint is there.

        Where the connection fails it is tried once more over a new one.
        """
        if self._module is None or not self._link.is_open:
            await self._take_over(time.monotonic() + GRACE_S)
            await self._go_safe()
            return
        try:
            await self._go_safe()
        except DeviceLost:
            await self._take_over(time.monotonic() + GRACE_S)
            await self._go_safe()

    async def set_temperature(self, temperature_c: float) -> int:
        """Go there as fast as the module can, or at the rig's rate where it names one."""
        request = f"go to {temperature_c:g} degC"
        module = self._within_limits(temperature_c, request)
        await self._end_steps()
        return await self._go(module, temperature_c, request)

    async def start_ramp(self, temperature_c: float, duration_s: float) -> int:
        """Go there linearly in a given time.

        Raises
        ------
        OutOfRange
            If that is hotter or faster than the rig or the module allows; nothing is sent.
        DeviceRefused
            If the module has no ramp, and the rig does not say to step its target.
        """
        request = f"ramp to {temperature_c:g} degC in {duration_s:g} s"
        module = self._within_limits(temperature_c, request)
        distance_c = abs(temperature_c - self._setpoint_c(module))
        shortest_s = shortest_time_s(self.rig.limits, distance_c)
        refuse_too_fast(self.name, request, duration_s, shortest_s)
        if distance_c == 0 or duration_s == 0:
            await self._end_steps()
            return await self._go(module, temperature_c, request)
        if module.changeable("ramp") is None:
            return await self._start_steps(module, temperature_c, duration_s, request)
        ramp = self._ramp_for(module, distance_c / duration_s, request)
        await self._end_steps()
        await self._ramp_at(module, ramp, request)
        return await self._change_target(module, temperature_c, request)

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        request = "hold the temperature"
        module = self._connected(request)
        await self._end_steps()
        if module.has("stop"):
            await self._link.request("do", module.specifier("stop"), None, request)
        else:
            await self._change_target(module, self._setpoint_c(module), request)

    async def samples(self) -> AsyncIterator[HeaterSample]:
        """Readings as the node sends them, requested where it sends none, until disconnected.

        They are stamped with the node's own time mapped on the experiment clock.

        Raises
        ------
        DeviceRefused
            If the module reports an error.
        """
        request = "read samples"
        module = self._connected(request)
        if not self._link.is_open:
            raise not_connected(self.name, request)
        self._refuse_a_fault(module)
        wait_s = self.clock.wall_s(self.options.stale_s) + STALE_GRACE_S
        with self._fanout.reader() as inbox:
            while True:
                try:
                    sample = await inbox.next(wait_s)
                except TimeoutError:
                    raise DeviceLost(
                        self.name,
                        request,
                        f"no sample came from {self._link.endpoint} within {wait_s:.3g} s"
                        + (f" ({self._trouble})" if self._trouble else ""),
                        "Check the SECoP node; raise options.stale_s if its hardware is slow",
                    ) from None
                if sample is None:
                    return
                yield sample

    # Connecting

    async def _take_over(self, deadline: float) -> Description:
        """Connect, learn what the module is, and have its updates sent."""
        await self.disconnect()
        try:
            await self._link.open(left_s(deadline))
            description = await self._link.describe(left_s(deadline))
            try:
                self._module = module = choose(description, self.options.module)
            except BadMessage as error:
                raise self._wrong("find a module to heat with", str(error)) from None
            self._trouble = ""
            self._time, self._last_t_s = InstrumentTime(), -math.inf
            await self._link.request("activate", "", None, "activate updates", left_s(deadline))
        except BaseException:
            await self.disconnect()
            raise
        self._ramp_found = module.number("ramp")
        return description

    def _refuse_what_the_rig_cannot_have(self, module: HeatingModule) -> None:
        limits, (low_c, high_c) = self.rig.limits, module.target_c
        if not low_c <= limits.safe_c <= high_c:
            raise self._wrong(
                f"use the rig's safe temperature of {limits.safe_c:g} degC",
                f"the module goes from {low_c:g} to {high_c:g} degC",
                "Change the rig's limits.safe_temperature",
            )
        no_ramp = module.changeable("ramp") is None and self.options.step_every_s is None
        if limits.rate_c_per_s is not None and no_ramp:
            raise self._wrong(
                f"keep the rig's rate of {limits.rate_c_per_s:g} degC/s",
                "the module has no ramp",
                "Name options.step_every_s, or leave out limits.rate",
            )

    def _refuse_a_fault(self, module: HeatingModule) -> None:
        if (fault := module.fault()) is not None:
            raise self._wrong("read samples", f"the module {fault}", "See the SECoP node")

    def _connected(self, request: str) -> HeatingModule:
        if self._module is None:
            raise not_connected(self.name, request)
        return self._module

    # Commands

    def _within_limits(self, temperature_c: float, request: str) -> HeatingModule:
        """Return the module; OutOfRange if a temperature is beyond what rig or module allow."""
        module = self._connected(request)
        for whose, (low_c, high_c) in (
            ("rig", (-secop.KELVIN_C, self.rig.limits.temperature_c)),
            ("module", module.target_c),
        ):
            if not low_c <= temperature_c <= high_c:
                raise OutOfRange(
                    self.name,
                    request,
                    f"the {whose}'s limits are {low_c:g} to {high_c:g} degC; nothing was sent",
                    "Change the recipe's temperature, or the limit",
                )
        return module

    def _setpoint_c(self, module: HeatingModule) -> float:
        setpoint_c = module.setpoint_c()
        return self.rig.limits.safe_c if setpoint_c is None else setpoint_c

    def _ramp_for(self, module: HeatingModule, rate_c_per_s: float, request: str) -> float:
        """Value of ``ramp`` for a rate; OutOfRange if the module has none such."""
        value, ramp = module.ramp_for(rate_c_per_s), module.changeable("ramp")
        if ramp is None or not ramp.minimum <= value <= ramp.maximum * RATE_TOLERANCE:
            has = "not" if ramp is None else f"at {ramp.minimum:g} to {ramp.maximum:g} {ramp.unit}"
            raise OutOfRange(
                self.name,
                request,
                f"the module ramps {has}; {value:g} is outside; nothing was sent",
                "Change the rate",
            )
        return min(value, ramp.maximum)

    async def _ramp_at(self, module: HeatingModule, ramp: float, request: str) -> None:
        await self._change(module, "ramp", ramp, request)
        if module.changeable("use_ramp") is not None:
            await self._change(module, "use_ramp", True, request)

    async def _go(self, module: HeatingModule, temperature_c: float, request: str) -> int:
        """Go at the rig's rate, or as fast as can be."""
        rate, ramp = self.rig.limits.rate_c_per_s, module.changeable("ramp")
        if rate is not None and ramp is None:
            duration_s = abs(temperature_c - self._setpoint_c(module)) / rate
            return await self._start_steps(module, temperature_c, duration_s, request)
        if rate is not None:
            value = min(module.ramp_for(rate), module.fastest_ramp())
            await self._ramp_at(module, value, request)
        elif module.changeable("use_ramp") is not None:
            await self._change(module, "use_ramp", False, request)
        elif ramp is not None:
            fastest = ramp.maximum if math.isfinite(ramp.maximum) else self._ramp_found
            fastest = fastest if self.options.no_ramp is None else self.options.no_ramp
            if fastest is not None:
                await self._change(module, "ramp", fastest, request)
        return await self._change_target(module, temperature_c, request)

    async def _change(self, module: HeatingModule, name: str, value: Any, request: str) -> None:
        """Change a parameter, unless it is known to be so already."""
        known = module.values.get(name)
        if type(known) is type(value) and known == value:
            return
        await self._link.request("change", module.specifier(name), value, request)

    async def _change_target(
        self, module: HeatingModule, temperature_c: float, request: str
    ) -> int:
        """Change the target; moment at which the command went out."""
        sent_ns = self.clock.now_ns()

        def went_out() -> None:
            nonlocal sent_ns
            sent_ns = self.clock.now_ns()

        specifier, value = module.specifier("target"), module.to_wire(temperature_c)
        answer = await self._link.request("change", specifier, value, request, sent=went_out)
        try:
            taken_c = module.to_c(secop.parse_reading(answer.data).value)
        except BadMessage as error:
            raise self._wrong(request, f"it answered {error}") from None
        if abs(taken_c - temperature_c) > TARGET_TOLERANCE_C:
            raise self._wrong(request, f"it set a target of {taken_c:g} degC instead")
        return sent_ns

    async def _read(self, name: str, request: str, timeout_s: float = GRACE_S) -> float:
        """Temperature that a parameter says now, in degC."""
        module = self._connected(request)
        specifier = module.specifier(name)
        answer = await self._link.request("read", specifier, None, request, timeout_s)
        try:
            return module.to_c(secop.parse_reading(answer.data).value)
        except BadMessage as error:
            raise self._wrong(request, f"it answered {error}") from None

    async def _go_safe(self) -> None:
        safe_c = self.rig.limits.safe_c
        request = f"go to the safe temperature of {safe_c:g} degC"
        module = self._connected(request)
        await self._end_steps()
        distance_c = abs(self._setpoint_c(module) - safe_c)
        try:
            self.safe_sent_ns = await self._go(module, safe_c, request)
        except DeviceRefused:
            # Being safe matters more than the rate: without it, then.
            self.safe_sent_ns = await self._change_target(module, safe_c, request)
        stepping = self._steps is not None
        rate = self.rig.limits.rate_c_per_s if stepping else module.rate_c_per_s()
        needed_s = 0.0 if rate is None else distance_c / rate
        deadline = time.monotonic() + self.clock.wall_s(needed_s) + GRACE_S
        while (
            abs((stands_c := await self._read(module.shown, request)) - safe_c) > TARGET_TOLERANCE_C
        ):
            if time.monotonic() > deadline:
                raise self._wrong(
                    request,
                    "it accepted the target and still reports a "
                    f"{module.shown} of {stands_c:.1f} degC",
                    "Turn the heater off at its controller",
                )
            await asyncio.sleep(CONFIRM_POLL_S)

    # Ramps of a module that has none

    async def _start_steps(
        self, module: HeatingModule, temperature_c: float, duration_s: float, request: str
    ) -> int:
        every_s = self.options.step_every_s
        if every_s is None:
            raise self._wrong(
                request,
                "the module has no ramp parameter; nothing was sent",
                "Use heat steps, or name options.step_every_s in the rig to step its target",
            )
        await self._end_steps()
        start_c, started_ns = self._setpoint_c(module), self.clock.now_ns()

        async def step() -> None:
            fraction = 0.0
            try:
                while fraction < 1:
                    await self.clock.sleep(min(every_s, duration_s))
                    elapsed_s = (self.clock.now_ns() - started_ns) * 1e-9
                    fraction = min(1.0, elapsed_s / duration_s) if duration_s > 0 else 1.0
                    step_c = start_c + fraction * (temperature_c - start_c)
                    await self._change_target(module, step_c, request)
            except DeviceError as error:
                self._fanout.end(error)

        self._steps = asyncio.create_task(step(), name=f"{self.name} steps")
        return started_ns

    async def _end_steps(self) -> None:
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.cancel()
            await asyncio.wait([steps])

    # Readings

    async def _poll(self) -> None:
        """Ask for the temperature whenever the node has not sent it by itself."""
        request = "read the temperature"
        while self._link.is_open:
            seen = self._readings
            await asyncio.sleep(max(MIN_POLL_S, self.clock.wall_s(self.options.poll_s)))
            if self._readings != seen:
                continue
            try:
                await self._read("value", request)
            except DeviceRefused as error:
                self._trouble = error.cause
            except DeviceLost:
                alive = await self._link.answers_ping(GRACE_S)
                answers = "answers pings but not for the reading" if alive else "answers nothing"
                self._trouble = f"it {answers}"

    def _told(self, message: Message) -> None:
        """Handle a message of the node, be it an answer or an update."""
        if not message.action:
            if self._module is not None:
                request, cause = "read samples", f"the connection to {self._link.endpoint} broke"
                self._fanout.end(DeviceLost(self.name, request, cause, "Connect again"))
            return
        of, _, name = message.specifier.partition(":")
        module = self._module
        if module is None or of != module.name:
            return
        if message.action in {"error_update", "error_read"}:
            if name == "value":
                self._trouble = str(secop.parse_error(message.data))
            return
        if message.action not in {secop.UPDATE, "reply", "changed"}:
            return
        with contextlib.suppress(BadMessage):
            reading = secop.parse_reading(message.data)
            module.take(name, reading)
            if name == "value":
                self._take_reading(module, reading)
        if name == "status":
            try:
                self._refuse_a_fault(module)
            except DeviceRefused as fault:
                self._fanout.end(fault)

    def _take_reading(self, module: HeatingModule, reading: Reading) -> None:
        received_ns = self.clock.now_ns()
        temperature_c = module.to_c(reading.value)
        t_ns = received_ns
        if reading.t_s is not None:
            if self._last_t_s - OVERTAKEN_S < reading.t_s <= self._last_t_s:
                return  # the one before came twice, as update and as reply
            self._last_t_s = reading.t_s
            t_ns = self._time.stamp_ns(reading.t_s, received_ns)
        self._readings += 1
        self._trouble = ""
        self._latest = HeaterSample(t_ns, temperature_c, self._setpoint_c(module))
        self._fanout.put(self._latest)

    def _wrong(self, request: str, cause: str, remedy: str = "") -> DeviceRefused:
        text = f"{self._link.endpoint}: {cause}"
        return DeviceRefused(
            self.name, request, text, remedy or "See the rig's heater and the node"
        )
