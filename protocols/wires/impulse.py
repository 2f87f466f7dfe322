"""Codec of the DENSsolutions Impulse wire: JSON commands (REQ/REP) and heat samples (PUB/SUB).

Source: the client impulsePy 3.1.0 and its predecessors (wire card A1). Control is one JSON object
per message, its command in ``$type``; data are two parts, topic and JSON. Units are advertised
by ``getPropertyInformation``: the functions here convert between those and one unit per quantity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..core.errors import BadMessage
from ..core.units import ZERO_CELSIUS_K

MAX_MESSAGE_BYTES = 1_000_000

GET_STATUS = "control.impulse.getStatus"
GET_CHANNELS = "control.impulse.getAvailableDataChannels"
GET_PROPERTIES = "control.impulse.getAvailableProperties"
GET_PROPERTY_INFORMATION = "control.impulse.getPropertyInformation"
START_RAMP = "control.heat.startRamp"
STOP_RAMP = "control.heat.stopRamp"

STATUS_CONTROL = "control"  # commands are taken from the API, not from the vendor's own window

HEAT_TOPIC = b"heat"
EVENTS_TOPIC = b"events"
HEAT_SAMPLE_TYPE = "data.heat"
ACTION_FINISHED_TYPE = "data.event.stimulusActionFinished"
POPUP_TYPE = "data.event.popupRaised"
NOTIFICATION_TYPE = "data.event.notificationRaised"

ResultCode = Literal["ok", "invalidInput", "badRequest", "invalidOperation"]
RESULT_CODES: tuple[ResultCode, ...] = ("ok", "invalidInput", "badRequest", "invalidOperation")
_RESULT_CODES: dict[str, ResultCode] = {code: code for code in RESULT_CODES}


@dataclass(frozen=True)
class Request:
    """A command: its ``$type`` and its parameters as they stand on the wire."""

    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class InputError:
    """What is wrong with one parameter of a request."""

    type: str
    parameter: str
    description: str


@dataclass(frozen=True)
class Reply:
    """The instrument's answer."""

    result_code: ResultCode = "ok"
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    message: str = ""
    errors: tuple[InputError, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the command was carried out."""
        return self.result_code == "ok"

    def describe(self) -> str:
        """Answer in one line, for an error message."""
        details = "; ".join(f"{e.parameter}: {e.description}" for e in self.errors)
        return ", ".join(part for part in (self.result_code, self.message, details) if part)


def encode_request(request: Request) -> bytes:
    """Bytes of a command."""
    return _dump({"$type": request.type, **request.parameters})


def parse_request(raw: bytes) -> Request:
    """Decode a command.

    Raises
    ------
    BadMessage
        If the bytes are not a JSON object with a ``$type``.
    """
    body = _object(raw)
    kind = body.pop("$type", None)
    if not isinstance(kind, str):
        raise BadMessage("a command needs a text '$type'")
    return Request(kind, body)


def encode_reply(reply: Reply) -> bytes:
    """Bytes of an answer."""
    data = dict(reply.data)
    if reply.errors:
        data["errors"] = [
            {"$type": e.type, "parameter": e.parameter, "description": e.description}
            for e in reply.errors
        ]
    return _dump({"resultCode": reply.result_code, "data": data, "message": reply.message})


def parse_reply(raw: bytes) -> Reply:
    """Decode an answer.

    Raises
    ------
    BadMessage
        If the bytes are not an answer.
    """
    body = _object(raw)
    code = _RESULT_CODES.get(str(body.get("resultCode")))
    if code is None:
        raise BadMessage(f"resultCode {body.get('resultCode')!r} is none of {RESULT_CODES}")
    data = _mapping(body.get("data") or {}, "data")
    message = body.get("message")
    listed = data.pop("errors", [])
    errors: list[InputError] = []
    for item in cast("list[object]", listed) if isinstance(listed, list) else []:
        entry = _mapping(item, "an entry of data.errors")
        errors.append(
            InputError(
                str(entry.get("$type", "")),
                str(entry.get("parameter", "")),
                str(entry.get("description", "")),
            )
        )
    return Reply(code, data, "" if message is None else str(message), tuple(errors))


def start_ramp(temperature: float, ramp_time_s: float) -> Request:
    """Go to a temperature (in the advertised unit) linearly within a time; 0 is at once."""
    return Request(START_RAMP, {"temperature": temperature, "rampTime": ramp_time_s})


def property_information(name: str, channel: str = "heat") -> Request:
    """Ask for unit and precision of a property of a data channel."""
    return Request(GET_PROPERTY_INFORMATION, {"channelName": channel, "propertyName": name})


@dataclass(frozen=True)
class PropertyInformation:
    """What the instrument says about a property of a data channel."""

    name: str
    unit: str
    precision: int = 3
    channel: str = "heat"

    def data(self) -> dict[str, Any]:
        """Return the ``data`` of the answer to ``getPropertyInformation``."""
        return {
            "channelName": self.channel,
            "propertyName": self.name,
            "unit": self.unit,
            "precision": self.precision,
            "type": "Number",
        }

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> PropertyInformation:
        """Read the ``data`` of an answer; raises BadMessage if it is invalid."""
        name, unit = data.get("propertyName"), data.get("unit")
        if not isinstance(name, str) or not isinstance(unit, str):
            raise BadMessage("property information needs a propertyName and a unit")
        precision = data.get("precision")
        channel = str(data.get("channelName", "heat"))
        return cls(name, unit, precision if type(precision) is int else 3, channel)


@dataclass(frozen=True, slots=True)
class HeatSample:
    """One reading of the heater in the units named; what did not come is None.

    `experiment_duration_s` is the instrument's own time since its experiment began and
    `time_stamp` its own wall clock, text that pandas can read.
    """

    sequence_number: int
    experiment_duration_s: float
    time_stamp: str
    temperature_c: float
    setpoint_c: float
    power_w: float | None = None
    current_a: float | None = None
    voltage_v: float | None = None
    resistance_ohm: float | None = None


# Property on the wire -> field of HeatSample, and the unit of the field.
QUANTITIES: Mapping[str, tuple[str, str]] = {
    "experimentDuration": ("experiment_duration_s", "s"),
    "temperatureMeasured": ("temperature_c", "degC"),
    "temperatureSetpoint": ("setpoint_c", "degC"),
    "powerMeasured": ("power_w", "W"),
    "currentMeasured": ("current_a", "A"),
    "voltageMeasured": ("voltage_v", "V"),
    "resistance": ("resistance_ohm", "Ohm"),
}
REQUIRED = ("experimentDuration", "temperatureMeasured", "temperatureSetpoint")

_PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9, "k": 1e3}
_SYMBOLS = {"s": ("s",), "W": ("W",), "A": ("A",), "V": ("V",), "Ohm": ("Ohm", "ohm", "Ω", "Ω")}


@dataclass(frozen=True)
class UnitConversion:
    """From an advertised unit to the one used here: ``scale * value + offset``."""

    scale: float = 1.0
    offset: float = 0.0

    def inward(self, value: float) -> float:
        """Convert a value of the wire to the unit used here."""
        return self.scale * value + self.offset

    def outward(self, value: float) -> float:
        """Convert a value used here to the unit of the wire."""
        return (value - self.offset) / self.scale


def unit_conversion(property_name: str, unit: str) -> UnitConversion:
    """How the advertised unit of a property converts to the one used here.

    Parameters
    ----------
    property_name : str
        A key of `QUANTITIES`.
    unit : str
        Text from ``getPropertyInformation``, such as ``degC``, ``K`` or ``mW``.

    Raises
    ------
    BadMessage
        If the unit is not one of the property's quantity, or is not known here.
    """
    ours = QUANTITIES[property_name][1]
    text = unit.strip()
    if ours == "degC":
        if text in {"degC", "°C", "℃", "C", "celsius", "Celsius"}:
            return UnitConversion()
        if text in {"K", "kelvin", "Kelvin"}:
            return UnitConversion(1.0, -ZERO_CELSIUS_K)
    else:
        for symbol in _SYMBOLS[ours]:
            scale = _PREFIXES.get(text.removesuffix(symbol)) if text.endswith(symbol) else None
            if scale is not None:
                return UnitConversion(scale)
    raise BadMessage(
        f"{property_name} is advertised in {unit!r}, which is not a unit of {ours} here"
    )


def advertised(units: Mapping[str, str]) -> tuple[PropertyInformation, ...]:
    """Properties of the heat channel, in the units of `QUANTITIES` where none are given.

    Parameters
    ----------
    units : mapping of str to str
        Property to unit.

    Raises
    ------
    BadMessage
        If a unit is none of its property.
    """
    properties: list[PropertyInformation] = []
    for name, (_, usual) in QUANTITIES.items():
        unit = units.get(name, usual)
        unit_conversion(name, unit)
        properties.append(PropertyInformation(name, unit, 9 if usual in {"W", "A", "V"} else 4))
    return tuple(properties)


def encode_heat_sample(
    sample: HeatSample, units: Mapping[str, UnitConversion] | None = None
) -> list[bytes]:
    """Topic and JSON of a heat sample; `units` by property where they are not those used here."""
    body: dict[str, Any] = {
        "$type": HEAT_SAMPLE_TYPE,
        "sequenceNumber": sample.sequence_number,
        "timeStamp": sample.time_stamp,
    }
    for name, (attribute, _) in QUANTITIES.items():
        value = getattr(sample, attribute)
        if value is not None:
            body[name] = units[name].outward(value) if units and name in units else value
    return [HEAT_TOPIC, _dump(body)]


def parse_heat_sample(
    raw: bytes | memoryview, units: Mapping[str, UnitConversion] | None = None
) -> HeatSample:
    """Decode the JSON part of a heat sample.

    Parameters
    ----------
    raw : bytes
        Second part of the message.
    units : mapping of str to UnitConversion, optional
        By property; a property that is absent is taken to be in the unit used here.

    Raises
    ------
    BadMessage
        If a field that every sample must carry is missing or is not a finite number.
    """
    body = _object(raw)
    sequence = body.get("sequenceNumber")
    if type(sequence) is not int:
        raise BadMessage(f"sequenceNumber {sequence!r} is not an integer")
    found: dict[str, Any] = {}
    for name, (attribute, _) in QUANTITIES.items():
        value = finite_number(body.get(name))
        if value is not None and units is not None and name in units:
            value = finite_number(units[name].inward(value))
        if value is None and name in REQUIRED:
            raise BadMessage(f"{name} {str(body.get(name))[:60]!r} is not a finite number")
        found[attribute] = value
    stamp = body.get("timeStamp", "")
    return HeatSample(sequence_number=sequence, time_stamp=str(stamp), **found)


@dataclass(frozen=True)
class Event:
    """A message of the events topic: its ``$type`` (empty where it has none) and its fields."""

    type: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])


def encode_event(event: Event) -> list[bytes]:
    """Topic and JSON of an event."""
    body = {"$type": event.type, **event.fields} if event.type else dict(event.fields)
    return [EVENTS_TOPIC, _dump(body)]


def parse_event(raw: bytes) -> Event:
    """Decode the JSON part of an event; raises BadMessage if it is invalid."""
    body = _object(raw)
    kind = body.pop("$type", "")
    return Event(kind if isinstance(kind, str) else "", body)


def heat_finished(duration_s: float) -> Event:
    """Event that a ramp has arrived, `duration_s` into the instrument's experiment."""
    return Event(ACTION_FINISHED_TYPE, {"stimulusType": "heat", "experimentDuration": duration_s})


def control_given() -> Event:
    """Event that commands are taken from the API again; its ``$type`` is not attested."""
    return Event("", {"newState": STATUS_CONTROL})


def popup(message: str) -> Event:
    """Event that a window has come up in front of the operator."""
    return Event(POPUP_TYPE, {"message": message})


def message_shown(event: Event) -> str | None:
    """Text that an event says was shown to the operator; None for any other event."""
    if event.type not in {POPUP_TYPE, NOTIFICATION_TYPE}:
        return None
    text = event.fields.get("message")
    return text if isinstance(text, str) and text else "a message without a text"


def is_heat_finished(event: Event) -> bool:
    """Whether an event says that the heater has done what it was told last."""
    return event.type == ACTION_FINISHED_TYPE and event.fields.get("stimulusType") == "heat"


def split_message(parts: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Topic and JSON of a data message; raises BadMessage if it has not two parts."""
    if len(parts) != 2:
        raise BadMessage(f"{len(parts)} parts; a data message has a topic and a JSON object")
    return bytes(parts[0]), bytes(parts[1])


def finite_number(value: object) -> float | None:
    """A JSON value as a float; None if it is not a number, or none that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _object(raw: bytes | memoryview) -> dict[str, Any]:
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"message of {len(raw)} bytes; at most {MAX_MESSAGE_BYTES}")
    try:
        body = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise BadMessage(f"not JSON: {bytes(raw[:60])!r}") from None
    return _mapping(body, "the message")


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage(f"{what} is not a JSON object")
    return cast("dict[str, Any]", value)
