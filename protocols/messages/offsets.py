"""The measured offset of a frame, as recorder and online analysis are told it.

The tracker answers some milliseconds after the frame. The daemon passes what it believes on, one
message of the topic `OFFSET_TOPIC` for each frame of a series: ``series``, ``index``, ``t_ns``,
``score``, ``doubt``, ``offset_nm`` and ``sd_nm``, which are null where the offset is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from .stream import BadMessage, Message
from .tracking import OffsetMeasured, Pair, SdPair

OFFSET_TOPIC = "offset"


@dataclass(frozen=True)
class FrameOffset:
    """Where the specimen was in a frame, (y, x) in nm; None where that is not known."""

    series: str
    index: int
    offset_nm: Pair | None
    sd_nm: SdPair | None


def offset_message(found: OffsetMeasured) -> Message:
    """The message about what the tracker has found in a frame.

    Parameters
    ----------
    found : OffsetMeasured
        Of a frame of a series. One that is in doubt is passed on without its offset.

    Examples
    --------
    >>> told = offset_message(OffsetMeasured(
    ...     t_ns=1, series="series_001", index=3, scan="frame", tilt_deg=0, offset_nm=(4, -2),
    ...     sd_nm=(1, 1)))
    >>> offset_of(told.header)
    FrameOffset(series='series_001', index=3, offset_nm=(4.0, -2.0), sd_nm=(1.0, 1.0))
    """
    known = found.doubt == "" and found.offset_nm is not None and found.sd_nm is not None
    header: dict[str, Any] = {
        "type": OFFSET_TOPIC,
        "series": found.series,
        "index": found.index,
        "t_ns": found.t_ns,
        "offset_nm": found.offset_nm if known else None,
        "sd_nm": found.sd_nm if known else None,
        "score": found.score,
        "doubt": found.doubt,
    }
    return Message(OFFSET_TOPIC, header)


def offset_of(header: Mapping[str, Any]) -> FrameOffset:
    """Read the header of such a message.

    Raises
    ------
    BadMessage
        If it names no frame.
    """
    series, index = header.get("series"), header.get("index")
    if not isinstance(series, str) or type(index) is not int or index < 0:
        raise BadMessage(f"an offset of frame {index!r} of {series!r}")
    offset, sd = pair_of(header.get("offset_nm")), pair_of(header.get("sd_nm"))
    if offset is None or sd is None:
        return FrameOffset(series, index, None, None)
    return FrameOffset(series, index, offset, sd)


def pair_of(value: object) -> Pair | None:
    """A pair of finite numbers, (y, x), from JSON; None for anything else."""
    if not isinstance(value, list | tuple):
        return None
    parts = cast(list[object], value)
    if len(parts) != 2 or any(type(part) not in (int, float) for part in parts):
        return None
    try:
        y, x = (float(cast(float, part)) for part in parts)
    except OverflowError:
        return None
    return (y, x) if math.isfinite(y) and math.isfinite(x) else None
