"""Commands to the SECoP module that heats: each change is checked against its answer."""

from __future__ import annotations

import math
from typing import Any

from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadMessage
from ...protocols.wires import secop
from ..base import GRACE_S, DeviceRefused, OutOfRange
from ..common.heater_ramp import RATE_TOLERANCE
from ..links.errors import not_connected
from .link import SecopLink
from .module import HeatingModule

TARGET_TOLERANCE_C = 0.5


class ModuleControl:
    """Parameters and target of one module.

    Parameters
    ----------
    device : str
        For messages.
    link : SecopLink
        To its node.
    clock : ExperimentClock
        Of the moments at which commands go out.

    Attributes
    ----------
    module : HeatingModule or None
        What is known of the module, between connecting and disconnecting.
    """

    def __init__(self, device: str, link: SecopLink, clock: ExperimentClock) -> None:
        self._device, self._link, self._clock = device, link, clock
        self.module: HeatingModule | None = None

    def connected(self, request: str) -> HeatingModule:
        """The module; DeviceLost where it is not connected."""
        if self.module is None:
            raise not_connected(self._device, request)
        return self.module

    def refused(self, request: str, cause: str, remedy: str = "") -> DeviceRefused:
        """The error for what the node does or answers."""
        text = f"{self._link.endpoint}: {cause}"
        return DeviceRefused(
            self._device, request, text, remedy or "See the rig's heater and the node"
        )

    def refuse_fault(self, request: str) -> None:
        """Raise DeviceRefused where the module's status is an error."""
        if (fault := self.connected(request).fault()) is not None:
            raise self.refused(request, f"the module {fault}", "See the SECoP node")

    async def read_c(self, name: str, request: str, timeout_s: float = GRACE_S) -> float:
        """Temperature that a parameter has now, in degC."""
        module = self.connected(request)
        specifier = module.specifier(name)
        answer = await self._link.request("read", specifier, None, request, timeout_s)
        try:
            return module.to_c(secop.parse_reading(answer.data).value)
        except BadMessage as error:
            raise self.refused(request, f"it answered {error}") from None

    async def change(self, name: str, value: Any, request: str) -> None:
        """Change a parameter, unless it is known to have the value already."""
        module = self.connected(request)
        known = module.values.get(name)
        if type(known) is type(value) and known == value:
            return
        await self._link.request("change", module.specifier(name), value, request)

    async def change_target(self, temperature_c: float, request: str) -> int:
        """Change the target; moment at which the command went out."""
        module = self.connected(request)
        sent_ns = self._clock.now_ns()

        def went_out() -> None:
            nonlocal sent_ns
            sent_ns = self._clock.now_ns()

        specifier, value = module.specifier("target"), module.to_wire(temperature_c)
        answer = await self._link.request("change", specifier, value, request, sent=went_out)
        try:
            set_c = module.to_c(secop.parse_reading(answer.data).value)
        except BadMessage as error:
            raise self.refused(request, f"it answered {error}") from None
        if abs(set_c - temperature_c) > TARGET_TOLERANCE_C:
            raise self.refused(request, f"it set a target of {set_c:g} degC instead")
        return sent_ns

    async def change_ramp(self, ramp: float, request: str) -> None:
        """Ramp from now on, at a value of the parameter ``ramp``."""
        await self.change("ramp", ramp, request)
        if self.connected(request).changeable("use_ramp") is not None:
            await self.change("use_ramp", True, request)

    async def ramp_no_more(self, fastest: float | None, request: str) -> None:
        """Turn ramping off, or let it be as fast as it can.

        Parameters
        ----------
        fastest : float or None
            Value of the parameter ``ramp`` for a module without ``use_ramp`` and without a
            highest ramp; None where it is not known.
        request : str
            For messages.
        """
        module = self.connected(request)
        ramp = module.changeable("ramp")
        if module.changeable("use_ramp") is not None:
            await self.change("use_ramp", False, request)
        elif ramp is not None and fastest is not None:
            await self.change("ramp", fastest, request)

    async def stop(self, request: str) -> None:
        """Stop a ramp; a module without the command gets its present setpoint as the target."""
        module = self.connected(request)
        if module.has("stop"):
            await self._link.request("do", module.specifier("stop"), None, request)
        elif (setpoint_c := module.setpoint_c()) is None:
            raise self.refused(request, "the module has not sent a setpoint")
        else:
            await self.change_target(setpoint_c, request)

    def ramp_for(self, rate_c_per_s: float, request: str) -> float:
        """Value of ``ramp`` for a rate; OutOfRange if the module has none such."""
        module = self.connected(request)
        value, ramp = module.ramp_for(rate_c_per_s), module.changeable("ramp")
        if ramp is None or not ramp.minimum <= value <= ramp.maximum * RATE_TOLERANCE:
            has = "not" if ramp is None else f"at {ramp.minimum:g} to {ramp.maximum:g} {ramp.unit}"
            raise OutOfRange(
                self._device,
                request,
                f"the module ramps {has}; {value:g} is outside; nothing was sent",
                "Change the rate",
            )
        return min(value, ramp.maximum)

    def fastest_ramp(self, no_ramp: float | None, found: float | None) -> float | None:
        """Value of ``ramp`` that is as fast as can be, as far as it is known.

        Parameters
        ----------
        no_ramp : float or None
            The value that turns ramping off, where the rig names one.
        found : float or None
            The value that the module had when it was connected.
        """
        ramp = None if self.module is None else self.module.changeable("ramp")
        if no_ramp is not None or ramp is None:
            return no_ramp
        return ramp.maximum if math.isfinite(ramp.maximum) else found
