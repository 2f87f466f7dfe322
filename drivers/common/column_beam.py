"""A column with a blanker and numbered spot sizes: what drivers of such beams have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...protocols.config.recipe import BeamSettings
from ...protocols.wires import temscript
from ..base import Beam, BlankerSwitch, DeviceError, DeviceRefused

VOLTAGE_TOLERANCE = 0.01


class ColumnOptions(BaseModel):
    """How this column's settings translate; measured on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    spot_currents_pa: dict[int, float] = Field(
        default_factory=lambda: dict(temscript.SPOT_CURRENTS_PA), min_length=1
    )
    display_width_m: float = Field(default=temscript.DISPLAY_WIDTH_M, gt=0)

    @field_validator("spot_currents_pa")
    @classmethod
    def _positive(cls, table: dict[int, float]) -> dict[int, float]:
        if not all(math.isfinite(current) and current > 0 for current in table.values()):
            raise ValueError("the full current of every spot size is a positive number of pA")
        return table


class ColumnBeam(Beam):
    """Blanks, reads back, and checks the high tension; a driver implements its wire."""

    channels: ClassVar[Mapping[str, str]] = {"blanked": "", "current_pa": "pA"}
    options: ColumnOptions

    # What a driver implements.

    @property
    @abstractmethod
    def _is_connected(self) -> bool: ...

    @abstractmethod
    async def _set_blanked(self, blanked: bool) -> None: ...

    @abstractmethod
    async def _voltage_kv(self) -> float: ...

    @abstractmethod
    async def _spot_size(self) -> float: ...

    # What follows from it.

    async def make_safe(self) -> None:
        """Blank, confirmed; over a new connection where the present one fails."""
        if self._is_connected:
            try:
                await self.blank()
            except DeviceError:
                pass  # the same error comes again below, if it stays
            else:
                return
        await self.connect()
        await self.blank()

    async def blank(self) -> int:
        """Blank and read back; returns the moment at which the instrument confirmed."""
        await self._switch(True)
        if not await self.is_blanked():
            raise DeviceRefused(
                self.name,
                "blank the beam",
                f"{self.rig.endpoint} accepted the command and still reports that the beam is on",
                "Close the column valves at the microscope",
            )
        return self.clock.now_ns()

    async def unblank(self) -> int:
        """Unblank; returns the moment at which the command went out."""
        return (await self._switch(False)).sent_ns

    async def _switch(self, blanked: bool) -> BlankerSwitch:
        sent_ns = self.clock.now_ns()
        await self._set_blanked(blanked)
        self.switched = BlankerSwitch(sent_ns, self.clock.now_ns())
        return self.switched

    async def _refuse_other_voltage(self, settings: BeamSettings) -> None:
        voltage_kv = await self._voltage_kv()
        if abs(voltage_kv - settings.voltage_kv) > VOLTAGE_TOLERANCE * settings.voltage_kv:
            raise DeviceRefused(
                self.name,
                f"use a high tension of {settings.voltage_kv:g} kV",
                f"the column is at {voltage_kv:g} kV",
                "Change it at the microscope, or the recipe's beam.voltage",
            )

    async def _listed_spot(self) -> int:
        """Return the spot size; DeviceRefused if the rig's table does not have it."""
        spot = await self._spot_size()
        if spot not in self.options.spot_currents_pa:
            raise DeviceRefused(
                self.name,
                "read the probe current",
                f"spot size {spot:g} is not in the rig's table",
                "Measure it and add it to options.spot_currents_pa",
            )
        return int(spot)

    def _refuse_not_taken(self, name: str, value: float, now: float, tolerance: float) -> None:
        if abs(now - value) > tolerance * abs(value):
            raise DeviceRefused(
                self.name,
                f"to set {name} to {value:g}",
                f"it reads {now:g} afterwards",
                "Set it at the microscope, or change the recipe's beam",
            )
