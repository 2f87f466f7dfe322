"""Commands that calibrate: ``pyrotome calibrate``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...protocols.core.errors import BadInput
from .options import RecipeArgument, error_console, output_console, rig_of

if TYPE_CHECKING:
    from ...protocols.config.recipe import Recipe
    from ...protocols.config.rig import Rig
    from ...protocols.config.shift_calibration import ShiftCalibration

commands = typer.Typer()
# Largest deflection, as a part of the field: the pictures still overlap.
_PART = 0.1


@commands.command(
    epilog="Example: `pyrotome calibrate recipe.yaml --rig microscope.yaml -o shift.json`"
)
def calibrate(
    recipe: RecipeArgument,
    rig: Annotated[
        Path, typer.Option("--rig", metavar="RIG", help="The instrument, with a beam.shift.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Else the rig's calibration_file."),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option(metavar="UNITS", help="Deflection to try; else a tenth of the field."),
    ] = None,
) -> None:
    """Measure what the beam shift does to the image: seven frames with the recipe's beam.

    The specimen should show something over the whole field. Nothing is heated or moved.
    """
    from ...protocols.config.recipe import load_recipe
    from ...protocols.config.shift_calibration import save_shift_calibration

    recipe_model, _ = load_recipe(recipe)
    rig_model, text = rig_of(rig, recipe_model)
    shift = rig_model.beam.shift
    if shift is None:
        raise BadInput(f"{rig}: beam", "names no shift; write shift: {limit: 1.5 um}")
    named = None if shift.calibration_file is None else Path(shift.calibration_file)
    path = output or named
    if path is None:
        raise BadInput(
            f"{rig}: beam.shift", "names no calibration_file; name one there, or with -o FILE"
        )
    if not path.absolute().parent.is_dir():
        raise BadInput(str(path), "its folder does not exist; make it first")
    found = asyncio.run(_measured(recipe_model, rig_model, text, step))
    save_shift_calibration(path, found)
    output_console().print(f"wrote {path}", highlight=False, soft_wrap=True)


async def _measured(
    recipe: Recipe, rig: Rig, rig_text: str, step: float | None
) -> ShiftCalibration:
    """Start the daemon, take the pictures, end it, and solve."""
    from datetime import UTC, datetime

    import numpy as np

    from ...protocols.config.shift_calibration import ShiftCalibration
    from ..schedule.dose import DoseExceeded, DoseLedger
    from ..service.startup import DaemonOptions, running_daemon
    from ..tracking.shift_pictures import PATTERN, take_pictures
    from ..tracking.shift_solution import NoMatrix, displacements_px, solve_shifts

    console, settings, shift = error_console(), recipe.beam, rig.beam.shift
    assert shift is not None
    limits = recipe.limits
    ledger = DoseLedger(limits.dose_e_per_nm2, limits.dose_per_series_e_per_nm2)
    most = shift.limit_nm / shift.nominal_nm
    units = min(_PART * settings.field_nm / shift.nominal_nm, most) if step is None else step
    if not 0 < units <= most:
        raise BadInput("--step", f"{units:g} is not within 0 and {most:g} (beam.shift.limit)")
    console.print(
        f"{len(PATTERN)} frames of {settings.dose_per_frame_e_per_nm2:.3g} e/nm² each, deflected "
        f"by up to {units:.4g}",
        highlight=False,
    )
    options = DaemonOptions(expendable=True)
    async with running_daemon(rig, rig_text, options) as daemon:
        devices = daemon.devices
        await devices.beam.blank()
        await devices.beam.prepare(settings)
        zero = await devices.beam.deflection()
        try:
            pictures = await take_pictures(
                devices.beam, devices.detector, settings, daemon.clock, units, ledger,
                lambda text: console.print(text, style="dim", highlight=False),
            )  # fmt: skip
        except DoseExceeded as error:
            raise BadInput("limits", str(error)) from None
    offset = rig.detector.value_offset
    try:
        moved = displacements_px([np.maximum(p.counts.astype(float) - offset, 0) for p in pictures])
        found = solve_shifts(
            [(p.units[0] - zero.units[0], p.units[1] - zero.units[1]) for p in pictures],
            [p.t_ns * 1e-9 for p in pictures], moved, settings.pixel_nm,
        )  # fmt: skip
    except NoMatrix as error:
        raise BadInput("calibrate", f"{error}; nothing was written") from None
    sd = np.sqrt(np.diag(found.covariance_nm2)).reshape(2, 2)
    for name, row, spread in zip("yx", found.matrix_nm, sd, strict=True):
        console.print(
            f"{name}: {row[0]:+.4f} ± {spread[0]:.4f}   {row[1]:+.4f} ± {spread[1]:.4f} nm for one "
            f"{'nominal nm' if zero.unit == 'nm' else 'step'} of each deflector",
            highlight=False,
        )
    drift = np.hypot(*found.drift_nm_per_s)
    console.print(
        f"fit leaves {found.left_nm:.2f} nm; drift {drift:.2f} nm/s; {ledger.charged:.1f} e/nm² in "
        "all, and what the blanker let through",
        highlight=False,
    )
    return ShiftCalibration.model_validate(
        {
            "unit": zero.unit,
            "matrix_nm": found.matrix_nm.tolist(),
            "covariance_nm2": found.covariance_nm2.tolist(),
            "zero": zero.units,
            "largest_nm": found.largest_nm,
            "field_nm": settings.field_nm,
            "voltage_kv": settings.voltage_kv,
            "scan_rotation_deg": rig.beam.scan_rotation_deg or 0.0,
            "date": datetime.now(UTC).isoformat(),
        }
    )
