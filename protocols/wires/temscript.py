"""Codec of the temscript wire: stage, blanker and probe of a microscope over HTTP and JSON.

Source: temscript 2.1.0 (wire card B1). ``GET /v1/<name>`` answers JSON, ``PUT /v1/<name>`` takes
it and answers 204. The wire has metres and radians; here are nanometres and degrees. Pickle,
which the original can send when asked, is neither asked for nor taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..core.errors import BadMessage

API = "/v1/"
MIME_JSON = "application/json"
MIME_PICKLE = "application/python-pickle"
MAX_BODY_BYTES = 4096
MIN_VERSION = (2, 0)

FAMILY = "family"
MICROSCOPE_ID = "microscope_id"
VERSION = "version"
VOLTAGE = "voltage"  # kV
STAGE_POSITION = "stage_position"
STAGE_LIMITS = "stage_limits"
STAGE_STATUS = "stage_status"
STAGE_HOLDER = "stage_holder"
BEAM_BLANKED = "beam_blanked"
SPOT_SIZE_INDEX = "spot_size_index"
INTENSITY = "intensity"
STEM_MAGNIFICATION = "stem_magnification"
STEM_ROTATION = "stem_rotation"  # rad
BEAM_SHIFT = "beam_shift"  # m, as the microscope counts them
IMAGE_SHIFT = "image_shift"  # m; below the specimen, so that it does not move the field of a scan
# Both in metres here. `defocus` has arbitrary units before Titan 1.1; over is positive.
# `probe_defocus` exists on a Titan in probe mode.
PROBE_DEFOCUS = "probe_defocus"
DEFOCUS = "defocus"
CONVERGENCE_ANGLE = "convergence_angle"  # rad
COLUMN_VALVES_OPEN = "column_valves_open"
VACUUM = "vacuum"

VACUUM_READY = "READY"
VACUUM_STATUSES = ("UNKNOWN", "OFF", "CAMERA_AIR", "BUSY", VACUUM_READY, "ELSE")

READY = "READY"
DISABLED = "DISABLED"
STAGE_STATUSES = (READY, DISABLED, "NOT_READY", "GOING", "MOVING", "WOBBLING")

# Axis of the wire -> its name here, and how much one unit of the wire is here.
_AXES = {
    "x": ("x_nm", 1e9),
    "y": ("y_nm", 1e9),
    "z": ("z_nm", 1e9),
    "a": ("a_deg", 180.0 / math.pi),
    "b": ("b_deg", 180.0 / math.pi),
}


@dataclass(frozen=True)
class StageCoordinates:
    """A position of the goniometer; `a` is the tilt of the holder's axis, `b` the second one."""

    x_nm: float = 0.0
    y_nm: float = 0.0
    z_nm: float = 0.0
    a_deg: float = 0.0
    b_deg: float = 0.0


def encode_value(value: Any) -> bytes:
    """Body of a PUT.

    Raises
    ------
    BadMessage
        If it is not finite or too long for the server.
    """
    try:
        body = json.dumps(value, allow_nan=False).encode()
    except ValueError:
        raise BadMessage(f"{value!r} is not finite") from None
    if len(body) > MAX_BODY_BYTES:
        raise BadMessage(f"body of {len(body)} bytes; the server takes {MAX_BODY_BYTES}")
    return body


