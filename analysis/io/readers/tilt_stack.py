"""A tilt series in an open file of another program, and what its readers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....protocols.core.errors import BadInput
from ....protocols.core.units import parse_quantity
from ....protocols.runfile.frames import Outliers

Floats = NDArray[np.float64]

INSTALL_FORMATS = "install it with: pip install 'pyrotome[formats]'"
_MAX_UNEQUAL = 1e-3  # relative difference of the sides of a pixel


@dataclass(frozen=True)
class TiltStack:
    """A tilt series in an open file.

    Attributes
    ----------
    form : str
        File format.
    shape : tuple of int
        (images, rows, columns).
    dtype : dtype
        Type of the stored values.
    read : callable
        Reads one image by its index, shape (rows, columns).
    tilt_deg : ndarray or None
        Angles in degrees, shape (images,), if the file has them.
    pixel_nm : float or None
        Pixel size as the file says it, which may be nonsense; None if it says nothing.
    voltage_kv : float or None
        Acceleration voltage, if the file has it.
    tilt_axis_deg : float or None
        Direction of the tilt axis, if the file has it: from the direction of the columns, as IMOD
        and SerialEM count it.
    times : ndarray of datetime64[ms] or None
        Moment of each image on the clock of the microscope (local time), if the file has them.
    there : ndarray or None
        Bool, shape (images,): the images that were recorded; None if all were.
    value_offset, value_scale : int, float
        value = (stored - value_offset) * value_scale.
    outliers : Outliers or None
        Of another run file of ours.
    dark, flat : ndarray or None
        Means of the dark and of the flat frames of the file, float32, shape (rows, columns).
    dark_frames, flat_frames : int
        How many frames the means are of.
    """

    form: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], NDArray[Any]]
    tilt_deg: Floats | None = None
    pixel_nm: float | None = None
    voltage_kv: float | None = None
    tilt_axis_deg: float | None = None
    times: NDArray[np.datetime64] | None = None
    there: NDArray[np.bool_] | None = None
    value_offset: int = 0
    value_scale: float = 1.0
    outliers: Outliers | None = None
    dark: NDArray[np.float32] | None = None
    flat: NDArray[np.float32] | None = None
    dark_frames: int = 0
    flat_frames: int = 0

    @property
    def encoded(self) -> bool:
        """Whether the stored values are those that another run file of ours holds."""
        return self.value_scale != 1 or self.value_offset != 0


def length_nm(value: float | str, unit: str) -> float | None:
    """Convert a length to nm.

    Parameters
    ----------
    value : float or str
        A number.
    unit : str
        As programs write it: ``nm``, ``Å``, ``micron``, ``[n_m]``.

    Returns
    -------
    float or None
        With the digits of single precision; None without a unit of length. A value that is no
        pixel size (0, negative, NaN, infinite) comes back as it is, whatever its unit.

    Examples
    --------
    >>> length_nm(0.018, "µm")
    18.0
    """
    unit = unit.strip().strip("[]").replace("_", "")
    # ImageJ writes the micro sign as an escape; the unit "pixel" means an uncalibrated image.
    unit = unit.replace("\\u00B5", "u").replace("micron", "um").replace("Angstroem", "angstrom")
    unit = {"A": "angstrom", "Å": "angstrom"}.get(unit, unit)
    if unit.lower() in {"", "pixel", "pixels", "px"}:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number) or number <= 0:
        return number
    try:
        return float(f"{parse_quantity(f'{number!r} {unit}', 'nm', '1 nm'):.7g}")
    except ValueError:
        return None


def plain_text(value: Any) -> str:
    """Text of an HDF5 attribute or dataset; some programs write it as an array of one."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").rstrip("\0")
    return str(value)


def check_square(path: Path, x: float, y: float) -> None:
    """Refuse pixels that are not square.

    Parameters
    ----------
    path : Path
        The file, for the message.
    x, y : float
        Their sides in nm.

    Raises
    ------
    BadInput
        If the sides differ by more than 0.1 %.
    """
    if math.isfinite(x) and math.isfinite(y) and abs(x - y) > _MAX_UNEQUAL * abs(x):
        raise BadInput(str(path), f"the pixels are {x:g} by {y:g} nm; square pixels are expected")


def refuse_shape(path: Path, shape: tuple[int, ...]) -> BadInput:
    """Error for a file that holds no stack of images."""
    return BadInput(str(path), f"holds an array of shape {shape}; a stack of images is expected")
