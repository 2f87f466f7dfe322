"""When a species appears: the first frame whose counts rise over those before, for good."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# Frames that a rise may be spread over.
_LONGEST = 20
_LEAST_BASE = 10


@dataclass(frozen=True)
class Onset:
    """A species has appeared.

    Attributes
    ----------
    name : str
        The species.
    frame : int
        First frame of the rise.
    told_at : int
        Frame at which it was certain enough.
    temperature_c : float
        At the first frame.
    significance : float
        In sd of the counts before.
    """

    name: str
    frame: int
    told_at: int
    temperature_c: float
    significance: float


@dataclass
class OnsetWatch:
    """Watches the counts of one species.

    The counts of the last frames, over 1 to 20 of them, are compared with the rate of all frames
    before these; of counts and rate the Poisson error is taken (Li and Ma, Astrophys. J. 1983,
    272, 317, equation 17). Each species is told once.

    Attributes
    ----------
    name : str
        The species.
    significance : float
        In sd, at which it is told; as every frame is 20 tests, 5 is a sensible one.
    """

    name: str
    significance: float = 5.0
    _counts: list[float] = field(default_factory=list[float])
    _temperature_c: list[float] = field(default_factory=list[float])
    _told: bool = False

    def feed(self, counts: float, temperature_c: float) -> Onset | None:
        """Take in the counts of the next frame; the onset, where this frame makes it certain."""
        self._counts.append(counts)
        self._temperature_c.append(temperature_c)
        frames = len(self._counts)
        if self._told or frames <= _LEAST_BASE:
            return None
        best, best_length = 0.0, 0
        for length in range(1, min(_LONGEST, frames - _LEAST_BASE) + 1):
            rise = sum(self._counts[-length:])
            base = sum(self._counts[:-length])
            found = excess_significance(rise, base, length / (frames - length))
            if found > best:
                best, best_length = found, length
        if best < self.significance:
            return None
        self._told = True
        first = frames - best_length
        return Onset(self.name, first, frames - 1, self._temperature_c[first], best)


def excess_significance(on: float, off: float, ratio: float) -> float:
    """Significance in sd of counts over those of a base (Li and Ma 1983, equation 17).

    Parameters
    ----------
    on, off : float
        Counts where a rise is suspected, and in the base.
    ratio : float
        Exposure of `on` over that of `off`.

    Returns
    -------
    float
        0 where there is no excess.

    Examples
    --------
    >>> round(excess_significance(140, 100, 1.0), 1)
    2.6
    """
    if on <= off * ratio or on <= 0:
        return 0.0
    total = on + off
    first = on * math.log((1 + ratio) / ratio * on / total)
    second = off * math.log((1 + ratio) * off / total) if off > 0 else 0.0
    return math.sqrt(max(0.0, 2.0 * (first + second)))
