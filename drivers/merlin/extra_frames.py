"""Tell the frames that were triggered from those that a Merlin sends besides.

With both counters of a pixel at work, a Merlin sends two images for each trigger, in turn. Taken
for the next trigger's, the second would shift every image that follows to a wrong tilt angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ...protocols.wires.merlin import FrameHeader
from ..common.armed_detector import Acquisition

# Triggers that follow each other more closely than this many seconds cannot be told apart.
CLOSE_S = 0.04
_FORMATS = ("%Y-%m-%d %H:%M:%S.%f", "%d/%m/%Y %H:%M:%S.%f")


@dataclass
class MerlinAcquisition(Acquisition):
    """What a Merlin is armed for, with what tells its extra frames.

    Attributes
    ----------
    extra : int
        Numbers that extra frames have taken so far.
    dropped : int
        Extra frames since the last frame that was kept.
    seen : int
        Highest number of any frame.
    triggered_ns : int
        When the latest trigger went out, on the experiment clock.
    clock_runs : bool
        Whether time stamps of the detector can be compared; those of a replay cannot.
    """

    extra: int = 0
    dropped: int = 0
    seen: int = 0
    triggered_ns: int = 0
    clock_runs: bool = True
    _first: tuple[int, float] | None = None
    _since_ns: int = 0

    def is_second_counter(self, header: FrameHeader) -> bool:
        """Whether a frame is of the second counter, which nobody asked for."""
        return header.counter != 0

    def began_too_early(self, header: FrameHeader) -> bool:
        """Whether the frame began before the trigger that it would belong to.

        By the detector's own clock, counted from the first frame of the trigger before: no offset
        between the clocks matters.
        """
        begins_trigger = self.last_number % self.frames_per_trigger == 0
        stamp = _seconds(header.timestamp)
        if self._first is None or stamp is None or not (begins_trigger and self.clock_runs):
            return False
        elapsed_s = (self.triggered_ns - self._first[0]) * 1e-9
        exposed_s = self.exposure_s * self.frames_per_trigger
        if elapsed_s - exposed_s < CLOSE_S:
            return False
        return stamp - self._first[1] < (elapsed_s + exposed_s) / 2

    def drop(self, header: FrameHeader) -> None:
        """Count an extra frame; its number, if it has one of its own, is left out."""
        self.extra += header.sequence > self.seen
        self.seen = max(self.seen, header.sequence)
        self.dropped += 1

    def number(self, header: FrameHeader) -> int:
        """Number of a frame among those that were triggered."""
        return header.sequence - self.extra

    def keep(self, header: FrameHeader) -> int:
        """Note a frame that is kept; returns how many were dropped before it."""
        number = self.number(header)
        stamp = _seconds(header.timestamp)
        if stamp is not None and (number - 1) % self.frames_per_trigger == 0:
            self._first = self.triggered_ns, stamp
        self.seen = max(self.seen, header.sequence)
        self.arrive(number)
        dropped, self.dropped = self.dropped, 0
        return dropped


def _seconds(stamp: str) -> float | None:
    """Time stamp of a header in seconds; None where it cannot be read."""
    for form in _FORMATS:
        try:
            return (datetime.strptime(stamp.strip(), form) - datetime(1970, 1, 1)).total_seconds()
        except ValueError:
            continue
    return None
