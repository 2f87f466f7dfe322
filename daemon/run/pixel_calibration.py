"""The step `calibrate: pixel`: measure what a pixel is worth on silicon [110], and store it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from ...drivers.base import DeviceLost, DeviceRefused, OutOfRange
from ...protocols.config.recipe import BeamSettings
from ...protocols.config.scanning.pixel_calibration import (
    PixelCalibration,
    save_pixel_calibration,
)
from ...protocols.core.errors import BadInput
from ...protocols.messages.process import PixelSolverConfig
from ..acquisition.context import AcquisitionContext
from ..acquisition.pixel_pictures import TurnedFrames, take_turned_frames
from ..runtime.processes import Child, ChildFailed
from ..schedule.dose import DoseExceeded
from ..schedule.operations import CalibratePixel
from ..schedule.pixel_scans import fast_settings

# The middle of a larger frame is looked at, so many pixels wide.
_MOST_PX = 512
_SOLVER = "pyrotome.analysis.lattice.process"


class NoCrystal(ValueError):
    """The frames do not show silicon along [110]."""


class PixelCalibrator:
    """Calibrates the pixel of one run.

    Parameters
    ----------
    context : AcquisitionContext
        Beam, detector, ledger and journal.
    pause : callable
        Requests a pause.
    checkpoint : callable
        Where a pause takes effect.
    """

    def __init__(
        self,
        context: AcquisitionContext,
        pause: Callable[[], None],
        checkpoint: Callable[[], Awaitable[bool]],
    ) -> None:
        self._context, self._pause, self._checkpoint = context, pause, checkpoint

    async def calibrate(self, operation: CalibratePixel, file: str) -> None:
        """Measure and store; where that fails, the run pauses, and it is tried again.

        Parameters
        ----------
        operation : CalibratePixel
            The step.
        file : str
            The rig's calibration file, which stays as it is after a failure.

        Raises
        ------
        DoseExceeded
            If the dose does not allow it.
        DeviceError
            If beam or detector are lost.
        """
        out = self._context.out
        while True:
            try:
                found = await self._attempt(operation)
                await asyncio.to_thread(save_pixel_calibration, Path(file), found)
            except DoseExceeded:
                raise
            except DeviceLost as error:
                if error.device == self._context.beam.name:
                    raise
                await self._context.detector.connect()
                problem: Exception = error
            except (NoCrystal, DeviceRefused, OutOfRange, ChildFailed, BadInput) as error:
                problem = error
            else:
                self._tell(operation.name, found, file)
                return
            out.event(
                "error",
                "engine",
                f"{operation.name}: {problem}; nothing was written to {file}, and the run pauses: "
                "bring silicon along [110] into the field, then resume to try again, or abort",
            )
            self._pause()
            await self._checkpoint()

    async def _attempt(self, operation: CalibratePixel) -> PixelCalibration:
        context = self._context
        scan, rotation_deg = fast_settings(context.settings), context.beam.rig.scan_rotation_deg
        await context.beam.prepare(context.settings)
        taken = await take_turned_frames(context, scan, operation.name, rotation_deg or 0.0)
        return await solved_apart(taken, scan, context.detector.rig.value_offset)

    def _tell(self, name: str, found: PixelCalibration, file: str) -> None:
        out = self._context.out
        out.event(
            "info",
            "engine",
            f"{name}: {'; '.join(found.text())}; written to {file}",
            pixel_calibration=found.model_dump(mode="json"),
        )
        for doubt in found.doubts:
            out.event("warning", "engine", f"{name}: {doubt}")


async def solved_apart(
    taken: Sequence[TurnedFrames], scan: BeamSettings, value_offset: int
) -> PixelCalibration:
    """The calibration of frames, found in another process: no pixels in the daemon's loop.

    Parameters
    ----------
    taken : sequence of TurnedFrames
        Frames at each rotation.
    scan : BeamSettings
        With which they were taken.
    value_offset : int
        Added to every count.

    Raises
    ------
    NoCrystal
        If they do not show silicon along [110].
    ChildFailed
        If the process does not answer.
    """
    rows, columns = (min(_MOST_PX, side) for side in scan.frame)
    top, left = (scan.frame[0] - rows) // 2, (scan.frame[1] - columns) // 2

    def packed() -> str:
        stack = [
            np.clip(counts[top : top + rows, left : left + columns].astype(np.int64)
                    - value_offset, 0, 65_535).astype("<u2")
            for one in taken
            for counts in one.counts
        ]  # fmt: skip
        return base64.b64encode(np.stack(stack).tobytes()).decode()

    config = PixelSolverConfig(
        shape=(rows, columns),
        counts=await asyncio.to_thread(packed),
        rotations_deg=tuple(one.rotation_deg for one in taken),
        times_s=tuple(tuple((t_ns - one.t_ns[0]) * 1e-9 for t_ns in one.t_ns) for one in taken),
        pixel_nm=scan.pixel_nm,
        field_nm=scan.field_nm,
        dwell_s=scan.dwell_s,
        columns_scanned=scan.frame[1],
        voltage_kv=scan.voltage_kv,
    )
    child = await Child.start("pixel solver", _SOLVER, config)
    await child.stop()
    found = child.ready
    if (problem := found.get("problem")) is not None:
        raise NoCrystal(problem)
    return PixelCalibration.model_validate_json(found["calibration"])
