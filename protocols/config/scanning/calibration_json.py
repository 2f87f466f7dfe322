"""What calibration files share: reading, writing, and for which beam they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ...core.documents import Strict
from ...core.errors import BadInput
from ...core.replaced_file import replace_text

MAX_FILE_BYTES = 100_000
VOLTAGE_TOLERANCE = 0.01

Kept = TypeVar("Kept", bound=Strict)


def read_calibration(path: Path, most: int) -> bytes:
    """Bytes of a calibration file of any kind, `most` of them.

    Raises
    ------
    BadInput
        If it cannot be read, or is larger.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror or error}") from None
    if len(raw) > most:
        raise BadInput(str(path), f"larger than {most} bytes: not a calibration")
    return raw


def load_json(path: Path, model: type[Kept], command: str) -> Kept:
    """Calibration from a JSON file; `command` is the one that writes such files.

    Raises
    ------
    BadInput
        If the file cannot be read or is not a calibration: file, place inside, what is wrong.
    """
    raw = read_calibration(path, MAX_FILE_BYTES)
    try:
        body: Any = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(str(path), f"is not valid JSON: {error}") from None
    try:
        return model.model_validate_json(json.dumps(body))
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        where = f"{path}: {place}" if place else str(path)
        raise BadInput(where, f"{message}; `{command}` writes such a file") from None


def save_json(path: Path, calibration: Strict) -> None:
    """Write a calibration as JSON; a file that is there is replaced in one step.

    Raises
    ------
    BadInput
        If it cannot be written.
    """
    try:
        replace_text(path, calibration.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise BadInput(str(path), f"cannot be written: {error.strerror or error}") from None


def beam_misfit(
    measured_kv: float,
    measured_nm: float,
    voltage_kv: float,
    field_nm: float,
    field_tolerance: float,
) -> str | None:
    """Why what was measured at a voltage and a field does not hold at another; None if it does."""
    if abs(voltage_kv - measured_kv) > VOLTAGE_TOLERANCE * measured_kv:
        return f"it was measured at {measured_kv:g} kV, and the beam has {voltage_kv:g} kV"
    if abs(field_nm - measured_nm) > field_tolerance * measured_nm:
        return (
            f"it was measured with a field of {measured_nm:.4g} nm, and the field is "
            f"{field_nm:.4g} nm"
        )
    return None
