"""Take the fast frames that tell what a pixel is worth: some at each of a few scan rotations."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ...drivers.base import DeviceError
from ...protocols.config.recipe import BeamSettings
from ..schedule.pixel_scans import FRAMES_PER_TURN, TURNS_DEG, turned_deg
from .beam_exposure import ExposureContext
from .single_picture import take_single_picture


@dataclass(frozen=True)
class TurnedFrames:
    """Frames at one scan rotation: counts, and the middle of each exposure."""

    rotation_deg: float
    t_ns: tuple[int, ...]
    counts: tuple[NDArray[Any], ...]


async def take_turned_frames(
    context: ExposureContext, scan: BeamSettings, account: str, rotation_deg: float
) -> list[TurnedFrames]:
    """Turn the scan, take fast frames each time, and turn it back.

    The ledger reserves all frames, with the time while the blanker works, before the first.

    Parameters
    ----------
    context : ExposureContext
        Beam and detector, the beam prepared and blanked; ledger and journal.
    scan : BeamSettings
        Of the frames, which have the field of the context's settings.
    account : str
        What is charged.
    rotation_deg : float
        Of the scan, before and after.

    Raises
    ------
    DoseExceeded
        If the frames would pass a limit; nothing is exposed then, unless the blanker has become
        slower meanwhile.
    DeviceError
        From beam or detector.
    """
    ledger, detector = context.ledger, context.detector
    count = FRAMES_PER_TURN * len(TURNS_DEG)
    each = scan.dose_per_frame_e_per_nm2 + context.parked_dose_e_per_nm2
    ledger.reserve(account, count * each, is_series=True)
    taken: list[TurnedFrames] = []
    try:
        await detector.arm(count, scan.exposure_s, scan.frame)
        for turn_deg in TURNS_DEG:
            at_deg = turned_deg(rotation_deg, turn_deg)
            await context.beam.turn_scan(at_deg)
            taken.append(await _frames(context, scan, account, at_deg, len(taken), count))
    finally:
        with contextlib.suppress(DeviceError):
            await detector.disarm()
        try:
            await context.beam.turn_scan(rotation_deg)
        except DeviceError as error:
            text = f"{account}: the scan is not turned back: {error}"
            context.out.event("error", "beam", text)
        ledger.release(account)
    return taken


async def _frames(
    context: ExposureContext,
    scan: BeamSettings,
    account: str,
    at_deg: float,
    turns_before: int,
    count: int,
) -> TurnedFrames:
    """The frames of one rotation."""
    moments: list[int] = []
    frames: list[NDArray[Any]] = []
    for number in range(FRAMES_PER_TURN):
        before = turns_before * FRAMES_PER_TURN + number
        left = count - before
        each = scan.dose_per_frame_e_per_nm2 + context.parked_dose_e_per_nm2
        context.ledger.top_up(account, left * each)
        one = await take_single_picture(context, account, scan)
        frames.append(one.counts(context.detector.name, before + 1))
        moments.append(one.t_ns)
    return TurnedFrames(at_deg, tuple(moments), tuple(frames))
