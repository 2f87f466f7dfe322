"""The height of the specimen over the tilt axis: when the stage takes it out, and whether it did.

A specimen that is off the tilt axis needs a beam shift that grows with the tilt. Pure: a table in,
decisions out.
"""

from __future__ import annotations

import math

from ...protocols.messages.tracking import Table
from ...protocols.messages.tracking_rules import TrackingLimits

# Height is corrected by the stage from so many frames of a series on, at tilts no larger than this,
# where it is larger than twice its own doubt and than this many nm. A move errs by so much.
_FRAMES_BEFORE, _WITHIN_DEG, _LEAST_NM = 3, 25.0, 300.0
MOVE_ERROR_NM = 200.0
# Better known than so. The focus was found at the height before the move: what is not known of that
# then is an error of the focus for the rest of the run.
_KNOWN_NM = 100.0
# At any tilt where the next shift is this part of the largest.
_NEARLY = 0.9
# In sd: the height is certainly not what the move should have left. Moves running after which the
# height is as before, although that may have been by chance.
_CERTAIN, _BY_CHANCE = 4.0, 2


class HeightCorrection:
    """Corrections of the height in one run.

    Examples
    --------
    >>> table = Table(t_ns=0, number=1, series="series_001", rows=(), height=(2000.0, 50.0))
    >>> HeightCorrection().due(table, 10, 0.0, TrackingLimits()) is None
    True
    """

    def __init__(self) -> None:
        # Height before the latest move, its sd, and the move.
        self._latest: tuple[float, float, float] | None = None
        self._as_before = 0
        self.stuck_nm: float | None = None

    def due(
        self, table: Table, frames: int, tilt_deg: float, limits: TrackingLimits
    ) -> float | None:
        """How far the stage should lift the specimen before the next frame; None: not at all.

        `stuck_nm` becomes the height where the frames show that the latest move was none; then
        there are no more.

        Parameters
        ----------
        table : Table
            The newest.
        frames : int
            Frames since the series began, or since the stage was moved.
        tilt_deg : float
            Angle of the next frame; at a large one a move that errs moves the image.
        limits : TrackingLimits
            Largest beam shift, and the one beyond which the stage helps.
        """
        row, found = table.row_at(tilt_deg), table.height
        if row is None or frames < _FRAMES_BEFORE or self.stuck_nm is not None:
            return None
        beyond = math.hypot(*row.shift_nm) > _NEARLY * limits.shift_limit_nm
        if abs(tilt_deg) > _WITHIN_DEG and not beyond:
            return None
        if max(math.hypot(*row.shift_nm) for row in table.rows) < limits.hand_over_nm:
            return None
        if found is None or abs(found[0]) < max(_LEAST_NM, 2.0 * found[1]):
            return None
        if found[1] > _KNOWN_NM and not beyond:
            return None
        if self._was_no_move(*found):
            self.stuck_nm = found[0]
            return None
        return -found[0]

    def moved(self, before: tuple[float, float] | None, z_nm: float) -> None:
        """Note that the stage was moved along z, and height and sd from before."""
        self._latest = None if before is None else (*before, z_nm)

    def _was_no_move(self, height_nm: float, sd_nm: float) -> bool:
        """Whether the height is as before the latest move, and not what that should leave.

        Once it may be so by chance, where the height was not known well before the move; twice
        running it is not.
        """
        if self._latest is None:
            return False
        before_nm, before_sd_nm, z_nm = self._latest
        doubt_nm = math.hypot(sd_nm, before_sd_nm, MOVE_ERROR_NM)
        expected_nm = before_nm + z_nm
        near, far = abs(height_nm - before_nm), abs(height_nm - expected_nm)
        self._as_before = self._as_before + 1 if near < 0.5 * abs(z_nm) else 0
        certain = far > _CERTAIN * doubt_nm
        return self._as_before >= (1 if certain else _BY_CHANCE)
