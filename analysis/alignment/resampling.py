"""Resampling: shifts, axis offset and rotation applied in one interpolation by cubic B-splines.

All rooms of the alignment use one convention. Positions (y, x') along (rows, columns) count from
the centre of an image, (n - 1) / 2. The aligned image at (y, x') shows the recorded image at

    row    = y cos(r) + (x' + offset) sin(r) + shift_y
    column = (x' + offset) cos(r) - y sin(r) + shift_x

A shift is the displacement of the specimen in the recorded image. The offset is the distance of
the tilt axis from the centre of the columns. The rotation r is the angle from the vertical to the
axis, counter-clockwise positive in a picture with its first row at the bottom, as 3dmod shows it:
the rotation angle of SerialEM and IMOD. With its first row at the top it counts clockwise.

Images whose axis is turned by more than 45 deg are first turned by quarters, which is exact; rows
and columns change places where the number of quarters is odd.
"""
# numba's decorators and scipy's filters are untyped.
# pyright: basic, reportMissingTypeStubs=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, overload

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, spline_filter

from ..core.arrays import Floats, in_threads
from ..core.weights import checked_weights, every_pixel, filled_series

# Beyond its border an image continues as the mean of so many outermost lines, smoothed along it.
_BORDER_LINES = 8
# A pixel is compared with another image or a reprojection if this share of it was measured.
MIN_MEASURED = 0.5
_BORDER_SMOOTHING_PX = 3.0
# Pixels that are resampled in one piece of work.
_RESAMPLED_PIXELS = 2_000_000


@dataclass(frozen=True)
class TiltAxis:
    """The tilt axis in images that are free of shifts.

    Attributes
    ----------
    offset_px : float
        Distance from the centre of the columns of the aligned images.
    rotation_deg : float
        Angle from the vertical, counter-clockwise with the first row at the bottom.
    """

    offset_px: float = 0.0
    rotation_deg: float = 0.0


def quarter_turns(rotation_deg: float) -> int:
    """Number of quarters, 0 to 3, after which a rotation is within 45 deg of upright."""
    return round(rotation_deg / 90.0) % 4


def nearest_quarters_deg(rotation_deg: float) -> float:
    """Multiple of 90 deg that is nearest to a rotation."""
    return 90.0 * round(rotation_deg / 90.0)


def turned_shifts(shifts_px: NDArray[Any], quarters: int) -> NDArray[np.float64]:
    """Shifts in the recorded images, from those in images turned by ``np.rot90(images, quarters)``.

    Parameters
    ----------
    shifts_px : ndarray
        Shape (n, 2), along rows and columns.
    quarters : int
        Number of quarters; the negative number undoes it.

    Returns
    -------
    ndarray
        Float64, shape (n, 2).

    Examples
    --------
    >>> import numpy as np
    >>> turned_shifts(np.array([[2.0, 3.0]]), 1)
    array([[ 3., -2.]])
    """
    shifts = np.array(shifts_px, np.float64)
    for _ in range(quarters % 4):
        shifts = np.column_stack([shifts[:, 1], -shifts[:, 0]])
    return shifts


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _sample(
    coefficients, exact, edges_y, edges_x, rotation, offset, shift_y, shift_x, whole, picks, out
):
    """Fill `out` with the rows `picks` of the aligned image, from the spline of one image.

    `edges_y` (2, columns) continues the image above and below, `edges_x` (2, rows) left and
    right. With `whole` all positions are whole pixels of `exact`, the image itself.
    """
    rows, columns = coefficients.shape
    wide = out.shape[1]
    cosine, sine = math.cos(rotation), math.sin(rotation)
    weights_y = np.empty(4, np.float32)
    weights_x = np.empty(4, np.float32)
    last_r, last_c = rows - 1, columns - 1
    slack = 1e-3
    for i in range(picks.size):
        y = picks[i] - 0.5 * last_r
        for j in range(wide):
            x = j - 0.5 * (wide - 1) + offset
            row = y * cosine + x * sine + shift_y + 0.5 * last_r
            column = x * cosine - y * sine + shift_x + 0.5 * last_c
            off_y = row < -slack or row > last_r + slack
            off_x = column < -slack or column > last_c + slack
            if off_y or off_x:
                r = min(max(int(row + 0.5), 0), last_r)
                c = min(max(int(column + 0.5), 0), last_c)
                beyond_y = edges_y[1 if row > 0 else 0, c]
                beyond_x = edges_x[1 if column > 0 else 0, r]
                if off_y and off_x:
                    out[i, j] = np.float32(0.5) * (beyond_y + beyond_x)
                else:
                    out[i, j] = beyond_y if off_y else beyond_x
                continue
            if whole:
                out[i, j] = exact[
                    min(max(int(row + 0.5), 0), last_r), min(max(int(column + 0.5), 0), last_c)
                ]
                continue
            r0, c0 = math.floor(row), math.floor(column)
            _cubic(np.float32(row - r0), weights_y)
            _cubic(np.float32(column - c0), weights_x)
            total = np.float32(0)
            if 1 <= r0 < last_r - 1 and 1 <= c0 < last_c - 1:
                for a in range(4):
                    line = np.float32(0)
                    for b in range(4):
                        line += weights_x[b] * coefficients[r0 - 1 + a, c0 - 1 + b]
                    total += weights_y[a] * line
            else:
                for a in range(4):
                    r = _mirrored(r0 - 1 + a, last_r)
                    line = np.float32(0)
                    for b in range(4):
                        line += weights_x[b] * coefficients[r, _mirrored(c0 - 1 + b, last_c)]
                    total += weights_y[a] * line
            out[i, j] = total


