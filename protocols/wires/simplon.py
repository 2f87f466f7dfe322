"""Codec of DECTRIS' SIMPLON control wire: HTTP with JSON, API version 1.8.0.

Source: DECTRIS' API reference 1.8, areaDetector's ADEiger and LiberTEM-live (wire card C1). A
parameter is ``/<module>/api/1.8.0/<task>/<name>``; GET answers an object with its value, PUT takes
``{"value": ...}`` and answers the names of all parameters that changed with it. Frames travel by
another wire, see `simplon_stream`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core.errors import BadMessage

API_VERSION = "1.8.0"
VERSION_PATH = "/detector/api/version"
CONTROL_PORT = 80
MAX_BODY_BYTES = 1_000_000
MIME_JSON = "application/json"

Module = Literal["detector", "stream", "filewriter", "monitor", "system"]
Task = Literal["config", "status", "command"]
MODULES: tuple[Module, ...] = ("detector", "stream", "filewriter", "monitor", "system")

STATES = ("na", "ready", "initialize", "configure", "acquire", "idle", "test", "error")
State = Literal["na", "ready", "initialize", "configure", "acquire", "idle", "test", "error"]

COUNT_TIME = "count_time"  # s
FRAME_TIME = "frame_time"  # s
NIMAGES = "nimages"
NTRIGGER = "ntrigger"
TRIGGER_MODE = "trigger_mode"
COMPRESSION = "compression"
BIT_DEPTH_IMAGE = "bit_depth_image"
X_PIXELS = "x_pixels_in_detector"
Y_PIXELS = "y_pixels_in_detector"
DESCRIPTION = "description"
DETECTOR_NUMBER = "detector_number"
SOFTWARE_VERSION = "software_version"
STATE = "state"
HIGH_VOLTAGE = "high_voltage/state"
HIGH_VOLTAGE_READY = "READY"

# Pixels of the detector's mask get the highest number of the image's type (SIMPLON API reference).
PIXEL_MASK_APPLIED = "pixel_mask_applied"

STREAM_MODE = "mode"
STREAM_FORMAT = "format"
HEADER_DETAIL = "header_detail"
HEADER_APPENDIX = "header_appendix"
IMAGE_APPENDIX = "image_appendix"

INITIALIZE, ARM, TRIGGER = "initialize", "arm", "trigger"
DISARM, CANCEL, ABORT = "disarm", "cancel", "abort"
# Those that answer with the number of the series.
SERIES_COMMANDS = (ARM, DISARM, CANCEL, ABORT)
_SERIES_KEYS = ("sequence id", "sequence_id")  # as on the wire; as in the reference's text

Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """A parameter as GET answers it; what does not apply is None."""

    value: Any
    value_type: str = "string"
    access_mode: str | None = None
    unit: str | None = None
    min: float | None = None
    max: float | None = None
    allowed_values: tuple[Any, ...] | None = None

    @property
    def writable(self) -> bool:
        """Whether it says that it can be set."""
        return self.access_mode in {"rw", "w"}


def path(module: Module, task: Task, name: str) -> str:
    """Path of a parameter or command."""
    return f"/{module}/api/{API_VERSION}/{task}/{name}"


def split_path(text: str) -> tuple[str, str, str]:
    """Module, task and name of a path; raises BadMessage if it is not of this version.

    The name is empty where all of a task are meant.
    """
    parts = [*text.strip("/").split("/", 4), ""]
    if len(parts) < 5 or parts[1] != "api" or parts[2] != API_VERSION:
        raise BadMessage(f"{text[:100]!r} is not a path of API {API_VERSION}")
    return parts[0], parts[3], parts[4]


def encode_parameter(parameter: Parameter) -> bytes:
    """Body that answers a GET."""
    fields = {name: found for name, found in vars(parameter).items() if found is not None}
    return json.dumps(fields, allow_nan=False).encode()


def parse_parameter(raw: bytes) -> Parameter:
    """Decode the answer to a GET.

    Raises
    ------
    BadMessage
        If it is not an object with a value.
    """
    fields = _object(raw)
    if "value" not in fields:
        raise BadMessage(f"{raw[:60]!r} has no value")
    allowed = fields.get("allowed_values")
    return Parameter(
        fields["value"],
        _text(fields.get("value_type")) or "",
        _text(fields.get("access_mode")),
        _text(fields.get("unit")),
        _number(fields.get("min")),
        _number(fields.get("max")),
        tuple(allowed) if isinstance(allowed, list) else None,
    )


def encode_setting(value: Value) -> bytes:
    """Body of a PUT that sets a parameter."""
    return json.dumps({"value": value}, allow_nan=False).encode()


def parse_setting(raw: bytes) -> Any:
    """Value that a PUT sets; raises BadMessage."""
    fields = _object(raw)
    if "value" not in fields:
        raise BadMessage(f"{raw[:60]!r} has no value")
    return fields["value"]


def encode_changed(names: Sequence[str]) -> bytes:
    """Body that answers a PUT: the parameters that changed."""
    return json.dumps(list(names)).encode()


def parse_changed(raw: bytes) -> tuple[str, ...]:
    """Names of the parameters that a PUT changed; none where the answer is empty.

    Raises
    ------
    BadMessage
        If it is not a list of names.
    """
    if not raw.strip():
        return ()
    found = _loads(raw)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise BadMessage(f"{raw[:60]!r} is not a list of parameters")
    return tuple(found)


def encode_series(series: int) -> bytes:
    """Body that answers ``arm``, ``disarm``, ``cancel`` and ``abort``."""
    return json.dumps({_SERIES_KEYS[0]: series}).encode()


def parse_series(raw: bytes) -> int:
    """Number of the series that a command answers.

    Raises
    ------
    BadMessage
        If there is none.
    """
    fields = _object(raw)
    for key in _SERIES_KEYS:
        found = fields.get(key)
        if type(found) is int:
            return found
    raise BadMessage(f"{raw[:60]!r} names no series")


def _object(raw: bytes) -> dict[str, Any]:
    found = _loads(raw)
    if not isinstance(found, dict):
        raise BadMessage(f"{raw[:60]!r} is not a JSON object")
    return found


def _loads(raw: bytes) -> Any:
    if len(raw) > MAX_BODY_BYTES:
        raise BadMessage(f"a body of {len(raw)} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise BadMessage(f"{raw[:60]!r} is not JSON") from None


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


def _number(found: object) -> float | None:
    if type(found) not in (int, float):
        return None
    try:
        number = float(found)  # pyright: ignore[reportArgumentType]
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
