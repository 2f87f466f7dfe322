"""Length of a front, in boxes along the interface, frame after frame, with its error.

Frames before the front moves show where the interface runs: for each column the row at which the
species has fallen to half. Later frames are summed along it, drift taken out, to profiles of the
depth in each box; the front length of a profile is that of largest Poisson likelihood among the
blurred profiles of `front_profile`, its error the curvature there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from .front_profile import front_profile

Array = NDArray[np.float64]
_ALONG_PX = 3.0
# Front lengths that are tried, in sd of the blur.
_LENGTHS = np.geomspace(0.05, 60.0, 240)
_LEAST_COUNTS = 5.0
_BACKGROUND = 1e-3


@dataclass(frozen=True)
class Interface:
    """Where a species ends.

    Attributes
    ----------
    row_px : ndarray of shape (columns,)
        Row of the interface in each column of the first frame, counted from the source's side.
    blur_px : float
        Sd of the Gaussian that the step looks like.
    from_above : bool
        Whether the source lies at the smaller rows.
    """

    row_px: Array
    blur_px: float
    from_above: bool = True


@dataclass(frozen=True)
class FrontLengths:
    """Fronts of one frame; lengths in pixels, shape (boxes,); nan where counts are too few."""

    length_px: Array
    sd_px: Array


def find_interface(mean: NDArray[np.floating]) -> Interface:
    """Find where a species ends, in the mean of frames in which it does not move yet.

    The strongest edge of the picture along the columns counts.

    Parameters
    ----------
    mean : ndarray of shape (rows, columns)
        Events a pixel.

    Raises
    ------
    ValueError
        If there is no edge: nothing, or the species everywhere.
    """
    image = np.asarray(mean, np.float64)
    slope = np.gradient(gaussian_filter1d(image.mean(axis=1), 2.0))
    from_above = bool(-slope.min() >= slope.max())
    if not from_above:
        image, slope = image[::-1], -slope[::-1]
    smooth = gaussian_filter1d(image, _ALONG_PX, axis=1, mode="nearest")
    edge = int(np.argmin(slope))
    rows = np.arange(len(image))
    width = max(6, len(image) // 16)
    above = slice(max(0, edge - 3 * width), max(1, edge - width))
    below = slice(min(len(image) - 1, edge + width), min(len(image), edge + 3 * width))
    source, rest = smooth[above].mean(axis=0), smooth[below].mean(axis=0)
    if source.mean() <= 0 or (source - rest).mean() < 0.2 * source.mean():
        raise ValueError("the species does not end anywhere: no interface was found")
    near = slice(max(0, edge - 2 * width), min(len(image), edge + 2 * width))
    part = (smooth[near] - rest) / np.maximum(source - rest, 1e-9)
    # The area below a step tells where it is, and uses all rows.
    row = rows[near][0] - 0.5 + part.sum(axis=0)
    row = gaussian_filter1d(row, _ALONG_PX, mode="nearest")
    return Interface(row, _blur_of(image, row, near), from_above)


def _blur_of(image: Array, row: Array, near: slice) -> float:
    """Sd of the step, straightened: half of it lies between 16 and 84 per cent."""
    half = (near.stop - near.start) // 2
    straight = straightened(image, row, half, half)
    middle = uniform_filter1d(straight, 3)
    ends = middle[: half // 2].mean(), middle[-half // 2 :].mean()
    part = (middle - ends[1]) / max(ends[0] - ends[1], 1e-9)
    places = np.interp([-0.8413, -0.1587], -part, np.arange(len(part)))
    return float(np.clip(0.5 * (places[1] - places[0]), 0.3, half))


def straightened(image: Array, row_px: Array, above: int, below: int) -> Array:
    """Sum over columns of `image`, each moved so that its interface lies at index `above`.

    Parameters
    ----------
    image : ndarray of shape (rows, columns)
        Events.
    row_px : ndarray of shape (columns,)
        Row of the interface; between pixels the nearest one counts.
    above, below : int
        Rows before and after it. Rows outside the picture are nan in their column's place.

    Returns
    -------
    ndarray of shape (above + below,)
        Scaled up where some columns have no such row; nan where none has.
    """
    first = np.rint(row_px).astype(np.int64) - above
    index = first[None, :] + np.arange(above + below)[:, None]
    inside = (index >= 0) & (index < len(image))
    values = np.take_along_axis(image, np.clip(index, 0, len(image) - 1), axis=0)
    seen = inside.sum(axis=1)
    total = (values * inside).sum(axis=1)
    return np.where(seen > 0, total * (len(row_px) / np.maximum(seen, 1)), np.nan)


class FrontFollower:
    """Profiles and front lengths of a series.

    Parameters
    ----------
    interface : Interface
        From the frames before.
    boxes : int
        Of equal width along the interface.
    above_px, below_px : int
        How far a profile reaches into the source, and beyond the interface.
    """

    def __init__(
        self, interface: Interface, boxes: int = 4, above_px: int = 16, below_px: int = 90
    ) -> None:
        if boxes < 1 or boxes > len(interface.row_px):
            raise ValueError(f"{boxes} boxes in {len(interface.row_px)} columns")
        self._interface, self._boxes = interface, boxes
        self._above, self._below = above_px, below_px
        self._interface_px, self._blur_px = np.zeros(boxes), interface.blur_px
        self._background = _BACKGROUND

    def refine(self, interface_px: Array, blur_px: float, background: float) -> None:
        """Take interface and blur from a fit of all profiles, see `fit_diffusion`.

        Parameters
        ----------
        interface_px : ndarray of shape (boxes,)
            Depth of the interface in each box, in pixels.
        blur_px : float
            Sd of the blur.
        background : float
            Events without the species, as a part of those in the source.
        """
        self._interface_px, self._blur_px = np.asarray(interface_px, np.float64), blur_px
        self._background = max(background, 1e-6)

    @property
    def blur_px(self) -> float:
        """Sd of the blur, as it is known now."""
        return self._blur_px

    def row_px(self, shift_px: tuple[float, float]) -> float:
        """Mean row of the interface in a frame, counted from its first row."""
        row = float(self._interface.row_px.mean())
        if not self._interface.from_above:
            row = len(self._interface.row_px) - 1 - row
        return row + shift_px[0]

    def profile(
        self, events: NDArray[np.floating], shift_px: tuple[float, float]
    ) -> tuple[Array, Array]:
        """Events along the depth.

        Parameters
        ----------
        events : ndarray of shape (rows, columns)
            Of the species, in one frame.
        shift_px : tuple of float
            Drift (y, x) against the first frame.

        Returns
        -------
        counts : ndarray of shape (boxes, depths)
            Events.
        depth_px : ndarray of shape (depths,)
            Below the interface, in pixels.
        """
        columns = np.arange(events.shape[1])
        image, down = np.asarray(events, np.float64), shift_px[0]
        if not self._interface.from_above:
            image, down = image[::-1], -down
        row = np.interp(columns - shift_px[1], columns, self._interface.row_px) + down
        offset = float(np.mean(np.rint(row) - row))
        counts = [
            straightened(image[:, part], row[part], self._above, self._below)
            for part in np.array_split(columns, self._boxes)
        ]
        depth_px = np.arange(-self._above, self._below, dtype=np.float64) + offset
        return np.stack(counts), depth_px

    def lengths(self, counts: Array, depth_px: Array) -> FrontLengths:
        """Front length of each box's profile; arguments as they come from `profile`."""
        found = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
        for box, profile in enumerate(counts):
            seen = np.isfinite(profile)
            total = float(profile[seen].sum())
            if total < _LEAST_COUNTS:
                continue
            depth = (depth_px[seen] - self._interface_px[box]) / self._blur_px
            shapes = front_profile(depth[:, None], _LENGTHS[None, :])
            shapes = np.maximum(shapes, 0.0) + self._background
            value = profile[seen] @ np.log(shapes) - total * np.log(shapes.sum(axis=0))
            found[0][box], found[1][box] = _peak(value)
        return FrontLengths(found[0] * self._blur_px, found[1] * self._blur_px)


def _peak(value: Array) -> tuple[float, float]:
    """Length of the largest likelihood, and its sd, from the likelihoods of all that are tried."""
    best = int(np.argmax(value))
    # A parabola through what lies within two units of the peak, in the length itself.
    near = np.flatnonzero(value > value[best] - 2.0)
    near = np.arange(max(0, near[0] - 1), min(len(value), near[-1] + 2))
    a, b, _ = np.polyfit(_LENGTHS[near] - _LENGTHS[best], value[near] - value[best], 2)
    if a >= 0:
        return float(_LENGTHS[best]), np.inf
    return max(0.0, float(_LENGTHS[best] - 0.5 * b / a)), float(np.sqrt(-0.5 / a))
