"""How long the beam is on beside the exposures of a trigger: blanker and trigger take time."""

from __future__ import annotations

from collections import deque
from statistics import median

# Wall seconds that a plan expects: two commands over HTTP and a trigger.
SWITCHING_S = 0.005
# The same where the command that blanks follows the trigger at once.
LEAST_ON_S = 0.0025
_KEPT, _FEWEST = 31, 3


class SwitchingTime:
    """Learns how long blanker and trigger keep the beam on the specimen.

    The probe is parked on one spot from the command that unblanks until the scan begins, and from
    its end until the blanker has closed. Times are wall seconds: they are those of computers and
    wires, and do not shrink when a simulated experiment runs faster.

    Parameters
    ----------
    planned_s : float
        What is expected before something was measured.

    Attributes
    ----------
    total_s : float
        Of all triggers so far.

    Examples
    --------
    >>> switching = SwitchingTime()
    >>> switching.expected_s
    0.005
    >>> for time_s in (0.002, 0.007, 0.08, 0.006):
    ...     switching.add(time_s)
    >>> round(switching.expected_s, 6)
    0.0065
    >>> round(switching.typical_s, 6), switching.careful_s
    (0.0065, 0.08)
    """

    def __init__(self, planned_s: float = SWITCHING_S) -> None:
        self._planned_s = planned_s
        self._measured: deque[float] = deque(maxlen=_KEPT)
        self._least_ns: int | None = None
        self.total_s = 0.0

    def moment_ns(self, sent_ns: int, answered_ns: int) -> int:
        """When the blanker has switched, by the times of a command and of its answer.

        An instrument answers as soon as it has switched; what it has to do before delays the switch
        too. So the switch lies before the answer by as long as an answer needs at best: half of the
        shortest time from a command to its answer that was seen so far.

        Examples
        --------
        >>> switching = SwitchingTime()
        >>> switching.moment_ns(1000, 1600), switching.moment_ns(5000, 8000)
        (1300, 7700)
        """
        trip_ns = answered_ns - sent_ns
        self._least_ns = trip_ns if self._least_ns is None else min(self._least_ns, trip_ns)
        return answered_ns - self._least_ns // 2

    def add(self, time_s: float) -> None:
        """Take note of a trigger, in wall seconds."""
        self._measured.append(time_s)
        self.total_s += time_s

    @property
    def expected_s(self) -> float:
        """What a trigger takes, in wall seconds: as planned, unless most have taken more."""
        return max(self._planned_s, self.typical_s)

    @property
    def typical_s(self) -> float:
        """What most triggers have taken, in wall seconds; as planned, until some were measured."""
        if len(self._measured) < _FEWEST:
            return self._planned_s
        return median(self._measured)

    @property
    def careful_s(self) -> float:
        """What nine of ten triggers do not pass, in wall seconds."""
        if len(self._measured) < _FEWEST:
            return self._planned_s
        return sorted(self._measured)[int(0.9 * len(self._measured))]
