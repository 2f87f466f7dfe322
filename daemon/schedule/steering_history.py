"""What the steering of an interrupted run knew, to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.journal import Chosen, Measured
from ...protocols.messages.manifest import HoldPlan
from .hold_timing import HoldTiming


def _no_times() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


def _no_temperatures() -> NDArray[np.float64]:
    return np.empty(0, np.float64)


@dataclass(frozen=True)
class SteeringHistory:
    """Measurements, choices and heat of a run before it was interrupted.

    Attributes
    ----------
    measured : tuple of Measured
        From the journal, oldest first.
    chosen : tuple of Chosen
        Holds that were chosen.
    series_ns : mapping
        When each tilt series began, in its order.
    holds : tuple of (HoldPlan, HoldTiming)
        Holds that were carried out.
    heater_ns, heater_c : ndarray, shape (samples,)
        The heater's log.
    """

    measured: tuple[Measured, ...] = ()
    chosen: tuple[Chosen, ...] = ()
    series_ns: Mapping[str, int] = field(default_factory=dict[str, int])
    holds: tuple[tuple[HoldPlan, HoldTiming], ...] = ()
    heater_ns: NDArray[np.int64] = field(default_factory=_no_times)
    heater_c: NDArray[np.float64] = field(default_factory=_no_temperatures)
