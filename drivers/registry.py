"""Find drivers by name through the entry-point group ``pyrotome.drivers``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from ..protocols.config.rig import ROLES, DeviceRig, Rig, Role
from ..protocols.core.clock import ExperimentClock
from ..protocols.core.errors import BadInput
from .base import Beam, Detector, Device, Heater, Stage

GROUP = "pyrotome.drivers"
_BASES: Mapping[Role, type[Device]] = {
    "heater": Heater,
    "stage": Stage,
    "beam": Beam,
    "detector": Detector,
}


def installed() -> dict[str, EntryPoint]:
    """Entry points of every installed driver, by name, in alphabetical order."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def driver_class(name: str, role: Role) -> type[Any]:
    """The class of a driver.

    Raises
    ------
    BadInput
        If no such driver is installed, it cannot be imported, or it fills another role.
    """
    points = installed()
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"installed: {', '.join(points)}"
        raise BadInput(f"{role}.driver", f"no driver has the name '{name}'; {hint}")
    try:
        found = points[name].load()
    except Exception as error:
        raise BadInput(f"{role}.driver", f"'{name}' cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, _BASES[role])):
        raise BadInput(f"{role}.driver", f"'{name}' is not a {role} driver")
    return found


def check_drivers(rig: Rig) -> None:
    """Refuse a rig whose drivers are not installed or whose options they do not take.

    Raises
    ------
    BadInput
        Naming the role, and what would be right.
    """
    for role in ROLES:
        _checked_options(rig.device(role), role)


def make_device(rig: Rig, role: Role, clock: ExperimentClock) -> Any:
    """A driver for one role of a rig, not yet connected; raises BadInput as check_drivers does."""
    return device_of(rig.device(role), role, clock)


def device_of(entry: DeviceRig, role: Role, clock: ExperimentClock) -> Any:
    """A driver for the entry of one role, not yet connected; raises BadInput as check_drivers."""
    _checked_options(entry, role)
    return driver_class(entry.driver, role)(f"{role} ({entry.driver})", entry, clock)


def _checked_options(entry: DeviceRig, role: Role) -> BaseModel:
    options = driver_class(entry.driver, role).Options
    try:
        return options.model_validate(entry.options)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([role, "options", *(str(p) for p in first["loc"])])
        known = ", ".join(options.model_fields) or "none"
        raise BadInput(path, f"{first['msg']}; options of '{entry.driver}': {known}") from None
