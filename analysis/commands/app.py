"""The commands `import`, `process`, `atoms`, `export`: their options, and help, stated here alone.

The command line finds them by the entry-point group `pyrotome.commands`. Each imports what it
needs when it is carried out, so that other commands start fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .interrupts import interruptible

commands = typer.Typer()

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")]


@commands.command(
    "import",
    epilog="Example: `pyrotome import HAADF.mrc --tilts HAADF.rawtlt --pixel-size '3.36 nm' "
    "-o needle.nxs`",
)
def import_(
    stack: Annotated[
        Path,
        typer.Argument(
            metavar="STACK",
            help="MRC (.mrc .st .ali), .npz, EMD, NXtomo, .tif; with the extra 'formats' also "
            ".dm3 .dm4 .ser .emi .hspy and Velox .emd.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Run file; never overwritten.")
    ],
    tilts: Annotated[
        Path | None,
        typer.Option(
            metavar="F",
            help="Angles in degrees, one a line, or SerialEM's .mdoc; else those in STACK.",
        ),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(metavar="Q", help="Such as '3.36 nm'; else what STACK says."),
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Else the name of STACK.")
    ] = None,
    entry: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which stack of a file with several.")
    ] = None,
    tilt_axis: Annotated[
        str | None,
        typer.Option(
            metavar="Q",
            help="Direction of the tilt axis, such as '84.8 deg', from the direction of the "
            "columns as in IMOD; else what F or STACK says, else it is found.",
        ),
    ] = None,
    heater_log: Annotated[
        Path | None,
        typer.Option(
            metavar="LOG",
            help="Log of DigiHeater, Impulse or Protochips, or CSV with the columns "
            "time_s,temperature_c (time from the start of the first frame).",
        ),
    ] = None,
    started: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Start of the first frame on the clock of LOG, such as '2026-03-31 16:24:15', or "
            "after its start, such as '120 s'; else what F or STACK says.",
        ),
    ] = None,
    frame_interval: Annotated[
        str | None,
        typer.Option(
            metavar="Q", help="Time from frame to frame, such as '2.5 s'; else as F or STACK says."
        ),
    ] = None,
) -> None:
    """Make a run file of a tilt series from elsewhere.

    Whole numbers are kept exactly, where they span no more than 16 bits; fractions are kept in
    65535 steps between the lowest and the highest, outliers apart.
    """
    with interruptible():
        from .import_ import import_command

        import_command(
            stack, output, tilts, pixel_size, title, entry, tilt_axis, heater_log, started,
            frame_interval,
        )  # fmt: skip


@commands.command(
    epilog="Examples: `pyrotome process run.nxs`, "
    "`pyrotome process needle.nxs --pipeline sirt.yaml -o with_volume.nxs`"
)
def process(
    file: RunFile,
    series: Annotated[
        int | None, typer.Option(metavar="N", help="Only this tilt series; else all frames.")
    ] = None,
    pipeline: Annotated[
        Path | None,
        typer.Option(
            metavar="P.yaml", help="Steps as in a recipe's block 'analysis'; else the recipe's own."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Leave FILE alone and write a copy with results."
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for table and plots; else beside the file."),
    ] = None,
    no_tables: Annotated[
        bool, typer.Option("--no-tables", help="Write no table and no plots.")
    ] = False,
) -> None:
    """Carry out the analysis pipeline offline, by the same code as online.

    Results are added to FILE, beside those that are there. Interrupted, it leaves FILE as it was.
    Where necks are measured, FILE_necks.csv, FILE_growth.png and FILE_model.png are written too.
    """
    with interruptible():
        from .process import process_command

        code = process_command(file, series, pipeline, output, tables, write_tables=not no_tables)
    raise typer.Exit(code)


@commands.command(
    epilog="Example: `pyrotome atoms particle.mrc --tilts particle.rawtlt --pixel-size '0.347 Å' "
    "--species Zr -o atoms.xyz`"
)
def atoms(
    stack: Annotated[
        Path,
        typer.Argument(metavar="STACK", help="Tilt series as for `import`: counts as recorded."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="Extended XYZ; never overwritten."),
    ],
    tilts: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Angles in degrees or .mdoc; else those in STACK."),
    ] = None,
    pixel_size: Annotated[
        str | None, typer.Option(metavar="Q", help="Such as '0.347 Å'; else what STACK says.")
    ] = None,
    tilt_axis: Annotated[
        str | None,
        typer.Option(
            metavar="Q",
            help="Direction of the tilt axis, from that of the columns; else what F or STACK says, "
            "else '0 deg'. It is refined, and so is its offset.",
        ),
    ] = None,
    entry: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which stack of a file with several.")
    ] = None,
    species: Annotated[
        str, typer.Option(metavar="SYMBOL", help="Chemical symbol of the atoms.")
    ] = "X",
    bond: Annotated[
        str | None,
        typer.Option(
            metavar="Q", help="Length of a bond, such as '2.35 Å'; the pixel size is checked by it."
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table of the atoms, one row each.")
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the random numbers that errors are made with.")
    ] = 0,
) -> None:
    """Find every atom of a particle in a tilt series at atomic resolution, with its error.

    Atoms, alignment and shape of the peaks are fitted to the counts by Poisson likelihood. What
    seems to be wrong with the series is told on standard error.
    """
    with interruptible():
        from .atoms import atoms_command

        atoms_command(
            stack, output, tilts, pixel_size, tilt_axis, entry, species, bond, table, seed
        )


@commands.command(
    epilog="Examples: `pyrotome export run.nxs --series 2 --what volume --to volume.mrc`, "
    "`pyrotome export run.nxs --what necks --to necks.csv`, "
    "`pyrotome export run.nxs --what growth --to growth.png`, "
    "`pyrotome export run.nxs --what steering --to steering.png`, "
    "`pyrotome export run.nxs --what tracking --to tracking.png`, "
    "`pyrotome export run.nxs --what atoms --to atoms.xyz`, "
    "`pyrotome export run.nxs --what heater --to run`"
)
def export(
    file: RunFile,
    to: Annotated[
        Path,
        typer.Option(
            metavar="OUT",
            help=".mrc, .emd or .tif by its ending; .csv for tables, .png for plots, .xyz or .cif "
            "for atoms.",
        ),
    ],
    series: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Which tilt series, if there are several; tables take all of them."
        ),
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="frames, scouts, an image or volume (denoised, volume, ...), a table (necks, "
            "shifts, atoms, heater, tuning, steering, tracking) or a plot (growth, model, tuning, "
            "steering, tracking).",
        ),
    ] = None,
) -> None:
    """Write frames, volumes, tables or plots for other programs; overwrites nothing."""
    with interruptible():
        from .export import export_command

        export_command(file, to, series, what)