@numba.njit(nogil=True, cache=True, inline="always")
def _cubic(part, weights):
    rest = np.float32(1) - part
    sixth = np.float32(1 / 6)
    weights[0] = rest * rest * rest * sixth
    weights[1] = np.float32(2 / 3) - np.float32(0.5) * part * part * (np.float32(2) - part)
    weights[2] = np.float32(2 / 3) - np.float32(0.5) * rest * rest * (np.float32(2) - rest)
    weights[3] = part * part * part * sixth


@numba.njit(nogil=True, cache=True, inline="always")
def _mirrored(i, last):
    if last == 0:
        return 0
    if i < 0:
        i = -i
    if i > last:
        i = 2 * last - i
    return min(max(i, 0), last)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _sample_weights(weights, rotation, offset, shift_y, shift_x, picks, out):
    """Fill `out` with the weights of the rows `picks` of the aligned image, interpolated linearly.

    Beyond the border of an image nothing was measured.
    """
    rows, columns = weights.shape
    wide = out.shape[1]
    cosine, sine = math.cos(rotation), math.sin(rotation)
    last_r, last_c = rows - 1, columns - 1
    slack = 1e-3
    for i in range(picks.size):
        y = picks[i] - 0.5 * last_r
        for j in range(wide):
            x = j - 0.5 * (wide - 1) + offset
            row = y * cosine + x * sine + shift_y + 0.5 * last_r
            column = x * cosine - y * sine + shift_x + 0.5 * last_c
            if min(row, column) < -slack or row > last_r + slack or column > last_c + slack:
                out[i, j] = 0
                continue
            row = min(max(row, 0.0), float(last_r))
            column = min(max(column, 0.0), float(last_c))
            r, c = int(row), int(column)
            below, beside = min(r + 1, last_r), min(c + 1, last_c)
            down, along = row - r, column - c
            # Summed as what is missing, so that whole pixels stay exactly 1.
            missing = (1 - down) * (1 - along) * (1 - weights[r, c])
            missing += (1 - down) * along * (1 - weights[r, beside])
            missing += down * (1 - along) * (1 - weights[below, c])
            missing += down * along * (1 - weights[below, beside])
            out[i, j] = 1 - missing


