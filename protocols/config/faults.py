"""Faults that a simulated wire can be told to have: their names, and how they are written."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..core.documents import Strict
from ..core.errors import BadInput
from ..core.units import DurationS
from .rig import ROLES, Role

WireFaultName = Literal[
    "hang",
    "disconnect",
    "garbage",
    "short-frame",
    "wrong-length",
    "slow",
    "error",
    "extra-frames",
    "none",
]
PhysicalFaultName = Literal[
    "runaway",
    "stuck",
    "sensor-off",
    "implausible",
    "freeze",
    "silent",
    "drift",
    "unblank",
    "valves",
    "vacuum",
]
FaultName = WireFaultName | PhysicalFaultName
FAULTS: dict[FaultName, str] = {
    "hang": "takes requests, answers nothing and sends nothing until it is cleared",
    "disconnect": "closes the connection in the middle of an answer",
    "garbage": "sends noise before an answer or a frame",
    "short-frame": "leaves the end of a frame or sample out",
    "wrong-length": "announces another length than it sends",
    "slow": "answers late, by a second or the time given",
    "error": "refuses what it is asked",
    "extra-frames": "sends a second frame after each, as a detector with two counters does",
    "none": "clears every fault of the wire",
    "runaway": "the heater heats on, 40 K a second, whatever its setpoint",
    "stuck": "the heater stays where it is, whatever its setpoint",
    "sensor-off": "the temperature read falls to the ambient, and the controller heats all it can",
    "implausible": "the resistance read is half as much again as belongs to the temperature",
    "freeze": "the last sample is sent again and again, with new times",
    "silent": "samples cease, commands are answered",
    "drift": "the stage creeps by 0.2 deg a second wherever it has arrived",
    "unblank": "the beam comes on by itself, once",
    "valves": "the column valves close",
    "vacuum": "the vacuum system leaves the state READY",
}
# What goes wrong behind the wire, with the role whose instrument it is.
PHYSICAL: dict[FaultName, Role] = {
    "runaway": "heater",
    "stuck": "heater",
    "sensor-off": "heater",
    "implausible": "heater",
    "freeze": "heater",
    "silent": "heater",
    "drift": "stage",
    "unblank": "beam",
    "valves": "beam",
    "vacuum": "beam",
}
SLOW_S = 1.0

_TEXT = re.compile(
    r"(?P<role>[a-z]+)[: ](?P<name>[a-z-]+?)(=(?P<value>[^@x+]+))?(x(?P<times>[0-9]{1,6}))?"
    r"(@(?P<start>[^@+]+))?(\+(?P<duration>[^@+]+))?"
)


class Fault(Strict):
    """One fault of one wire.

    Attributes
    ----------
    times : int or None
        How often it strikes; None: until it is cleared.
    late_s : float
        Wall seconds by which `slow` delays.
    start_s, duration_s : float
        Experiment seconds from the moment at which the wires are open, and until it is cleared.
    """

    role: Role
    name: FaultName
    times: Annotated[int, Field(ge=1)] | None = None
    late_s: DurationS = Field(default=SLOW_S, ge=0)
    start_s: DurationS = Field(default=0.0, ge=0)
    duration_s: DurationS | None = Field(default=None, gt=0)


def parse_fault(text: str, where: str = "--fault") -> Fault:
    """Fault from ``ROLE:NAME[=LATE][xTIMES][@START][+DURATION]``, as in ``detector:hang@20s+5s``.

    Raises
    ------
    BadInput
        If it is not of that form, or names no role or fault.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise BadInput(where, f"'{text}' should read as ROLE:FAULT, for example detector:hang@20s")
    parts = found.groupdict()
    if parts["role"] not in ROLES:
        raise BadInput(where, f"'{parts['role']}' is not a role; there are {', '.join(ROLES)}")
    if parts["name"] not in FAULTS:
        raise BadInput(where, f"'{parts['name']}' is not a fault; there are {', '.join(FAULTS)}")
    if parts["value"] and parts["name"] != "slow":
        raise BadInput(
            where, f"'{text}': '{parts['name']}' takes no time after '='; only 'slow' does"
        )
    times = {
        "late_s": parts["value"],
        "start_s": parts["start"],
        "duration_s": parts["duration"],
    }
    body = {
        "role": parts["role"],
        "name": parts["name"],
        "times": int(parts["times"]) if parts["times"] else None,
        **{name: value for name, value in times.items() if value is not None},
    }
    try:
        return Fault.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadInput(where, f"'{text}': {problem}") from None
