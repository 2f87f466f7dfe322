"""Pixels that are wrong again and again: hot, dead and stuck ones, found over a series."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from . import kernels
from .references import Mask

# A pixel is bad once it stood out in so many frames, and in this share of them.
_TIMES, _SHARE = 3, 0.3
# Unchanging pixels are looked for after so many frames, and then whenever they are this many times
# as many; the chance to take a good one for stuck, in a whole frame.
_FIRST_LOOK, _LOOK_GROWTH, _CHANCE = 8, 1.25, 1e-6
# So many of the neighbours may be stuck as well.
_STUCK_NEIGHBOURS = 3


class PixelHistory:
    """What each pixel has done in the frames so far.

    Frames come one by one, and what is found counts from then on: the same frames in the same
    order give the same masks.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of a frame.

    Examples
    --------
    >>> import numpy as np
    >>> history, outliers = PixelHistory((8, 8)), np.zeros((8, 8), bool)
    >>> outliers[2, 5] = True
    >>> for number in range(3):
    ...     history.add_frame(np.zeros((8, 8), np.float32), outliers)
    >>> np.argwhere(history.hot)
    array([[2, 5]])
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.frames = 0
        self._stood_out = np.zeros(shape, np.uint16)
        self._changes = np.zeros(shape, np.uint16)
        self._before: Floats | None = None
        self._look_at = _FIRST_LOOK
        self.hot = np.zeros(shape, np.bool_)
        self.stuck = np.zeros(shape, np.bool_)

    @property
    def bad(self) -> Mask:
        """Pixels that are hot, dead or stuck."""
        return self.hot | self.stuck

    def add_frame(self, frame: Floats, outliers: Mask) -> None:
        """Take note of a frame.

        Parameters
        ----------
        frame : ndarray
            Float32, shape (rows, columns), as the detector sent it.
        outliers : ndarray
            Pixels that stand out of their neighbours in it (:func:`.find_outliers`).
        """
        self.frames += 1
        if self._before is not None:
            kernels.count_changes(self._before, frame, self._changes)
        self._before = frame
        places = np.flatnonzero(outliers)
        if places.size:
            times = self._stood_out.flat[places] + 1
            self._stood_out.flat[places] = times
            often = times >= max(_TIMES, math.ceil(_SHARE * self.frames))
            self.hot.flat[places[often]] = True
        if self.frames >= self._look_at:
            self._look_at = math.ceil(self.frames * _LOOK_GROWTH)
            self.look()

    def look(self) -> None:
        """Find the pixels that never change while those around them do."""
        if self.frames < _FIRST_LOOK:
            return
        known = self.bad
        chance = math.log(_CHANCE / known.size)
        kernels.find_unchanging(
            self._changes, known, self.frames, chance, _STUCK_NEIGHBOURS, self.stuck
        )

    def is_bad(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether the pixels at these places (numbers along the rows) are bad."""
        return self.hot.flat[places] | self.stuck.flat[places]
