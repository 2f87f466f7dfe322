"""Tilt the stage, and check after exposures that it did not move during them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...drivers.base import Stage, StagePosition
from .outgoing import Outgoing

# Wall seconds between read-backs of a stage that stands still during a ramp.
_READ_BACK_S = 0.5

StageSeen = Callable[[StagePosition, StagePosition, str], None]


def _ignore(_before: StagePosition, _after: StagePosition, _frames: str) -> None:
    """Accept any movement."""


class StageCheck:
    """Position of the stage from exposure to exposure.

    Parameters
    ----------
    stage : Stage
        Connected.
    out : Outgoing
        Takes the tilt angles that are read back.
    on_seen : callable, optional
        Called with the positions before and after exposures, and the exposed frames in words.

    Attributes
    ----------
    position : StagePosition or None
        The latest position at which a frame is exposed.
    """

    def __init__(self, stage: Stage, out: Outgoing, on_seen: StageSeen = _ignore) -> None:
        self._stage, self._out, self._on_seen = stage, out, on_seen
        self.position: StagePosition | None = None
        self._before: StagePosition | None = None
        self._exposed: tuple[str, int, int] | None = None
        self._checked_s = 0.0

    async def tilt(self, tilt_deg: float) -> None:
        """Bring the stage to an angle; a stage that is there already is read back alone.

        Raises
        ------
        DeviceError
            From the stage.
        """
        tolerance_deg = self._stage.rig.limits.tolerance_deg
        if self.position is not None and abs(self.position.tilt_deg - tilt_deg) <= tolerance_deg:
            self.position = await self._stage.position()
            self._compare(self.position)
        else:
            await self.check()
            self.position = self._before = await self._stage.move_to(tilt_deg)
        if self._before is None:
            self._before = self.position
        self._out.telemetry("stage", {"tilt_deg": self.position.tilt_deg}, self.position.t_ns)

    async def shift(
        self, *, x_nm: float = 0.0, y_nm: float = 0.0, z_nm: float = 0.0
    ) -> StagePosition | None:
        """Move so far along the axes that are named; None if the stage cannot.

        Raises
        ------
        DeviceError
            From the stage.
        """
        await self.check()
        here, reach = await self._stage.position(), await self._stage.reach()
        wanted = {"x": (here.x_nm, x_nm), "y": (here.y_nm, y_nm), "z": (here.z_nm, z_nm)}
        targets = {axis: at + by for axis, (at, by) in wanted.items() if by}
        for axis, target in targets.items():
            found = reach[axis]
            if found is None or target not in found:
                return None
        axes = {f"{axis}_nm": target for axis, target in targets.items()}
        self.position = self._before = await self._stage.move_to(here.tilt_deg, **axes)
        return self.position

    def exposed(self, stack: str, first: int, last: int) -> None:
        """Note frames after whose exposure the stage has not been read back yet."""
        earlier = self._exposed
        self._exposed = (stack, first if earlier is None else earlier[1], last)

    def forget(self) -> None:
        """Accept the stage where it is now: a person may have moved it during a pause."""
        self._before = None

    async def check(self) -> None:
        """Read back whether the stage is still where it was before the latest exposures."""
        if self._exposed is not None:
            self._compare(await self._stage.position())

    async def check_if_due(self) -> None:
        """Check, if the last check was long ago."""
        if time.monotonic() - self._checked_s > _READ_BACK_S:
            await self.check()

    def _compare(self, after: StagePosition) -> None:
        exposed, self._exposed = self._exposed, None
        self._checked_s = time.monotonic()
        if exposed is None or self._before is None:
            return
        stack, first, last = exposed
        which = f"frame {first}" if first == last else f"frames {first} to {last}"
        self._on_seen(self._before, after, f"{which} of {stack}")
