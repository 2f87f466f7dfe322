"""The table for all angles still to come, made from the model of the motion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...protocols.messages.tracking import DriftAt, Row, Visit
from ..motion.motion import Motion
from ..motion.prediction import drift_speed, predict

__all__ = ["drift_to_come", "table_rows"]

# Seconds from now at which the drift is told.
_LATER_S = (0.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 180.0, 240.0, 360.0, 480.0, 600.0)


def table_rows(
    motion: Motion, visits: Sequence[Visit], late_ns: int = 0, epoch_ns: int = 0
) -> tuple[Row, ...]:
    """Predict shift, defocus and drift for every visit to come.

    Parameters
    ----------
    motion : Motion
        What is known; it makes room for new angles.
    visits : sequence of Visit
        Angles in the order of exposure, with their times.
    late_ns : int
        By how much the series is behind those times.
    epoch_ns : int
        Time that is 0 on the clock of the model.

    Returns
    -------
    tuple of Row
        One for each visit.

    Examples
    --------
    >>> motion = Motion()
    >>> row, = table_rows(motion, [Visit(tilt_deg=2.0, t_ns=0)])
    >>> row.tilt_deg, row.shift_nm
    (2.0, (0.0, 0.0))
    """
    if not visits:
        return ()
    times = [max(0, visit.t_ns + late_ns) for visit in visits]
    tilts = [visit.tilt_deg for visit in visits]
    later_s = [(t_ns - epoch_ns) * 1e-9 for t_ns in times]
    found = predict(motion, tilts, later_s, in_order=True)
    rows: list[Row] = []
    for k, (tilt, t_ns) in enumerate(zip(tilts, times, strict=True)):
        shift, sd = found.shift_nm[k].tolist(), found.sd_nm[k].tolist()
        speed, spread = found.drift_nm_per_s[k].tolist(), found.drift_sd_nm_per_s[k].tolist()
        rows.append(
            Row(
                tilt_deg=tilt,
                t_ns=t_ns,
                shift_nm=(shift[0], shift[1]),
                shift_sd_nm=(sd[0], sd[1]),
                defocus_nm=float(found.defocus_nm[k]),
                defocus_sd_nm=float(found.defocus_sd_nm[k]),
                drift_nm_per_s=math.hypot(*speed),
                drift_sd_nm_per_s=math.hypot(*spread),
            )
        )
    return tuple(rows)


def drift_to_come(motion: Motion, t_ns: int) -> tuple[DriftAt, ...]:
    """How the drift after the last hold dies down.

    Parameters
    ----------
    motion : Motion
        What is known.
    t_ns : int
        Now.

    Returns
    -------
    tuple of DriftAt
        For the next ten minutes.

    Examples
    --------
    >>> drift_to_come(Motion(), 0)[-1]
    DriftAt(t_ns=600000000000, nm_per_s=0.0)
    """
    speed, _ = drift_speed(motion, np.array(_LATER_S))
    return tuple(
        DriftAt(t_ns=t_ns + int(later_s * 1e9), nm_per_s=math.hypot(*one))
        for later_s, one in zip(_LATER_S, speed.tolist(), strict=True)
    )
