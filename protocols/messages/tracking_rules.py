"""What follows from a row of the tracking table and from what was measured: pure decisions.

The engine carries them out, `check` and the benchmarks ask the same functions. Nothing here knows
a clock, a device or a file. Each answer says in words why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from ..config.tracking import Track
from .tracking import DriftAt, OffsetMeasured, Pair, Row, SdPair

# Frames whose offset grows although it is corrected, after which correcting stops.
GROWING_FRAMES = 3
# In predicted sd: the last offset that has grown, the one before it, and the mean of three on one
# side; and the cosine of the angle between offsets that grow in one direction.
_SIGNIFICANT, _NOTABLE, _ONE_SIDED = 4.0, 2.25, 5.2
_GROWTH, _ALIGNED = 1.4, 0.5
# Scouts that find the specimen far off, after which the correction does not do what it should.
_CHECKS = 3
# A shift is known where its sd is below this part of the largest.
_KNOWN = 0.2
# A slip is checked by a scout where it is as likely as not.
_SLIP = 0.5


@dataclass(frozen=True)
class TrackingLimits:
    """What a recipe and a rig allow; lengths in nm.

    Attributes
    ----------
    keep_within_nm : float
        Sd of the predicted offset beyond which a scout is taken; 0: before every frame.
    scouts_e_per_nm2 : float
        Most dose of scouts in a series; 0: none.
    lost_beyond : float
        Part of the field beyond which a measured offset is a loss.
    shift_limit_nm, hand_over_nm : float
        Largest beam shift, and the one beyond which the stage takes it over between series.
    focus_within_nm : float
        Sd of the defocus beyond which a focus series is needed.
    """

    keep_within_nm: float = 50.0
    scouts_e_per_nm2: float = 1.0
    lost_beyond: float = 0.3
    shift_limit_nm: float = 1500.0
    hand_over_nm: float = 1000.0
    focus_within_nm: float = 680.0


def limits_of(track: Track, rig: TrackingLimits | None = None) -> TrackingLimits:
    """The limits of a recipe's or a series' `track`.

    Parameters
    ----------
    track : Track
        What is asked.
    rig : TrackingLimits, optional
        Whose limits of beam and focus hold.
    """
    return replace(
        rig or TrackingLimits(),
        keep_within_nm=track.keep_within_nm,
        scouts_e_per_nm2=track.scouts_e_per_nm2,
        lost_beyond=track.lost_beyond,
    )


@dataclass(frozen=True)
class Next:
    """What comes before the next exposure, and why."""

    do: Literal["expose", "scout", "wide", "pause"]
    why: str = ""


def before_exposure(
    sd_nm: SdPair,
    limits: TrackingLimits,
    spent_e_per_nm2: float,
    scout_e_per_nm2: float,
    last: OffsetMeasured | None = None,
    *,
    repeats: bool = False,
) -> Next:
    """Whether the next exposure needs a scout.

    Parameters
    ----------
    sd_nm : tuple of float
        Predicted sd of the offset, of the row to be exposed.
    limits : TrackingLimits
        What is allowed.
    spent_e_per_nm2, scout_e_per_nm2 : float
        Dose of this series' scouts so far, and of one more.
    last : OffsetMeasured, optional
        What the last frame of this series showed.
    repeats : bool
        Whether that was at the same angle: then it was looked for there already.

    Returns
    -------
    Next
        ``expose`` or ``scout``; ``wide`` where the last frame showed no specimen.
    """
    if limits.scouts_e_per_nm2 <= 0.0:
        return Next("expose")
    affordable = spent_e_per_nm2 + scout_e_per_nm2 <= limits.scouts_e_per_nm2 * (1 + 1e-9)
    widest = max(sd_nm)
    if last is not None and last.doubt in ("decoy", "ambiguous", "unexpected"):
        # Searching is never left out for its dose: the alternative exposes something else.
        return Next("wide", f"the last frame did not show the specimen ({last.doubt})")
    why = ""
    if last is not None and last.slip > _SLIP:
        why = "the stage has probably slipped"
    elif widest > limits.keep_within_nm and not repeats:
        why = f"the offset is known to {widest:.0f} nm, {limits.keep_within_nm:g} nm are asked"
    if not why:
        return Next("expose")
    if not affordable:
        return Next("expose", f"{why}, but the dose of the scouts is used up")
    return Next("scout", why)


def after_scout(
    found: OffsetMeasured, field_nm: float, limits: TrackingLimits, taken: int = 1
) -> Next:
    """What follows a scout: exposure, a search in a wider field, or a pause.

    Parameters
    ----------
    found : OffsetMeasured
        What the scout, or the wide scout, showed.
    field_nm : float
        Width of the field of a frame.
    limits : TrackingLimits
        What is allowed.
    taken : int
        Scouts before this exposure so far, this one included.

    Returns
    -------
    Next
        ``expose`` where the specimen is near its place and the rest can be corrected; ``scout`` to
        check a large correction; ``pause`` if a wide scout did not find the specimen, or if
        corrections do not bring it nearer.
    """
    if found.doubt == "" and found.offset_nm is not None:
        far = max(abs(part) for part in found.offset_nm)
        if far <= limits.lost_beyond * field_nm:
            return Next("expose")
        if taken >= _CHECKS:
            return Next(
                "pause",
                f"the specimen is still {far:.0f} nm off after {taken} scouts: the beam shift does "
                "not do what it should; calibrate the shifts",
            )
        return Next("scout", f"the specimen is {far:.0f} nm off; the correction is checked")
    if taken > _CHECKS:
        return Next("pause", f"{taken} scouts did not find the specimen ({found.doubt})")
    if found.doubt == "same":
        return Next("scout", "the detector sent the same frame twice")
    if found.scan == "wide":
        return Next("pause", f"the wide search did not find the specimen ({found.doubt})")
    return Next("wide", f"the scout did not show the specimen ({found.doubt})")


def is_lost(found: OffsetMeasured, field_nm: float, limits: TrackingLimits) -> str:
    """Why a frame counts as lost; empty if it does not."""
    if found.doubt:
        return f"the frame cannot be used for tracking ({found.doubt})"
    if found.offset_nm is None:
        return ""
    far = max(abs(part) for part in found.offset_nm)
    if far <= limits.lost_beyond * field_nm:
        return ""
    return f"the specimen is {far:.0f} nm off, {100 * far / field_nm:.0f} % of the field"


def correction_fails(recent: Sequence[OffsetMeasured]) -> bool:
    """Whether the beam shift does not do what it should: wrong sign, wrong matrix, or forgotten.

    Parameters
    ----------
    recent : sequence of OffsetMeasured
        The last frames of a series, in order; scouts are left out.

    Returns
    -------
    bool
        True where what was not predicted has grown in one direction in three frames running
        although it was corrected, or where it lies on one side three times running, by more than
        the model allows. A slip does neither: the frame after it is corrected. Nor does a tracker
        that is late: it knows that the beam was not shifted yet.
    """
    frames = [m for m in recent if m.scan == "frame"][-GROWING_FRAMES:]
    offsets = [off for m in frames if (off := _unpredicted_nm(m)) is not None and m.doubt == ""]
    if len(offsets) < GROWING_FRAMES:
        return False
    surprises = [_surprise(m) for m in frames]
    sizes = [math.hypot(*offset) for offset in offsets]
    grows = all(b > _GROWTH * a for a, b in pairwise(sizes)) and all(
        one[0] * other[0] + one[1] * other[1] > _ALIGNED * a * b
        for (one, other), (a, b) in zip(pairwise(offsets), pairwise(sizes), strict=True)
    )
    if grows and surprises[-1] > _SIGNIFICANT and surprises[-2] > _NOTABLE:
        return True
    for axis in (0, 1):
        sds = [max(m.predicted_sd_nm[axis], 1.0) for m in frames if m.predicted_sd_nm is not None]
        if len(sds) == GROWING_FRAMES:
            ratios = [offset[axis] / sd for offset, sd in zip(offsets, sds, strict=True)]
            enough = abs(sum(ratios)) > _ONE_SIDED * math.sqrt(GROWING_FRAMES)
            if enough and (min(ratios) > 1.5 or max(ratios) < -1.5):
                return True
    return False


def not_found_running(recent: Sequence[OffsetMeasured]) -> bool:
    """Whether the last three frames of a series have shown no specimen that could be believed.

    The engine then pauses: without scouts there is nothing else that could find it.
    """
    frames = [m for m in recent if m.scan == "frame"][-GROWING_FRAMES:]
    return len(frames) == GROWING_FRAMES and all(m.doubt for m in frames)


def _unpredicted_nm(found: OffsetMeasured) -> Pair | None:
    """What of an offset the model did not predict."""
    if found.offset_nm is None:
        return None
    predicted = found.predicted_nm or (0.0, 0.0)
    return found.offset_nm[0] - predicted[0], found.offset_nm[1] - predicted[1]


def _surprise(found: OffsetMeasured) -> float:
    offset = _unpredicted_nm(found)
    if offset is None or found.predicted_sd_nm is None:
        return 0.0
    pairs = zip(offset, found.predicted_sd_nm, strict=True)
    return max(abs(part) / max(sd, 1.0) for part, sd in pairs)


def needs_focus_series(rows: Sequence[Row], limits: TrackingLimits) -> str:
    """Why a focus series is needed before these rows are exposed; empty if it is not."""
    worst = max(rows, key=lambda row: row.defocus_sd_nm, default=None)
    if worst is None or worst.defocus_sd_nm <= limits.focus_within_nm:
        return ""
    return (
        f"the focus at {worst.tilt_deg:g} deg is known to {worst.defocus_sd_nm:.0f} nm, "
        f"{limits.focus_within_nm:.0f} nm are asked"
    )


def stage_takes_over(rows: Sequence[Row], limits: TrackingLimits) -> Pair | None:
    """The part of the beam shift (y, x) that the stage should take over before a series.

    Parameters
    ----------
    rows : sequence of Row
        All rows of the series to come.
    limits : TrackingLimits
        What is allowed.

    Returns
    -------
    tuple of float or None
        The middle of the shifts of the series, to be moved by the stage; None where all stay
        within `hand_over_nm`, or where the middle is small against their spread.
    """
    if not rows or max(math.hypot(*row.shift_nm) for row in rows) <= limits.hand_over_nm:
        return None
    middle: list[float] = []
    for axis in (0, 1):
        values = [row.shift_nm[axis] for row in rows]
        middle.append(0.5 * (min(values) + max(values)))
    if math.hypot(*middle) < 0.2 * limits.hand_over_nm:
        return None
    return middle[0], middle[1]


def beyond_shift_limit(rows: Sequence[Row], limits: TrackingLimits) -> tuple[float, ...]:
    """Angles at which the beam shift probably exceeds its limit.

    Prediction and two sd count where a shift is known at all: at the beginning of a first series
    everything is possible, which is no reason to warn.
    """
    most = limits.shift_limit_nm
    return tuple(
        row.tilt_deg
        for row in rows
        if max(row.shift_sd_nm) < _KNOWN * most
        and math.hypot(*row.shift_nm) + 2.0 * max(row.shift_sd_nm) > most
    )


def settled_ns(drift: Sequence[DriftAt], below_nm_per_s: float) -> int | None:
    """When the drift is slow enough to expose.

    Parameters
    ----------
    drift : sequence of DriftAt
        Of a table, in order of time.
    below_nm_per_s : float
        Speed that is slow enough.

    Returns
    -------
    int or None
        UTC nanoseconds on the experiment clock, between two moments by an exponential decay; None
        if it stays faster for as long as the table tells. 0 where nothing is known of a drift.

    Examples
    --------
    >>> dies_down = [DriftAt(t_ns=0, nm_per_s=4.0), DriftAt(t_ns=60 * 10**9, nm_per_s=1.0)]
    >>> settled_ns(dies_down, 2.0) / 1e9
    30.0
    """
    if not drift or drift[0].nm_per_s <= below_nm_per_s:
        return 0
    for before, after in pairwise(drift):
        if after.nm_per_s <= below_nm_per_s:
            fall = math.log(before.nm_per_s / max(after.nm_per_s, 1e-12))
            part = math.log(before.nm_per_s / below_nm_per_s) / fall
            return before.t_ns + round(part * (after.t_ns - before.t_ns))
    return None
