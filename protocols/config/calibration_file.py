"""Read the calibration of a heating chip from JSON or from a CSV table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import BadInput
from .calibration import ChipCalibration
from .scanning.calibration_json import read_calibration

MAX_FILE_BYTES = 1_000_000


def load_calibration(path: Path) -> ChipCalibration:
    """Calibration from a ``.json`` file or a ``.csv`` table.

    Raises
    ------
    BadInput
        If the file cannot be read or is not a calibration: file, place inside, what is wrong.
    """
    raw = read_calibration(path, MAX_FILE_BYTES)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(str(path), "is not text (UTF-8)") from None
    if path.suffix.lower() == ".csv":
        return parse_calibration_csv(text, str(path))
    return parse_calibration_json(text, str(path))


def parse_calibration_json(text: str, name: str) -> ChipCalibration:
    """Calibration from JSON text; `name` is for messages; raises as `load_calibration`."""
    try:
        body = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise BadInput(f"{name}:{error.lineno}", f"is not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(name, f"is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        keys = ", ".join(ChipCalibration.model_fields)
        raise BadInput(name, f"should be a JSON object with the keys {keys}")
    return _validated(body, name)


def parse_calibration_csv(text: str, name: str) -> ChipCalibration:
    """Calibration from a CSV table; `name` is for messages; raises as `load_calibration`.

    Lines such as ``# chip: A-17`` give the keys of `ChipCalibration` that are single values.
    """
    body: dict[str, Any] = {"chip": Path(name).stem}
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            key, colon, value = line.strip().lstrip("#").partition(":")
            if colon and key.strip() in ChipCalibration.model_fields:
                body[key.strip()] = value.strip()
        elif line.strip():
            rows.append((number, [cell.strip() for cell in next(csv.reader([line]))]))
    needed = ["temperature_c", "resistance_ohm"]
    header = rows[0][1] if rows else []
    if header not in (needed, [*needed, "power_w"]):
        raise BadInput(
            f"{name}:{rows[0][0]}" if rows else name,
            "the first line should read temperature_c,resistance_ohm or "
            "temperature_c,resistance_ohm,power_w",
        )
    columns: dict[str, list[float]] = {column: [] for column in header}
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise BadInput(f"{name}:{number}", f"{len(cells)} values; {len(header)} are needed")
        for column, cell in zip(header, cells, strict=True):
            try:
                columns[column].append(float(cell))
            except ValueError:
                raise BadInput(f"{name}:{number}: {column}", f"'{cell}' is not a number") from None
    temperature = {"kind": "table", "temperature_c": columns["temperature_c"]}
    body["resistance"] = {**temperature, "resistance_ohm": columns["resistance_ohm"]}
    if "power_w" in columns:
        body["power"] = {**temperature, "power_w": columns["power_w"]}
    return _validated(body, name)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key '{twice}' is written twice")
    return found


def _validated(body: dict[str, Any], name: str) -> ChipCalibration:
    try:
        return ChipCalibration.model_validate(body)
    except ValidationError as error:
        lines: list[str] = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"] if part not in ("polynomial",))
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "unknown key"
            elif item["type"] == "missing":
                message = "required key is missing"
            lines.append(f"{name}: {place}: {message}" if place else f"{name}: {message}")
        raise BadInput("", "\n".join(lines)) from None
