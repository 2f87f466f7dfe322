"""What the engine needs of the streams of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ...drivers.readings import FrameData
from ...protocols.messages.tracking import Told
from ..schedule.hold_timing import HoldTiming


class Outgoing(Protocol):
    """Takes what the engine makes; `RunStreams` in the program."""

    @property
    def most_at_a_time(self) -> int:
        """Number of frames for which credit can be had at once."""
        ...

    async def credit(self, frames: int = 1) -> None:
        """Wait until the recorder can take so many frames."""

    async def keep(self) -> None:
        """Wait until every frame sent so far is on the disk."""

    def frame(self, header: dict[str, Any], data: FrameData | None, t_ns: int) -> None:
        """Send a frame, or the notice of a lost one (no data)."""

    def left_out(self, series: str, indices: Sequence[int]) -> None:
        """Tell the analysis that frames of a series will not be taken: the series is over."""

    def telemetry(self, device: str, values: dict[str, float], t_ns: int) -> None:
        """Send readings of a device."""

    def hold(self, index: int, timing: HoldTiming) -> None:
        """Send the four moments of a hold."""

    def steering(self, row: dict[str, Any]) -> None:
        """Send a row of the table of adaptive holds."""

    def tracking(self, told: Told, pixels: FrameData | None = None) -> None:
        """Tell the tracker what happened between frames, or what a scout showed."""

    def event(self, level: str, source: str, message: str, **details: Any) -> None:
        """Make an event."""
