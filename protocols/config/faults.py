"""Faults that a simulated wire can be told to have: their names, and how they are written."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..core.documents import Strict
from ..core.errors import BadInput
from ..core.units import DurationS, LengthNm, SpeedNmPerS
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
    "blank-frame",
    "same-frame",
    "none",
]
PhysicalFaultName = Literal[
    "runaway",
    "stuck",
    "sensor-off",
    "implausible",
    "freeze",
    "silent",
    "bulge-jumps",
    "drift",
    "slip",
    "z-sticks",
    "xy-ignored",
    "drift-fast",
    "decoy",
    "unblank",
    "valves",
    "vacuum",
    "shift-clips",
    "shift-inverted",
    "shift-forgets",
    "focus-jumps",
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
    "blank-frame": "sends a frame in which nothing was counted",
    "same-frame": "sends the frame before once more in place of a new one",
    "none": "clears every fault of the wire",
    "runaway": "the heater heats on, 40 K a second, whatever its setpoint",
    "stuck": "the heater stays where it is, whatever its setpoint",
    "sensor-off": "the temperature read falls to the ambient, and the controller heats all it can",
    "implausible": "the resistance read is half as much again as belongs to the temperature",
    "freeze": "the last sample is sent again and again, with new times",
    "silent": "samples cease, commands are answered",
    "bulge-jumps": "the membrane jumps up by 1 um or the size given, and back when it is cleared",
    "drift": "the stage creeps by 0.2 deg a second wherever it has arrived",
    "slip": "the next tilt slips by 400 nm or the size given, for good",
    "z-sticks": "the drive of z moves, and the specimen stays at its height",
    "xy-ignored": "moves in x and y are accepted and not carried out",
    "drift-fast": "the specimen drifts by 50 nm a second or the speed given",
    "decoy": "the specimen repeats itself on all sides, 1.2 um or the size given apart",
    "unblank": "the beam comes on by itself, once",
    "valves": "the column valves close",
    "vacuum": "the vacuum system leaves the state READY",
    "shift-clips": "the beam deflectors stop at 100 nm or the size given, and say nothing",
    "shift-inverted": "a beam shift moves the image the other way",
    "shift-forgets": "the beam deflectors return to zero by themselves, 0.2 s after each shift",
    "focus-jumps": "the focus jumps by 2 um or the size given, and back when it is cleared",
}
# What goes wrong behind the wire, with the role whose instrument it is.
PHYSICAL: dict[FaultName, Role] = {
    "runaway": "heater",
    "stuck": "heater",
    "sensor-off": "heater",
    "implausible": "heater",
    "freeze": "heater",
    "silent": "heater",
    "bulge-jumps": "heater",
    "drift": "stage",
    "slip": "stage",
    "z-sticks": "stage",
    "xy-ignored": "stage",
    "drift-fast": "stage",
    "decoy": "stage",
    "unblank": "beam",
    "valves": "beam",
    "vacuum": "beam",
    "shift-clips": "beam",
    "shift-inverted": "beam",
    "shift-forgets": "beam",
    "focus-jumps": "beam",
}
SLOW_S = 1.0
# Faults of a size: in nm, and a speed in nm/s.
SIZES_NM: dict[FaultName, float] = {
    "slip": 400.0,
    "bulge-jumps": 1000.0,
    "decoy": 1200.0,
    "shift-clips": 100.0,
    "focus-jumps": 2000.0,
}
SPEEDS_NM_PER_S: dict[FaultName, float] = {"drift-fast": 50.0}
# What people call parts of an instrument, and the role whose wire it is.
_PARTS: dict[str, Role] = {"chip": "heater", "specimen": "stage"}

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
    size_nm, speed_nm_per_s : float or None
        Of a fault that has one; None: the usual one.
    start_s, duration_s : float
        Experiment seconds from the moment at which the wires are open, and until it is cleared.
    """

    role: Role
    name: FaultName
    times: Annotated[int, Field(ge=1)] | None = None
    late_s: DurationS = Field(default=SLOW_S, ge=0)
    size_nm: LengthNm | None = Field(default=None, gt=0)
    speed_nm_per_s: SpeedNmPerS | None = Field(default=None, gt=0)
    start_s: DurationS = Field(default=0.0, ge=0)
    duration_s: DurationS | None = Field(default=None, gt=0)

    @property
    def size(self) -> float:
        """Its size in nm or speed in nm/s; 0 where it has none."""
        if self.name in SPEEDS_NM_PER_S:
            return self.speed_nm_per_s or SPEEDS_NM_PER_S[self.name]
        return self.size_nm or SIZES_NM.get(self.name, 0.0)


def parse_fault(text: str, where: str = "--fault") -> Fault:
    """Fault from ``ROLE:NAME[=SIZE][xTIMES][@START][+DURATION]``, as in ``detector:hang@20s+5s``.

    The size is a time for ``slow``, and a length or speed for what moves: ``stage:slip=400nm``. The
    words ``chip`` and ``specimen`` stand for the roles heater and stage.

    Raises
    ------
    BadInput
        If it is not of that form, or names no role or fault.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise BadInput(where, f"'{text}' should read as ROLE:FAULT, for example detector:hang@20s")
    parts = found.groupdict()
    parts["role"] = _PARTS.get(parts["role"], parts["role"])
    if parts["role"] not in ROLES:
        raise BadInput(where, f"'{parts['role']}' is not a role; there are {', '.join(ROLES)}")
    if parts["name"] not in FAULTS:
        raise BadInput(where, f"'{parts['name']}' is not a fault; there are {', '.join(FAULTS)}")
    times = {
        _value_of(parts["name"]): parts["value"],
        "start_s": parts["start"],
        "duration_s": parts["duration"],
    }
    if parts["value"] and None in times:
        raise BadInput(where, f"'{text}': '{parts['name']}' takes no time after '=', and no size")
    body = {
        "role": parts["role"],
        "name": parts["name"],
        "times": int(parts["times"]) if parts["times"] else None,
        **{name: value for name, value in times.items() if name and value is not None},
    }
    try:
        return Fault.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadInput(where, f"'{text}': {problem}") from None


def _value_of(name: str) -> str | None:
    """Which field the value after '=' is; None for a fault that takes none."""
    if name == "slow":
        return "late_s"
    if name in SPEEDS_NM_PER_S:
        return "speed_nm_per_s"
    return "size_nm" if name in SIZES_NM else None
