"""Pictures that are compared: counts summed over squares, with the scale they belong to."""
# The annotations of numba are incomplete.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sharpness import kernels

Floats64 = NDArray[np.float64]

SIDE = 64
# Mean counts up to which moments of the stabilised counts are tabulated; beyond, the variance is 1.
_TABULATED = 12.0
_STEP = 0.02
# Counts by which a row passes the background, in sd; rows that a picture needs.
_BRIGHT_SD, _LEAST_LIT = 4.0, 0.25


@dataclass(frozen=True)
class Picture:
    """A frame, binned.

    Attributes
    ----------
    counts : ndarray
        Float64, shape (rows, columns): counts in each square or, of a sparse scan, at each point.
    pitch_nm : float
        Distance of neighbouring squares along rows and columns.
    tilt_deg : float
        Tilt angle; the tilt axis runs along y.
    electrons : float
        Electrons that hit one square; known up to a factor that all pictures share.
    centre_nm : float
        Where its middle row lies in the scanned field, from the field's middle along y.
    """

    counts: Floats64
    pitch_nm: float
    tilt_deg: float
    electrons: float
    centre_nm: float = 0.0

    @property
    def field_nm(self) -> tuple[float, float]:
        """Height and width of the field."""
        rows, columns = self.counts.shape
        return rows * self.pitch_nm, columns * self.pitch_nm


