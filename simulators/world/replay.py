"""The specimen "replay": frames of a recorded tilt series, nearest angle, exact values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, cast

import mrcfile
import numpy as np
from numpy.typing import NDArray

from ...protocols.core.errors import BadInput

_BYTE_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")


class Recording:
    """A recorded tilt series.

    Parameters
    ----------
    stack : Path
        MRC file of integers, shape (n, rows, columns); an FEI file of before 2014 will do.
    tilts : Path
        Text, one angle in deg for each frame.
    value_offset : int
        Added to every value, so that all fit 16 bits without sign.

    Raises
    ------
    BadInput
        If a file cannot be read, the two disagree, or a value does not fit.
    """

    def __init__(self, stack: Path, tilts: Path, value_offset: int) -> None:
        self.tilt_deg = _read_tilts(tilts)
        self._data = _read_stack(stack)
        self.value_offset = value_offset
        if len(self.tilt_deg) != len(self._data):
            raise BadInput(
                str(tilts),
                f"{len(self.tilt_deg)} angles for the {len(self._data)} frames of {stack.name}",
            )
        low = min(int(frame.min()) for frame in self._data) + value_offset
        high = max(int(frame.max()) for frame in self._data) + value_offset
        if low < 0 or high > 65_535:
            raise BadInput(
                str(stack),
                f"values with value_offset {value_offset} run from {low} to {high}; "
                "choose an offset that brings them into 0 to 65535",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return self._data.shape[1], self._data.shape[2]

    def frame(self, tilt_deg: float) -> NDArray[np.uint16]:
        """Frame of the nearest angle, offset included."""
        nearest = int(np.argmin(np.abs(self.tilt_deg - tilt_deg)))
        return (self._data[nearest].astype(np.int32) + self.value_offset).astype(np.uint16)


def _read_stack(path: Path) -> NDArray[Any]:
    try:
        # mrcfile trusts the header for the length of the extended one and makes room for
        # it before reading: gigabytes, for a file that is not MRC.
        with path.open("rb") as file:
            header = file.read(1024)
        lengths = [int.from_bytes(header[92:96], order, signed=True) for order in _BYTE_ORDERS]
        if not any(0 <= n <= path.stat().st_size - 1024 for n in lengths):
            raise ValueError("it is too short for what its header announces")
        with warnings.catch_warnings():
            # Old FEI files lack the map identifier; mrcfile says so and reads them all the same.
            warnings.simplefilter("ignore")
            with cast("Any", mrcfile).open(path, permissive=True) as file:
                data = file.data
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"is not a readable MRC file: {error}") from None
    if data is None or data.ndim != 3 or 0 in data.shape:
        raise BadInput(str(path), "is not an MRC stack of images")
    if not np.issubdtype(data.dtype, np.integer):
        raise BadInput(str(path), f"holds {data.dtype}; only integers can be replayed exactly")
    return data


def _read_tilts(path: Path) -> NDArray[np.float64]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            angles = np.loadtxt(path, dtype=np.float64, ndmin=1)
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"is not a list of angles, one a line: {error}") from None
    if angles.ndim != 1 or not len(angles) or not np.all(np.isfinite(angles)):
        raise BadInput(str(path), "is not a list of angles in deg, one a line")
    return angles
