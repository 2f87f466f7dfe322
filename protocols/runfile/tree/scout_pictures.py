"""The scouts of a series in an open run file: a table, and the picture of each."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# h5py carries no types.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scout_layout import COLUMNS, TIME, column_path, pictures_path, scouts_path

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoutStack:
    """Pictures of one grid of positions, in the order in which they were taken.

    Attributes
    ----------
    grid : str
        Such as ``field_64`` or ``search``.
    rows : ndarray of shape (pictures,)
        Their rows in the table.
    counts : ndarray of shape (pictures, rows, columns)
        In the detector's values, without what was added to them.
    pixel_nm : float
        Distance of the positions.
    """

    grid: str
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    pixel_nm: float


class RecordedScouts:
    """The scouts of one series: one row each, in the order in which they were taken.

    Attributes
    ----------
    kind : tuple of str
        ``scout`` or ``wide``.
    grid : tuple of str
        Which stack has the picture.
    time_s, tilt_deg, dose_e_per_nm2, defocus_nm : ndarray of shape (scouts,)
        Middle of the exposure since the start of the run, angle that was asked for, electrons per
        area of the scanned field, change of the focus.
    shift_nm : ndarray of shape (scouts, 2)
        Beam shift (y, x).
    """

    def __init__(self, file: Any, account: str, growing: bool) -> None:
        self._file, self._account, self._growing = file, account, growing
        data = [self._dataset(column_path(account, column.name)) for column in COLUMNS]
        rows = min(len(column) for column in data)  # a growing file may get more between two reads
        values = {c.name: column[:rows] for c, column in zip(COLUMNS, data, strict=True)}
        self.kind, self.grid = _texts(values["kind"]), _texts(values["grid"])
        self.time_s: Floats = values[TIME]
        self.tilt_deg: Floats = values["tilt"]
        self.dose_e_per_nm2: Floats = values["dose"]
        self.defocus_nm: Floats = values["defocus"]
        self.shift_nm: Floats = np.stack([values["shift_y"], values["shift_x"]], axis=1)
        self._picture: NDArray[np.int64] = values["picture"]

    def __len__(self) -> int:
        return len(self.time_s)

    def picture(self, row: int) -> NDArray[np.int64]:
        """Picture of one scout in the detector's values, shape (rows, columns).

        Raises
        ------
        IndexError
            If there is no such row; -1 is none.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self._account} has {len(self)} scouts, not {row}")
        grid = self.grid[row]
        counts = self._dataset(pictures_path(self._account, grid))[self._picture[row]]
        return counts + self._offset(grid)

    def pixel_nm(self, row: int) -> float:
        """Distance of the positions of one scout."""
        return self._pixel_nm(self.grid[row])

    @property
    def stacks(self) -> tuple[ScoutStack, ...]:
        """Pictures of each grid of which there are some, those of the field first."""
        found: list[ScoutStack] = []
        for grid in sorted(dict.fromkeys(self.grid), key=lambda name: (name == "search", name)):
            rows = np.flatnonzero([name == grid for name in self.grid])
            counts = self._dataset(pictures_path(self._account, grid))[self._picture[rows]]
            counts = counts + self._offset(grid)
            found.append(ScoutStack(grid, rows, counts, self._pixel_nm(grid)))
        return tuple(found)

    def _pixel_nm(self, grid: str) -> float:
        x_nm = self._file[f"{scouts_path(self._account)}/{grid}/x"][...]
        return float(x_nm[1] - x_nm[0]) if len(x_nm) > 1 else float("nan")

    def _offset(self, grid: str) -> np.int64:
        path = f"{scouts_path(self._account)}/{grid}/data_offset"
        return np.int64(self._file[path][()] if path in self._file else 0)

    def _dataset(self, path: str) -> Any:
        dataset = self._file[path]
        if self._growing:
            dataset.refresh()
        return dataset


def scouts_of(file: Any, account: str, growing: bool = False) -> RecordedScouts | None:
    """Read the scouts of a series, or of a calibration such as ``height_001``.

    Parameters
    ----------
    file : h5py.File
        Open.
    account : str
        Name of the series.
    growing : bool
        Whether the file may grow.

    Returns
    -------
    RecordedScouts or None
        None where none was taken, as in files of earlier versions.
    """
    if scouts_path(account) not in file:
        return None
    found = RecordedScouts(file, account, growing)
    return found if len(found) else None


def _texts(values: NDArray[Any]) -> tuple[str, ...]:
    return tuple(bytes(raw).rstrip(b"\0").decode("utf-8", "replace") for raw in values)
