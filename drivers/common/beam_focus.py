"""The focus of a column, changed by a lens or by the stage's z, and read back."""

from __future__ import annotations

import asyncio
import math
import time

from ...protocols.config.rig import BeamRig
from ...protocols.core.clock import ExperimentClock
from ..base import GRACE_S, DeviceLost
from .optics import Optics
from .optics_errors import beyond, elsewhere, not_in_rig, unprepared
from .polled_stage import MIN_POLL_S, MIN_UNMOVED_S, POLL_S, UNMOVED_S
from .stage_axes import LINEAR_SPEED_NM_PER_S

LENS_TOLERANCE_NM = 5.0
Z_TOLERANCE_NM = 100.0


class BeamFocus:
    """Focus of one beam; the parameters are those of `BeamShift`."""

    def __init__(self, device: str, rig: BeamRig, clock: ExperimentClock, optics: Optics) -> None:
        self._device, self._rig, self._clock, self._optics = device, rig, clock, optics
        self._first_nm: float | None = None

    async def prepare(self) -> None:
        """Note the focus as it is found for the first time."""
        focus = self._rig.focus
        if focus is not None and self._first_nm is None:
            optics = self._optics
            by_stage = focus.by == "stage"
            self._first_nm = await (optics.z_nm() if by_stage else optics.lens_nm(focus.by))

    async def focus(self, defocus_nm: float) -> int:
        """Focus on another height; see `Beam.focus`."""
        request = f"focus {defocus_nm:+g} nm from where the focus was found"
        focus, first_nm = self._rig.focus, self._first_nm
        if focus is None:
            raise not_in_rig(self._device, request, "beam.focus")
        if not abs(defocus_nm) <= focus.limit_nm:
            limit = f"the rig's limit is {focus.limit_nm:g} nm"
            raise beyond(self._device, request, limit, "beam.focus")
        if first_nm is None:
            raise unprepared(self._device, request)
        if focus.by == "stage":
            # A stage that is lowered brings what is higher on the specimen into focus.
            await self._move_z(first_nm - defocus_nm, request)
        else:
            await self._set_lens(focus.by, first_nm + defocus_nm, request)
        return self._clock.now_ns()

    async def _set_lens(self, lens: str, value_nm: float, request: str) -> None:
        await self._optics.send_lens_nm(lens, value_nm)
        found_nm = await self._optics.lens_nm(lens)
        if not abs(found_nm - value_nm) <= LENS_TOLERANCE_NM:
            found = f"{lens} was set to {value_nm:.1f} nm and reads {found_nm:.1f} nm"
            raise elsewhere(self._device, request, found)

    async def _move_z(self, z_nm: float, request: str) -> None:
        """Bring the stage to a height and wait until it stands there."""
        optics, clock = self._optics, self._clock
        from_nm = await optics.z_nm()
        needed_s = clock.wall_s(abs(z_nm - from_nm) / LINEAR_SPEED_NM_PER_S + UNMOVED_S)
        deadline = time.monotonic() + needed_s + GRACE_S
        await optics.send_z_nm(z_nm, needed_s + GRACE_S)
        unmoved_s = max(MIN_UNMOVED_S, clock.wall_s(UNMOVED_S))
        stood_since, stood_nm = time.monotonic(), math.inf
        while True:
            stands, now_nm = await optics.stage_stands(), await optics.z_nm()
            if stands and abs(now_nm - z_nm) <= Z_TOLERANCE_NM:
                return
            now_s = time.monotonic()
            if not stands or abs(now_nm - stood_nm) > Z_TOLERANCE_NM:
                stood_since, stood_nm = now_s, now_nm
            elif now_s - stood_since > unmoved_s:
                found = f"the stage was sent to z {z_nm:.0f} nm and stands at {now_nm:.0f} nm"
                raise elsewhere(self._device, request, found)
            if now_s > deadline:
                raise DeviceLost(
                    self._device,
                    request,
                    f"by the deadline the stage had not come to a stand, at z {now_nm:.0f} nm",
                    "Check that the stage is not blocked",
                )
            await asyncio.sleep(max(MIN_POLL_S, clock.wall_s(POLL_S)))
