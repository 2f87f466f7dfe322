"""Take the pictures that tell what the beam deflectors do: one at each of six deflections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ...drivers.base import DeviceError
from ...protocols.config.recipe import BeamSettings
from ..schedule.scout_scans import SHIFT_PATTERN
from .beam_exposure import ExposureContext
from .single_picture import take_single_picture

Pair = tuple[float, float]


@dataclass(frozen=True)
class ShiftPicture:
    """A picture: the deflectors in their own unit, the middle of its exposure, and its counts."""

    units: Pair
    t_ns: int
    counts: NDArray[Any]


async def take_pictures(
    context: ExposureContext,
    scan: BeamSettings,
    account: str,
    step_units: float,
    said: Callable[[str], None] = lambda _: None,
) -> list[ShiftPicture]:
    """Deflect the beam, take a picture each time, and bring the deflectors back.

    The ledger reserves all pictures, with the time while the blanker works, before the first.

    Parameters
    ----------
    context : ExposureContext
        Beam and detector, the beam prepared and blanked; ledger and journal.
    scan : BeamSettings
        Of the pictures, which have the field of the context's settings.
    account : str
        What is charged.
    step_units : float
        One step of `SHIFT_PATTERN`, in the unit of the deflectors.
    said : callable
        Takes what is done, in words.

    Raises
    ------
    DoseExceeded
        If the pictures would pass a limit; nothing is exposed then, unless the blanker has become
        slower meanwhile.
    DeviceError
        From beam or detector.
    """
    beam, detector, ledger = context.beam, context.detector, context.ledger
    dose, count = scan.dose_per_frame_e_per_nm2, len(SHIFT_PATTERN)
    ledger.reserve(account, count * (dose + context.parked_dose_e_per_nm2), is_series=True)
    pictures: list[ShiftPicture] = []
    first: Pair | None = None
    try:
        first = (await beam.deflection()).units
        await detector.arm(count, scan.exposure_s, scan.frame)
        for number, (one, other) in enumerate(SHIFT_PATTERN):
            units = first[0] + one * step_units, first[1] + other * step_units
            said(f"picture {number + 1} of {count} at ({units[0]:.4g}, {units[1]:.4g})")
            await beam.deflect_units(units)
            ledger.top_up(account, (count - number) * (dose + context.parked_dose_e_per_nm2))
            pictures.append(await _picture(context, scan, account, units, number + 1))
    finally:
        if first is not None:
            await _bring_back(context, account, first)
        with contextlib.suppress(DeviceError):
            await detector.disarm()
        ledger.release(account)
    return pictures


async def _bring_back(context: ExposureContext, account: str, units: Pair) -> None:
    try:
        await context.beam.deflect_units(units)
    except DeviceError as error:
        text = f"{account}: the beam deflectors are not where they were: {error}"
        context.out.event("error", "beam", text)


async def _picture(
    context: ExposureContext, scan: BeamSettings, account: str, units: Pair, number: int
) -> ShiftPicture:
    taken = await take_single_picture(context, account, scan)
    counts = taken.counts(context.detector.name, number, "picture")
    return ShiftPicture(units, taken.t_ns, counts)
