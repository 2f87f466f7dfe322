"""Codec of the instamatic wire: calls of a microscope's functions as JSON over TCP.

Source: instamatic 2.2.2 (wire card B2, observed). Nothing frames the messages: one ``recv`` is
meant to be one of them. A request is ``{"func_name", "args", "kwargs"}``, its answer
``[200, value]`` or ``[500, [name of the exception, arguments]]``. Here the ends of the JSON values
are found instead, so that messages may arrive split, run together, or after noise. Pickle, which
the original speaks unless it is told otherwise, is never read: that would run what code it holds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..core.errors import BadMessage

DEFAULT_PORT = 8088
OK, FAILED = 200, 500
# The original reads so many bytes and takes them for the whole request.
MAX_REQUEST_BYTES = 1024
MAX_REPLY_BYTES = 100_000
PICKLE_PROTO = b"\x80"

GET_STAGE_POSITION = "getStagePosition"
SET_STAGE_POSITION = "setStagePosition"
IS_STAGE_MOVING = "isStageMoving"
STOP_STAGE = "stopStage"
IS_BEAM_BLANKED = "isBeamBlanked"
SET_BEAM_BLANK = "setBeamBlank"
GET_HT = "getHTValue"  # V
GET_SPOT_SIZE = "getSpotSize"
SET_SPOT_SIZE = "setSpotSize"
GET_MAGNIFICATION = "getMagnification"
SET_MAGNIFICATION = "setMagnification"
GET_MAGNIFICATION_RANGES = "getMagnificationRanges"
GET_FUNCTION_MODE = "getFunctionMode"
# Raw values of the deflectors, (x, y): whole steps of 0 to 65535 with JEOL, -1 to 1 with FEI.
GET_BEAM_SHIFT = "getBeamShift"
SET_BEAM_SHIFT = "setBeamShift"
SHIFT_MIDDLE, SHIFT_STEPS = 32_768, 65_536
NAME = "name"

# Where a message may begin; anything else is noise.
_REPLY_START = re.compile(rb"\[\s*[0-9]")
_REQUEST_START = re.compile(rb'\{\s*"')
_MAYBE_START = re.compile(rb"[\[{]\s*\Z")
# What the end of what was received may have left of a literal or number.
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_CUT_NUMBER = re.compile(r"-|\.|[eE][+-]?")


@dataclass(frozen=True)
class Call:
    """A request: call a function, or read an attribute, of the microscope."""

    function: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        words = [*map(str, self.args), *(f"{k}={v}" for k, v in self.kwargs.items())]
        return f"{self.function}({', '.join(words)})"


@dataclass(frozen=True)
class Reply:
    """An answer: the value, or what went wrong."""

    status: int
    value: Any = None

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.status == OK

    def describe(self) -> str:
        """What went wrong, in words."""
        if isinstance(self.value, list) and self.value:
            name, args, *_ = (*cast("list[Any]", self.value), [])
            texts = cast("list[Any]", args) if isinstance(args, list) else [args]
            return f"{name}: {', '.join(str(a) for a in texts)}".rstrip(": ")[:500]
        return f"{self.status} {str(self.value)[:500]}"


@dataclass(frozen=True)
class StageCoordinates:
    """A position of the goniometer: nanometres, and degrees about the holder's axis and across."""

    x_nm: float
    y_nm: float
    z_nm: float
    a_deg: float
    b_deg: float


def encode_call(call: Call) -> bytes:
    """Bytes of a request.

    Raises
    ------
    BadMessage
        If an argument is not JSON, or the whole is longer than the server reads at once.
    """
    body = {"func_name": call.function, "args": list(call.args), "kwargs": dict(call.kwargs)}
    raw = _encode(body)
    if len(raw) > MAX_REQUEST_BYTES:
        raise BadMessage(f"a request of {len(raw)} bytes; the server reads {MAX_REQUEST_BYTES}")
    return raw


