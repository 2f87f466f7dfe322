"""The axes of a stage: their limits, whether they are where they should be, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...protocols.config.rig import StageLimits
from ..base import DeviceRefused, OutOfRange, Reach, StagePosition

# Slower than the drives of x, y and z: for deadlines.
LINEAR_SPEED_NM_PER_S = 2_000.0

TILT = "tilt"
LINEAR = ("x", "y", "z")
Targets = dict[str, float]
Limits = tuple[float, float]


def in_words(targets: Mapping[str, float]) -> str:
    """What is asked of the stage, as a verb with its object."""
    said = [
        f"tilt to {value:g} deg" if axis == TILT else f"move {axis} to {value:g} nm"
        for axis, value in targets.items()
    ]
    return " and ".join(said)


def at(position: StagePosition, axis: str) -> float:
    """Where an axis stands, in its unit."""
    return position.tilt_deg if axis == TILT else getattr(position, f"{axis}_nm")


def seen(position: StagePosition, axes: Mapping[str, float]) -> str:
    """Where some axes stand, in words."""
    said = [
        f"{position.tilt_deg:.3f} deg" if axis == TILT else f"{at(position, axis):.0f} nm in {axis}"
        for axis in axes
    ]
    return " and ".join(said)


class StageAxes:
    """The axes ``tilt`` (deg), ``x``, ``y`` and ``z`` (nm) of one stage.

    Parameters
    ----------
    device : str
        For messages.
    limits : StageLimits
        By the rig.

    Attributes
    ----------
    own : dict
        Axis to the limits that the stage itself has told.
    one_at_a_time : bool
        Whether each axis needs a command of its own.
    """

    def __init__(self, device: str, limits: StageLimits) -> None:
        self._device, self._limits = device, limits
        self.own: dict[str, Limits] = {}
        self.one_at_a_time = False

    def by_rig(self, axis: str) -> Limits | None:
        """Limits by the rig; None for an axis that is not moved."""
        return self._limits.tilt_deg if axis == TILT else getattr(self._limits, f"{axis}_nm")

    def reach(self, axis: str) -> Reach | None:
        """How far an axis may be sent."""
        by_rig = self.by_rig(axis)
        if by_rig is None:
            return None
        low, high = self.own.get(axis, by_rig)
        return Reach(max(by_rig[0], low), min(by_rig[1], high))

    def is_at(self, position: StagePosition, axis: str, value: float) -> bool:
        """Whether an axis stands at a value, within the rig's tolerance."""
        limits = self._limits
        tolerance = limits.tolerance_deg if axis == TILT else limits.move_error_nm
        return abs(at(position, axis) - value) <= tolerance

    def away(self, position: StagePosition, targets: Targets) -> Targets:
        """Targets that are not reached."""
        return {a: v for a, v in targets.items() if not self.is_at(position, a, v)}

    def steps(self, start: StagePosition, targets: Targets) -> Sequence[Targets]:
        """Commands in their order: z, tilt, then x and y, each from below where it has a play."""
        steps: list[Targets] = [{"z": targets["z"]}] if "z" in targets else []
        for group in ((TILT,), ("x", "y")):
            goals = {axis: targets[axis] for axis in group if axis in targets}
            below = {axis: self._below(axis, goal) for axis, goal in goals.items()}
            first = {a: v for a, v in below.items() if v is not None and at(start, a) > v}
            for moves in (first, goals):
                if self.one_at_a_time:
                    steps += [{axis: value} for axis, value in moves.items()]
                elif moves:
                    steps.append(moves)
        return steps

    def needed_s(self, start: StagePosition, steps: Sequence[Targets]) -> float:
        """Time that the moves take at most, without the settling."""
        here = {axis: at(start, axis) for axis in (TILT, *LINEAR)}
        needed_s = 0.0
        for axis, value in (pair for step in steps for pair in step.items()):
            speed = self._limits.speed_deg_per_s if axis == TILT else LINEAR_SPEED_NM_PER_S
            needed_s += abs(value - here[axis]) / speed
            here[axis] = value
        return needed_s

    def refuse_beyond_limits(self, targets: Targets) -> None:
        """Raise OutOfRange or DeviceRefused for a target that an axis may not be sent to."""
        for axis, value in targets.items():
            by_rig = self.by_rig(axis)
            if by_rig is None:
                raise DeviceRefused(
                    self._device,
                    in_words({axis: value}),
                    "the rig gives this axis no limits, so it is not moved; nothing was sent",
                    f"Add stage.limits.{axis} to the rig, or leave {axis} where it is",
                )
            unit = "deg" if axis == TILT else "nm"
            for whose, pair in (("the rig's", by_rig), ("the stage's own", self.own.get(axis))):
                if pair is not None and value not in Reach(*pair):
                    limits = f"{whose} limits are {pair[0]:g} to {pair[1]:g} {unit}"
                    remedy = "Change the tilt range" if axis == TILT else "Ask for less"
                    raise OutOfRange(
                        self._device, in_words({axis: value}), f"{limits}; nothing was sent", remedy
                    )

    def refuse_long_moves(self, start: StagePosition, targets: Targets) -> None:
        """Raise OutOfRange where one move of x, y or z would be longer than the rig allows."""
        most_nm = self._limits.move_nm
        for axis in LINEAR:
            if axis in targets and not abs(targets[axis] - at(start, axis)) <= most_nm:
                raise OutOfRange(
                    self._device,
                    in_words({axis: targets[axis]}),
                    f"it stands at {at(start, axis):g} nm, and one move is at most {most_nm:g} nm "
                    "by the rig; nothing was sent",
                    "Go there at the microscope, or raise stage.limits.move",
                )

    def _below(self, axis: str, goal: float) -> float | None:
        """From where an axis is approached; None if it has no backlash."""
        limits, reach = self._limits, self.reach(axis)
        play = limits.backlash_deg if axis == TILT else limits.xy_backlash_nm
        return max(goal - play, reach.low) if play > 0 and reach is not None else None
