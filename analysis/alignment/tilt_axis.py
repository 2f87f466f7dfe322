"""Where the tilt axis lies in a series whose shifts are taken out: its offset and its turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import checked_series
from .preparation import prepared
from .projection_matching import match_projections
from .registration import centre_of_mass
from .resampling import Axis

__all__ = ["Axis", "axis_through_mass", "find_axis"]


def axis_through_mass(
    images: NDArray[Any], shifts_px: NDArray[Any], binning: int, rotation_deg: float = 0.0
) -> Axis:
    """Axis through the middle of the specimen: right where the shifts keep its mass in place.

    Registered with one another, images show a specimen that does not move on the whole; only one
    that lies on the axis does so.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    shifts_px : ndarray
        Shape (n, 2).
    binning : int
        Binning at which the mass is weighed.
    rotation_deg : float
        Taken over.

    Returns
    -------
    Axis
        Offset: the median over the images of their centre of mass less their shift.
    """
    centres = [centre_of_mass(image) * binning for image in prepared(images, binning)]
    return Axis(float(np.median(np.array(centres) - shifts_px[:, 1])), rotation_deg)


def find_axis(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    *,
    start: Axis | None = None,
    rounds: int = 30,
    report: Callable[[float], None] | None = None,
) -> Axis:
    """Find the tilt axis of a series that needs no shifts any more.

    The axis is moved and turned until the images agree with the projections of their volume
    (`match.match_projections` with the axis alone left free).

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns); the specimen stays where the tilting leaves it.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing.
    start : Axis, optional
        First guess; the middle of the images without it.
    rounds : int
        How often volume and axis are improved.
    report : callable, optional
        Is told the finished fraction after each round.

    Returns
    -------
    Axis
        `warp` says what offset and rotation mean.

    Raises
    ------
    ValueError
        If images and angles do not belong together or hold NaN.
    """
    images, tilts = checked_series(images, tilt_deg)
    return match_projections(
        images, tilts, np.zeros((len(images), 2)), start or Axis(),
        rounds=rounds, axis_only=True, report=report,
    ).axis  # fmt: skip
