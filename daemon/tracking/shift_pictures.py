"""Take the pictures that tell what the beam deflectors do: one at each of seven deflections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ...drivers.base import Beam, Detector, DeviceError
from ...protocols.config.recipe import BeamSettings
from ...protocols.core.chunk import Chunk
from ...protocols.core.clock import ExperimentClock
from ..schedule.dose import DoseLedger

Pair = tuple[float, float]
# Deflections in steps, from where the deflectors stand; the middle is seen three times, for drift.
PATTERN: tuple[Pair, ...] = ((0, 0), (1, 0), (-1, 0), (0, 0), (0, 1), (0, -1), (0, 0))
NAME = "calibration"


@dataclass(frozen=True)
class ShiftPicture:
    """A picture: the deflectors in their own unit, the middle of its exposure, and its counts."""

    units: Pair
    t_ns: int
    counts: NDArray[Any]


async def take_pictures(
    beam: Beam,
    detector: Detector,
    settings: BeamSettings,
    clock: ExperimentClock,
    step_units: float,
    ledger: DoseLedger,
    said: Callable[[str], None],
) -> list[ShiftPicture]:
    """Deflect the beam, take a picture each time, and bring the deflectors back.

    The beam is blanked but for the exposures; the ledger reserves all of them before the first.

    Parameters
    ----------
    beam, detector
        Connected, the beam prepared and blanked.
    settings : BeamSettings
        Of the pictures.
    clock : ExperimentClock
        Their time.
    step_units : float
        One step of `PATTERN`, in the unit of the deflectors.
    ledger : DoseLedger
        Whose limits hold.
    said : callable
        Takes what is done, in words.

    Raises
    ------
    DoseExceeded
        If the pictures would pass a limit; nothing is exposed.
    DeviceError
        From beam or detector.
    """
    dose = settings.dose_per_frame_e_per_nm2
    ledger.reserve(NAME, dose * len(PATTERN), is_series=True)
    first = (await beam.deflection()).units
    await detector.arm(len(PATTERN), settings.exposure_s, settings.frame)
    pictures: list[ShiftPicture] = []
    try:
        for number, (one, other) in enumerate(PATTERN, 1):
            units = first[0] + one * step_units, first[1] + other * step_units
            said(f"picture {number} of {len(PATTERN)} at ({units[0]:.4g}, {units[1]:.4g})")
            await beam.deflect_units(units)
            pictures.append(await _expose(beam, detector, settings, clock, units))
            ledger.charge(NAME, dose)
    finally:
        with contextlib.suppress(DeviceError):
            await beam.deflect_units(first)
        with contextlib.suppress(DeviceError):
            await detector.disarm()
        ledger.release(NAME)
    return pictures


async def _expose(
    beam: Beam, detector: Detector, settings: BeamSettings, clock: ExperimentClock, units: Pair
) -> ShiftPicture:
    try:
        await beam.unblank()
        await detector.trigger()
        begun_ns = clock.now_ns()
        await clock.sleep_until_ns(begun_ns + int(settings.exposure_s * 1e9))
    finally:
        # Even when cancelled: the specimen is not left under the beam.
        await asyncio.shield(beam.blank())
    frame = await detector.read_frame()
    counts = frame.data.decompress() if isinstance(frame.data, Chunk) else frame.data
    return ShiftPicture(units, begun_ns + int(settings.exposure_s * 5e8), counts)
