"""A column whose beam can be shifted and focused: what drivers of such beams have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ...protocols.config.recipe import BeamSettings
from ...protocols.config.shift_calibration import ShiftCalibration, load_shift_calibration
from ...protocols.core.errors import BadInput
from ..base import BeamReach, Deflection, Reach
from .beam_focus import BeamFocus
from .beam_shift import BeamShift
from .column_beam import ColumnBeam
from .optics import Optics, Pair
from .optics_errors import elsewhere

ROTATION_TOLERANCE_DEG = 0.05
FULL_TURN = Reach(-180.0, 180.0)


class DeflectedBeam(ColumnBeam):
    """Shifts, focuses, and turns the scan, through the `Optics` that a driver implements.

    Attributes
    ----------
    optics_class : type of Optics
        For what can be checked before connecting.
    """

    optics_class: ClassVar[type[Optics]]

    def _use_optics(self, optics: Optics) -> None:
        """Begin; a driver calls this when it is made."""
        self._optics = optics
        self._shift = BeamShift(self.name, self.rig, self.clock, optics)
        self._focus = BeamFocus(self.name, self.rig, self.clock, optics)

    @classmethod
    def check_rig(cls, rig: Any) -> None:
        """Check the calibration, and that the wire has what the rig names."""
        optics = cls.optics_class
        if rig.shift is not None and rig.shift.calibration_file is not None:
            path = Path(rig.shift.calibration_file)
            if path.exists() and (unit := load_shift_calibration(path).unit) != optics.unit:
                raise BadInput(
                    "beam.shift.calibration_file",
                    f"'{path}' counts the deflectors in {unit}; {rig.driver} has {optics.unit}",
                )
        if rig.focus is not None and rig.focus.by not in (*optics.lenses, "stage"):
            known = " or ".join((*optics.lenses, "stage"))
            problem = f"{rig.driver} has no '{rig.focus.by}'; write {known}"
            raise BadInput("beam.focus.by", problem)
        if rig.scan_rotation_deg is not None and not optics.turns_scan:
            raise BadInput(
                "beam.scan_rotation",
                f"{rig.driver} cannot set it; set it at the microscope and leave it out here",
            )

    @property
    def calibration(self) -> ShiftCalibration | None:
        """What the deflectors do, in use; read from the rig's file when the beam is prepared."""
        return self._shift.calibration

    @calibration.setter
    def calibration(self, calibration: ShiftCalibration | None) -> None:
        self._shift.calibration = calibration

    async def reach(self) -> BeamReach:
        """How far shift, focus and scan rotation may be set."""
        shift, focus = self.rig.shift, self.rig.focus
        problem = None if shift is None else self._shift.problem()
        return BeamReach(
            shift_nm=shift.limit_nm if shift is not None and problem is None else None,
            needs_calibration=problem,
            units=None if shift is None else shift.limit_nm / shift.nominal_nm,
            defocus_nm=None if focus is None else Reach(-focus.limit_nm, focus.limit_nm),
            rotation_deg=FULL_TURN if self._optics.turns_scan else None,
        )

    async def deflect(self, shift_nm: Pair) -> int:
        """Shift the image by (y, x) nm; see `Beam.deflect`."""
        return await self._shift.deflect(shift_nm)

    async def deflect_units(self, units: Pair) -> int:
        """Set the deflectors themselves; see `Beam.deflect_units`."""
        return await self._shift.deflect_units(units)

    async def deflection(self) -> Deflection:
        """Read back the deflectors."""
        return await self._shift.deflection()

    async def focus(self, defocus_nm: float) -> int:
        """Focus on another height; see `Beam.focus`."""
        return await self._focus.focus(defocus_nm)

    async def turn_scan(self, rotation_deg: float) -> None:
        """Turn the scan; see `Beam.turn_scan`."""
        if not self._optics.turns_scan:
            raise self._lacks("turn the scan")
        found_deg = await self._optics.turn_scan(rotation_deg)
        off_deg = (found_deg - rotation_deg + 180.0) % 360.0 - 180.0
        if not abs(off_deg) <= ROTATION_TOLERANCE_DEG:
            request = f"turn the scan to {rotation_deg:g} deg"
            raise elsewhere(self.name, request, f"it reads {found_deg:.2f} deg")

    async def _prepare_optics(self, settings: BeamSettings) -> None:
        """Turn the scan, read the calibration, and note shift and focus as they are found."""
        if self.rig.scan_rotation_deg is not None:
            await self.turn_scan(self.rig.scan_rotation_deg)
        await self._shift.prepare(settings)
        await self._focus.prepare()
