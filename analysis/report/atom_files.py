"""Files of fitted atoms: extended XYZ for OVITO and ASE, and a table as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ..atoms.atom_fit import AtomFit

# Upper half of a covariance, in the order in which it is written.
_HALF = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
COLUMNS = (
    "index", "species", "x_a", "y_a", "z_a", "sigma_x_a", "sigma_y_a", "sigma_z_a", "peak",
    "peak_sd", "gain", "probability", "misfit",
    "cov_xx_a2", "cov_xy_a2", "cov_xz_a2", "cov_yy_a2", "cov_yz_a2", "cov_zz_a2",
)  # fmt: skip


def symbols_of(fit: AtomFit, species: str) -> tuple[list[str], NDArray[np.float64] | None]:
    """Chemical symbol of each atom.

    Parameters
    ----------
    fit : AtomFit
        The atoms.
    species : str
        Chemical symbols, the brightest first, separated by commas; one for each species of the fit.

    Returns
    -------
    symbols : list of str
        That of the likeliest species of each atom.
    probability : ndarray or None
        Shape (atoms,): of that species; None if there is only one.

    Raises
    ------
    ValueError
        If the fit has another number of species.
    """
    names = [name.strip() for name in species.split(",")]
    if len(names) == 1:
        return names * len(fit.heights), None
    if fit.species_probability.shape[1] != len(names):
        raise ValueError(
            f"{len(names)} species are named, but {fit.species_probability.shape[1]} were fitted"
        )
    likeliest = fit.species_probability.argmax(axis=1)
    return [names[::-1][n] for n in likeliest], fit.species_probability.max(axis=1)


def write_xyz(path: Path, fit: AtomFit, species: str, comment: str) -> None:
    """Write atoms as extended XYZ, which ASE and OVITO read.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    fit : AtomFit
        The atoms.
    species : str
        Chemical symbol of the atoms; for several species as in :func:`symbols_of`.
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


def _write_xyz(file: TextIO, fit: AtomFit, species: str, comment: str) -> None:
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


def write_table(path: Path, fit: AtomFit, species: str) -> None:
    """Write atoms as a table, one row an atom.

    The columns are `COLUMNS`, and with several species ``species_probability``.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    fit : AtomFit
        The atoms.
    species : str
        Chemical symbol of the atoms; for several species as in :func:`symbols_of`.
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
            rows.writerow([n, symbols[n], *(f"{value:.6g}" for value in numbers)])