def parse_call(value: object) -> Call:
    """Request of a JSON value; raises BadMessage if it is invalid."""
    if not isinstance(value, dict):
        raise BadMessage(f"{str(value)[:60]} is not a JSON object")
    body = cast("dict[str, Any]", value)
    function, args, kwargs = body.get("func_name"), body.get("args", []), body.get("kwargs", {})
    if not isinstance(function, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadMessage(f"{str(body)[:60]} is not func_name, args and kwargs")
    return Call(function, tuple(cast("list[Any]", args)), cast("dict[str, Any]", kwargs))


def encode_reply(reply: Reply) -> bytes:
    """Bytes of an answer; raises BadMessage if its value is not JSON."""
    return _encode([reply.status, reply.value])


def parse_reply(value: object) -> Reply:
    """Answer of a JSON value; raises BadMessage if it is invalid."""
    if isinstance(value, list):
        parts = cast("list[Any]", value)
        if len(parts) == 2 and parts[0] in (OK, FAILED) and type(parts[0]) is int:
            return Reply(parts[0], parts[1])
    raise BadMessage(f"{str(value)[:60]} is not [status, value]")


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise BadMessage(f"{str(value)[:60]} is not JSON") from None


def parse_pair(value: object, name: str) -> tuple[float, float]:
    """Values of two deflectors; raises BadMessage if it is not a pair of numbers."""
    if not isinstance(value, list) or len(cast("list[object]", value)) != 2:
        raise BadMessage(f"{name} {str(value)[:60]!r} is not a pair")
    first, second = (parse_number(v, name) for v in cast("list[object]", value))
    return first, second


class JsonDecoder:
    """Find the JSON values of messages in a stream of bytes, however it was split.

    Bytes between messages are skipped up to where the next one may begin. Noise that looks like the
    beginning of a message swallows what follows, until it is longer than any message.

    Parameters
    ----------
    replies : bool
        Whether answers (lists) are expected; else requests (objects).
    """

    def __init__(self, replies: bool) -> None:
        self._start = _REPLY_START if replies else _REQUEST_START
        self._buffer = b""
        self._decoder = json.JSONDecoder(parse_constant=_no_number)

    def feed(self, received: bytes) -> list[Any]:
        """JSON values that are complete now.

        Raises
        ------
        BadMessage
            If there is a pickle, a number that is none, or more bytes than any message has; what
            was received is forgotten.
        """
        if not self._buffer and received.startswith(PICKLE_PROTO) and received[1:2] <= b"\x05":
            raise BadMessage("it speaks pickle, which is not read")
        self._buffer += received
        found: list[Any] = []
        try:
            while (value := self._next()) is not None:
                found.append(value)
            if len(self._buffer) > MAX_REPLY_BYTES:
                raise BadMessage(f"more than {MAX_REPLY_BYTES} bytes without an end")
        except BadMessage:
            self._buffer = b""
            raise
        return found

    def _next(self) -> Any:
        while True:
            begin = self._start.search(self._buffer)
            if begin is None:
                maybe = _MAYBE_START.search(self._buffer)
                self._buffer = self._buffer[maybe.start() :] if maybe else b""
                return None
            self._buffer = self._buffer[begin.start() :]
            text = self._buffer.decode("utf-8", "surrogateescape")
            try:
                value, end = self._decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                if _is_cut(text, error):
                    return None
                self._buffer = self._buffer[1:]  # no message: look for one after it
                continue
            except RecursionError:
                raise BadMessage("too many brackets in one another") from None
            self._buffer = self._buffer[len(text[:end].encode("utf-8", "surrogateescape")) :]
            return value


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Whether JSON only fails because its end has not come yet."""
    rest = text[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated string"):
        return True
    if error.msg.startswith("Invalid \\u"):
        return len(rest) < 6 and '"' not in rest
    return bool(_CUT_NUMBER.fullmatch(rest)) or any(word.startswith(rest) for word in _LITERALS)


def _no_number(name: str) -> Any:
    raise BadMessage(f"{name} is not a number")


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


def parse_flag(value: object, name: str) -> bool:
    """Check for true or false; JEOL microscopes send numbers, which are true when not 0."""
    if isinstance(value, bool):
        return value
    return parse_number(value, name) != 0


def parse_position(value: object) -> StageCoordinates:
    """Position of the stage; raises BadMessage unless it is five numbers."""
    parts = cast("list[Any]", value) if isinstance(value, list) else []
    if len(parts) != 5:
        raise BadMessage(f"{GET_STAGE_POSITION} {str(value)[:60]} is not [x, y, z, a, b]")
    return StageCoordinates(*(parse_number(p, GET_STAGE_POSITION) for p in parts))


def position_to_wire(position: StageCoordinates) -> list[float]:
    """Whole nanometres and degrees, as the original rounds them."""
    return [
        *(round(v) for v in (position.x_nm, position.y_nm, position.z_nm)),
        position.a_deg,
        position.b_deg,
    ]


def parse_magnifications(value: object) -> dict[str, tuple[float, ...]]:
    """Magnifications by function mode; raises BadMessage if they are none."""
    if not isinstance(value, dict):
        raise BadMessage(f"{GET_MAGNIFICATION_RANGES} {str(value)[:60]} is not a JSON object")
    ranges: dict[str, tuple[float, ...]] = {}
    for mode, steps in cast("dict[str, Any]", value).items():
        if not isinstance(steps, list):
            raise BadMessage(f"{GET_MAGNIFICATION_RANGES} of {mode} is not a list")
        ranges[mode] = tuple(parse_number(s, mode) for s in cast("list[Any]", steps))
    return ranges
