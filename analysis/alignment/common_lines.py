"""Shifts of a tilt series from common lines along the axis and centres of mass across it.

Summed across the tilt axis, every view of a specimen that lies within the field shows the same
profile along the axis (common line). Across the axis, the centre of mass of such a specimen moves
on a circle about the axis; where it is put on the axis, it stays there in every view. This is the
alignment of atomic electron tomography (Scott et al., Nature 483, 444, 2012).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from ..core.arrays import checked_series, in_threads
from ..core.border import border_level
from .resampling import TiltAxis

Floats64 = NDArray[np.float64]

# Profiles are compared smoothed by these widths in pixels, one after the other, and then as they
# are: a pattern of atomic layers repeats itself, so that the coarse shape comes first.
_SMOOTHINGS_PX = (4.0, 2.0, 1.0, 0.0, 0.0)
_STEPS = 4
# Without it, slopes of the mean's own noise would pass for information.
_MEAN_SMOOTHING_PX = 1.0
# The specimen is where a smoothed profile exceeds its noise by so many standard deviations, and so
# many pixels beyond; what is fainter than a part of the highest place is not searched.
_STANDS_OUT, _FAINTEST, _BEYOND_PX = 5.0, 0.03, 6
_PROFILE_SMOOTHING_PX = 3.0
_WINDOW_TURNS = 4


def common_lines_shifts(
    counts: NDArray[Any],
    tilt_deg: NDArray[Any],
    axis: TiltAxis | None = None,
    *,
    known: NDArray[np.bool_] | None = None,
) -> tuple[Floats64, Floats64]:
    """Shifts of views whose specimen lies within the field: common lines and centres of mass.

    Along the axis each profile is fitted to the mean of all, with a gain and a level of its own,
    weighted by the variance of the counts. Across the axis the centre of mass above the background
    is put on the axis. Counts are used as recorded.

    Parameters
    ----------
    counts : ndarray
        Shape (views, rows, columns): counts as recorded.
    tilt_deg : ndarray
        Angles in degrees, shape (views,). Only their number matters: neither the common line nor
        the centre of mass on the axis depends on the angle.
    axis : TiltAxis, optional
        Rotation of the tilt axis, and its offset; by default upright through the centre.
    known : ndarray of bool, optional
        Shape of `counts` or (1, rows, columns): pixels that were measured.

    Returns
    -------
    shifts_px : ndarray
        Shape (views, 2), along (rows, columns): displacement of the specimen in each view from
        where :func:`.apply_alignment` with this axis puts it, its centre of mass in the centre.
    sd_px : ndarray
        Shape (views, 2): their standard deviations, larger where the profiles differ by more than
        their counts allow.

    Raises
    ------
    ValueError
        If counts and angles do not belong together, or a view shows nothing above its background.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:48, :48] - 23.5
    >>> views = [100 * np.exp(-((y - k) ** 2 + (x + k) ** 2) / 50) + 1 for k in (-1, 0, 4)]
    >>> shifts, sd = common_lines_shifts(np.array(views), np.array([-10.0, 0, 10]))
    >>> (shifts - shifts[1]).round(1).tolist()
    [[-1.0, 1.0], [0.0, 0.0], [4.0, -4.0]]
    """
    counts, _ = checked_series(counts, tilt_deg)
    axis = axis or TiltAxis()
    levels = border_level(counts, known)
    grid = _AxisGrid(counts.shape[1:], math.radians(axis.rotation_deg))
    seen = np.ones((1, 1, 1), np.bool_) if known is None else known
    seen = np.broadcast_to(seen, counts.shape)
    places, across_sd = np.empty((len(counts), 2)), np.empty(len(counts))
    lines = np.empty((2, len(counts), grid.along_size))

    def one(k: int) -> None:
        # What was not measured is taken as background, of no more noise than that.
        view = np.where(seen[k], counts[k], levels[k]).astype(np.float64)
        places[k], across_sd[k] = _centre(view, levels[k], grid, k)
        lines[0, k] = grid.along(view - levels[k])
        lines[1, k] = np.maximum(grid.along(view), 1.0)

    in_threads(one, range(len(counts)))
    start = places[:, 0].copy()
    along, along_sd = _fitted_lines(lines[0], lines[1], start)
    # The centre of mass of the whole series along the axis comes to lie in the centre.
    along += np.average(places[:, 0] - along)
    turn = math.radians(axis.rotation_deg)
    across = places[:, 1] - axis.offset_px
    cosine, sine = math.cos(turn), math.sin(turn)
    shifts = np.stack([along * cosine + across * sine, across * cosine - along * sine], axis=1)
    spread = np.stack([along_sd**2, across_sd**2], axis=1)
    turned = np.array([[cosine**2, sine**2], [sine**2, cosine**2]])
    return shifts, np.sqrt(spread @ turned.T)


class _AxisGrid:
    """Sums of a view along lines across the tilt axis, and along it.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    turn : float
        Rotation of the axis in radians.
    """

    def __init__(self, shape: tuple[int, ...], turn: float) -> None:
        rows = (np.arange(shape[0]) - (shape[0] - 1) / 2)[:, None]
        columns = (np.arange(shape[1]) - (shape[1] - 1) / 2)[None, :]
        cosine, sine = math.cos(turn), math.sin(turn)
        self._along = _bins(
            rows * cosine - columns * sine, shape[0] if cosine**2 > 0.5 else shape[1]
        )
        self._across = _bins(
            rows * sine + columns * cosine, shape[1] if cosine**2 > 0.5 else shape[0]
        )

    @property
    def along_size(self) -> int:
        """Number of places along the axis."""
        return self._along[2]

    def along(self, view: Floats64) -> Floats64:
        """Sums across the axis: a profile along it."""
        return _summed(view, self._along)

    def across(self, view: Floats64) -> Floats64:
        """Sums along the axis: a profile across it."""
        return _summed(view, self._across)

    def within(self, along: NDArray[np.bool_], across: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pixels whose places along and across the axis both are in a window."""
        shape = self._along[0].shape
        inside = along[self._along[0]] & across[self._across[0]]
        return np.asarray(inside.reshape(shape))


