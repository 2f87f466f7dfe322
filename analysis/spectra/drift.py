"""Drift of the field from components that do not move.

Maps of the components that stay are compared with the mean of all frames before, moved back: one
shift for all of them, by Gauss-Newton steps on the squared residuals over their variance (Poisson),
each map with a gain of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]
_STEPS, _SETTLED_PX = 12, 2e-3
_SMOOTH_PX = 1.5
# Part of the border that the comparison leaves out.
_BORDER = 0.05
_LARGEST_STEP_PX = 2.0
_NO_COUNTS = "the components that stay have no counts"


@dataclass(frozen=True)
class Drift:
    """Shift (y, x) of a frame against the first one, in pixels.

    Attributes
    ----------
    shift_px, sd_px : tuple of float
        Where what stood at a place in the first frame stands now, and its sd.
    doubt : str
        Why it should not be believed; empty otherwise. The shift is the last one then.
    """

    shift_px: tuple[float, float]
    sd_px: tuple[float, float]
    doubt: str = ""


@njit(cache=True, nogil=True, fastmath=True)
def _compare(
    reference: NDArray[np.float32],
    frame: NDArray[np.float32],
    gains: Array,
    shift: tuple[float, float],
    border: int,
) -> tuple[Array, Array, Array]:
    """Normal equations of the shift and of a gain for each map: matrix, right side, squares."""
    maps, rows, columns = frame.shape
    n = 2 + maps
    matrix, right = np.zeros((n, n)), np.zeros(n)
    squares = np.zeros(2)
    line = np.zeros(n)
    for m in range(maps):
        for r in range(border, rows - border):
            y = r - shift[0]
            r0 = int(np.floor(y))
            if r0 < 1 or r0 >= rows - 2:
                continue
            fy = y - r0
            for c in range(border, columns - border):
                x = c - shift[1]
                c0 = int(np.floor(x))
                if c0 < 1 or c0 >= columns - 2:
                    continue
                fx = x - c0
                a, b = reference[m, r0, c0], reference[m, r0, c0 + 1]
                d, e = reference[m, r0 + 1, c0], reference[m, r0 + 1, c0 + 1]
                value = (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * d + fx * e)
                down = (1 - fx) * (d - a) + fx * (e - b)
                across = (1 - fy) * (b - a) + fy * (e - d)
                weight = 1.0 / (gains[m] * value + 0.05)
                residual = frame[m, r, c] - gains[m] * value
                line[:] = 0.0
                line[0], line[1], line[2 + m] = -gains[m] * down, -gains[m] * across, value
                for i in (0, 1, 2 + m):
                    right[i] += weight * line[i] * residual
                    for j in (0, 1, 2 + m):
                        matrix[i, j] += weight * line[i] * line[j]
                squares[0] += weight * residual * residual
                squares[1] += 1.0
    return matrix, right, squares


@njit(cache=True, nogil=True, fastmath=True)
def _add_moved(
    total: NDArray[np.float32],
    seen: NDArray[np.float32],
    frame: NDArray[np.float32],
    shift: tuple[float, float],
) -> None:
    """Add a frame, moved back by its shift, to the sum; `seen` counts the frames of each pixel."""
    maps, rows, columns = frame.shape
    for r in range(rows):
        y = r + shift[0]
        r0 = int(np.floor(y))
        if r0 < 0 or r0 >= rows - 1:
            continue
        fy = np.float32(y - r0)
        for c in range(columns):
            x = c + shift[1]
            c0 = int(np.floor(x))
            if c0 < 0 or c0 >= columns - 1:
                continue
            fx = np.float32(x - c0)
            seen[r, c] += 1
            for m in range(maps):
                top = (1 - fx) * frame[m, r0, c0] + fx * frame[m, r0, c0 + 1]
                low = (1 - fx) * frame[m, r0 + 1, c0] + fx * frame[m, r0 + 1, c0 + 1]
                total[m, r, c] += (1 - fy) * top + fy * low


def _smoothed(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps for the comparison: both sides are smoothed alike, else each frame is moved a little."""
    smooth = [gaussian_filter(one, _SMOOTH_PX, truncate=3.0) for one in maps]
    return np.stack(smooth).astype(np.float32, copy=False)


