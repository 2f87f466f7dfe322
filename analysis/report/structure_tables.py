"""Files of a structure: tables as CSV, extended XYZ for OVITO and ASE, CIF."""
# ase is untyped.
# pyright: basic

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..structure.analysis import Structure
from ..structure.displacements import Displacements
from ..structure.lattice.interfaces import PHASES
from ..structure.lattice.templates import KINDS as TEMPLATES
from ..structure.lattice.templates import Templates
from ..structure.lattice.voids import KINDS as VOIDS
from ..structure.measurement import PER_ATOM, PROFILE
from .uncertain_numbers import with_uncertainty

# The pair distributions are computed in finer steps than anybody reads.
_EVERY = 4
_ROOM_A = 5.0


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(head)
        for row in rows:
            table.writerow([_text(value) for value in row])


def _text(value: object) -> object:
    """Numbers in six digits; what is not known is empty."""
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def write_atoms(path: Path, found: Structure, templates: Templates | None = None) -> None:
    """Write the table of the metal atoms, one row each; what is not known is empty.

    Parameters
    ----------
    path : Path
        CSV file; one that is there is replaced.
    found : Structure
        The result.
    templates : Templates, optional
        What OVITO's template matching says.
    """
    head = ["index", "species", "x_a", "y_a", "z_a"]
    columns: list[Any] = [found.index, found.atoms.species, *found.atoms.positions_a.T]
    for name in PER_ATOM:
        head += [name, f"{name}_sd"]
        columns += [found.measurement.per_atom[name], found.sd[name]]
    head += ["coordination", "disordered_probability", "phase"]
    columns += [found.measurement.coordination, found.disordered_probability]
    columns.append([PHASES[phase] for phase in found.measurement.phase])
    head += [f"{phase}_probability" for phase in PHASES]
    columns += list(found.phase_probability.T)
    if templates is not None:
        head += ["template", "template_rmsd"]
        columns += [[TEMPLATES[kind] for kind in templates.kind], templates.rmsd]
    _write(path, head, zip(*columns, strict=True))


def write_summary(path: Path, found: Structure) -> None:
    """Write the figures of the whole: value, error, 95 % interval, and the uncorrected value.

    Parameters
    ----------
    path : Path
        CSV file; one that is there is replaced.
    found : Structure
        The result.
    """
    rows = [
        (name, one.value, one.error, *one.interval, one.raw) for name, one in found.figures.items()
    ]
    _write(path, ("quantity", "value", "sd", "low_95", "high_95", "uncorrected"), rows)


def write_pairs(path: Path, found: Structure) -> None:
    """Write the pair distributions beside each other, with their errors.

    Parameters
    ----------
    path : Path
        CSV file; one that is there is replaced.
    found : Structure
        The result.
    """
    pairs = found.measurement.pairs
    head, columns = ["r_a"], [next(iter(pairs.values())).r_a]
    for name, pair in pairs.items():
        head += [name, f"{name} sd"]
        columns += [pair.g, found.pair_sd[name]]
    _write(path, head, zip(*(column[::_EVERY] for column in columns), strict=True))


def write_voids(path: Path, found: Structure) -> None:
    """Write the voids of the positions as they stand, the largest first.

    Parameters
    ----------
    path : Path
        CSV file; one that is there is replaced.
    found : Structure
        The result.
    """
    voids = found.measurement.voids
    rows = [
        (VOIDS[kind], volume, *centre)
        for kind, volume, centre in zip(voids.kinds, voids.volumes_a3, voids.centres_a, strict=True)
    ]
    _write(path, ("kind", "volume_a3", "x_a", "y_a", "z_a"), rows)


def write_profile(path: Path, found: Structure) -> None:
    """Write means against the distance from the core's surface.

    Parameters
    ----------
    path : Path
        CSV file; one that is there is replaced.
    found : Structure
        The result.
    """
    head = ["from_a", "to_a", *(f"{name}{end}" for name in PROFILE for end in ("", "_sd"))]
    values = np.stack([found.profile, found.profile_sd], axis=2).reshape(len(found.profile), -1)
    rows = [
        (low, high, *row)
        for low, high, row in zip(found.edges_a[:-1], found.edges_a[1:], values, strict=True)
    ]
    _write(path, head, rows)


