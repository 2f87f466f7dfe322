"""Codec of SECoP, the sample environment communication protocol: lines of text with JSON.

Source: SECoP V2019-09-16 as frappy 0.20.9 speaks it (wire card A8, observed). A message is one line
``action specifier data``, UTF-8, ended by LF; specifier and data may be absent, and data is JSON.
Units are what the server describes: kelvin, or degrees Celsius; here are degrees Celsius.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..core.errors import BadMessage

IDENTIFY = "*IDN?"
IDENTITY = "ISSE&SINE2020,SECoP,V2019-09-16,v1.0"
ERROR_PREFIX = "error_"
# Request -> the action of its answer.
ANSWERS: Mapping[str, str] = {
    "describe": "describing",
    "activate": "active",
    "deactivate": "inactive",
    "read": "reply",
    "change": "changed",
    "do": "done",
    "ping": "pong",
}
UPDATE = "update"
DEFAULT_PORT = 10767
# A node with many modules describes itself in one long line.
MAX_LINE_BYTES = 4_000_000

IDLE, WARN, BUSY, ERROR = 100, 200, 300, 400
KELVIN_C = 273.15
# Kelvin first: [S] the standard asks for SI units, frappy's own modules use these spellings.
_ZERO_C: Mapping[str, float] = {
    "K": KELVIN_C,
    "degC": 0.0,
    "deg_C": 0.0,
    "°C": 0.0,
    "C": 0.0,
    "celsius": 0.0,
}
_PER_S: Mapping[str, float] = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class SecopMessage:
    """One line. `data` is a JSON value; None also stands for its absence."""

    action: str
    specifier: str = ""
    data: Any = None


def encode_message(message: SecopMessage) -> bytes:
    """Line of a message, with its LF.

    Raises
    ------
    BadMessage
        If action or specifier have spaces, or data are not JSON.
    """
    words = [message.action]
    if any(c.isspace() for c in message.action + message.specifier) or not message.action:
        raise BadMessage(f"'{message.action} {message.specifier}' has a space inside, or no action")
    if message.specifier or message.data is not None:
        words.append(message.specifier)
    if message.data is not None:
        try:
            words.append(json.dumps(message.data, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            raise BadMessage(f"{message.data!r} is not JSON") from None
    return " ".join(words).encode() + b"\n"


def parse_message(line: bytes) -> SecopMessage:
    """Message of a line without its LF; raises BadMessage if it is invalid."""
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        raise BadMessage(f"not UTF-8: {line[:60]!r}") from None
    action, _, rest = text.partition(" ")
    specifier, _, raw = rest.partition(" ")
    if not action or not action.isprintable() or not specifier.isprintable():
        raise BadMessage(f"no message: {line[:60]!r}")
    if not raw:
        return SecopMessage(action, specifier)
    try:
        return SecopMessage(action, specifier, json.loads(raw, parse_constant=_no_number))
    except (ValueError, RecursionError):
        raise BadMessage(f"the data of '{action} {specifier}' are not JSON: {raw[:60]!r}") from None


def _no_number(name: str) -> Any:
    raise ValueError(name)


def parse_identity(line: bytes) -> str:
    """Version of an answer to ``*IDN?``; raises BadMessage if it is not SECoP's."""
    text = line.decode("utf-8", "replace").strip()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 3 or "ISSE" not in parts[0] or parts[1].upper() != "SECOP":
        raise BadMessage(f"{text[:60]!r} is not how SECoP identifies itself")
    return ",".join(parts[2:])


@dataclass(frozen=True)
class StampedValue:
    """A value with the server's UNIX time of it in seconds, None where it sent none."""

    value: Any
    t_s: float | None = None


def parse_reading(data: object) -> StampedValue:
    """Value of an update or reply, ``[value, {"t": ...}]``; raises BadMessage if invalid."""
    if not isinstance(data, list) or not data:
        raise BadMessage(f"{str(data)[:60]} is not [value, qualifiers]")
    parts = cast("list[Any]", data)
    qualifiers: Any = parts[1] if len(parts) > 1 else {}
    if not isinstance(qualifiers, dict):
        raise BadMessage(f"qualifiers {str(qualifiers)[:60]} are not a JSON object")
    t_s: Any = cast("dict[str, Any]", qualifiers).get("t")
    return StampedValue(parts[0], None if t_s is None else parse_number(t_s, "time"))


def encode_reading(value: Any, t_s: float | None = None) -> list[Any]:
    """Data of an update or reply."""
    return [value, {} if t_s is None else {"t": t_s}]


