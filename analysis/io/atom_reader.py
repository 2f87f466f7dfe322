"""Read atoms from extended XYZ: positions, species, and errors, as ``pyrotome atoms`` writes it."""
# ase is untyped.
# pyright: basic

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput

_UNKNOWN = "X"


@dataclass(frozen=True)
class AtomTable:
    """Atoms as a file has them.

    Attributes
    ----------
    positions_a : ndarray
        Shape (atoms, 3), in angstrom.
    species : ndarray
        Shape (atoms,): chemical symbols.
    covariance_a2 : ndarray or None
        Shape (atoms, 3, 3), if the file has the column ``covariance`` or ``sigma``.
    probability : ndarray or None
        Shape (atoms,), if the file has it.
    numbers : dict of str to int
        Atomic numbers of the species.
    told : tuple of str
        What a person should know about the file.
    """

    positions_a: NDArray[np.float64]
    species: NDArray[np.str_]
    covariance_a2: NDArray[np.float64] | None
    probability: NDArray[np.float64] | None
    numbers: dict[str, int]
    told: tuple[str, ...]


def read_atoms(path: Path, species: str | None = None) -> AtomTable:
    """Read the atoms of a particle from extended XYZ, through ASE.

    Parameters
    ----------
    path : Path
        Extended or plain XYZ of one picture; lengths in angstrom.
    species : str, optional
        Chemical symbol of atoms for which the file has none.

    Returns
    -------
    AtomTable
        What the file has.

    Raises
    ------
    BadInput
        If the file cannot be read, tells no species, or has a cell with NaN.
    """
    from ase.data import atomic_numbers

    found = _read(path)
    told: list[str] = []
    cell = np.asarray(found.cell)
    if not np.isfinite(cell).all():
        raise BadInput(str(path), "its cell (Lattice) holds NaN or infinity; correct the file")
    if found.pbc.any():
        told.append("the periodic cell is ignored: the atoms are taken for a particle")
    symbols = np.array(found.get_chemical_symbols(), np.str_)
    if species is not None:
        symbols = np.where(symbols == _UNKNOWN, species, symbols).astype(np.str_)
    elif not _has_species(path):
        raise BadInput(str(path), "tells no species; name it, as in --species Zr")
    if (symbols == _UNKNOWN).any():
        told.append("atoms have the species X; name it, as in --species Zr")
    doubts = found.info.get("doubts")
    if doubts:
        told.append(f"the fit of these atoms was in doubt: {doubts}")
    return AtomTable(
        np.asarray(found.positions, np.float64), symbols, _covariance(path, found.arrays),
        _column(path, found.arrays, "probability", 1),
        {str(symbol): int(atomic_numbers[str(symbol)]) for symbol in np.unique(symbols)},
        tuple(told),
    )  # fmt: skip


def _read(path: Path) -> Any:
    from ase.io.extxyz import XYZError, read_extxyz

    try:
        with path.open(encoding="utf-8") as file:
            pictures = list(read_extxyz(file, index=cast(Any, slice(None))))
    except XYZError as error:  # an OSError without a number
        raise BadInput(str(path), f"is no extended XYZ: {_in_one_line(error)}") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise BadInput(str(path), f"has the species {error}, which is no element") from None
    except (ValueError, IndexError, OverflowError, AssertionError, RuntimeError) as error:
        # ASE's own errors are of these kinds.
        raise BadInput(str(path), f"is no extended XYZ: {_in_one_line(error)}") from None
    if not pictures:
        raise BadInput(str(path), "holds no atoms")
    if len(pictures) > 1:
        raise BadInput(str(path), f"holds {len(pictures)} pictures; give a file of one")
    return pictures[0]


def _in_one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _has_species(path: Path) -> bool:
    """Whether the second line has a column of species, or none at all as in plain XYZ."""
    with path.open(encoding="utf-8") as file:
        file.readline()
        head = file.readline()
    return "Properties=" not in head or "species:" in head or ":Z:" in head or "=Z:" in head


def _covariance(path: Path, arrays: dict[str, Any]) -> NDArray[np.float64] | None:
    half = _column(path, arrays, "covariance", 6)
    if half is not None:
        return half[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    sigma = _column(path, arrays, "sigma", 3)
    return None if sigma is None else np.eye(3) * (sigma**2)[:, :, None]


def _column(
    path: Path, arrays: dict[str, Any], name: str, width: int
) -> NDArray[np.float64] | None:
    if name not in arrays:
        return None
    found = np.asarray(arrays[name])
    if found.dtype.kind not in "fiu" or found.shape[1:] != ((width,) if width > 1 else ()):
        raise BadInput(
            str(path), f"the column '{name}' has {found.shape[1:] or (1,)} values of an atom; "
            f"{width} are right"
        )  # fmt: skip
    return found.astype(np.float64)
