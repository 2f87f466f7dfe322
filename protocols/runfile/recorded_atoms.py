"""Atoms of a series in the run file: places with errors, from the table that ``trace`` leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput
from ..steps.tables import ATOM_COLUMNS
from .results import StoredResult

Floats = NDArray[np.float64]

ATOMS = "atoms"
_ANGSTROM = 10.0  # in a nanometre


@dataclass(frozen=True)
class RecordedAtoms:
    """Atoms that were found in a series.

    Attributes
    ----------
    table : ndarray
        Shape (atoms, columns): the rows that are used; the columns are `ATOM_COLUMNS`.
    species : tuple of str
        Chemical symbol of each atom.
    figures : mapping
        Settings of the step and what describes the result, such as ``peak_width_nm``.
    process : int
        Number of the NXprocess group that holds them.
    """

    table: Floats
    species: tuple[str, ...]
    figures: Mapping[str, str | int | float] = field(repr=False)
    process: int = 0

    @classmethod
    def of(cls, stored: StoredResult, where: str) -> RecordedAtoms:
        """Read them from a result.

        Parameters
        ----------
        stored : StoredResult
            The table.
        where : str
            File and series, for messages.

        Raises
        ------
        BadInput
            If the table has other columns than this version writes.
        """
        if stored.columns != ATOM_COLUMNS:
            raise BadInput(
                f"{where}: {stored.path}",
                f"has the columns {', '.join(stored.columns) or '(none)'}; the columns "
                f"{', '.join(ATOM_COLUMNS)} are expected. Another version may have written it; "
                "`pyrotome process` finds the atoms again",
            )
        table = np.asarray(stored.data, np.float64)
        table = table[np.isfinite(table[:, ATOM_COLUMNS.index("x_nm")])]
        figures = stored.parameters
        symbols = [symbol.strip() for symbol in str(figures.get("species", "X")).split(",")]
        numbers = np.nan_to_num(table[:, 0]).astype(int)
        species = tuple(symbols[n] if n < len(symbols) else "X" for n in numbers)
        return cls(table, species, figures, stored.process)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        error_nm = self.position_error_nm
        known = error_nm[np.isfinite(error_nm)]
        told = f", position error {1000 * np.median(known):.1f} pm (median)" if known.size else ""
        doubts = f", {len(self.doubts)} doubts" if self.doubts else ""
        return f"<{len(self)} atoms of {'/'.join(sorted(set(self.species)))}{told}{doubts}>"

    def column(self, name: str) -> Floats:
        """One column of the table, shape (atoms,)."""
        return self.table[:, ATOM_COLUMNS.index(name)]

    @property
    def positions_nm(self) -> Floats:
        """Shape (atoms, 3): x across the tilt axis, y along it, z along the beam at tilt 0.

        Lengths count from the mean of all atoms.
        """
        first = ATOM_COLUMNS.index("x_nm")
        return self.table[:, first : first + 3]

    @property
    def positions_a(self) -> Floats:
        """`positions_nm` in angstrom."""
        return _ANGSTROM * self.positions_nm

    @property
    def covariance_nm2(self) -> Floats:
        """Covariance of each place, shape (atoms, 3, 3); NaN where no error is known."""
        first = ATOM_COLUMNS.index("cov_xx_nm2")
        xx, xy, xz, yy, yz, zz = self.table[:, first : first + 6].T
        rows = ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))
        return np.stack([np.stack(row, axis=1) for row in rows], axis=1)

    @property
    def covariance_a2(self) -> Floats:
        """`covariance_nm2` in square angstrom."""
        return _ANGSTROM**2 * self.covariance_nm2

    @property
    def sigma_a(self) -> Floats:
        """Standard deviations of x, y, z in angstrom, shape (atoms, 3)."""
        first = ATOM_COLUMNS.index("sigma_x_nm")
        return _ANGSTROM * self.table[:, first : first + 3]

    @property
    def position_error_nm(self) -> Floats:
        """Root of the summed variances of x, y and z, shape (atoms,)."""
        return self.column("position_error_nm")

    @property
    def heights(self) -> Floats:
        """Counts of an atom in a view, shape (atoms,)."""
        return self.column("peak_counts")

    @property
    def height_sd(self) -> Floats:
        """Standard deviation of `heights`."""
        return self.column("peak_sd_counts")

    @property
    def gain(self) -> Floats:
        """By how much an atom raises the log likelihood, shape (atoms,)."""
        return self.column("gain")

    @property
    def probability(self) -> Floats:
        """Probability that an atom is there, shape (atoms,)."""
        return self.column("probability")

    @property
    def misfit(self) -> Floats:
        """Squared residuals near an atom over what is expected, shape (atoms,)."""
        return self.column("misfit")

    @property
    def doubts(self) -> tuple[str, ...]:
        """What seems to be wrong with the series."""
        told = str(self.figures.get("doubts", ""))
        return tuple(told.split("; ")) if told else ()
