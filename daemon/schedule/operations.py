"""The operations that a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ...protocols.config.steering import Adaptive, SeriesUntil, Until
from ...protocols.config.tracking import Track
from ...protocols.messages.manifest import HoldPlan, StackPlan
from .tilt_angles import frames_per_angle


@dataclass(frozen=True)
class HeatTo:
    """Go to a temperature, at a rate if one is given, and stay there with the beam blanked."""

    to_c: float
    hold_s: float
    rate_c_per_s: float | None = None

    @property
    def label(self) -> str:
        """The operation in words."""
        text = f"heat to {self.to_c:g} °C"
        return f"{text}, hold {self.hold_s:g} s" if self.hold_s else text


@dataclass(frozen=True)
class HoldAt:
    """Standby, processing for a measured time, standby; `adaptive` until the time is chosen."""

    hold: HoldPlan
    adaptive: Adaptive | None = None

    @property
    def label(self) -> str:
        """The operation in words."""
        if self.adaptive is not None:
            low_c, high_c = self.adaptive.temperature_c or (self.hold.target_c,) * 2
            where = f"{low_c:g} °C" if low_c == high_c else f"{low_c:g} to {high_c:g} °C"
            return f"hold {self.hold.index}: {self.adaptive.text} at {where}"
        return f"hold {self.hold.index}: {self.hold.requested_s:g} s at {self.hold.target_c:g} °C"


@dataclass(frozen=True)
class AcquireStack:
    """Acquire a tilt series, reference frames or dark frames at standby.

    `track` says how the specimen is kept in the frame; None: it is not. `until`: a series
    may end early.
    """

    stack: StackPlan
    at_c: float
    track: Track | None = None
    until: SeriesUntil | None = None

    @property
    def label(self) -> str:
        """The operation in words."""
        blanked = " with the beam blanked" if self.stack.is_dark else ""
        at_each = frames_per_angle(self.stack.tilt_deg) if self.stack.kind == "series" else 1
        angles = f", {at_each} at each of {self.stack.frames // at_each} angles"
        text = (
            f"{self.stack.name}: {self.stack.frames} frames{angles if at_each > 1 else ''}{blanked}"
        )
        return text if self.until is None else f"{text}, or until {self.until.text}"


@dataclass(frozen=True)
class RampTo:
    """A linear change of temperature, with a frame at an interval or without frames."""

    from_c: float
    to_c: float
    rate_c_per_s: float
    frame_every_s: float | None
    stack: StackPlan | None

    @property
    def duration_s(self) -> float:
        """Time from one temperature to the other."""
        return abs(self.to_c - self.from_c) / self.rate_c_per_s

    @property
    def label(self) -> str:
        """The operation in words."""
        frames = f", {self.stack.frames} frames" if self.stack else ""
        return f"ramp to {self.to_c:g} °C at {self.rate_c_per_s:g} °C/s{frames}"


@dataclass(frozen=True)
class Decide:
    """Continue a cycle or end it, by what was measured in its latest series.

    `skip` operations after this one belong to the rest of the cycle. `adaptive` says how its holds
    are chosen, where they are.
    """

    until: Until
    series: str
    before: str | None
    skip: int
    adaptive: Adaptive | None = None

    @property
    def label(self) -> str:
        """The operation in words."""
        return f"decide: end the cycle if {self.until.criterion}"


@dataclass(frozen=True)
class ChooseHold:
    """Choose the next hold of an adaptive cycle by what was measured in all series so far.

    `hold` is the longest that may come of it, at the cycle's own temperature. `series` is the
    latest tilt series before, `following` the one after the hold.
    """

    adaptive: Adaptive
    hold: HoldPlan
    series: str | None
    following: str
    last: bool

    @property
    def label(self) -> str:
        """The operation in words."""
        adaptive = self.adaptive
        return (
            f"choose hold {self.hold.index}: {adaptive.quantity.text} should advance by "
            f"{adaptive.step:g}"
        )


@dataclass(frozen=True)
class CalibrateHeight:
    """Measure by scouts how high the specimen stands, and let the stage take that out.

    `name` is the account of its dose, `tilt_deg` the angles that are looked at before the stage
    moves, `check_deg` those after it.
    """

    name: str
    at_c: float
    tilt_deg: tuple[float, ...]
    check_deg: tuple[float, ...]

    @property
    def scouts(self) -> int:
        """Number of scouts, but for searches."""
        return len(self.tilt_deg) + len(self.check_deg)

    @property
    def label(self) -> str:
        """The operation in words."""
        return f"{self.name}: height over the tilt axis by {self.scouts} scouts"


@dataclass(frozen=True)
class CalibrateShifts:
    """Measure by sparse scans what the beam shift does to the image, and use it from then on.

    `name` is the account of its dose.
    """

    name: str
    at_c: float
    scans: int

    @property
    def label(self) -> str:
        """The operation in words."""
        return f"{self.name}: beam shift by {self.scans} sparse scans"


@dataclass(frozen=True)
class CalibratePixel:
    """Measure on silicon along [110] what a pixel is worth, by fast scans at several rotations.

    `name` is the account of its dose.
    """

    name: str
    at_c: float
    frames: int
    rotations: int

    @property
    def label(self) -> str:
        """The operation in words."""
        return f"{self.name}: pixel size by {self.frames} fast scans at {self.rotations} rotations"


Operation = (
    CalibrateHeight
    | CalibratePixel
    | CalibrateShifts
    | HeatTo
    | HoldAt
    | AcquireStack
    | RampTo
    | Decide
    | ChooseHold
)