class Splines:
    """Spline coefficients of a series, for repeated resampling from the recorded pixels.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images; pixels of weight 0 are filled.
    """

    def __init__(self, images: NDArray[Any], weights: Floats | None = None) -> None:
        self._weights = weights
        if weights is not None:
            images = filled_series(images, weights)
        self.shape: tuple[int, int] = (images.shape[1], images.shape[2])
        self._exact = np.ascontiguousarray(images, np.float32)
        self._coefficients = np.empty_like(self._exact)
        self._edges_y = np.empty((len(images), 2, self.shape[1]), np.float32)
        self._edges_x = np.empty((len(images), 2, self.shape[0]), np.float32)
        in_threads(self._prepare, range(len(images)))

    def _prepare(self, n: int) -> None:
        image = self._exact[n]
        filtered = spline_filter(image, 3, output=np.float32, mode="mirror")
        self._coefficients[n] = filtered
        lines = _BORDER_LINES
        ends_y = np.stack([image[:lines].mean(axis=0), image[-lines:].mean(axis=0)])
        ends_x = np.stack([image[:, :lines].mean(axis=1), image[:, -lines:].mean(axis=1)])
        for ends, target in ((ends_y, self._edges_y), (ends_x, self._edges_x)):
            target[n] = gaussian_filter1d(ends, _BORDER_SMOOTHING_PX, axis=1, mode="nearest")

    def sampled(
        self,
        shifts_px: NDArray[Any],
        axis: TiltAxis,
        rows: NDArray[np.integer[Any]] | None = None,
        columns: int | None = None,
    ) -> Floats:
        """Resample the images by the convention of this module.

        Parameters
        ----------
        shifts_px : ndarray
            Shape (n, 2), along rows and columns.
        axis : TiltAxis
            The tilt axis.
        rows : ndarray of int, optional
            Only these rows of the aligned images; they may lie beyond the recorded ones.
        columns : int, optional
            Number of columns of the aligned images; by default that of the recorded ones.

        Returns
        -------
        ndarray
            Float32, shape (n, rows, columns).
        """
        shifts = np.asarray(shifts_px, np.float64)
        tall, wide = self.shape
        picks = np.arange(tall) if rows is None else np.asarray(rows, np.intp)
        out = np.empty((len(self._exact), len(picks), columns or wide), np.float32)
        rotation = math.radians(axis.rotation_deg)
        straight = axis.rotation_deg == 0.0

        def one(n: int) -> None:
            moved = shifts[n] + (0.0, axis.offset_px)
            whole = straight and bool(np.all(moved == np.round(moved)))
            _sample(
                self._coefficients[n],
                self._exact[n],
                self._edges_y[n],
                self._edges_x[n],
                rotation,
                float(axis.offset_px),
                shifts[n, 0],
                shifts[n, 1],
                whole,
                picks,
                out[n],
            )

        in_threads(one, range(len(shifts)))
        return out

    def sampled_weights(
        self,
        shifts_px: NDArray[Any],
        axis: TiltAxis,
        rows: NDArray[np.integer[Any]] | None = None,
        columns: int | None = None,
    ) -> Floats | None:
        """Weights of the pixels of :meth:`sampled`, 0 beyond the recorded images.

        None where all are 1.
        """
        shifts, rotation = np.asarray(shifts_px, np.float64), math.radians(axis.rotation_deg)
        picks = np.arange(self.shape[0]) if rows is None else np.asarray(rows, np.intp)
        out = np.empty((len(shifts), len(picks), columns or self.shape[1]), np.float32)
        even = np.ones(self.shape, np.float32) if self._weights is None else None

        def one(n: int) -> None:
            given = even if self._weights is None else self._weights[n]
            offset = float(axis.offset_px)
            _sample_weights(given, rotation, offset, shifts[n, 0], shifts[n, 1], picks, out[n])

        in_threads(one, range(len(shifts)))
        return None if even is not None and bool(out.all()) else out

    def valid_mask(self, shifts_px: NDArray[Any], axis: TiltAxis) -> NDArray[np.bool_]:
        """Mask of the pixels of :meth:`sampled` within the recorded image that were measured."""
        shares = self.sampled_weights(shifts_px, axis)
        if shares is None:
            return np.ones((len(self._exact), *self.shape), np.bool_)
        return shares >= MIN_MEASURED