_Bins = tuple[NDArray[np.intp], Floats64, int]


def _bins(places: Floats64, like: int) -> _Bins:
    """Lower bin and share of the upper one of each pixel, and the number of bins.

    Their number has the parity of `like`, so that rows of an upright axis fall on whole bins.
    """
    reach = float(np.abs(places).max())
    size = like + 2 * max(1, math.ceil(reach - (like - 1) / 2) + 1)
    exact = np.round(places + (size - 1) / 2, 9)
    low = np.floor(exact).astype(np.intp)
    return low, exact - low, size


def _summed(view: Floats64, bins: _Bins) -> Floats64:
    low, share, size = bins
    at, part, values = low.ravel(), share.ravel(), view.ravel()
    summed = np.asarray(np.bincount(at, values * (1 - part), size), np.float64)
    if part.any():
        summed += np.bincount(at + 1, values * part, size)
    return summed


def _centre(view: Floats64, level: float, grid: _AxisGrid, number: int) -> tuple[Floats64, float]:
    """Centre of mass (along, across) of what stands out, and the error across the axis."""
    excess = view - level
    inside = np.ones(view.shape, np.bool_)
    places = [np.zeros(0), np.zeros(0)]
    masses = [np.zeros(0), np.zeros(0)]
    for _ in range(_WINDOW_TURNS):
        windows: list[NDArray[np.bool_]] = []
        for n, summed in enumerate((grid.along, grid.across)):
            masses[n] = summed(np.where(inside, excess, 0.0))
            noise = summed(np.where(inside, view, 0.0))
            windows.append(_window(masses[n], noise))
            places[n] = np.arange(masses[n].size, dtype=np.float64) - (masses[n].size - 1) / 2
        before, inside = inside, grid.within(windows[0], windows[1])
        if np.array_equal(inside, before):
            break
    total = float(masses[0].sum())
    if not inside.any() or total <= 0:
        raise ValueError(
            f"view {number} shows nothing above its background; leave it out of the series"
        )
    along = float(masses[0] @ places[0]) / total
    across = float(masses[1] @ places[1]) / total
    arms = places[1] - across
    noise = grid.across(np.where(inside, view, 0.0))
    pixels = grid.across(inside.astype(np.float64))
    # The level is as uncertain as the mean of about a quarter of the pixels.
    level_sd = math.sqrt(max(level, 1e-3) / (0.25 * view.size))
    variance = float(noise @ arms**2) + (level_sd * float(pixels @ arms)) ** 2
    return np.array([along, across]), math.sqrt(variance) / total


