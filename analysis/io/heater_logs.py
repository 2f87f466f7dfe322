"""Readers of heater logs: DENSsolutions DigiHeater and Impulse, Protochips, and plain CSV."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput

Floats = NDArray[np.float64]

PLAIN_COLUMNS = ("time_s", "temperature_c")
KNOWN_FORMS = "DigiHeater, Impulse, Protochips, or CSV with the columns time_s,temperature_c"
_COLDEST_C, _HOTTEST_C = -273.15, 3500.0
_DAY_S = 86_400.0
_IMPULSE_DATES = ("%Y-%m-%d", "%d-%m-%Y", "%d/%m/%Y")
_DIGIHEATER_DATES = ("%d/%m/'%y %H:%M", "%d/%m/%Y %H:%M", "%d/%m/%y %H:%M")


@dataclass(frozen=True)
class HeaterLog:
    """What a heater log says.

    Attributes
    ----------
    form : str
        Its format.
    time_s : ndarray of shape (samples,)
        In order; zero is the start of the log, in plain CSV the start of the first frame.
    temperature_c : ndarray of shape (samples,)
        Measured temperature in degC.
    setpoint_c : ndarray of shape (samples,) or None
        Temperature that was asked for, if the log has it.
    start : datetime or None
        Zero of `time_s` on the clock of the heater's computer (local time), if the log has it.
    from_first_frame : bool
        Whether zero of `time_s` is the start of the first frame.
    left_out : int
        Lines without a temperature.
    """

    form: str
    time_s: Floats
    temperature_c: Floats
    setpoint_c: Floats | None = None
    start: datetime | None = None
    from_first_frame: bool = False
    left_out: int = 0


@dataclass
class _Table:
    """Samples as they are read, with the lines that they stand on."""

    path: Path
    time_s: list[float] = field(default_factory=list[float])
    temperature_c: list[float] = field(default_factory=list[float])
    setpoint_c: list[float] = field(default_factory=list[float])
    left_out: int = 0

    def add(self, line: int, time_s: float, written: str, setpoint: str | None = None) -> None:
        """Take one sample; a line without a temperature is counted and left out."""
        temperature_c = _number(written)
        if temperature_c is None or not math.isfinite(temperature_c):
            self.left_out += 1
            return
        if not _COLDEST_C <= temperature_c <= _HOTTEST_C:
            raise BadInput(
                f"{self.path}:{line}",
                f"the temperature is {temperature_c:g}; degC from {_COLDEST_C} to {_HOTTEST_C:g} "
                "are expected",
            )
        if not math.isfinite(time_s):
            raise BadInput(f"{self.path}:{line}", "the time is not a number")
        if self.time_s and time_s < self.time_s[-1]:
            raise BadInput(
                f"{self.path}:{line}",
                f"the time goes back from {self.time_s[-1]:g} to {time_s:g} s; lines in the "
                "order of time are expected",
            )
        self.time_s.append(time_s)
        self.temperature_c.append(temperature_c)
        if setpoint is not None:
            asked = _number(setpoint)
            self.setpoint_c.append(math.nan if asked is None else asked)

    def log(
        self, form: str, start: datetime | None = None, from_first_frame: bool = False
    ) -> HeaterLog:
        """The log; BadInput if it is empty."""
        if len(self.time_s) < 2:
            raise BadInput(
                str(self.path),
                f"is a log of {form} with {len(self.time_s)} samples of temperature; two or more "
                "are needed",
            )
        asked = np.array(self.setpoint_c) if len(self.setpoint_c) == len(self.time_s) else None
        times, temperatures = np.array(self.time_s), np.array(self.temperature_c)
        return HeaterLog(form, times, temperatures, asked, start, from_first_frame, self.left_out)


def read_heater_log(path: Path) -> HeaterLog:
    """Read a heater log; its first line tells the format.

    Parameters
    ----------
    path : Path
        DENSsolutions DigiHeater or Impulse, Protochips, or CSV with the columns
        ``time_s,temperature_c``.

    Returns
    -------
    HeaterLog

    Raises
    ------
    BadInput
        If it is missing, of another format, or a line cannot be read.

    Notes
    -----
    The three formats of vendors are those that RosettaSciIO reads. It gives them with even steps
    of time; here each sample keeps its own.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    if b"\0" in raw[:1024]:
        raise BadInput(str(path), f"is no text; known heater logs: {KNOWN_FORMS}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    columns = [name.strip() for name in first.split(",")]
    if "digiheater" in first.lower():
        return _digiheater(path, lines)
    if "TimeStamp" in columns:
        return _impulse(path, lines)
    if "Time" in columns and "Notes" in columns:
        return _protochips(path, lines)
    if set(PLAIN_COLUMNS) <= set(columns):
        return _plain(path, lines)
    raise BadInput(str(path), f"its first line is '{first[:80]}'; known heater logs: {KNOWN_FORMS}")


def _rows(lines: Sequence[str], header: int, delimiter: str = ",") -> list[list[str]]:
    """Cells of the lines after the header."""
    return [
        [cell.strip() for cell in row] for row in csv.reader(lines[header:], delimiter=delimiter)
    ]


def _plain(path: Path, lines: Sequence[str]) -> HeaterLog:
    start = next(number for number, line in enumerate(lines) if line.strip())
    columns = [name.strip() for name in lines[start].split(",")]
    places = [columns.index(name) for name in PLAIN_COLUMNS]
    asked = columns.index("setpoint_c") if "setpoint_c" in columns else None
    table = _Table(path)
    for number, cells in enumerate(_rows(lines, start + 1), start + 2):
        if not any(cells) or cells[0].startswith("#"):
            continue
        time_s, written = _cells(path, number, cells, places)
        seconds = _number(time_s)
        if seconds is None:
            raise BadInput(f"{path}:{number}", f"'{time_s}' is no time in seconds")
        setpoint = cells[asked] if asked is not None and asked < len(cells) else None
        table.add(number, seconds, written, setpoint)
    return table.log("CSV", from_first_frame=True)


def _impulse(path: Path, lines: Sequence[str]) -> HeaterLog:
    start = next(number for number, line in enumerate(lines) if line.strip())
    columns = [name.strip() for name in lines[start].split(",")]
    measured = _column(columns, "temperature measured", "temperature")
    if measured is None:
        raise BadInput(
            f"{path}:{start + 1}",
            f"is a log of Impulse without a column of temperature; it has {', '.join(columns)}",
        )
    asked = _column(columns, "temperature setpoint")
    stamp = columns.index("TimeStamp")
    elapsed = columns.index("Experiment time") if "Experiment time" in columns else stamp
    table, clock = _Table(path), _Clock()
    first_stamp: str | None = None
    for number, cells in enumerate(_rows(lines, start + 1), start + 2):
        if not any(cells):
            continue
        time, stamped, written = _cells(path, number, cells, [elapsed, stamp, measured])
        seconds = clock.seconds(time)
        if seconds is None:
            raise BadInput(f"{path}:{number}", f"'{time}' is no time")
        first_stamp = stamped if first_stamp is None else first_stamp
        setpoint = cells[asked] if asked is not None and asked < len(cells) else None
        table.add(number, seconds, written, setpoint)
    begun = _impulse_start(path, first_stamp or "")
    log = table.log("Impulse")
    zero_s = float(log.time_s[0])
    if elapsed == stamp or begun is not None:  # the stamp is that of the first line
        return _from_start(log, zero_s, begun)
    return log


def _impulse_start(path: Path, first_stamp: str) -> datetime | None:
    """Moment of the first line: its stamp, on the day that the metadata file beside tells."""
    whole = _moment(first_stamp, ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S"))
    if whole is not None:
        return whole
    notes = path.with_name("_".join(path.name.split("_")[:-1]) + "_Metadata.log")
    if not notes.is_file():
        return None
    said: dict[str, str] = {}
    for row in csv.reader(notes.read_text("utf-8", "replace").splitlines()):
        if len(row) > 1:
            said.setdefault(row[0].strip(), row[1].strip())
    day = _moment(said.get("Experiment date", ""), _IMPULSE_DATES)
    begun_s = _Clock().seconds(said.get("Experiment time", ""))
    stamp_s = _Clock().seconds(first_stamp)
    if day is None or begun_s is None:
        return None
    seconds = begun_s if stamp_s is None else stamp_s
    if seconds < begun_s - _DAY_S / 2:  # the first sample came after midnight
        seconds += _DAY_S
    return day + timedelta(seconds=seconds)


def _digiheater(path: Path, lines: Sequence[str]) -> HeaterLog:
    start = next(number for number, line in enumerate(lines) if line.strip())
    begun = _moment(lines[start].split("\t")[0].strip(), _DIGIHEATER_DATES)
    header = next(
        (n for n in range(start, min(start + 10, len(lines))) if "Tmeas" in lines[n]), None
    )
    if header is None:
        raise BadInput(str(path), "is a log of DigiHeater without the column 'Tmeas[C]'")
    columns = [name.strip() for name in lines[header].split("\t")]
    measured = next(place for place, name in enumerate(columns) if name.startswith("Tmeas"))
    asked = next((place for place, name in enumerate(columns) if name.startswith("Tset")), None)
    time = columns.index("time") if "time" in columns else 1
    table, clock = _Table(path), _Clock()
    for number, cells in enumerate(_rows(lines, header + 1, "\t"), header + 2):
        if not any(cells):
            continue
        written_time, written = _cells(path, number, cells, [time, measured])
        seconds = clock.seconds(written_time)
        if seconds is None:
            raise BadInput(f"{path}:{number}", f"'{written_time}' is no time")
        setpoint = cells[asked] if asked is not None and asked < len(cells) else None
        table.add(number, seconds, written, setpoint)
    log = table.log("DigiHeater")
    first_s = float(log.time_s[0])
    if begun is not None:
        midnight = datetime(begun.year, begun.month, begun.day)
        # The times are those of the day; the date in the first line has minutes only.
        day_s = (begun - midnight).total_seconds()
        if first_s < day_s - _DAY_S / 2:
            first_s += _DAY_S
        if abs(first_s - day_s) < _DAY_S / 24:
            begun = midnight + timedelta(seconds=first_s)
    return _from_start(log, float(log.time_s[0]), begun)


def _protochips(path: Path, lines: Sequence[str]) -> HeaterLog:
    columns = [name.strip() for name in lines[0].split(",")]
    measured = next((n for n, name in enumerate(columns) if name.endswith("Temperature")), None)
    if measured is None:
        raise BadInput(
            f"{path}:1",
            f"is a log of Protochips without a temperature; it has {', '.join(columns)}",
        )
    time = columns.index("Time")
    said, first = _protochips_header(lines)
    unit = said.get("Temperature units", "Degrees C").lower()
    if not unit.endswith("c"):
        raise BadInput(str(path), f"its temperature is in '{unit}'; degrees C are expected")
    step_s = 1e-3 if said.get("Time units", "Milliseconds").lower().startswith("milli") else 1.0
    table = _Table(path)
    for number, cells in enumerate(_rows(lines, first), first + 1):
        if not any(cells):
            continue
        written_time, written = _cells(path, number, cells, [time, measured])
        count = _number(written_time)
        if count is None:
            raise BadInput(f"{path}:{number}", f"'{written_time}' is no time")
        table.add(number, count * step_s, written)
    day = said.get("Date (yyyy.mm.dd)", "")
    begun = _moment(
        f"{day} {said.get('Time (hh:mm:ss.ms)', '')}", ("%Y.%m.%d %H:%M:%S.%f", "%Y.%m.%d %H:%M:%S")
    )
    log = table.log("Protochips")
    # Its time counts from the moment in the header.
    return HeaterLog(
        log.form, log.time_s, log.temperature_c, log.setpoint_c, begun, left_out=log.left_out
    )


def _protochips_header(lines: Sequence[str]) -> tuple[Mapping[str, str], int]:
    """Parameters in the column of notes before the data, and where the data begin."""
    said: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 1):
        cells = [cell.strip() for cell in line.split(",")]
        if cells and _number(cells[0]) is not None:
            return said, number
        for cell in cells:
            key, sign, value = cell.partition(" = ")
            if sign:
                said[key.strip()] = value.strip()
    return said, len(lines)


def _from_start(log: HeaterLog, zero_s: float, start: datetime | None) -> HeaterLog:
    """A log whose time counts from its first sample."""
    return HeaterLog(
        log.form, log.time_s - zero_s, log.temperature_c, log.setpoint_c, start,
        left_out=log.left_out,
    )  # fmt: skip


class _Clock:
    """Times of one log in seconds: numbers, or times of day that may pass midnight."""

    def __init__(self) -> None:
        self._days, self._last = 0, -math.inf

    def seconds(self, written: str) -> float | None:
        """Time of one line; None if it is none."""
        number = _number(written)
        if number is not None:
            return number
        # As "13:40:19.25"; a duration may begin with days, as "00.00:06:45.416".
        parts = re.fullmatch(
            r"(?:.*[ T])?(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2}(?:\.\d+)?)", written.strip()
        )
        if parts is None:
            return None
        days, hours, minutes, seconds = parts.groups()
        total = int(days or 0) * _DAY_S + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        total += self._days * _DAY_S
        if total < self._last - _DAY_S / 2:
            self._days += 1
            total += _DAY_S
        self._last = total
        return total


def _cells(path: Path, line: int, cells: Sequence[str], places: Sequence[int]) -> list[str]:
    if max(places) >= len(cells):
        raise BadInput(
            f"{path}:{line}", f"has {len(cells)} cells; {max(places) + 1} or more are expected"
        )
    return [cells[place] for place in places]


def _column(columns: Sequence[str], *beginnings: str) -> int | None:
    """Place of the first column whose name begins so, without regard to capitals."""
    for beginning in beginnings:
        for place, name in enumerate(columns):
            if name.lower().startswith(beginning):
                return place
    return None


def _number(written: str) -> float | None:
    try:
        return float(written)
    except ValueError:
        return None


def _moment(written: str, forms: Sequence[str]) -> datetime | None:
    for form in forms:
        try:
            return datetime.strptime(written.strip(), form)
        except ValueError:
            continue
    return None