@overload
def apply_alignment(
    images: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: TiltAxis,
    weights: None = None,
    *,
    shape: tuple[int, int] | None = None,
) -> Floats: ...
@overload
def apply_alignment(
    images: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: TiltAxis,
    weights: NDArray[Any],
    *,
    shape: tuple[int, int] | None = None,
) -> tuple[Floats, Floats]: ...
def apply_alignment(
    images: NDArray[Any],
    shifts_px: NDArray[Any],
    axis: TiltAxis,
    weights: NDArray[Any] | None = None,
    *,
    shape: tuple[int, int] | None = None,
) -> Floats | tuple[Floats, Floats]:
    """Resample images so that shifts, axis offset and rotation are removed.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), as recorded.
    shifts_px : ndarray
        Shape (n, 2): displacement of the specimen in each image along rows and columns.
    axis : TiltAxis
        The tilt axis.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1. Pixels of weight 0 are
        filled from their surroundings before.
    shape : tuple of int, optional
        Rows and columns of the aligned images, about the same centre. By default those of the
        images, exchanged where the axis is turned by more than 45 deg.

    Returns
    -------
    images : ndarray
        Float32, shape (n, rows, columns); the tilt axis is the centre of the columns. The
        interpolation is by cubic B-splines (Unser, IEEE Signal Process. Mag. 16(6), 22, 1999);
        shifts by whole pixels without rotation copy the pixels. Beyond its border an image
        continues as the mean of its eight outermost lines.
    weights : ndarray
        Only with `weights`: the share that was measured of each aligned pixel, by linear
        interpolation; 0 beyond the border of an image, whatever `images` shows there.

    Raises
    ------
    ValueError
        If images and shifts differ in number or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(16, dtype=np.float32).reshape(4, 4)
    >>> moved = np.roll(image, 1, axis=1)
    >>> aligned = apply_alignment(moved[None], np.array([[0.0, 1.0]]), TiltAxis())
    >>> np.array_equal(aligned[0, :, :3], image[:, :3])
    True
    """
    shifts = np.asarray(shifts_px, np.float64)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"the images have the shape {images.shape}; (n, rows, columns) is needed")
    if shifts.shape != (len(images), 2):
        raise ValueError(
            f"shifts of shape {shifts.shape} for {len(images)} images; each image needs one shift "
            "along the rows and one along the columns"
        )
    if not np.isfinite(shifts).all() or not math.isfinite(axis.offset_px + axis.rotation_deg):
        raise ValueError("a shift or the tilt axis is not a finite number")
    bad = next((n for n, image in enumerate(images) if not np.isfinite(image).all()), None)
    if bad is not None:
        raise ValueError(f"image {bad} holds NaN or infinity; leave that image out")
    known = checked_weights(weights, images.shape)
    quarters = quarter_turns(axis.rotation_deg)
    if quarters:
        images = np.rot90(images, quarters, axes=(1, 2))
        known = None if known is None else np.rot90(known, quarters, axes=(1, 2))
        shifts = turned_shifts(shifts, -quarters)
        left_deg = axis.rotation_deg - nearest_quarters_deg(axis.rotation_deg)
        axis = TiltAxis(axis.offset_px, left_deg)
    tall, wide = shape or images.shape[1:]
    rows = np.arange(tall) + (images.shape[1] - tall) // 2
    out = np.empty((len(images), tall, wide), np.float32)
    shares = np.ones(out.shape, np.float32) if weights is not None else None

    def one(n: int) -> None:
        # Only the splines of the images in work are in memory.
        part = slice(n, n + 1)
        splines = Splines(images[part], None if known is None else known[part])
        out[n] = splines.sampled(shifts[part], axis, rows, wide)[0]
        found = splines.sampled_weights(shifts[part], axis, rows, wide)
        if shares is not None and found is not None:
            shares[n] = found[0]

    in_threads(one, range(len(images)))
    return out if shares is None else (out, shares)


def iter_apply_alignment(
    images: NDArray[Any], shifts: NDArray[Any], axis: TiltAxis, weights: NDArray[Any] | None
) -> Generator[float, None, tuple[Floats, Floats | None]]:
    """Resample some images at a time, and tell what was measured of them (None if all was)."""
    shape = (images.shape[1], images.shape[2])
    aligned, shares = np.empty(images.shape, np.float32), np.empty(images.shape, np.float32)
    given = every_pixel(images.shape) if weights is None else weights
    at_once = max(1, _RESAMPLED_PIXELS // images[0].size)
    for first in range(0, len(images), at_once):
        part = slice(first, first + at_once)
        aligned[part], shares[part] = apply_alignment(
            images[part], shifts[part], axis, given[part], shape=shape
        )
        yield min(1.0, (first + at_once) / len(images))
    return aligned, checked_weights(shares, shares.shape)
