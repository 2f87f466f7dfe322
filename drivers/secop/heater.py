"""Heater: any sample environment that speaks SECoP and can be driven to a temperature."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ...protocols.config.rig import HeaterLimits, HeaterRig
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires.secop import Description
from ..base import GRACE_S, DeviceLost, DeviceRefused, Endpoints, Identity
from ..common.sampled_heater import SampledHeater, TemperatureRange
from ..common.tasks import end_task
from ..links.errors import not_connected
from ..links.tcp import address_of, left_s
from .control import TARGET_TOLERANCE_C, ModuleControl
from .data import ModuleReadings
from .link import SecopLink
from .module import HeatingModule, choose
from .target_steps import TargetSteps

CONFIRM_POLL_S = 0.1  # wall seconds


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


class SecopHeater(SampledHeater):
    """Commands and updates over one connection; units, ranges and ramp as the node describes.

    Attributes
    ----------
    control : ModuleControl
        Commands to the module.
    readings : ModuleReadings
        Its readings, and why none come.
    """

    summary: ClassVar[str] = "sample environment that speaks SECoP (frappy and others)"
    Options: ClassVar[type[BaseModel]] = SecopOptions
    endpoints: ClassVar[Endpoints] = {"endpoint": ("tcp://HOST:10767",)}
    channels: ClassVar[Mapping[str, str]] = {"temperature_c": "degC", "setpoint_c": "degC"}

    def __init__(self, name: str, rig: HeaterRig, clock: ExperimentClock) -> None:
        self.options = SecopOptions.model_validate(rig.options)
        super().__init__(name, rig, clock, self.options.stale_s)
        address = address_of(rig.endpoint, "tcp", "heater.endpoint")
        endpoint = f"tcp://{address[0]}:{address[1]}"
        self.readings = ModuleReadings(
            name, endpoint, clock, rig.limits.safe_c, self._publish, self._end_samples
        )
        self._link = SecopLink(name, address, self.readings.on_message)
        self.control = ModuleControl(name, self._link, clock)
        self._steps = TargetSteps(name, self.control, clock, self._end_samples)
        self._ramp_found: float | None = None
        self._poller: asyncio.Task[None] | None = None

    async def connect(self, timeout_s: float = GRACE_S) -> Identity:
        """Find the module, learn its units and ranges, and see a first reading.

        Raises
        ------
        DeviceRefused
            If there is no such module, it reports an error, or cannot do what the rig needs.
        """
        deadline = time.monotonic() + timeout_s
        description = await self._take_over(deadline)
        request = "get a first reading"
        try:
            module = self.control.connected(request)
            _refuse_unfit_rig(self.control, module, self.rig.limits, self.options)
            await self.control.read_c("value", request, left_s(deadline))
            self.control.refuse_fault("read samples")
            if self._latest is None:
                raise self.control.refused(request, "it answered without a reading")
        except BaseException:
            await self.disconnect()
            raise
        self._poller = asyncio.create_task(
            self.readings.poll(self.control, self._link, self.options.poll_s),
            name=f"{self.name} polling",
        )
        model = f"{description.equipment_id}:{module.name}"
        return Identity("SECoP", model, "", description.firmware)

    async def disconnect(self) -> None:
        """Close the connection; iterators of samples end. The heater goes on as it is."""
        await self._steps.end()
        poller, self._poller = self._poller, None
        await end_task(poller, self.name, "polling")
        self.control.module = None
        await self._link.close()
        self._end_samples()

    async def make_safe(self) -> None:
        """Go to the rig's safe temperature at the rig's rate; returns when the setpoint is there.

        Where the connection fails it is tried once more over a new one.
        """
        if self.control.module is None or not self._link.is_open:
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
        self.control.connected(request)
        self._refuse_beyond_limits(temperature_c, request)
        await self._steps.end()
        return await self._go(temperature_c, request)

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
        module = self.control.connected(request)
        self._refuse_beyond_limits(temperature_c, request)
        self._refuse_too_fast(temperature_c, duration_s, request)
        distance_c = self._distance_c(temperature_c)
        if distance_c == 0 or duration_s == 0:
            await self._steps.end()
            return await self._go(temperature_c, request)
        if module.changeable("ramp") is None:
            return await self._start_steps(temperature_c, duration_s, request)
        ramp = self.control.ramp_for(distance_c / duration_s, request)
        await self._steps.end()
        await self.control.change_ramp(ramp, request)
        return await self.control.change_target(temperature_c, request)

    async def hold_here(self) -> None:
        """Stop a ramp and stay at the temperature that it has reached."""
        request = "hold the temperature"
        self.control.connected(request)
        await self._steps.end()
        await self.control.stop(request)

    # What the base needs.

    def _check_usable(self, request: str) -> None:
        self.control.connected(request)
        if not self._link.is_open:
            raise not_connected(self.name, request)
        self.control.refuse_fault(request)

    def _sample_source(self) -> tuple[str, str, str]:
        trouble = self.readings.trouble
        return (
            self._link.endpoint,
            f" ({trouble})" if trouble else "",
            "Check the SECoP node; raise options.stale_s if its hardware is slow",
        )

    def _ranges_c(self) -> Sequence[TemperatureRange]:
        module = self.control.module
        ranges = [*super()._ranges_c()]
        if module is not None:
            remedy = "Change the recipe's temperature, or the limits of the SECoP module"
            ranges.append(TemperatureRange("the module", *module.target_c, remedy))
        return ranges

    def _distance_c(self, temperature_c: float) -> float:
        setpoint_c = None if self.control.module is None else self.control.module.setpoint_c()
        start_c = self.rig.limits.safe_c if setpoint_c is None else setpoint_c
        return abs(temperature_c - start_c)

    # Connecting

    async def _take_over(self, deadline: float) -> Description:
        """Connect, learn what the module is, and have its updates sent."""
        await self.disconnect()
        try:
            await self._link.open(left_s(deadline))
            description = await self._link.describe(left_s(deadline))
            try:
                self.control.module = module = choose(description, self.options.module)
            except BadMessage as error:
                raise self.control.refused("find a module to heat with", str(error)) from None
            self.readings.begin(self.control)
            await self._link.request("activate", "", None, "activate updates", left_s(deadline))
        except BaseException:
            await self.disconnect()
            raise
        self._ramp_found = module.number("ramp")
        return description

    # Commands

    async def _go(self, temperature_c: float, request: str) -> int:
        """Go at the rig's rate, or as fast as can be."""
        rate, module = self.rig.limits.rate_c_per_s, self.control.connected(request)
        if rate is not None and module.changeable("ramp") is None:
            duration_s = self._shortest_time_s(temperature_c)
            return await self._start_steps(temperature_c, duration_s, request)
        if rate is not None:
            value = min(module.ramp_for(rate), module.fastest_ramp())
            await self.control.change_ramp(value, request)
        else:
            fastest = self.control.fastest_ramp(self.options.no_ramp, self._ramp_found)
            await self.control.ramp_no_more(fastest, request)
        return await self.control.change_target(temperature_c, request)

    async def _start_steps(self, temperature_c: float, duration_s: float, request: str) -> int:
        every_s = self.options.step_every_s
        if every_s is None:
            raise self.control.refused(
                request,
                "the module has no ramp parameter; nothing was sent",
                "Use heat steps, or name options.step_every_s in the rig to step its target",
            )
        setpoint_c = self.control.connected(request).setpoint_c()
        start_c = self.rig.limits.safe_c if setpoint_c is None else setpoint_c
        return await self._steps.start(start_c, temperature_c, duration_s, every_s, request)

    async def _go_safe(self) -> None:
        safe_c = self.rig.limits.safe_c
        request = f"go to the safe temperature of {safe_c:g} degC"
        module = self.control.connected(request)
        await self._steps.end()
        distance_c = self._distance_c(safe_c)
        try:
            self.safe_sent_ns = await self._go(safe_c, request)
        except DeviceRefused:
            # Being safe matters more than the rate.
            self.safe_sent_ns = await self.control.change_target(safe_c, request)
        rate = module.rate_c_per_s()
        if self._steps.is_running:
            rate = self.rig.limits.rate_c_per_s
        needed_s = 0.0 if rate is None else distance_c / rate
        deadline = time.monotonic() + self.clock.wall_s(needed_s) + GRACE_S
        while True:
            stands_c = await self.control.read_c(module.shown, request)
            if abs(stands_c - safe_c) <= TARGET_TOLERANCE_C:
                return
            if time.monotonic() > deadline:
                raise self.control.refused(
                    request,
                    "it accepted the target and still reports a "
                    f"{module.shown} of {stands_c:.1f} degC",
                    "Turn the heater off at its controller",
                )
            await asyncio.sleep(CONFIRM_POLL_S)


def _refuse_unfit_rig(
    control: ModuleControl, module: HeatingModule, limits: HeaterLimits, options: SecopOptions
) -> None:
    """Raise DeviceRefused where the module cannot do what the rig names."""
    low_c, high_c = module.target_c
    if not low_c <= limits.safe_c <= high_c:
        raise control.refused(
            f"use the rig's safe temperature of {limits.safe_c:g} degC",
            f"the module goes from {low_c:g} to {high_c:g} degC",
            "Change the rig's limits.safe_temperature",
        )
    no_ramp = module.changeable("ramp") is None and options.step_every_s is None
    if limits.rate_c_per_s is not None and no_ramp:
        raise control.refused(
            f"keep the rig's rate of {limits.rate_c_per_s:g} degC/s",
            "the module has no ramp parameter",
            "Name options.step_every_s, or leave out limits.rate",
        )
