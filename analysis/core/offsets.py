"""Where the specimen was measured to be in an image, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[float, float]


@dataclass(frozen=True)
class Offset:
    """Place of the specimen in one image, or the way from its place in one to that in another.

    Attributes
    ----------
    place : tuple of float
        Along (rows, columns), positive towards higher rows and columns; in pixels or nm.
    sd : tuple of float
        Standard deviation of both.
    """

    place: Pair
    sd: Pair

    @classmethod
    def of(cls, place: NDArray[np.float64], sd: NDArray[np.float64]) -> Offset | None:
        """An offset from two arrays of shape (2,); None where a number is not finite.

        Parameters
        ----------
        place, sd : ndarray
            As the attributes.

        Examples
        --------
        >>> import numpy as np
        >>> Offset.of(np.array([1.0, np.nan]), np.ones(2)) is None
        True
        """
        if not (np.isfinite(place).all() and np.isfinite(sd).all() and (sd >= 0).all()):
            return None
        return cls((float(place[0]), float(place[1])), (float(sd[0]), float(sd[1])))

    def scaled(self, factor: float) -> Offset:
        """The same in another unit of length."""
        (y, x), (sd_y, sd_x) = self.place, self.sd
        return Offset((y * factor, x * factor), (sd_y * factor, sd_x * factor))

    def widened(self, deviations: float, least: float) -> Offset:
        """The same place, with `deviations` times its standard deviation plus `least` as such."""
        sd_y, sd_x = (deviations * sd + least for sd in self.sd)
        return Offset(self.place, (sd_y, sd_x))

    def covers(self, place: NDArray[np.float64]) -> bool:
        """Whether another place, shape (2,), lies within one standard deviation."""
        return bool((np.abs(place - np.array(self.place)) <= self.sd).all())

    def along(self, first: NDArray[np.float64], second: NDArray[np.float64]) -> Offset:
        """The same along two other directions: unit vectors (rows, columns) at right angles."""
        place, sd = np.array(self.place), np.array(self.sd)
        turned = float(first @ place), float(second @ place)
        return Offset(turned, (float(np.hypot(*(first * sd))), float(np.hypot(*(second * sd)))))


def between(first: Offset | None, second: Offset | None) -> Offset | None:
    """How far the specimen moved from one image to another; None where a place is not known.

    Parameters
    ----------
    first, second : Offset or None
        Its place in both images.

    Returns
    -------
    Offset or None
        Second less first; the errors add up in squares.

    Examples
    --------
    >>> between(Offset((1.0, 2.0), (3.0, 0.0)), Offset((5.0, 2.0), (4.0, 1.0)))
    Offset(place=(4.0, 0.0), sd=(5.0, 1.0))
    """
    if first is None or second is None:
        return None
    moved = np.subtract(second.place, first.place)
    sd = np.hypot(first.sd, second.sd)
    return Offset((float(moved[0]), float(moved[1])), (float(sd[0]), float(sd[1])))
