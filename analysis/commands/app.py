"""The commands on files, such as `import` and `process`: options and help, stated here alone.

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
        str,
        typer.Option(
            metavar="SYMBOLS",
            help="Chemical symbol of the atoms, or several such as 'Zr,O', the brightest first; "
            "they are told apart by brightness.",
        ),
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
    epilog="Examples: `pyrotome structure atoms.xyz -o structure.csv --figure structure.png`, "
    "`pyrotome structure after.xyz --before before.xyz -o structure.csv`"
)
def structure(
    atoms: Annotated[
        Path,
        typer.Argument(
            metavar="ATOMS",
            help="Extended XYZ of `pyrotome atoms`, or of any program (then without errors).",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="CSV",
            help="Table of the atoms; NAME_summary, NAME_pdf, NAME_voids and NAME_profile.csv are "
            "written beside it. Nothing is overwritten.",
        ),
    ],
    before: Annotated[
        Path | None,
        typer.Option(
            metavar="FIRST",
            help="Atoms of an earlier series of the particle: displacements go to "
            "NAME_displacements.csv.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Maps, pair distributions, voids, profiles."),
    ] = None,
    xyz: Annotated[
        Path | None,
        typer.Option(metavar="XYZ", help="Extended XYZ with what was found, for OVITO and ASE."),
    ] = None,
    cif: Annotated[
        Path | None, typer.Option(metavar="CIF", help="Positions with their uncertainties.")
    ] = None,
    species: Annotated[
        str | None,
        typer.Option(metavar="SYMBOL", help="Species of the atoms that the file calls X."),
    ] = None,
    metal: Annotated[
        str | None,
        typer.Option(
            metavar="SYMBOL", help="Species whose lattice is analysed; else the heaviest one."
        ),
    ] = None,
    cutoff: Annotated[
        str | None,
        typer.Option(
            metavar="Q",
            help="Longest bond, such as '4.5 Å', with which void radius and volumes scale; else "
            "4.5 Å for Zr, and the first valley of the pair distribution for other metals.",
        ),
    ] = None,
    templates: Annotated[
        bool,
        typer.Option("--templates", help="Polyhedral template matching too; needs OVITO."),
    ] = False,
    draws: Annotated[
        int,
        typer.Option(metavar="N", help="Times that positions are moved by their errors; 0: none."),
    ] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Of these random numbers.")] = 0,
) -> None:
    """Tell what the positions of atoms say, with the errors that their errors give it.

    Order, concentration, oxidation and distance from the metal core of each atom; pair
    distributions, voids, porosity of the whole. The numbers that stand for zirconium and its oxide
    are those of Zhang et al., Nat. Commun. 2024.
    """
    with interruptible():
        from .structure import StructureFiles, structure_command

        structure_command(
            atoms, StructureFiles(output, figure, xyz, cif), before, species, metal, cutoff, draws,
            seed, templates=templates,
        )  # fmt: skip


@commands.command(
    name="calibrate-pixel",
    epilog="Examples: `pyrotome calibrate-pixel si110.npz --pixel-size '0.085 Å'`, "
    "`pyrotome calibrate-pixel si110.mrc --pixel-size '0.358 Å' --voltage '300 kV' -o pixel.json`",
)
def calibrate_pixel(
    picture: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURE",
            help="Silicon along [110]: .npz, .mrc, .tif, ...; several frames of one view are "
            "registered and averaged.",
        ),
    ],
    pixel_size: Annotated[
        str, typer.Option(metavar="Q", help="As the microscope tells it, right within 25 %.")
    ],
    voltage: Annotated[
        str | None, typer.Option(metavar="Q", help="High tension for which it holds; for -o.")
    ] = None,
    rotation: Annotated[
        str | None, typer.Option(metavar="Q", help="Rotation of the scan; else '0 deg'.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Calibration file for a rig (JSON)."),
    ] = None,
) -> None:
    """Find what a pixel is worth, and how the scan is distorted, from a picture of silicon [110].

    An affine map is fitted to the spots of its spectrum. What one picture cannot tell is said on
    standard error. The step `calibrate: pixel` of a recipe takes such pictures at several scan
    rotations.
    """
    with interruptible():
        from .calibrate_pixel import calibrate_pixel_command

        calibrate_pixel_command(picture, pixel_size, voltage, rotation, output)


@commands.command(
    epilog="Example: `pyrotome spectra ramp.h5 --elements B,Na,Cr,Fe,Mn,Li --stay Cr,Fe --front Na "
    "--follow '260 degC' '400 degC' --start '50 degC' --rate '1 degC/s' -o ramp.nxs "
    "--figure ramp.png`"
)
def spectra(
    file: Annotated[
        Path, typer.Argument(metavar="RAMP", help="File of TofDaq (.h5): a frame for each write.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="NeXus file of the results; never overwritten."
        ),
    ],
    elements: Annotated[
        str, typer.Option(metavar="A,B,...", help="Elements and molecules that are there.")
    ],
    stay: Annotated[
        str, typer.Option(metavar="A,B,...", help="Those that do not move; drift is taken of them.")
    ],
    front: Annotated[str, typer.Option(metavar="A", help="The one that diffuses.")],
    follow: Annotated[
        tuple[str, str],
        typer.Option(
            metavar="FROM TO",
            help="Temperatures between which its front is followed, such as '260 degC' '400 degC'; "
            "frames below show where the interface runs.",
        ),
    ],
    heater_log: Annotated[
        Path | None,
        typer.Option(metavar="F", help="How hot it was, from the first frame on: see `import`."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="Q", help="Temperature at the first frame, with --rate.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="Q", help="Of the ramp, such as '1 degC/s'.")
    ] = None,
    frame_time: Annotated[
        str | None, typer.Option(metavar="Q", help="Such as '1.4 s'; else what RAMP says.")
    ] = None,
    pixel_size: Annotated[
        str | None, typer.Option(metavar="Q", help="Such as '55 nm'; else what RAMP says.")
    ] = None,
    boxes: Annotated[
        int, typer.Option(metavar="N", help="Along the interface; each has a front of its own.")
    ] = 4,
    law: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAW",
            help="fick, fick-free-source or paper; may be repeated. Else fick, paper.",
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table of the front lengths.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Maps, front lengths, and D(T).")
    ] = None,
) -> None:
    """Find components, drift, front and diffusion coefficient in a heating ramp of mass spectra.

    Maps are those of largest Poisson likelihood with isotope tables as a prior; D0 and Q follow
    from all profiles at once, each with its 95 % interval. Exit code 1: no law could be fitted.
    """
    with interruptible():
        from .spectra import request_of, spectra_command

        request = request_of(
            file, elements, stay, front, follow, boxes, pixel_size, frame_time, start, rate,
            heater_log,
        )  # fmt: skip
        code = spectra_command(request, output, table, figure, tuple(law or ("fick", "paper")))
    raise typer.Exit(code)


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
