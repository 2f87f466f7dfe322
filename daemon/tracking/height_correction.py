"""The height of the specimen over the tilt axis: when the stage takes it out, and whether it did.

A specimen that is off the tilt axis needs a beam shift that grows with the tilt. Pure: rows of the
table in, decisions out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...protocols.messages.tracking import Row
from ...protocols.messages.tracking_rules import TrackingLimits, height_of

# Height is corrected by the stage from so many frames of a series on, at tilts no larger than this,
# where it is larger than twice its own doubt and than this many nm. A move errs by so much.
_FRAMES_BEFORE, _WITHIN_DEG, _LEAST_NM = 3, 25.0, 300.0
MOVE_ERROR_NM = 200.0
# At any tilt where the next shift is this part of the largest.
_NEARLY = 0.9
# In sd: the height is certainly not what the move should have left.
_CERTAIN = 4.0


class HeightCorrection:
    """Corrections of the height in one run.

    Examples
    --------
    >>> heights = HeightCorrection()
    >>> heights.due((), 10, 0.0, TrackingLimits()) is None
    True
    """

    def __init__(self) -> None:
        # Height before the latest move, its sd, and the move.
        self._latest: tuple[float, float, float] | None = None
        self.stuck_nm: float | None = None

    def due(
        self, rows: Sequence[Row], frames: int, tilt_deg: float, limits: TrackingLimits
    ) -> float | None:
        """How far the stage should lift the specimen before the next frame; None: not at all.

        `stuck_nm` becomes the height where the frames show that the latest move was none; then
        there are no more.

        Parameters
        ----------
        rows : sequence of Row
            Of the newest table.
        frames : int
            Frames since the series began, or since the stage was moved.
        tilt_deg : float
            Angle of the next frame; at a large one a move that errs moves the image.
        limits : TrackingLimits
            Largest beam shift, and the one beyond which the stage helps.
        """
        row = min(rows, key=lambda row: abs(row.tilt_deg - tilt_deg), default=None)
        if row is None or frames < _FRAMES_BEFORE or self.stuck_nm is not None:
            return None
        beyond = math.hypot(*row.shift_nm) > _NEARLY * limits.shift_limit_nm
        if abs(tilt_deg) > _WITHIN_DEG and not beyond:
            return None
        if max(math.hypot(*row.shift_nm) for row in rows) < limits.hand_over_nm:
            return None
        found = height_of(rows)
        if found is None or abs(found[0]) < max(_LEAST_NM, 2.0 * found[1]):
            return None
        if self._was_no_move(*found):
            self.stuck_nm = found[0]
            return None
        return -found[0]

    def moved(self, rows: Sequence[Row], z_nm: float) -> None:
        """Note that the stage was moved along z, with the rows from before."""
        found = height_of(rows)
        self._latest = None if found is None else (*found, z_nm)

    def _was_no_move(self, height_nm: float, sd_nm: float) -> bool:
        """Whether the height is as before the latest move, and not what that should leave."""
        if self._latest is None:
            return False
        before_nm, before_sd_nm, z_nm = self._latest
        doubt_nm = math.hypot(sd_nm, before_sd_nm, MOVE_ERROR_NM)
        expected_nm = before_nm + z_nm
        near, far = abs(height_nm - before_nm), abs(height_nm - expected_nm)
        return far > _CERTAIN * doubt_nm and near < 0.5 * abs(z_nm)
