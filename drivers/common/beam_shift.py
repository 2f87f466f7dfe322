"""The beam shift of a column: limits, calibration, and the deflectors read back."""

from __future__ import annotations

import math
from pathlib import Path

from ...protocols.config.recipe import BeamSettings
from ...protocols.config.rig import BeamRig, ShiftRig
from ...protocols.config.shift_calibration import ShiftCalibration, load_shift_calibration
from ...protocols.core.clock import ExperimentClock
from ...protocols.core.errors import BadInput
from ..base import Deflection, DeviceRefused
from .optics import Optics, Pair
from .optics_errors import beyond, elsewhere, not_in_rig, unprepared


class BeamShift:
    """Shifts of one beam.

    Parameters
    ----------
    device : str
        For messages.
    rig : BeamRig
        With or without a `shift`.
    clock : ExperimentClock
        Stamps confirmations.
    optics : Optics
        The wire.

    Attributes
    ----------
    calibration : ShiftCalibration or None
        In use; read from the rig's file whenever the beam is prepared.
    """

    def __init__(self, device: str, rig: BeamRig, clock: ExperimentClock, optics: Optics) -> None:
        self._device, self._rig, self._clock, self._optics = device, rig, clock, optics
        self.calibration: ShiftCalibration | None = None
        self._prepared: BeamSettings | None = None
        self._first: Pair | None = None

    async def prepare(self, settings: BeamSettings) -> None:
        """Read the calibration, and note the deflectors as they are found for the first time."""
        self._prepared = settings
        shift = self._rig.shift
        if shift is not None:
            self._read_calibration(shift)
            if self._first is None:
                self._first = await self._optics.units()

    def problem(self) -> str | None:
        """Why the shift cannot be used as the beam is set; None if it can."""
        settings = self._prepared
        if self.calibration is None:
            return "what the deflectors do to the image has not been calibrated"
        if settings is None:
            return "the beam has not been prepared"
        why = self.calibration.misfit(
            self._optics.unit,
            settings.voltage_kv,
            settings.field_nm,
            self._rig.scan_rotation_deg or 0.0,
        )
        return None if why is None else f"the calibration of the beam shift does not hold: {why}"

    async def deflect(self, shift_nm: Pair) -> int:
        """Shift the image by (y, x) nm; see `Beam.deflect`."""
        request = f"shift the beam by ({shift_nm[0]:.1f}, {shift_nm[1]:.1f}) nm (y, x)"
        shift = self._shift_rig(request)
        if not math.hypot(*shift_nm) <= shift.limit_nm:
            limit = f"the rig's limit is {shift.limit_nm:g} nm"
            raise beyond(self._device, request, limit, "beam.shift")
        problem, calibration = self.problem(), self.calibration
        if problem is not None or calibration is None:
            raise DeviceRefused(
                self._device,
                request,
                f"{problem}; nothing was sent",
                "Calibrate the shift: `pyrotome calibrate RECIPE --rig RIG`",
            )
        return await self._send(calibration.units_for(shift_nm), request, shift)

    async def deflect_units(self, units: Pair) -> int:
        """Set the deflectors themselves; see `Beam.deflect_units`."""
        unit = self._optics.unit
        request = f"set the beam deflectors to ({units[0]:g}, {units[1]:g}) {unit}"
        shift = self._shift_rig(request)
        first = self._first
        if first is None:
            raise unprepared(self._device, request)
        most = shift.limit_nm / shift.nominal_nm
        if not all(abs(v - zero) <= most for v, zero in zip(units, first, strict=True)):
            limit = f"by the rig they may go {most:g} from ({first[0]:g}, {first[1]:g})"
            raise beyond(self._device, request, limit, "beam.shift")
        return await self._send(units, request, shift)

    async def deflection(self) -> Deflection:
        """Read back the deflectors."""
        self._shift_rig("read the beam deflectors")
        sent_ns = self._clock.now_ns()
        units = await self._optics.units()
        t_ns = (sent_ns + self._clock.now_ns()) // 2
        calibration = None if self.problem() is not None else self.calibration
        return Deflection(
            t_ns, units, calibration and calibration.shift_nm(units), self._optics.unit
        )

    async def _send(self, units: Pair, request: str, shift: ShiftRig) -> int:
        await self._optics.send_units(units)
        await self._clock.sleep(shift.settle_s)
        found, near = await self._optics.units(), self._optics.resolution
        if not all(abs(a - b) <= near for a, b in zip(found, units, strict=True)):
            raise elsewhere(
                self._device,
                request,
                f"the deflectors were set to ({units[0]:.5g}, {units[1]:.5g}) {self._optics.unit} "
                f"and read ({found[0]:.5g}, {found[1]:.5g})",
            )
        return self._clock.now_ns()

    def _shift_rig(self, request: str) -> ShiftRig:
        if self._rig.shift is None:
            raise not_in_rig(self._device, request, "beam.shift")
        return self._rig.shift

    def _read_calibration(self, shift: ShiftRig) -> None:
        path = None if shift.calibration_file is None else Path(shift.calibration_file)
        if path is None or not path.exists():
            return
        try:
            self.calibration = load_shift_calibration(path)
        except BadInput as error:
            raise DeviceRefused(
                self._device,
                "read the calibration of the beam shift",
                str(error),
                "Calibrate the shift again, or take the file out of the rig",
            ) from None
