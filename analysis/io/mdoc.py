"""Metadata files of SerialEM (.mdoc): angle, time and tilt axis of each image of a stack."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from .readers.mrc_extended import axis_in_text

_SECTION = re.compile(r"^\[(?P<kind>\w+)\s*=\s*(?P<name>.*)\]\s*$")
_VALUE = re.compile(r"^(?P<key>\w+)\s*=\s*(?P<value>.*?)\s*$")
_TFS_AXIS = re.compile(r"TiltAxisAngle\s*=\s*([-+]?\d+(?:\.\d*)?)")
_DATES = ("%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S", "%d-%b-%y %H:%M:%S.%f")
_NEAR_DEG = 0.11  # titles have one decimal


@dataclass
class _Section:
    """Lines of the file that belong together."""

    line: int
    values: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Mdoc:
    """What an .mdoc file says of a tilt series.

    Attributes
    ----------
    tilt_deg : ndarray
        Angles in the order of the images of the stack, shape (images,).
    pixel_nm, voltage_kv : float or None
        None where it says nothing.
    tilt_axis_deg : float or None
        Direction of the tilt axis as IMOD counts it.
    times : ndarray of datetime64[ms] or None
        Moment of each image, local time of the microscope, shape (images,).
    """

    tilt_deg: NDArray[np.float64]
    pixel_nm: float | None = None
    voltage_kv: float | None = None
    tilt_axis_deg: float | None = None
    times: NDArray[np.datetime64] | None = None


def read_mdoc(path: Path, text: str) -> Mdoc:
    """Read the text of an .mdoc file.

    Parameters
    ----------
    path : Path
        The file, for messages.
    text : str
        What it holds.

    Returns
    -------
    Mdoc
        Its images by their number in the stack (``ZValue``).

    Raises
    ------
    BadInput
        If it has no images, one of them has no angle, or their numbers have gaps.

    Notes
    -----
    Format: SerialEM's documentation, "File Formats". The tilt axis is taken from the title, else
    from the rotation of the images, as IMOD's program `header` does it.
    """
    start, titles, images = _parse(text)
    if not images:
        raise BadInput(
            str(path), "has no image: a section such as '[ZValue = 0]' with 'TiltAngle = -40'"
        )
    numbers = sorted(images)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise BadInput(
            str(path),
            f"its images are numbered {numbers[0]} to {numbers[-1]} (ZValue), and there are "
            f"{len(numbers)} of them; one section for each image is expected",
        )
    sections = [images[number] for number in numbers]
    angles = [_number(path, section, "TiltAngle", needed=True) for section in sections]
    first = sections[0]
    spacing = _number(path, first, "PixelSpacing")
    spacing = _number(path, start, "PixelSpacing") if math.isnan(spacing) else spacing
    voltage_kv = _number(path, start, "Voltage")
    rotation_deg = _number(path, first, "RotationAngle")
    return Mdoc(
        np.array(angles, np.float64),
        None if math.isnan(spacing) or spacing == 0 else float(f"{spacing / 10:.7g}"),
        voltage_kv if voltage_kv > 0 else None,
        _tilt_axis(titles, rotation_deg),
        _times(sections),
    )


def _parse(text: str) -> tuple[_Section, str, Mapping[int, _Section]]:
    """Lines before the first section, all titles, and the images by number."""
    start = current = _Section(0)
    titles: list[str] = []
    images: dict[int, _Section] = {}
    for number, line in enumerate(text.splitlines(), 1):
        section = _SECTION.match(line.strip())
        if section is not None:
            current = _Section(number)
            if section["kind"] == "T":
                titles.append(section["name"])
            elif section["kind"] == "ZValue" and section["name"].strip().isdigit():
                images[int(section["name"])] = current
            continue
        value = _VALUE.match(line.strip())
        if value is not None:
            current.values.setdefault(value["key"], value["value"])
    return start, "\n".join(titles), images


def _number(path: Path, section: _Section, key: str, needed: bool = False) -> float:
    """A number of a section; NaN where it is absent."""
    where = f"{path}:{section.line}"
    if key not in section.values:
        if needed:
            raise BadInput(where, f"this image has no {key}")
        return math.nan
    written = section.values[key].split()
    try:
        return float(written[0])
    except (ValueError, IndexError):
        raise BadInput(where, f"{key} is '{section.values[key]}'; a number is expected") from None


def _tilt_axis(titles: str, rotation_deg: float) -> float | None:
    axis = axis_in_text(titles)
    if axis is not None:
        return axis
    found = _TFS_AXIS.search(titles)
    if found is None:
        # SerialEM's rotation is that of the image, 90 deg from the tilt axis.
        return None if math.isnan(rotation_deg) else _within_180(rotation_deg - 90)
    # Thermo Fisher's program writes the axis in several ways; its rotation tells which.
    written = float(found.group(1))
    for meant, axis in (
        (-(rotation_deg + 90), rotation_deg),
        (rotation_deg - 90, written),
        (-(rotation_deg - 90), -written),
    ):
        if abs(_within_180(meant - written)) < _NEAR_DEG:
            return axis
    return None


def _within_180(angle_deg: float) -> float:
    return (angle_deg + 180) % 360 - 180


def _times(sections: Sequence[_Section]) -> NDArray[np.datetime64] | None:
    """Moment of each image; None unless all are known."""
    moments = [_moment(section.values.get("DateTime", "")) for section in sections]
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments) or (len(set(known)) == 1 < len(known)):
        return None
    return np.array(known, "datetime64[ms]")


def _moment(text: str) -> datetime | None:
    for form in _DATES:
        try:
            return datetime.strptime(" ".join(text.split()), form)
        except ValueError:
            continue
    return None
