"""How a run keeps its specimen in the frame at this moment, for those who watch."""

from __future__ import annotations

from typing import Any

from ...protocols.messages.tracking import OffsetMeasured, Row, Table
from ...protocols.messages.tracking_rules import TrackingLimits
from .applied_shift import AppliedShift


def tracking_status(
    series: str,
    table: Table | None,
    row: Row | None,
    applied: AppliedShift,
    last: OffsetMeasured | None,
    lost: str,
    limits: TrackingLimits,
) -> dict[str, Any]:
    """What ``state`` says of tracking; lengths in nm, pairs (y, x), null where not known.

    Parameters
    ----------
    series : str
        That is followed.
    table, row
        The newest of the tracker, and what it said of the angle at hand.
    applied : AppliedShift
        What beam and focus are set to.
    last : OffsetMeasured or None
        What the latest frame of the series has shown.
    lost : str
        Why the specimen counts as lost; empty if it does not.
    limits : TrackingLimits
        What recipe and column allow.
    """
    believed = last is not None and last.doubt == "" and last.offset_nm is not None
    return {
        "series": series,
        "state": _state(table, lost),
        "why": lost,
        "frame": None if last is None else last.index,
        "doubt": "" if last is None else last.doubt,
        "offset_nm": _pair(last.offset_nm) if last is not None and believed else None,
        "offset_sd_nm": _pair(last.sd_nm) if last is not None and believed else None,
        "expected_nm": None
        if row is None
        else [round(a - b, 2) for a, b in zip(applied.shift_nm, row.shift_nm, strict=True)],
        "expected_sd_nm": None if row is None else _pair(row.shift_sd_nm),
        "shift_nm": _pair(applied.shift_nm),
        "shift_limit_nm": round(limits.shift_limit_nm, 1),
        "defocus_nm": round(applied.defocus_nm, 1),
        "defocus_sd_nm": None if row is None else round(row.defocus_sd_nm, 1),
        "drift_nm_per_s": None if row is None else round(row.drift_nm_per_s, 3),
        "drift_sd_nm_per_s": None if row is None else round(row.drift_sd_nm_per_s, 3),
    }


def _state(table: Table | None, lost: str) -> str:
    if lost:
        return "not found"
    if table is None:
        return "no table"
    if not table.trusted:
        return "not trusted"
    return "trusted" if table.placed else "no picture"


def _pair(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else [round(value, 2) for value in pair]
