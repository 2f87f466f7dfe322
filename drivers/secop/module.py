"""What is known of the SECoP module that heats: units, ranges, ramp, and its latest values."""

from __future__ import annotations

import math
from typing import Any

from ...protocols.core.errors import BadMessage
from ...protocols.wires import secop
from ...protocols.wires.secop import Description, Module, Parameter, StampedValue


def choose(description: Description, wanted: str | None) -> HeatingModule:
    """Find the module of a node that can be driven to a temperature.

    Parameters
    ----------
    description : Description
        What the node says about itself.
    wanted : str or None
        Its name, needed where there are several.

    Raises
    ------
    BadMessage
        If there is no such module, or its units are not known.
    """
    heaters = [module.name for module in description.modules.values() if module.is_heater]
    known = ", ".join(heaters) or "none"
    if wanted is None:
        if len(heaters) != 1:
            problem = f"{len(heaters)} modules can be driven to a temperature: {known}"
            raise BadMessage(f"{problem}; name one in options.module")
        return HeatingModule(description.modules[heaters[0]])
    if wanted not in description.modules:
        raise BadMessage(f"there is no module '{wanted}'; drivable to a temperature: {known}")
    if wanted not in heaters:
        raise BadMessage(f"'{wanted}' cannot be driven to a temperature; these can: {known}")
    return HeatingModule(description.modules[wanted])


class HeatingModule:
    """A module with `value` and `target` in a unit of temperature.

    Attributes
    ----------
    values : dict
        Latest value of every parameter, in the module's own units.
    target_c : tuple of float
        Lowest and highest target in degC.
    """

    def __init__(self, module: Module) -> None:
        self.name = module.name
        self._accessibles = module.accessibles
        self.values: dict[str, Any] = {}
        self._zero = secop.zero_c(module.accessibles["value"].unit)
        target, ramp = module.accessibles["target"], self.changeable("ramp")
        self.target_c = target.minimum - self._zero, target.maximum - self._zero
        self._ramp_unit_s = 60.0 if ramp is None else secop.ramp_unit_s(ramp.unit)

    def specifier(self, name: str) -> str:
        """How a parameter or command is named in messages."""
        return f"{self.name}:{name}"

    def has(self, name: str) -> bool:
        """Whether there is such a parameter or command."""
        return name in self._accessibles

    def changeable(self, name: str) -> Parameter | None:
        """A parameter that can be changed, or None."""
        found = self._accessibles.get(name)
        return None if found is None or found.readonly else found

    @property
    def shown(self) -> str:
        """The parameter that tells where the temperature should be now."""
        return "setpoint" if self.has("setpoint") else "target"

    def to_wire(self, temperature_c: float) -> float:
        """Temperature in the module's unit."""
        return temperature_c + self._zero

    def to_c(self, value: object) -> float:
        """Temperature in degC of a value in the module's unit; BadMessage if it is not a number."""
        return secop.parse_number(value, "temperature") - self._zero

    def record(self, name: str, reading: StampedValue) -> None:
        """Remember a value."""
        self.values[name] = reading.value

    def number(self, name: str) -> float | None:
        """Latest value of a parameter, None where it is unknown or not a number."""
        try:
            return secop.parse_number(self.values.get(name), name)
        except BadMessage:
            return None

    def setpoint_c(self) -> float | None:
        """Where the temperature should be now, as far as known."""
        for name in (self.shown, "target", "value"):
            if (value := self.number(name)) is not None:
                return value - self._zero
        return None

    def fault(self) -> str | None:
        """What the status says where it is an error."""
        try:
            code, text = secop.parse_status(self.values.get("status"))
        except BadMessage:
            return None
        if secop.IDLE <= code < secop.ERROR or code >= secop.ERROR + 100:
            return None
        return f"{'reports an error' if code >= secop.ERROR else 'is disabled'}: {text}"

    def ramp_for(self, rate_c_per_s: float) -> float:
        """Value of `ramp` for a rate, in its own unit, within its range or not."""
        return rate_c_per_s * self._ramp_unit_s

    def fastest_ramp(self) -> float:
        """Highest value of `ramp`; infinite where the node names none."""
        ramp = self.changeable("ramp")
        return math.inf if ramp is None else ramp.maximum

    def rate_c_per_s(self) -> float | None:
        """Rate at which the setpoint moves now; None where it steps, or that is not known."""
        ramp = self.number("ramp")
        if not ramp or ramp < 0 or self.values.get("use_ramp") is False:
            return None
        return ramp / self._ramp_unit_s
