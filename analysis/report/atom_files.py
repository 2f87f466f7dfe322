"""Files of atoms: extended XYZ for OVITO and ASE, CIF, and a table as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput
from ...protocols.runfile.recorded_atoms import RecordedAtoms
from ..atoms import AtomFit
from .uncertain_numbers import with_uncertainty

Floats64 = NDArray[np.float64]


# A fit gives them in memory, a run file as it holds them: with the same attributes in angstrom.
AtomList = AtomFit | RecordedAtoms

# Beyond the outermost atoms the box of a CIF goes on so far.
_MARGIN_A = 5.0
_CIF_TAGS = (
    "label", "type_symbol", "fract_x", "fract_y", "fract_z", "pyrotome_peak_counts",
    "pyrotome_gain", "pyrotome_probability", "pyrotome_misfit",
)  # fmt: skip
# Upper half of a covariance, in the order in which it is written.
_HALF = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
COLUMNS = (
    "index", "species", "x_a", "y_a", "z_a", "sigma_x_a", "sigma_y_a", "sigma_z_a", "peak",
    "peak_sd", "gain", "probability", "misfit",
    "cov_xx_a2", "cov_xy_a2", "cov_xz_a2", "cov_yy_a2", "cov_yz_a2", "cov_zz_a2",
)  # fmt: skip


def symbols_of(
    fit: AtomList, species: str | Sequence[str]
) -> tuple[Sequence[str], Floats64 | None]:
    """Chemical symbol of each atom.

    Parameters
    ----------
    fit : AtomList
        The atoms.
    species : str or sequence of str
        Chemical symbols, the brightest first, separated by commas: one for each species of the fit.
        A sequence has the symbol of each atom.

    Returns
    -------
    symbols : sequence of str
        That of the likeliest species of each atom.
    probability : ndarray or None
        Shape (atoms,): of that species; None if there is only one, or if it is not known.

    Raises
    ------
    ValueError
        If the fit has another number of species.
    """
    if not isinstance(species, str):
        return species, None
    names = [name.strip() for name in species.split(",")]
    if len(names) == 1:
        return names * len(fit.heights), None
    if isinstance(fit, RecordedAtoms):
        raise ValueError("a run file has the symbol of each atom")
    if fit.species_probability.shape[1] != len(names):
        raise ValueError(
            f"{len(names)} species are named, but {fit.species_probability.shape[1]} were fitted"
        )
    likeliest = fit.species_probability.argmax(axis=1)
    return [names[::-1][n] for n in likeliest], fit.species_probability.max(axis=1)


def write_xyz(path: Path, fit: AtomList, species: str | Sequence[str], comment: str) -> None:
    """Write atoms as extended XYZ, which ASE and OVITO read.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    fit : AtomList
        The atoms; an error that is not known is NaN.
    species : str or sequence of str
        As in :func:`symbols_of`.
    comment : str
        Where the atoms come from, for the second line.

    Notes
    -----
    The columns are species, pos, sigma and covariance (angstrom, square angstrom; xx xy xz yy yz
    zz), peak (counts of an atom in a view), gain (log likelihood), probability and misfit; with
    several species also species_probability. What seems to be wrong with the series stands in the
    second line, under ``doubts``.
    """
    with path.open("w", encoding="utf-8") as file:
        _write_xyz(file, fit, species, comment)


def _write_xyz(file: TextIO, fit: AtomList, species: str | Sequence[str], comment: str) -> None:
    columns = (
        "species:S:1:pos:R:3:sigma:R:3:peak:R:1:gain:R:1:probability:R:1:misfit:R:1:covariance:R:6"
    )
    symbols, sure = symbols_of(fit, species)
    columns += "" if sure is None else ":species_probability:R:1"
    doubts = f' doubts="{_quotable("; ".join(fit.doubts))}"' if fit.doubts else ""
    file.write(f"{len(fit.heights)}\n")
    file.write(f'Properties={columns} pbc="F F F" comment="{_quotable(comment)}"{doubts}\n')
    sigma = fit.sigma_a
    for n, position in enumerate(fit.positions_a):
        half = " ".join(f"{fit.covariance_a2[n][at]:.4e}" for at in _HALF)
        numbers = " ".join(f"{value:.5f}" for value in (*position, *sigma[n]))
        file.write(
            f"{symbols[n]} {numbers} {fit.heights[n]:.4f} {fit.gain[n]:.3f} "
            f"{fit.probability[n]:.5f} {fit.misfit[n]:.4f} {half}"
            + ("\n" if sure is None else f" {sure[n]:.5f}\n")
        )


def _quotable(text: str) -> str:
    """A text that can stand in double quotes in one line."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def write_table(path: Path, fit: AtomList, species: str | Sequence[str]) -> None:
    """Write atoms as a table, one row an atom.

    The columns are `COLUMNS`, and with several species ``species_probability``.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    fit : AtomList
        The atoms; an error that is not known is NaN.
    species : str or sequence of str
        As in :func:`symbols_of`.
    """
    sigma = fit.sigma_a
    symbols, sure = symbols_of(fit, species)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS if sure is None else (*COLUMNS, "species_probability"))
        for n, position in enumerate(fit.positions_a):
            numbers = np.array([
                *position, *sigma[n], fit.heights[n], fit.height_sd[n], fit.gain[n],
                fit.probability[n], fit.misfit[n], *(fit.covariance_a2[n][at] for at in _HALF),
                *([] if sure is None else [sure[n]]),
            ])  # fmt: skip
            told = (f"{value:.6g}" if math.isfinite(value) else "" for value in numbers)
            rows.writerow([n, symbols[n], *told])


