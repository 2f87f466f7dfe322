"""What the supervisor observes: time, heater readings, the column, the stage."""

from __future__ import annotations

from dataclasses import dataclass

from ...drivers.base import BeamState, HeaterSample, StagePosition


@dataclass(frozen=True)
class Observation:
    """Something that was observed, and when.

    Attributes
    ----------
    now_ns : int
        Time on the experiment clock.
    wall_s : float
        Monotonic wall time.
    """

    now_ns: int
    wall_s: float


@dataclass(frozen=True)
class Tick(Observation):
    """Time has passed."""


@dataclass(frozen=True)
class Reading(Observation):
    """A reading of the heater."""

    sample: HeaterSample


@dataclass(frozen=True)
class BeamObservation(Observation):
    """The state of the microscope column.

    Attributes
    ----------
    state : BeamState
        As the column reports it.
    may_be_open : bool
        Whether the beam may be on: during an exposure, or before pyrotome has blanked it once.
    wanted : bool
        Whether frames are being acquired, which need the beam.
    """

    state: BeamState
    may_be_open: bool
    wanted: bool


@dataclass(frozen=True)
class StageObservation(Observation):
    """The position of the stage before and after an exposure.

    Attributes
    ----------
    before, after : StagePosition
        Position before the first and after the last exposure.
    frames : str
        The frames that were exposed in between, in words.
    """

    before: StagePosition
    after: StagePosition
    frames: str
