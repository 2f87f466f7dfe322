"""The journal of a run: one JSON line for each thing that the specimen has been through.

Pure: lines in, entries out. `daemon/resume/run_journal.py` writes and reads the file;
`daemon/resume/resume_point.py` concludes from the entries where an interrupted run is resumed.
Every line has ``t_ns``, the moment of writing in UTC nanoseconds on the experiment clock, and
``kind``. A line of an unknown kind is ignored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config.steering import Statistic

# Longer than any line that is written; what is longer is damage.
MAX_LINE_BYTES = 100_000

Nanoseconds = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]
Index = Annotated[int, Field(ge=0, le=10_000_000, strict=True)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dose = Annotated[float, Field(ge=0, allow_inf_nan=False)]

MomentName = Literal[
    "reached", "ramp", "commanded_up", "crossed_up", "commanded_down", "crossed_down"
]


class Entry(BaseModel):
    """What one line says, but for the time at which it was written."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Carried(BaseModel):
    """What had been done of an operation before the run was resumed.

    `done_s` is time at temperature of a hold, or the part of a ramp that was gone through; the
    moments are those of a hold's first rise.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    index: Index
    done_s: Seconds = 0.0
    commanded_up_ns: Nanoseconds | None = None
    crossed_up_ns: Nanoseconds | None = None


class RunLine(Entry):
    """A run begins, or is resumed for the n-th time."""

    kind: Literal["run"] = "run"
    run: str
    resumed: Index = 0
    carried: Carried | None = None


class Begun(Entry):
    """An operation of the plan begins."""

    kind: Literal["begun"] = "begun"
    index: Index


class FinishedMoments(BaseModel):
    """Moments of a hold that was over before the session began, and the time that it achieved."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    commanded_up_ns: Nanoseconds
    crossed_up_ns: Nanoseconds
    commanded_down_ns: Nanoseconds
    crossed_down_ns: Nanoseconds
    achieved_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Ended(Entry):
    """An operation of the plan is over; `next` is the one that follows.

    `held` stands there for a hold of which nothing was left to do in this session, so that a later
    session can report it where this one could not.
    """

    kind: Literal["ended"] = "ended"
    index: Index
    next: Index
    held: FinishedMoments | None = None


class Moment(Entry):
    """Something has happened in the operation in progress, at `at_ns`.

    ``reached``: the target of a heat is reached, from which its hold counts. ``ramp``: the command
    of a ramp went out. The others are those of a hold: commands, and crossings of the midpoint.
    """

    kind: Literal["moment"] = "moment"
    what: MomentName
    at_ns: Nanoseconds


class Trigger(Entry):
    """Frames `first` to ``first + count - 1`` of a stack are about to be exposed."""

    kind: Literal["trigger"] = "trigger"
    stack: str
    first: Index
    count: Index
    dose_e_per_nm2: Dose


class Exposed(Entry):
    """The beam is blanked after a trigger; `dose_e_per_nm2` where it was not what was meant."""

    kind: Literal["exposed"] = "exposed"
    stack: str
    dose_e_per_nm2: Dose | None = None


class Deflectors(Entry):
    """Where the beam deflectors stand, in their unit, before a calibration moves them."""

    kind: Literal["deflectors"] = "deflectors"
    units: tuple[
        Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]
    ]


class Decision(Entry):
    """Whether a steered cycle continues."""

    kind: Literal["decision"] = "decision"
    index: Index
    goes_on: bool


class Necks(Entry):
    """Median r_n / r_p of a series, in journals of version 0.1.0; None: not measurable."""

    kind: Literal["necks"] = "necks"
    series: str
    ratio: float | None


class Measured(Entry):
    """A quantity of a series, as the steering took it in; without a value nothing was measurable.

    `keys` are the labels of the rows whose `values` are kept, in the same order.
    """

    kind: Literal["measured"] = "measured"
    series: str
    quantity: str
    statistic: Statistic = "median"
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    error: Annotated[float, Field(allow_inf_nan=False)] | None = None
    count: Index = 0
    keys: tuple[tuple[int, ...], ...] = ()
    values: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()


class Chosen(Entry):
    """The length and temperature of an adaptive hold."""

    kind: Literal["chosen"] = "chosen"
    hold: Index
    hold_s: Seconds
    temperature_c: Annotated[float, Field(allow_inf_nan=False)]


class Pause(Entry):
    """The schedule pauses at standby, or continues."""

    kind: Literal["pause"] = "pause"
    paused: bool


class MadeSafe(Entry):
    """Beam and heater were made safe, by the daemon itself or by the guardian; absent: not so.

    `heater_commanded_ns` is when the command was sent, `heater_safe_ns` when the readings confirmed
    it.
    """

    kind: Literal["safed", "guardian"] = "safed"
    beam_blanked_ns: Nanoseconds | None = None
    heater_commanded_ns: Nanoseconds | None = None
    heater_safe_ns: Nanoseconds | None = None


_KINDS: dict[str, type[Entry]] = {
    "run": RunLine,
    "begun": Begun,
    "ended": Ended,
    "moment": Moment,
    "trigger": Trigger,
    "exposed": Exposed,
    "deflectors": Deflectors,
    "decision": Decision,
    "necks": Necks,
    "measured": Measured,
    "chosen": Chosen,
    "pause": Pause,
    "safed": MadeSafe,
    "guardian": MadeSafe,
}


@dataclass(frozen=True)
class Noted:
    """An entry and when it was written."""

    t_ns: int
    entry: Entry


class BadLine(ValueError):
    """Bytes that are not a line of a journal."""


def line_of(t_ns: int, entry: Entry) -> bytes:
    """The line of an entry, with its end."""
    return f'{{"t_ns":{t_ns},{entry.model_dump_json(exclude_none=True)[1:]}\n'.encode()


def parse_line(raw: bytes) -> Noted | None:
    """Read one line.

    Returns
    -------
    Noted or None
        None for a kind that is not known here.

    Raises
    ------
    BadLine
        If it is not valid.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine(f"has {len(raw)} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadLine("is not JSON") from None
    if not isinstance(found, dict):
        raise BadLine("is not a JSON object")
    body = cast(dict[str, Any], found)
    t_ns, kind = body.get("t_ns"), body.get("kind")
    if type(t_ns) is not int or not 0 <= t_ns < 1 << 63 or not isinstance(kind, str):
        raise BadLine("has no t_ns and kind")
    model = _KINDS.get(kind)
    if model is None:
        return None
    try:
        # `necks` without a ratio: nothing was measurable.
        return Noted(t_ns, model.model_validate({"ratio": None} | body))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise BadLine(f"{path}: {first['msg']}") from None


def parse_journal(raw: bytes) -> tuple[list[Noted], list[str]]:
    """Read a whole journal.

    A last line without an end was being written when the process was killed: it is left out.

    Returns
    -------
    entries : list of Noted
        In the order in which they were written.
    damaged : list of str
        One text for each line that cannot be read and was skipped.
    """
    entries: list[Noted] = []
    damaged: list[str] = []
    *lines, _torn = raw.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            noted = parse_line(line)
        except BadLine as error:
            damaged.append(f"line {number} {error}")
        else:
            if noted is not None:
                entries.append(noted)
    return entries, damaged