@dataclass(frozen=True)
class ErrorReport:
    """Why a request failed: class of error such as ``RangeError``, and a text."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.text else self.name


def parse_error(data: object) -> ErrorReport:
    """Report of an ``error_...`` message; one that is odd is still told."""
    if isinstance(data, list) and data:
        name, text, *_ = (*cast("list[object]", data), "")
        return ErrorReport(str(name)[:100] or "an error", str(text)[:500])
    return ErrorReport("an error", str(data)[:500])


def parse_number(value: object, name: str) -> float:
    """Check for a finite number; raises BadMessage if it is invalid."""
    if type(value) not in (int, float):
        raise BadMessage(f"{name} {str(value)[:60]!r} is not a number")
    try:
        number = float(cast("float", value))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadMessage(f"{name} is not a finite number")
    return number


def parse_status(value: object) -> tuple[int, str]:
    """Code and text of a status ``[300, "ramping"]``; raises BadMessage if it is invalid."""
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        if parts and type(parts[0]) is int:
            return parts[0], str(parts[1])[:500] if len(parts) > 1 else ""
    raise BadMessage(f"status {str(value)[:60]} is not [code, text]")


@dataclass(frozen=True)
class Parameter:
    """A parameter or command of a module, as described."""

    kind: str
    unit: str = ""
    readonly: bool = True
    minimum: float = -math.inf
    maximum: float = math.inf


@dataclass(frozen=True)
class Module:
    """A module of a node: what it is, and what it has."""

    name: str
    classes: tuple[str, ...] = ()
    accessibles: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])

    @property
    def is_heater(self) -> bool:
        """Whether it can be driven to a temperature."""
        value, target = self.accessibles.get("value"), self.accessibles.get("target")
        return (
            "Drivable" in self.classes
            and value is not None
            and value.unit in _ZERO_C
            and target is not None
            and not target.readonly
        )


@dataclass(frozen=True)
class Description:
    """What a node says about itself."""

    equipment_id: str
    firmware: str
    modules: Mapping[str, Module]


def parse_description(data: object) -> Description:
    """Description of a node; raises BadMessage if it is invalid."""
    body = _object(data, "the description")
    modules: dict[str, Module] = {}
    for name, described in _object(body.get("modules"), "modules").items():
        module = _object(described, f"module {name}")
        accessibles = _object(module.get("accessibles"), f"accessibles of {name}")
        main_unit = _unit(accessibles.get("value"))
        classes: Any = module.get("interface_classes", [])
        modules[name] = Module(
            name,
            tuple(str(c) for c in cast("list[Any]", classes)) if isinstance(classes, list) else (),
            {
                key: _parameter(value, f"{name}:{key}", main_unit)
                for key, value in accessibles.items()
            },
        )
    return Description(str(body.get("equipment_id", "")), str(body.get("firmware", "")), modules)


def _unit(accessible: object) -> str:
    info: Any = accessible.get("datainfo") if isinstance(accessible, dict) else None
    return str(info.get("unit", "")) if isinstance(info, dict) else ""


def _parameter(described: object, where: str, main_unit: str) -> Parameter:
    body = _object(described, where)
    info = _object(body.get("datainfo"), f"datainfo of {where}")
    bounds = [info.get("min"), info.get("max")]
    numbers = [parse_number(b, where) if type(b) in (int, float) else None for b in bounds]
    return Parameter(
        kind=str(info.get("type", "")),
        # `$` stands for the unit of the module's value.
        unit=str(info.get("unit", "")).replace("$", main_unit),
        readonly=body.get("readonly", True) is not False,
        minimum=-math.inf if numbers[0] is None else numbers[0],
        maximum=math.inf if numbers[1] is None else numbers[1],
    )


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage(f"{what} is not a JSON object but {str(value)[:60]}")
    return cast("dict[str, Any]", value)


def zero_c(unit: str) -> float:
    """What 0 degC is in a unit of temperature; raises BadMessage if it is not known here."""
    if unit not in _ZERO_C:
        raise BadMessage(
            f"unit {unit!r} is not a unit of temperature; known are {', '.join(_ZERO_C)}"
        )
    return _ZERO_C[unit]


def ramp_unit_s(unit: str) -> float:
    """Seconds in the time unit of a ramp: 60 for ``K/min``; BadMessage if it is not a rate."""
    temperature, _, per = unit.partition("/")
    if temperature not in _ZERO_C or per not in _PER_S:
        raise BadMessage(f"unit {unit!r} is not a rate such as K/min")
    return _PER_S[per]
