"""Measured offsets on their way to the analysis: the tracker answers just after the frame."""

from __future__ import annotations

from collections.abc import Collection
from threading import Condition

from ...protocols.messages.offsets import FrameOffset

# Wall seconds that a frame waits for its offset. The tracker answers within some 5 ms, and what is
# done with a frame takes far longer: as a rule nothing waits.
WAIT_S = 0.2


class Offsets:
    """Takes offsets from one thread and hands them to another.

    While the tracker does not answer, nothing waits for it after the first time.

    Parameters
    ----------
    tracked : collection of str
        Names of the series that are tracked.

    Examples
    --------
    >>> offsets = Offsets(["series_001"])
    >>> offsets.put(FrameOffset("series_001", 0, (4.0, -2.0), (1.0, 1.0)))
    >>> [one.offset_nm for one in offsets.take("series_001", 0)]
    [(4.0, -2.0)]
    """

    def __init__(self, tracked: Collection[str]) -> None:
        self._tracked = frozenset(tracked)
        self._there: dict[str, dict[int, FrameOffset]] = {}
        self._changed = Condition()
        self._answers = True

    def put(self, found: FrameOffset) -> None:
        """Keep an offset until it is taken; also one that says that nothing was found."""
        if found.series not in self._tracked:
            return
        with self._changed:
            self._there.setdefault(found.series, {})[found.index] = found
            self._answers = True
            self._changed.notify()

    def take(self, series: str, index: int, *, wait: bool = True) -> list[FrameOffset]:
        """Hand over all offsets of a series that have come; late ones of earlier frames too.

        Parameters
        ----------
        series, index : str, int
            The frame that is to be analysed.
        wait : bool
            Whether to wait for its own offset, up to `WAIT_S`.
        """
        if series not in self._tracked:
            return []
        with self._changed:
            if wait and self._answers:
                self._answers = self._changed.wait_for(
                    lambda: index in self._there.get(series, {}), WAIT_S
                )
            return list(self._there.pop(series, {}).values())
