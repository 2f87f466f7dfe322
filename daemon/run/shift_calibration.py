"""The step `calibrate: shifts`: measure what the beam shift does, store it, and go on by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ...drivers.base import DeviceLost, DeviceRefused, OutOfRange
from ...drivers.readings import Deflection
from ...protocols.config.recipe import BeamSettings
from ...protocols.config.rig import BeamRig
from ...protocols.config.shift_calibration import ShiftCalibration, save_shift_calibration
from ...protocols.core.errors import BadInput
from ...protocols.messages.journal import Deflectors
from ..acquisition.context import AcquisitionContext
from ..acquisition.shift_pictures import ShiftPicture, take_pictures
from ..runtime.processes import ChildFailed
from ..schedule.dose import DoseExceeded
from ..schedule.operations import CalibrateShifts
from ..schedule.scout_scans import scout_settings
from ..tracking.follower import Follower
from ..tracking.shift_solution import NoMatrix, Pair, ShiftSolution
from ..tracking.shift_solver import solved_apart
from ..tracking.tracking_plan import calibration_of

# A deflection, as a part of the field: far enough to be measured well, and most is still seen.
DEFLECTED_PART = 0.2


def step_units(rig: BeamRig, settings: BeamSettings, most: float) -> float:
    """One step of the deflectors for a calibration, in their unit.

    Parameters
    ----------
    rig : BeamRig
        Tells what one unit does, roughly.
    settings : BeamSettings
        Whose field the step is a part of.
    most : float
        How far the deflectors may go.
    """
    nominal_nm = 1.0 if rig.shift is None else rig.shift.nominal_nm
    return min(DEFLECTED_PART * settings.field_nm / nominal_nm, most)


def calibration_from(
    found: ShiftSolution, deflectors: Deflection, zero: Pair, settings: BeamSettings, rig: BeamRig
) -> ShiftCalibration:
    """What is stored of a solution: with what it holds for, and when it was measured.

    Parameters
    ----------
    found : ShiftSolution
        Matrix and covariance.
    deflectors : Deflection
        Tells the unit of the deflectors.
    zero : tuple of float
        Their values at which the image counts as not shifted.
    settings, rig
        Field, high tension and scan rotation for which it holds.
    """
    return ShiftCalibration.model_validate(
        {
            "unit": deflectors.unit,
            "matrix_nm": found.matrix_nm.tolist(),
            "covariance_nm2": found.covariance_nm2.tolist(),
            "zero": zero,
            "largest_nm": found.largest_nm,
            "field_nm": settings.field_nm,
            "voltage_kv": settings.voltage_kv,
            "scan_rotation_deg": rig.scan_rotation_deg or 0.0,
            "date": datetime.now(UTC).isoformat(),
        }
    )


def matrix_text(calibration: ShiftCalibration) -> list[str]:
    """The matrix with its uncertainty, for people: one text for each axis of the image."""
    sd = np.sqrt(np.diag(calibration.covariance_nm2)).reshape(2, 2)
    return [
        f"{name}: {row[0]:+.4f} \u00b1 {spread[0]:.4f}   {row[1]:+.4f} \u00b1 {spread[1]:.4f} nm"
        for name, row, spread in zip("yx", calibration.matrix_nm, sd, strict=True)
    ]


class ShiftCalibrator:
    """Calibrates the beam shift of one run.

    Parameters
    ----------
    context : AcquisitionContext
        Beam, detector, ledger and journal.
    follower : Follower or None
        Goes on by the new calibration.
    pause : callable
        Requests a pause.
    checkpoint : callable
        Where a pause takes effect.
    """

    def __init__(
        self,
        context: AcquisitionContext,
        follower: Follower | None,
        pause: Callable[[], None],
        checkpoint: Callable[[], Awaitable[bool]],
    ) -> None:
        self._context, self._follower = context, follower
        self._pause, self._checkpoint = pause, checkpoint

    async def calibrate(self, operation: CalibrateShifts, back_to: Pair | None = None) -> None:
        """Measure, store and use; where that fails, the calibration that is there stays.

        Without a calibration that holds, the run pauses after a failure, and it is tried again.

        Parameters
        ----------
        operation : CalibrateShifts
            The step.
        back_to : tuple of float, optional
            Where the deflectors stood before an interruption left them elsewhere.

        Raises
        ------
        DoseExceeded
            If the dose does not allow it, and there is no calibration that holds.
        DeviceError
            If beam or detector are lost.
        """
        beam, out = self._context.beam, self._context.out
        rig = beam.rig.shift
        file = "" if rig is None else rig.calibration_file
        while True:
            holds = (await beam.reach()).needs_calibration is None
            try:
                found, former = await self._attempt(operation, None if holds else back_to)
            except DoseExceeded as error:
                problem: Exception = error
                if not holds:
                    raise
            except DeviceLost as error:
                problem = error
                if error.device == beam.name:
                    raise
                await self._context.detector.connect()
            except (NoMatrix, DeviceRefused, OutOfRange, ChildFailed, BadInput) as error:
                problem = error
            else:
                await self._use(operation.name, found, former)
                return
            stays = f"the calibration in {file} stays as it is" if holds else "nothing was stored"
            text = f"{operation.name}: {problem}; {stays}"
            if holds:
                out.event("error", "tracker", text)
                return
            out.event(
                "error",
                "tracker",
                f"{text}, and without a calibration the beam cannot follow the specimen: the run "
                "pauses; bring features over the whole field, then resume to try again, or abort",
            )
            self._pause()
            await self._checkpoint()

    async def _attempt(
        self, operation: CalibrateShifts, back_to: Pair | None
    ) -> tuple[ShiftCalibration, ShiftCalibration | None]:
        """Measure and store; returns the new calibration and the former one."""
        context, name = self._context, operation.name
        beam, settings, rig = context.beam, context.settings, context.beam.rig
        reach = await beam.reach()
        if reach.units is None or rig.shift is None or rig.shift.calibration_file is None:
            raise DeviceRefused(beam.name, "calibrate its shift", "it cannot be shifted")
        if back_to is not None:
            await beam.deflect_units(back_to)
        here, former = await beam.deflection(), calibration_of(rig)
        holds = former is not None and reach.needs_calibration is None
        zero = former.zero if former is not None and holds else here.units
        context.journal.note(Deflectors(units=here.units))
        scan = scout_settings(settings, most=context.detector.rig.limits.frame)
        taken = await take_pictures(context, scan, name, step_units(rig, settings, reach.units))
        found = await _solved(taken, here.units, scan, context.detector.rig.value_offset)
        calibration = calibration_from(found, here, zero, settings, rig)
        path = Path(rig.shift.calibration_file)
        await asyncio.to_thread(save_shift_calibration, path, calibration)
        return calibration, former

    async def _use(
        self, name: str, calibration: ShiftCalibration, former: ShiftCalibration | None
    ) -> None:
        """Let beam and tracker go on by a calibration that was stored, and tell it."""
        context = self._context
        # The beam reads the file when it is prepared.
        await context.beam.prepare(context.settings)
        if self._follower is not None:
            await self._follower.recalibrated()
        shift, changed = context.beam.rig.shift, ""
        if former is not None and former.unit == calibration.unit:
            matrix, was = np.array(calibration.matrix_nm), np.array(former.matrix_nm)
            most = float(np.abs(matrix - was).max() / np.abs(was).max())
            changed = f"; {100 * most:.1f} % other than before"
        context.out.event(
            "info",
            "tracker",
            f"{name}: the beam shift is calibrated, {'; '.join(matrix_text(calibration))} for one "
            f"{calibration.unit} of each deflector{changed}; used from now on, and written to "
            f"{None if shift is None else shift.calibration_file}",
            shift_calibration=calibration.model_dump(mode="json"),
        )


async def _solved(
    taken: list[ShiftPicture], zero: Pair, scan: BeamSettings, value_offset: int
) -> ShiftSolution:
    counts = [np.maximum(one.counts.astype(np.int64) - value_offset, 0) for one in taken]
    units = [(one.units[0] - zero[0], one.units[1] - zero[1]) for one in taken]
    times_s = [(one.t_ns - taken[0].t_ns) * 1e-9 for one in taken]
    return await solved_apart(counts, units, times_s, scan.pixel_nm)
