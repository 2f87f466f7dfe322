"""Beam shift, and focus by the stage, through instamatic's TEM server."""

from __future__ import annotations

from ...protocols.wires import instamatic
from ..common.optics import Optics, Pair
from .control import InstamaticServer


class InstamaticOptics(Optics):
    """Raw values of the beam deflectors, and the stage's z: this wire has no defocus.

    Parameters
    ----------
    microscope : InstamaticServer
        The connection.
    shift_step : float
        Smallest step of the deflectors.
    """

    unit = "step"

    def __init__(self, microscope: InstamaticServer, shift_step: float) -> None:
        self._microscope, self.resolution = microscope, shift_step

    async def units(self) -> Pair:
        """What the beam deflectors are set to."""
        return await self._microscope.read(instamatic.GET_BEAM_SHIFT, instamatic.parse_pair)

    async def send_units(self, units: Pair) -> None:
        """Set the beam deflectors, to whole steps."""
        step = self.resolution
        whole = [round(v) if step == 1.0 else round(v / step) * step for v in units]
        await self._microscope.call(instamatic.SET_BEAM_SHIFT, *whole)

    async def z_nm(self) -> float:
        """Where the stage stands along the beam."""
        return await self._microscope.read(
            instamatic.GET_STAGE_POSITION, lambda value, _: instamatic.parse_position(value).z_nm
        )

    async def send_z_nm(self, z_nm: float, timeout_s: float) -> None:
        """Send the stage along the beam, to a whole nanometre."""
        await self._microscope.call(
            instamatic.SET_STAGE_POSITION, z=round(z_nm), wait=False, timeout_s=timeout_s
        )

    async def stage_stands(self) -> bool:
        """Whether the stage is ready."""
        return not await self._microscope.read(instamatic.IS_STAGE_MOVING, instamatic.parse_flag)
