"""``pyrotome structure``: what the positions of atoms say, with the errors of the figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ...protocols.core.errors import BadInput
from ..io.atom_reader import AtomTable, read_atoms
from ..io.safe_output import new_file
from ..report import structure_tables as tables
from ..report.structure_figure import draw_structure
from ..structure import (
    AtomList,
    Displacements,
    Structure,
    StructureSettings,
    Templates,
    analyse_structure,
    atom_list,
    match_series,
    match_templates,
)
from ..structure.lattice.templates import OvitoMissing, require_ovito
from .import_ import positive_quantity
from .interrupts import notify

_SYMBOL = re.compile(r"[A-Z][a-z]?")
_ANGSTROM = 10.0  # in a nanometre
_MOST_DRAWS = 1000
OVITO = "needs OVITO, which is not installed: pip install 'pyrotome[ovito]' (some 600 MB)"


@dataclass(frozen=True)
class StructureFiles:
    """Files that the command writes.

    Attributes
    ----------
    table : Path
        CSV of the atoms; other tables stand beside it.
    figure, xyz, cif : Path or None
        Picture, extended XYZ, CIF.
    """

    table: Path
    figure: Path | None = None
    xyz: Path | None = None
    cif: Path | None = None

    def beside(self, what: str) -> Path:
        """Return the path of another table: ``structure_pdf.csv`` beside ``structure.csv``."""
        return self.table.with_name(f"{self.table.stem}_{what}.csv")


@dataclass(frozen=True)
class _Given:
    path: Path
    table: AtomTable
    atoms: AtomList


def structure_command(
    source: Path,
    files: StructureFiles,
    before: Path | None,
    species: str | None,
    metal: str | None,
    cutoff: str | None,
    draws: int,
    seed: int,
    *,
    templates: bool,
) -> None:
    """Carry out ``pyrotome structure``; arguments as those of the command."""
    _check_names(files, species, metal, draws)
    if templates:
        _check_ovito()
    cutoff_a = (
        None if cutoff is None else _ANGSTROM * positive_quantity("--cutoff", cutoff, "nm", "4.5 Å")
    )
    given = _read(source, species)
    first = None if before is None else _read(before, species)
    if metal is not None and metal not in given.atoms.species:
        raise BadInput("--metal", f"there is no {metal} in {source}")
    settings = StructureSettings(metal=metal, cutoff_a=cutoff_a, draws=draws)
    with ExitStack() as stack:
        paths = _opened(stack, files, moved=first is not None)
        found = _analysed(given, settings, seed)
        moves = None if first is None else _moves(first, given)
        matched = match_templates(found.atoms.positions_a) if templates else None
        _write(paths, found, matched, source, given, first, moves)
    for doubt in (*given.table.told, *found.doubts):
        notify(f"{source}: {doubt}")
    for line in summary(found, moves):
        print(line)
    written = [files.table, *(path for name, path in _targets(files, moves is not None).items()
                              if name != "table")]  # fmt: skip
    print(f"{files.table}: {len(found.index)} atoms of {found.metal}; and "
          + ", ".join(path.name for path in written[1:]))  # fmt: skip


def _check_names(files: StructureFiles, species: str | None, metal: str | None, draws: int) -> None:
    for option, symbol in (("--species", species), ("--metal", metal)):
        if symbol is not None and not _SYMBOL.fullmatch(symbol):
            raise BadInput(option, f"'{symbol}' is no chemical symbol; write it as in 'Zr'")
    for option, path, ending in (
        ("-o", files.table, ".csv"), ("--figure", files.figure, ".png"),
        ("--xyz", files.xyz, ".xyz"), ("--cif", files.cif, ".cif"),
    ):  # fmt: skip
        if path is not None and path.suffix.lower() != ending:
            raise BadInput(option, f"{path}: name a file that ends in {ending}")
    if not 0 <= draws <= _MOST_DRAWS:
        raise BadInput("--draws", f"{draws} is not between 0 and {_MOST_DRAWS}")


def _check_ovito() -> None:
    try:
        require_ovito()
    except OvitoMissing:
        raise BadInput("--templates", OVITO) from None


def _read(path: Path, species: str | None) -> _Given:
    table = read_atoms(path, species)
    try:
        atoms = atom_list(table.positions_a, table.species, table.covariance_a2, table.probability)
    except ValueError as error:
        raise BadInput(str(path), str(error)) from None
    return _Given(path, table, atoms)


def _targets(files: StructureFiles, moved: bool) -> dict[str, Path]:
    named = {
        "table": files.table, "summary": files.beside("summary"), "pdf": files.beside("pdf"),
        "voids": files.beside("voids"), "profile": files.beside("profile"),
    }  # fmt: skip
    if moved:
        named["displacements"] = files.beside("displacements")
    for name, path in (("figure", files.figure), ("xyz", files.xyz), ("cif", files.cif)):
        if path is not None:
            named[name] = path
    return named


def _opened(stack: ExitStack, files: StructureFiles, *, moved: bool) -> dict[str, Path]:
    return {
        name: stack.enter_context(new_file(path)) for name, path in _targets(files, moved).items()
    }


def _analysed(given: _Given, settings: StructureSettings, seed: int) -> Structure:
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("structure", total=1.0)
        try:
            return analyse_structure(
                given.atoms, settings, numbers=given.table.numbers, seed=seed,
                progress=lambda done: bars.update(bar, completed=done),
            )  # fmt: skip
        except ValueError as error:
            raise BadInput(str(given.path), str(error)) from None


def _moves(first: _Given, second: _Given) -> Displacements:
    try:
        return match_series(first.atoms, second.atoms)
    except ValueError as error:
        raise BadInput(f"{first.path} and {second.path}", str(error)) from None


def _write(
    paths: dict[str, Path], found: Structure, matched: Templates | None, source: Path,
    given: _Given, first: _Given | None, moves: Displacements | None,
) -> None:  # fmt: skip
    tables.write_atoms(paths["table"], found, matched)
    tables.write_summary(paths["summary"], found)
    tables.write_pairs(paths["pdf"], found)
    tables.write_voids(paths["voids"], found)
    tables.write_profile(paths["profile"], found)
    if first is not None and moves is not None:
        tables.write_displacements(paths["displacements"], first.atoms, given.atoms, moves)
    optional: dict[str, Callable[[Path], None]] = {
        "figure": lambda path: draw_structure(
            path, found, None if moves is None else (given.atoms, moves)
        ),
        "xyz": lambda path: tables.write_xyz(path, found, matched),
        "cif": lambda path: tables.write_cif(path, found, source.stem),
    }
    for name, write in optional.items():
        if name in paths:
            write(paths[name])


def summary(found: Structure, moves: Displacements | None = None) -> list[str]:
    """What was found, in lines for a person; ranges are two stated errors."""

    def told(key: str, factor: float = 1.0, digits: int = 1) -> str:
        one = found.figures[key]
        text = f"{factor * one.value:.{digits}f}"
        if np.isnan(one.value):
            return "-"
        return text if np.isnan(one.error) else f"{text} +- {2 * factor * one.error:.{digits}f}"

    lines = [
        f"disordered {told('disordered_fraction', 100)} % of the atoms; metal core "
        f"{told('core_fraction', 100)} %, crystalline {told('crystalline_fraction', 100)} %, "
        f"amorphous {told('amorphous_fraction', 100)} %",
        "concentration (1e-2 per A^3): " + ", ".join(
            f"{name} {told(f'{name}_concentration_per_a3', 100, 3)}"
            for name in ("core", "crystalline", "amorphous")
        ),
        f"voids: {told('vacancies', digits=0)} vacancies, {told('nano_pores', digits=0)} "
        f"nano-pores, {told('large_pores', digits=0)} large pores; porosity "
        f"{told('porosity', 100, 2)} %",
        f"oxidation {told('oxidation', digits=3)}: " + ", ".join(
            f"{name} {told(f'{name}_oxidation', digits=3)}"
            for name in ("core", "crystalline", "amorphous")
        ),
        _peaks(found),
    ]  # fmt: skip
    if found.draws:
        lines.append("+-: two stated errors, meant to hold the truth in 95 % of cases")
    if moves is not None:
        lines += _moved(moves)
    return lines


def _peaks(found: Structure) -> str:
    parts = []
    for name in found.measurement.pairs:
        key = f"pdf_{name.replace(' ', '_')}_peak_1_a"
        if key in found.figures:
            one = found.figures[key]
            error = "" if np.isnan(one.error) else f" +- {2 * one.error:.3f}"
            parts.append(f"{name} {one.value:.3f}{error}")
    return "first peaks of the pair distributions (A): " + (", ".join(parts) or "none")


def _moved(moves: Displacements) -> list[str]:
    size = np.linalg.norm(moves.displacement_a, axis=1)
    known = np.isfinite(moves.covariance_a2).all()
    turn = f"{moves.rotation_deg:.3f}"
    if known:
        turn += f" +- {2 * moves.rotation_sd_deg:.3f}"
    moved = (
        f"{int(moves.moved.sum())} moved (at most 5 % of them by chance)" if known
        else "which of them moved cannot be told without errors"
    )  # fmt: skip
    return [
        f"between the series: {len(size)} atoms in both, {moved}; {len(moves.went)} went, "
        f"{len(moves.came)} came; median displacement {100 * float(np.median(size)):.1f} pm",
        f"the whole turned by {turn} deg and moved by "
        f"{100 * float(np.linalg.norm(moves.translation_a)):.0f} pm; both are taken out",
    ]
