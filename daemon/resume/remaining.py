"""What remains of an operation of an interrupted run, and what it is concluded from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.manifest import StackPlan
from ..schedule.hold_timing import HoldTiming
from .journal_history import first_of


@dataclass(frozen=True)
class RemainingWork:
    """What remains of an operation; by default, all of it.

    Attributes
    ----------
    frame_indices : tuple of int or None
        Frames to acquire, in the order of the image stack; None for all.
    done_s : float
        Seconds of a hold or of a ramp that are done.
    commanded_up_ns, crossed_up_ns : int or None
        When an interrupted hold began.
    finished : HoldTiming or None
        Moments of a hold that is over but not reported yet.
    goes_on : bool or None
        What was decided, if the decision has been made.
    deflectors : tuple of float or None
        Where the beam deflectors stood before a calibration of the shift began.
    """

    frame_indices: tuple[int, ...] | None = None
    done_s: float = 0.0
    commanded_up_ns: int | None = None
    crossed_up_ns: int | None = None
    finished: HoldTiming | None = None
    goes_on: bool | None = None
    deflectors: tuple[float, float] | None = None

    def whole_hold(self, timing: HoldTiming) -> HoldTiming:
        """Moments of the whole hold, from those of its last part."""
        return HoldTiming(
            first_of(self.commanded_up_ns, timing.commanded_up_ns),
            first_of(self.crossed_up_ns, timing.crossed_up_ns),
            timing.commanded_down_ns,
            timing.crossed_down_ns,
        )


# An operation of which nothing is done.
NOTHING_DONE = RemainingWork()


@dataclass(frozen=True)
class Recorded:
    """What the file of an interrupted run holds, as far as resuming needs it.

    Attributes
    ----------
    there : mapping
        For each stack, which frames are recorded.
    heater_ns, heater_c : ndarray of shape (samples,)
        The heater's log, in order of time.
    holds : frozenset of int
        Indices of the holds that are over in the file.
    last_ns : int
        The latest time in the file.
    """

    there: Mapping[str, NDArray[np.bool_]]
    heater_ns: NDArray[np.int64]
    heater_c: NDArray[np.float64]
    holds: frozenset[int]
    last_ns: int

    def missing(self, stack: StackPlan) -> list[int]:
        """Frame indices of a stack that are not recorded."""
        return np.flatnonzero(~self.there[stack.name]).tolist()


@dataclass(frozen=True)
class Conditions:
    """Conditions under which the run resumes.

    Attributes
    ----------
    t_ns : int
        Conditions, on the experiment clock.
    temperature_c : float or None
        What the heater reads.
    tolerance_c : float
        Of the rig's heater.
    rate_c_per_s : float or None
        The highest rate of the rig's heater.
    """

    t_ns: int
    temperature_c: float | None = None
    tolerance_c: float = 3.0
    rate_c_per_s: float | None = None
