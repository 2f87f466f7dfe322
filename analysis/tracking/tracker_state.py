"""The tracker as JSON: it survives a killed run, and what it knows of the column the end of one."""

from __future__ import annotations

from typing import Literal

from ...protocols.core.documents import Strict
from ...protocols.messages.tracking import OffsetMeasured, Pair, Visit
from ..motion.motion_state import MotionState
from ..sharpness.watch import WatchState
from .references import StoredReference


class TrackerState(Strict):
    """A tracker as JSON.

    Attributes
    ----------
    version : int
        Of this layout.
    motion : MotionState
        What is known of the motion.
    references : tuple of StoredReference
        Pictures to compare with; they may be left out.
    epoch_ns : int or None
        Time that is 0 on the clock of the motion.
    series : str
        Series in progress.
    visits : tuple of Visit
        Its angles, from the next frame on.
    late_ns : int
        By how much it is behind its times.
    shift_nm, defocus_nm : Pair, float
        What is applied.
    recent : tuple of OffsetMeasured
        The last frames of the series.
    matrix_nm : tuple or None
        Of the calibration by which the shifts are given; None: it was never told.
    trusted : bool
        False after the corrections made things worse.
    tables : int
        How many tables were sent.
    focused : bool
        Whether a focus series has told the focus.
    sharpness : WatchState
        Sharp frames, and whether the latest are.

    Examples
    --------
    >>> from pyrotome.analysis.motion import Motion, state_of
    >>> text = TrackerState(motion=state_of(Motion())).model_dump_json()
    >>> TrackerState.model_validate_json(text).tables
    0
    """

    version: Literal[1] = 1
    motion: MotionState
    references: tuple[StoredReference, ...] = ()
    epoch_ns: int | None = None
    series: str = ""
    visits: tuple[Visit, ...] = ()
    late_ns: int = 0
    shift_nm: Pair = (0.0, 0.0)
    defocus_nm: float = 0.0
    matrix_nm: tuple[Pair, Pair] | None = None
    recent: tuple[OffsetMeasured, ...] = ()
    trusted: bool = True
    tables: int = 0
    focused: bool = False
    sharpness: WatchState = WatchState()
