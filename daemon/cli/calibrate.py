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
        typer.Option(metavar="UNITS", help="Deflection to try; else a fifth of the field."),
    ] = None,
) -> None:
    """Measure what the beam shift does to the image: six frames with the recipe's beam.

    The specimen should show something over the whole field. Nothing is heated or moved. The step
    `calibrate: shifts` of a recipe does the same in a run, by sparse scans of far less dose.
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
    import numpy as np

    from ..acquisition.exposing import Exposing
    from ..acquisition.shift_pictures import take_pictures
    from ..run.shift_calibration import calibration_from, matrix_text, step_units
    from ..schedule.dose import DoseExceeded
    from ..schedule.scout_scans import SHIFT_PATTERN
    from ..service.startup import DaemonOptions, running_daemon
    from ..tracking.shift_solution import NoMatrix, solve_pictures

    console, settings, shift = error_console(), recipe.beam, rig.beam.shift
    assert shift is not None
    most = shift.limit_nm / shift.nominal_nm
    units = step_units(rig.beam, settings, most) if step is None else step
    if not 0 < units <= most:
        raise BadInput("--step", f"{units:g} is not within 0 and {most:g} (beam.shift.limit)")
    console.print(
        f"{len(SHIFT_PATTERN)} frames of {settings.dose_per_frame_e_per_nm2:.3g} e/nm² each, "
        f"deflected by up to {units:.4g}",
        highlight=False,
    )

    def said(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    async with running_daemon(rig, rig_text, DaemonOptions(expendable=True)) as daemon:
        beam = daemon.devices.beam
        exposing = Exposing.of(daemon.devices, daemon.clock, recipe, said)
        await beam.blank()
        await beam.prepare(settings)
        zero = await beam.deflection()
        try:
            pictures = await take_pictures(exposing, settings, "calibration", units, said)
        except DoseExceeded as error:
            raise BadInput("limits", str(error)) from None
    offset = rig.detector.value_offset
    try:
        found = solve_pictures(
            [np.maximum(p.counts.astype(float) - offset, 0) for p in pictures],
            [(p.units[0] - zero.units[0], p.units[1] - zero.units[1]) for p in pictures],
            [p.t_ns * 1e-9 for p in pictures], settings.pixel_nm,
        )  # fmt: skip
    except NoMatrix as error:
        raise BadInput("calibrate", f"{error}; nothing was written") from None
    calibration = calibration_from(found, zero, zero.units, settings, rig.beam)
    unit = "nominal nm" if zero.unit == "nm" else "step"
    for text in matrix_text(calibration):
        console.print(f"{text} for one {unit} of each deflector", highlight=False)
    console.print(
        f"fit leaves {found.left_nm:.2f} nm; drift {np.hypot(*found.drift_nm_per_s):.2f} nm/s; "
        f"{exposing.ledger.charged:.2f} e/nm² in all, with what the blanker let through",
        highlight=False,
    )
    return calibration
