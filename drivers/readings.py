"""What drivers hand out: identities, readings, frames, and how far an axis may be sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..protocols.core.chunk import Chunk


@dataclass(frozen=True)
class Identity:
    """What an instrument says it is."""

    vendor: str
    model: str
    serial: str = ""
    firmware: str = ""

    def __str__(self) -> str:
        return " ".join(p for p in (self.vendor, self.model, self.serial, self.firmware) if p)


@dataclass(frozen=True)
class HeaterSample:
    """One reading of the heater; `values` hold the channels that came with it, NaN-free."""

    t_ns: int
    temperature_c: float
    setpoint_c: float
    values: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class StagePosition:
    """Where the stage says it is; NaN for an axis that it does not tell."""

    t_ns: int
    tilt_deg: float
    x_nm: float = math.nan
    y_nm: float = math.nan
    z_nm: float = math.nan

    def way_nm(self, other: StagePosition) -> float:
        """Distance to another position, along the axes that both tell."""
        ways = (other.x_nm - self.x_nm, other.y_nm - self.y_nm, other.z_nm - self.z_nm)
        return math.hypot(*(way for way in ways if math.isfinite(way)))


@dataclass(frozen=True)
class BeamState:
    """What the column says of itself; None where it does not say.

    `valves_open` tells whether electrons can pass the column valves, `vacuum_ok` whether the vacuum
    system is ready.
    """

    blanked: bool
    valves_open: bool | None = None
    vacuum_ok: bool | None = None


@dataclass(frozen=True)
class BlankerSwitch:
    """A command to the blanker: when it went out, and when the instrument answered (ns).

    The beam went on or off at some moment between the two; `SwitchingTime` says when, probably.
    """

    sent_ns: int
    answered_ns: int


FrameData = NDArray[np.unsignedinteger[Any]] | Chunk


@dataclass(frozen=True)
class DetectorFrame:
    """One frame.

    `data` is (rows, columns), C-ordered, little-endian unsigned integers of the detector's `dtype`,
    or a chunk as the detector compressed it, which goes into the file as it is.
    `number` is the detector's own count within the acquisition, from 1. `extra` is how many frames
    that nobody has triggered came before this one; they are dropped, and `number` leaves them out.
    """

    number: int
    data: FrameData
    received_ns: int
    extra: int = 0


@dataclass(frozen=True)
class Reach:
    """What an axis may be asked for, ends included, in its own unit."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        # A hair wider: a limit that came over in other units must not refuse its own value.
        slack = 1e-9 * max(1.0, abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack


@dataclass(frozen=True)
class BeamReach:
    """What the beam may be asked for; None for what it cannot do.

    Attributes
    ----------
    shift_nm : float or None
        Largest shift of the image, in any direction; None also while it is not calibrated.
    needs_calibration : str or None
        Why the shift cannot be used as it is, in words; None where it can, or there is none.
    units : float or None
        Largest change of either deflector, in its own unit, that a calibration may try.
    defocus_nm : Reach or None
        Over the focus that was found when the beam was prepared.
    rotation_deg : Reach or None
        Of the scan.
    """

    shift_nm: float | None = None
    needs_calibration: str | None = None
    units: float | None = None
    defocus_nm: Reach | None = None
    rotation_deg: Reach | None = None


@dataclass(frozen=True)
class Deflection:
    """What the beam deflectors are set to, read back.

    Attributes
    ----------
    units : tuple of float
        In the deflectors' own unit.
    shift_nm : tuple of float or None
        Shift (y, x) of the image by the calibration; None without one that holds.
    unit : {"nm", "step"}
        What `units` counts, see `ShiftCalibration`.
    """

    t_ns: int
    units: tuple[float, float]
    shift_nm: tuple[float, float] | None = None
    unit: Literal["nm", "step"] = "nm"
