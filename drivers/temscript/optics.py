"""Beam shift, focus and scan rotation through a temscript server."""

from __future__ import annotations

import math

from ...protocols.wires import temscript
from ..common.optics import Optics, Pair
from .control import TemscriptServer


class TemscriptOptics(Optics):
    """What the endpoints ``beam_shift``, ``probe_defocus``, ``defocus`` and ``stem_rotation`` do.

    ``image_shift`` lies below the specimen and does not move the field of a scan.
    """

    unit = "nm"
    lenses = (temscript.PROBE_DEFOCUS, temscript.DEFOCUS)
    turns_scan = True
    resolution = 0.1

    def __init__(self, server: TemscriptServer) -> None:
        self._server, self._link = server, server.link

    async def units(self) -> Pair:
        """What the beam deflectors are set to, in nm as the microscope counts them."""
        value = await self._link.get(temscript.BEAM_SHIFT)
        return self._server.checked(temscript.BEAM_SHIFT, value, temscript.parse_pair_nm)

    async def send_units(self, units: Pair) -> None:
        """Set the beam deflectors."""
        await self._link.put(temscript.BEAM_SHIFT, temscript.pair_to_wire(units))

    async def lens_nm(self, lens: str) -> float:
        """What a lens is set to; raises DeviceRefused where the microscope lacks it."""
        return self._server.checked(lens, await self._link.get(lens), temscript.parse_nm)

    async def send_lens_nm(self, lens: str, value_nm: float) -> None:
        """Set a lens."""
        await self._link.put(lens, value_nm * 1e-9)

    async def z_nm(self) -> float:
        """Where the stage stands along the beam."""
        value = await self._link.get(temscript.STAGE_POSITION)
        return self._server.checked(
            temscript.STAGE_POSITION, value, lambda v, _: temscript.position_from_wire(v).z_nm
        )

    async def send_z_nm(self, z_nm: float, timeout_s: float) -> None:
        """Send the stage along the beam."""
        wire = temscript.target_to_wire(z_nm=z_nm)
        await self._link.put(temscript.STAGE_POSITION, wire, timeout_s, "?method=GO")

    async def stage_stands(self) -> bool:
        """Whether the stage is ready."""
        return await self._link.get(temscript.STAGE_STATUS) == temscript.READY

    async def turn_scan(self, rotation_deg: float) -> float:
        """Set the scan rotation; returns what is read back."""
        await self._link.put(temscript.STEM_ROTATION, math.radians(rotation_deg))
        return math.degrees(await self._server.number(temscript.STEM_ROTATION))