def parse_value(raw: bytes) -> Any:
    """Value of a JSON body; raises BadMessage if it is invalid."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise BadMessage(f"not JSON: {raw[:60]!r}") from None


def parse_number(value: object, name: str) -> float:
    """Check for a finite number; raises BadMessage if it is invalid."""
    try:
        number = float(cast("float", value)) if type(value) in (int, float) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        number = math.nan
    if not math.isfinite(number):
        raise BadMessage(f"{name} {str(value)[:60]!r} is not a finite number")
    return number


def parse_flag(value: object, name: str) -> bool:
    """Check for true or false; raises BadMessage for anything else."""
    if not isinstance(value, bool):
        raise BadMessage(f"{name} {value!r} is neither true nor false")
    return value


def parse_vacuum(value: object, name: str) -> bool | None:
    """Whether a vacuum is ready; None where it is unknown. BadMessage if invalid."""
    status = _mapping(value, name).get("status")
    if status not in VACUUM_STATUSES:
        raise BadMessage(f"{name} {status!r} is not a status of a vacuum")
    return None if status == VACUUM_STATUSES[0] else status == VACUUM_READY


def parse_pair_nm(value: object, name: str) -> tuple[float, float]:
    """A shift along two axes from metres; raises BadMessage if it is not a pair of numbers."""
    if not isinstance(value, list) or len(cast("list[object]", value)) != 2:
        raise BadMessage(f"{name} {str(value)[:60]!r} is not a pair")
    first, second = (parse_number(v, name) * 1e9 for v in cast("list[object]", value))
    return first, second


def pair_to_wire(pair_nm: tuple[float, float]) -> list[float]:
    """Metres of a shift along two axes."""
    return [value * 1e-9 for value in pair_nm]


def parse_nm(value: object, name: str) -> float:
    """A length from metres; raises BadMessage if it is not a finite number."""
    return parse_number(value, name) * 1e9


def parse_version(value: object) -> tuple[int, ...]:
    """Numbers of a version such as ``2.1.0``; raises BadMessage if it is invalid."""
    numbers = value.split(".") if isinstance(value, str) else []
    if not numbers or not all(n.isascii() and n.isdecimal() for n in numbers[:2]):
        raise BadMessage(f"version {value!r} is not a version such as '2.1.0'")
    return tuple(int(n) for n in numbers[:2])


def position_to_wire(position: StageCoordinates) -> dict[str, float]:
    """Metres and radians of all axes."""
    return target_to_wire(**{name: getattr(position, name) for name, _ in _AXES.values()})


def target_to_wire(**axes: float) -> dict[str, float]:
    """Metres and radians of the axes given by name (``a_deg=10.0``); only those will move."""
    return {axis: axes[name] / factor for axis, (name, factor) in _AXES.items() if name in axes}


def position_from_wire(value: object) -> StageCoordinates:
    """Position in nanometres and degrees; raises BadMessage if an axis is missing."""
    return StageCoordinates(**_in_our_units(value, _AXES))


def target_from_wire(value: object) -> dict[str, float]:
    """Axes of a PUT of ``stage_position`` as ``{"a_deg": 10.0}``; other keys are ignored.

    Raises
    ------
    BadMessage
        If a value is not a finite number.
    """
    body = _mapping(value, STAGE_POSITION)
    return _in_our_units(body, [axis for axis in _AXES if axis in body])


def limits_to_wire(limits: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    """Limits by our names (``{"a_deg": (-80, 80)}``) in metres and radians by the wire's."""
    return {
        axis: [bound / factor for bound in limits[name]]
        for axis, (name, factor) in _AXES.items()
        if name in limits
    }


def limits_from_wire(value: object) -> dict[str, tuple[float, float]]:
    """Limits by our names; raises BadMessage if one is not an ordered pair of numbers."""
    result: dict[str, tuple[float, float]] = {}
    for axis, pair in _mapping(value, STAGE_LIMITS).items():
        if axis not in _AXES:
            continue
        name, factor = _AXES[axis]
        if not isinstance(pair, list) or len(cast("list[object]", pair)) != 2:
            raise BadMessage(f"{STAGE_LIMITS} of {axis} {pair!r} is not a pair")
        low, high = (
            parse_number(v, f"{STAGE_LIMITS} of {axis}") for v in cast("list[object]", pair)
        )
        if low > high:
            raise BadMessage(f"{STAGE_LIMITS} of {axis} {pair!r} are not in order")
        result[name] = (low * factor, high * factor)
    return result


def _in_our_units(value: object, axes: Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
    body = _mapping(value, STAGE_POSITION)
    result: dict[str, float] = {}
    for axis in axes:
        name, factor = _AXES[axis]
        result[name] = parse_number(body.get(axis), f"{STAGE_POSITION} {axis}") * factor
    return result


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage(f"{name} {value!r} is not a JSON object")
    return cast("dict[str, Any]", value)


# The wire names a spot size and an intensity in arbitrary units, and a magnification of a display;
# what they mean on a column is measured there. The following stands where nothing was measured,
# in our simulator and as the default of the driver's options.
SPOT_1_CURRENT_PA = 64.0
SPOT_CURRENTS_PA: Mapping[int, float] = {
    index: SPOT_1_CURRENT_PA * 2.0 ** (1 - index) for index in range(1, 12)
}
DISPLAY_WIDTH_M = 0.1


def probe_current_pa(
    spot: int, intensity: float, spot_currents_pa: Mapping[int, float] = SPOT_CURRENTS_PA
) -> float:
    """Probe current of a spot size at an intensity, which is the fraction of its full current.

    Parameters
    ----------
    spot : int
        Spot size index; KeyError if the table has none such.
    intensity : float
        Taken as 0 below and 1 above that range.
    spot_currents_pa : mapping of int to float
        Full current in pA by spot size index.
    """
    return spot_currents_pa[spot] * min(1.0, max(0.0, intensity))


def spot_for_current(
    current_pa: float, spot_currents_pa: Mapping[int, float] = SPOT_CURRENTS_PA
) -> tuple[int, float] | None:
    """Spot size index and intensity, in (0, 1], that give a probe current.

    Returns
    -------
    tuple of int and float, or None
        The spot with the smallest full current that suffices; None where none does.
    """
    enough = [(full, spot) for spot, full in spot_currents_pa.items() if full >= current_pa]
    if not enough or not current_pa > 0:
        return None
    full, spot = min(enough)
    return spot, current_pa / full


def field_of_view_nm(magnification: float, display_width_m: float = DISPLAY_WIDTH_M) -> float:
    """Width of the scanned field in nm at a STEM magnification of a display of that width."""
    return 1e9 * display_width_m / magnification


def magnification_for(field_nm: float, display_width_m: float = DISPLAY_WIDTH_M) -> float:
    """STEM magnification at which the scanned field is `field_nm` wide."""
    return 1e9 * display_width_m / field_nm
