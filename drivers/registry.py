"""Find drivers by name through the entry-point group ``pyrotome.drivers``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..protocols.config.endpoints import endpoint_problem
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
    """Refuse a rig that its drivers cannot work with; see `rig_problems`.

    Raises
    ------
    BadInput
        With one line a problem.
    """
    problems = rig_problems(rig)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise BadInput("", "\n".join(map(str, problems)))


def rig_problems(rig: Rig) -> list[BadInput]:
    """What is wrong with the entries of the four roles; touches no hardware.

    Drivers that are not installed, options that they do not take, endpoints of a form that they do
    not take, files that are not there, and what a driver finds itself (`Device.check_rig`).

    Returns
    -------
    list of BadInput
        Each names the path inside the rig, what was read and what would be right.
    """
    return [
        problem
        for role in ROLES
        for problem in _entry_problems(rig.device(role), role, rig.simulator is not None)
    ]


def _entry_problems(entry: DeviceRig, role: Role, simulated: bool) -> list[BadInput]:
    try:
        found = driver_class(entry.driver, role)
        _checked_options(entry, role)
    except BadInput as error:
        return [error]
    problems = [*_wrong_endpoints(found, entry, role, simulated), *_missing_files(entry, role)]
    if problems:
        return problems
    try:
        found.check_rig(entry)
    except BadInput as error:
        return [error]
    return []


def _wrong_endpoints(
    driver: type[Device], entry: DeviceRig, role: Role, simulated: bool
) -> Iterator[BadInput]:
    if not entry.endpoint.strip():
        forms = driver.endpoints.get("endpoint", ("tcp://HOST:PORT",))
        yield BadInput(f"{role}.endpoint", str(endpoint_problem("", forms)))
        return
    seen: dict[str, str] = {}
    for name, forms in driver.endpoints.items():
        where = f"{role}.endpoint" if name == "endpoint" else f"{role}.options.{name}"
        text = entry.endpoint if name == "endpoint" else entry.options.get(name)
        if not isinstance(text, str):
            continue
        problem = endpoint_problem(text, forms, simulated)
        if problem is None and text in seen and not text.endswith((":0", ":*")):
            problem = f"'{text}' is {seen[text]} already; each needs a port of its own"
        if problem is not None:
            yield BadInput(where, f"{problem} ({entry.driver})")
        seen.setdefault(text, where)


def _missing_files(entry: DeviceRig, role: Role) -> Iterator[BadInput]:
    for name, value in entry.options.items():
        if not (name.endswith("_file") and isinstance(value, str)):
            continue
        path = Path(value)
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "there is no such file"
            remedy = "paths are taken from the folder of the rig file"
            yield BadInput(f"{role}.options.{name}", f"'{value}': {what}; {remedy}")


def make_device(rig: Rig, role: Role, clock: ExperimentClock) -> Any:
    """A driver for one role of a rig, not yet connected; raises BadInput as check_drivers does."""
    return device_of(rig.device(role), role, clock)


def device_of(entry: DeviceRig, role: Role, clock: ExperimentClock) -> Any:
    """A driver for the entry of one role, not yet connected; raises BadInput as check_drivers."""
    _checked_options(entry, role)
    try:
        return driver_class(entry.driver, role)(f"{role} ({entry.driver})", entry, clock)
    except BadInput:
        raise
    except Exception as error:
        problem = f"the driver '{entry.driver}' does not accept this entry: {error!r}"
        raise BadInput(role, problem) from error


def _checked_options(entry: DeviceRig, role: Role) -> BaseModel:
    options = driver_class(entry.driver, role).Options
    try:
        return options.model_validate(entry.options)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([role, "options", *(str(p) for p in first["loc"])])
        known = ", ".join(options.model_fields) or "none"
        raise BadInput(path, f"{first['msg']}; options of '{entry.driver}': {known}") from None
