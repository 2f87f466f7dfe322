"""``pyrotome export --what atoms``: the atoms of a series as extended XYZ, CSV or CIF."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...protocols.core.errors import BadInput
from ...protocols.runfile.reader import Run
from ...protocols.runfile.recorded_atoms import ATOMS, RecordedAtoms
from ..io.safe_output import new_file
from .atom_files import write_cif, write_table, write_xyz

__all__ = ["ATOMS", "ATOM_ENDINGS", "export_atoms"]

ATOM_ENDINGS = (".xyz", ".csv", ".cif")


def export_atoms(run: Run, target: Path, number: int | None) -> list[Path]:
    """Write the atoms of one series.

    Parameters
    ----------
    run : Run
        The run file.
    target : Path
        Its ending says which kind of file; nothing may be there.
    number : int or None
        Of the tilt series; None for the only one.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    BadInput
        If the series holds no atoms, the ending is another, or a file exists at `target`.
    """
    stack = run.one_series(number)
    atoms = stack.atoms
    if atoms is None or not len(atoms):
        there = ", ".join(["frames", *dict.fromkeys(r.name for r in stack.all_results())])
        raise BadInput(
            "--what",
            f"{stack.name} of {run.path} holds no atoms; it has {there} (`pyrotome process` with "
            "a step 'trace' finds them)",
        )
    writer = _writer_of(target, atoms, f"pyrotome: {run.title or run.path.name}, {stack.name}")
    with new_file(target) as partial:
        writer(partial)
    return [target]


def _writer_of(target: Path, atoms: RecordedAtoms, comment: str) -> Callable[[Path], None]:
    ending = target.suffix.lower()
    if ending == ".xyz":
        return lambda path: write_xyz(path, atoms, atoms.species, comment)
    if ending == ".csv":
        return lambda path: write_table(path, atoms, atoms.species)
    if ending == ".cif":
        return lambda path: write_cif(path, atoms, atoms.species, comment)
    raise BadInput(
        "--to", f"{target}: atoms cannot be written as '{ending}'; use {', '.join(ATOM_ENDINGS)}"
    )