def picture_of(
    frame: NDArray[Any],
    field_nm: float,
    tilt_deg: float,
    dose_e_per_nm2: float,
    side: int = SIDE,
) -> Picture:
    """Bin a frame to about `side` squares along its longer side.

    Pixels that do not fill a square are cut off evenly at both ends. A sparse scan keeps its
    points.

    Parameters
    ----------
    frame : ndarray
        Counts as integers, shape (rows, columns).
    field_nm : float
        Width of the scanned field: of all columns.
    tilt_deg : float
        Tilt angle.
    dose_e_per_nm2 : float
        Electrons on the specimen's field a nm^2.
    side : int
        Squares along the longer side.

    Returns
    -------
    Picture
        Binned counts.

    Raises
    ------
    ValueError
        If the frame is not two-dimensional, holds no integers, or a number is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> picture = picture_of(np.ones((128, 128), np.uint16), 128.0, 0.0, 1.0)
    >>> picture.counts.shape, float(picture.counts[0, 0]), picture.pitch_nm
    ((64, 64), 4.0, 2.0)
    """
    if frame.ndim != 2 or min(frame.shape) < 8 or frame.dtype.kind not in "ui":
        raise ValueError(
            f"a frame of shape {frame.shape} and type {frame.dtype}; counts as integers on at "
            "least 8 x 8 pixels are needed"
        )
    if not (field_nm > 0 and dose_e_per_nm2 > 0):
        raise ValueError(
            f"a field of {field_nm:g} nm and a dose of {dose_e_per_nm2:g} e/nm^2; both must be "
            "greater than 0"
        )
    rows, columns = frame.shape
    binning = max(1, round(max(rows, columns) / side))
    binning = min(binning, min(rows, columns) // 8)
    shape = (rows // binning, columns // binning)
    counts = np.empty(shape)
    top, left = (rows % binning) // 2, (columns % binning) // 2
    kernels.sum_squares(np.ascontiguousarray(frame), binning, top, left, counts)
    pixel_nm = field_nm / columns
    # Each pixel stands for its share of the field, scanned sparsely or not.
    electrons = dose_e_per_nm2 * (pixel_nm * binning) ** 2
    return Picture(counts, pixel_nm * binning, tilt_deg, electrons)


def resampled(picture: Picture, pitch_nm: float, tilt_deg: float) -> Picture:
    """Show a picture at another pitch and, of a flat specimen, at another tilt.

    Columns are stretched by the ratio of the cosines; what is not known is left out, so that the
    result may be smaller or larger. Its centre stays the centre.

    Parameters
    ----------
    picture : Picture
        The picture.
    pitch_nm : float
        Distance of the squares of the result.
    tilt_deg : float
        Tilt of the result.

    Returns
    -------
    Picture
        The same counts in all for the same part of the specimen, interpolated linearly.

    Examples
    --------
    >>> import numpy as np
    >>> flat = Picture(np.ones((8, 8)), 1.0, 0.0, 1.0)
    >>> resampled(flat, 1.0, 60.0).counts.shape
    (8, 4)
    """
    across = math.cos(math.radians(tilt_deg)) / math.cos(math.radians(picture.tilt_deg))
    zoom = picture.pitch_nm / pitch_nm
    if abs(across - 1.0) < 1e-4 and abs(zoom - 1.0) < 1e-4:
        return picture
    counts = _stretched(_stretched(picture.counts, zoom).T, zoom * across).T
    return Picture(
        np.ascontiguousarray(counts) / zoom**2,
        pitch_nm,
        tilt_deg,
        picture.electrons / zoom**2,
        picture.centre_nm,
    )


def lit_part(picture: Picture, background: float) -> Picture | None:
    """The rows of a picture up to the last one that shows something.

    For a scan in whose midst the beam was blanked, at a moment that no clock tells well enough:
    rows without the beam look as rows of bare background, of which little is lost.

    Parameters
    ----------
    picture : Picture
        The whole scan.
    background : float
        Mean counts of a square that shows nothing, with the beam on.

    Returns
    -------
    Picture or None
        None if fewer than a quarter of the rows are left.

    Examples
    --------
    >>> import numpy as np
    >>> scan = Picture(np.repeat([[1.0], [0.0]], [24, 8], 0) * np.ones(32), 10.0, 0.0, 6.0)
    >>> found = lit_part(scan, background=0.1)
    >>> found.counts.shape, found.centre_nm
    ((23, 32), -45.0)
    """
    rows, columns = picture.counts.shape
    expected = background * columns
    most = expected + _BRIGHT_SD * math.sqrt(expected) + 1.0
    bright = np.flatnonzero(picture.counts.sum(axis=1) > most)
    # The beam may have gone off within the last of them.
    last = int(bright[-1]) if len(bright) else 0
    if last < max(8, rows * _LEAST_LIT):
        return None
    centre_nm = picture.centre_nm - (rows - last) / 2 * picture.pitch_nm
    return replace(picture, counts=picture.counts[:last], centre_nm=centre_nm)


def _stretched(values: Floats64, factor: float) -> Floats64:
    """Rows stretched about their centre by linear interpolation, within what is known."""
    size = len(values)
    if abs(factor - 1.0) < 1e-4:
        return values
    # Their number stays even or odd, which keeps the centre.
    wanted = max(2, size + 2 * math.floor((size * factor - size) / 2 + 1e-9))
    at = (np.arange(wanted) - (wanted - 1) / 2) / factor + (size - 1) / 2
    at = np.clip(at, 0.0, size - 1.0)
    low = np.minimum(at.astype(int), size - 2)
    part = (at - low)[:, None]
    return values[low] * (1.0 - part) + values[low + 1] * part


def stabilised(counts: Floats64) -> Floats64:
    """Counts with a variance of about 1 (Anscombe, Biometrika 35, 246, 1948)."""
    return 2.0 * np.sqrt(np.maximum(counts, 0.0) + 0.375)


def noise_variance(mean_counts: Floats64) -> Floats64:
    """Variance of stabilised counts of given mean: 1, and less where few counts are expected.

    Parameters
    ----------
    mean_counts : ndarray
        Expected counts.

    Returns
    -------
    ndarray
        Same shape.

    Examples
    --------
    >>> import numpy as np
    >>> noise_variance(np.array([0.0, 100.0])).tolist()
    [0.0, 1.0]
    """
    table = _tabulated()
    at = np.arange(len(table)) * _STEP
    return np.interp(mean_counts, at, table)


@cache
def _tabulated() -> Floats64:
    means = np.arange(0.0, _TABULATED + _STEP / 2, _STEP)
    number = np.arange(80)
    log_factorial = np.array([math.lgamma(n + 1.0) for n in number])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_chance = number * np.log(means[:, None]) - means[:, None] - log_factorial
    chance = np.exp(log_chance)
    chance[0] = number == 0
    level = stabilised(number.astype(np.float64))
    mean = chance @ level
    variance = chance @ level**2 - mean**2
    variance[-1] = 1.0
    return variance