def _window(profile: Floats64, noise: Floats64) -> NDArray[np.bool_]:
    """Where a profile stands out of its noise, from the first place to the last, and a bit more."""
    width = _PROFILE_SMOOTHING_PX
    smooth = gaussian_filter1d(profile, width, mode="constant")
    spread = np.sqrt(np.maximum(gaussian_filter1d(noise, width, mode="constant"), 0.0))
    spread /= math.sqrt(2 * math.sqrt(math.pi) * width)
    high = np.flatnonzero((smooth > _STANDS_OUT * spread) & (smooth > _FAINTEST * smooth.max()))
    window = np.zeros(profile.size, np.bool_)
    if high.size:
        window[max(0, high[0] - _BEYOND_PX) : high[-1] + _BEYOND_PX + 1] = True
    return window


def _fitted_lines(
    lines: Floats64, variances: Floats64, start: Floats64
) -> tuple[Floats64, Floats64]:
    """Shifts of profiles against their mean, and their standard deviations."""
    shifts, errors = start.copy(), np.zeros(len(lines))
    grid = np.arange(lines.shape[1], dtype=np.float64)
    edge = max(2, lines.shape[1] // 100)
    for smoothing in _SMOOTHINGS_PX:
        shown, weights = lines, 1 / variances
        if smoothing:
            shown = gaussian_filter1d(lines, smoothing, axis=1, mode="nearest")
            weights = 1 / gaussian_filter1d(variances, smoothing, axis=1, mode="nearest")
        splines = [CubicSpline(grid, line) for line in shown]
        for _ in range(_STEPS):
            shifts -= shifts.mean()
            moved = [
                spline(np.clip(grid + shift, 0, grid[-1]))
                for spline, shift in zip(splines, shifts, strict=True)
            ]
            mean = gaussian_filter1d(np.mean(moved, axis=0), _MEAN_SMOOTHING_PX, mode="nearest")
            template = CubicSpline(grid, mean)
            largest = 0.0
            for k in range(len(lines)):
                step, errors[k] = _line_step(template, shown[k], weights[k], shifts[k], edge)
                shifts[k] += step
                largest = max(largest, abs(step))
            if largest < 1e-3:
                break
    return shifts, errors


def _line_step(
    template: CubicSpline, line: Floats64, weights: Floats64, shift: float, edge: int
) -> tuple[float, float]:
    """Gauss-Newton step of the shift of one profile, with gain and level; and its error."""
    grid = np.arange(line.size, dtype=np.float64)
    at = grid - shift
    inside = (at >= edge) & (at <= line.size - 1 - edge)
    at, weight, seen = at[inside], weights[inside], line[inside]
    columns = np.stack([-template(at, 1), template(at), np.ones(at.size)], axis=1)
    matrix = columns.T @ (weight[:, None] * columns)
    matrix[np.diag_indices(3)] *= 1 + 1e-9
    matrix[np.diag_indices(3)] += 1e-30
    found = np.linalg.solve(matrix, columns.T @ (weight * seen))
    # The first coefficient is the step times the gain.
    gain = found[1] if abs(found[1]) > 1e-6 else 1.0
    rest = seen - columns @ found
    excess = float(weight @ rest**2) / max(1, at.size - 3)
    error = math.sqrt(max(1.0, excess) * np.linalg.inv(matrix)[0, 0]) / abs(gain)
    return float(np.clip(found[0] / gain, -3.0, 3.0)), error
