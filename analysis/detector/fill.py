"""Fill pixels that were not measured from those around them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from . import kernels
from .references import Mask

# Measured pixels are looked for so far away.
_REACH_PX = 64


class Filling:
    """How the pixels of a mask are filled; made once for a mask that stays.

    Each is the mean of the nearest measured pixels in the eight directions, weighted by the inverse
    of the squared distance: eight neighbours for a single pixel, the two banks of a gap.

    Parameters
    ----------
    mask : ndarray
        True where a pixel is filled, shape (rows, columns).

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.full((3, 3), 2.0, np.float32)
    >>> frame[1, 1] = 65535
    >>> Filling(frame > 100).fill(frame)
    >>> float(frame[1, 1])
    2.0
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self._places = np.flatnonzero(mask)
        positions = np.stack(np.unravel_index(self._places, mask.shape), axis=1)
        self._sources = np.zeros((self.count, 8), np.int64)
        self._weights = np.zeros((self.count, 8), np.float32)
        kernels.find_sources(mask, positions, _REACH_PX, self._sources, self._weights)

    @property
    def count(self) -> int:
        """Number of pixels."""
        return len(self._places)

    def fill(self, frame: Floats) -> None:
        """Fill the pixels of a frame, in place.

        Parameters
        ----------
        frame : ndarray
            Float32, C-contiguous, shape (rows, columns). Pixels without any measured pixel in
            reach get the median of the measured ones, or 0.
        """
        if not self.count:
            return
        far = ~self._weights.any(axis=1)
        values: NDArray[np.float32] = (frame.ravel()[self._sources] * self._weights).sum(axis=1)
        if far.any():
            measured = frame[~self.mask]
            values[far] = np.median(measured) if measured.size else 0
        frame.flat[self._places] = values