class DriftFollower:
    """Follows the drift of the field from frame to frame.

    The first frame defines zero. A frame that cannot be placed is left out of the mean.
    """

    def __init__(self) -> None:
        self._total: NDArray[np.float32] | None = None
        self._seen = self._moving_seen = np.zeros((0, 0), np.float32)
        self._moving: NDArray[np.float32] | None = None
        self._frames = 0
        self._shift, self._speed = np.zeros(2), np.zeros(2)

    @property
    def latest(self) -> tuple[float, float]:
        """Shift (y, x) of the last frame that was placed, in pixels."""
        return float(self._shift[0]), float(self._shift[1])

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean of all frames, moved back; shape (maps, rows, columns)."""
        assert self._total is not None
        return (self._total / np.maximum(self._seen, 1)).astype(np.float32, copy=False)

    @property
    def mean_of_moving(self) -> NDArray[np.float32]:
        """The same of the maps that were given as moving; ValueError if none were."""
        if self._moving is None:
            raise ValueError("no map was given")
        found = self._moving / np.maximum(self._moving_seen, 1)
        return found.astype(np.float32, copy=False)

    def feed(self, maps: NDArray[np.float32], moving: NDArray[np.float32] | None = None) -> Drift:
        """Place the next frame.

        Parameters
        ----------
        maps : ndarray of shape (maps, rows, columns)
            Events of components that stay; of the same components each time.
        moving : ndarray of shape (maps, rows, columns), optional
            Maps that are averaged with the same shift, see `mean_of_moving`.

        Returns
        -------
        Drift
            Zero for the first frame.
        """
        maps = np.ascontiguousarray(maps, np.float32)
        if maps.sum() <= 0:
            return Drift(self.latest, (np.inf, np.inf), _NO_COUNTS)
        if self._total is None:
            self._total, self._seen = np.zeros_like(maps), np.zeros_like(maps[0])
            found = Drift((0.0, 0.0), (0.0, 0.0))
        else:
            found = self._place(_smoothed(self.mean), _smoothed(maps))
        if found.doubt:
            return found
        _add_moved(self._total, self._seen, maps, found.shift_px)
        if moving is not None:
            if self._moving is None:
                self._moving = np.zeros_like(moving)
                self._moving_seen = np.zeros_like(maps[0])
            _add_moved(
                self._moving, self._moving_seen, np.ascontiguousarray(moving), found.shift_px
            )
        shift = np.array(found.shift_px)
        self._speed += 0.2 * (shift - self._shift - self._speed)
        self._shift = shift
        self._frames += 1
        return found

    def _place(self, reference: NDArray[np.float32], maps: NDArray[np.float32]) -> Drift:
        shift = self._shift + self._speed
        gains = maps.sum(axis=(1, 2)) / np.maximum(reference.sum(axis=(1, 2)), 1e-9)
        last = self.latest
        border = max(2, int(_BORDER * min(maps.shape[1:])))
        for _ in range(_STEPS):
            matrix, right, squares = _compare(
                reference, maps, gains, (float(shift[0]), float(shift[1])), border
            )
            step = np.linalg.lstsq(matrix, right, rcond=1e-12)[0]
            by = np.clip(step[:2], -_LARGEST_STEP_PX, _LARGEST_STEP_PX)
            shift, gains = shift + by, np.maximum(gains + step[2:], 1e-6)
            if np.abs(by).max() < _SETTLED_PX:
                break
        else:
            return Drift(last, (np.inf, np.inf), "the drift was not found")
        spread = np.sqrt(np.diag(np.linalg.pinv(matrix))[:2] * max(1.0, squares[0] / squares[1]))
        if np.abs(shift).max() > 0.5 * min(maps.shape[1:]):
            return Drift(last, (np.inf, np.inf), "the field has left the one of the first frame")
        return Drift((float(shift[0]), float(shift[1])), (float(spread[0]), float(spread[1])))