def write_cif(path: Path, fit: AtomList, species: str | Sequence[str], comment: str) -> None:
    """Write atoms as CIF, in a box without symmetry that holds the particle with a margin.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    fit : AtomList
        The atoms; an error that is not known is NaN.
    species : str or sequence of str
        As in :func:`symbols_of`.
    comment : str
        Where the atoms come from.

    Raises
    ------
    BadInput
        If the package gemmi is not installed.

    Notes
    -----
    The places are fractions of the box with their standard uncertainties in brackets, which CIF
    calls s.u.; gain, probability and misfit follow under names of our own.
    """
    try:
        from gemmi import cif  # pyright: ignore[reportMissingModuleSource]
    except ImportError:
        raise BadInput(
            str(path), "CIF needs the package gemmi: pip install 'pyrotome[atoms]'"
        ) from None
    document = cif.Document()
    block = document.add_new_block("pyrotome")
    places = fit.positions_a
    low = places.min(axis=0) - _MARGIN_A
    box = np.ceil(places.max(axis=0) + _MARGIN_A - low)
    block.set_pair("_audit_creation_method", cif.quote(_quotable(comment)))
    if fit.doubts:
        block.set_pair("_pyrotome_doubts", cif.quote(_quotable("; ".join(fit.doubts))))
    for name, side in zip("abc", box, strict=True):
        block.set_pair(f"_cell_length_{name}", f"{side:g}")
    for name in ("alpha", "beta", "gamma"):
        block.set_pair(f"_cell_angle_{name}", "90")
    block.set_pair("_space_group_name_H-M_alt", cif.quote("P 1"))
    loop = block.init_loop("_atom_site_", list(_CIF_TAGS))
    for row in _cif_rows(fit, symbols_of(fit, species)[0], low, box):
        loop.add_row(row)
    document.write_file(str(path))


def _cif_rows(
    fit: AtomList, symbols: Sequence[str], low: Floats64, box: Floats64
) -> Iterator[list[str]]:
    fractions, errors = (fit.positions_a - low) / box, fit.sigma_a / box
    extra = np.stack([fit.heights, fit.gain, fit.probability, fit.misfit], axis=1)
    for n, symbol in enumerate(symbols):
        places = [with_uncertainty(*pair, 6) for pair in zip(fractions[n], errors[n], strict=True)]
        told = [f"{value:.5g}" if math.isfinite(value) else "?" for value in extra[n]]
        yield [f"{symbol}{n + 1}", symbol, *places, *told]