def write_displacements(path: Path, before: Any, after: Any, moves: Displacements) -> None:
    """Write one row an atom: those of both series, then those that went, then those that came.

    Parameters
    ----------
    path : Path
        CSV file; one that is there is replaced.
    before, after : AtomList
        Atoms of the two series.
    moves : Displacements
        How they are matched.
    """
    head = (
        "what", "index_before", "index_after", "species", "x_a", "y_a", "z_a", "dx_a", "dy_a",
        "dz_a", "dx_sd_a", "dy_sd_a", "dz_sd_a", "distance_a", "significance", "probability",
    )  # fmt: skip
    sd = np.sqrt(np.diagonal(moves.covariance_a2, axis1=1, axis2=2))
    rows: list[Sequence[object]] = []
    for n, (one, two) in enumerate(zip(moves.before, moves.after, strict=True)):
        move = moves.displacement_a[n]
        rows.append((
            "moved" if moves.moved[n] else "stayed", one, two, after.species[two],
            *after.positions_a[two], *move, *sd[n], float(np.linalg.norm(move)),
            moves.significance[n], _probability(after, two),
        ))  # fmt: skip
    for what, atoms, indices in (("went", before, moves.went), ("came", after, moves.came)):
        for n in indices:
            places = (n, "") if what == "went" else ("", n)
            rows.append(
                (what, *places, atoms.species[n], *atoms.positions_a[n], *[""] * 8,
                 _probability(atoms, n))
            )  # fmt: skip
    _write(path, head, rows)


def _probability(atoms: Any, n: int) -> object:
    return "" if atoms.probability is None else atoms.probability[n]


def as_ase(found: Structure, templates: Templates | None = None) -> Any:
    """Hand the metal atoms over as ``ase.Atoms``, with what was found as arrays.

    Parameters
    ----------
    found : Structure
        The result.
    templates : Templates, optional
        What OVITO's template matching says.

    Returns
    -------
    ase.Atoms
        In the order of the table; arrays ``order``, ``concentration``, ``oxidation``,
        ``distance``, each with ``..._sd``, ``phase`` (0 amorphous, 1 crystalline, 2 core),
        ``coordination``, ``probability``, ``covariance`` and, if told, ``template``.
    """
    from ase import Atoms

    atoms = Atoms(list(found.atoms.species), positions=found.atoms.positions_a)
    for name in PER_ATOM:
        short = name.removesuffix("_per_a3").removesuffix("_a")
        atoms.new_array(short, found.measurement.per_atom[name])
        atoms.new_array(f"{short}_sd", found.sd[name])
    atoms.new_array("phase", found.measurement.phase)
    atoms.new_array("coordination", found.measurement.coordination)
    atoms.new_array("disordered_probability", found.disordered_probability)
    if found.atoms.probability is not None:
        atoms.new_array("probability", found.atoms.probability)
    if found.atoms.covariance_a2 is not None:
        half = found.atoms.covariance_a2.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
        atoms.new_array("covariance", half)
    if templates is not None:
        atoms.new_array("template", templates.kind)
        atoms.new_array("template_rmsd", templates.rmsd)
    atoms.info["phases"] = " ".join(f"{n}={phase}" for n, phase in enumerate(PHASES))
    return atoms


def write_xyz(path: Path, found: Structure, templates: Templates | None = None) -> None:
    """Write the metal atoms as extended XYZ, by ASE, with what was found as columns.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    found : Structure
        The result.
    templates : Templates, optional
        What OVITO's template matching says.
    """
    from ase.io.extxyz import write_extxyz

    with path.open("w", encoding="utf-8") as file:
        write_extxyz(file, [as_ase(found, templates)])


def write_cif(path: Path, found: Structure, name: str) -> None:
    """Write the metal atoms as CIF: a box without symmetry, standard uncertainties in brackets.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    found : Structure
        The result. Probabilities become occupancies.
    name : str
        Name of the data block.
    """
    positions = found.atoms.positions_a
    low = positions.min(axis=0) - _ROOM_A
    box = positions.max(axis=0) + _ROOM_A - low
    places = (positions - low) / box
    covariance = found.atoms.covariance_a2
    sd = np.full_like(places, np.nan)
    if covariance is not None:
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) / box
    there = found.atoms.probability
    block = "".join(c if c.isalnum() else "_" for c in name) or "atoms"
    lines = [
        f"data_{block}",
        *(f"_cell_length_{axis} {side:.5f}" for axis, side in zip("abc", box, strict=True)),
        *(f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")),
        "_space_group_name_H-M_alt 'P 1'",
        "_space_group_IT_number 1",
        "loop_", "_space_group_symop_operation_xyz", "'x, y, z'",
        "loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x",
        "_atom_site_fract_y", "_atom_site_fract_z", "_atom_site_occupancy",
    ]  # fmt: skip
    for n, place in enumerate(places):
        symbol = str(found.atoms.species[n])
        numbers = [with_uncertainty(*pair, 7) for pair in zip(place, sd[n], strict=True)]
        occupancy = "1" if there is None else f"{there[n]:.4f}"
        lines.append(f"{symbol}{found.index[n] + 1} {symbol} {' '.join(numbers)} {occupancy}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
