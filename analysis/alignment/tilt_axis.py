"""Offset and rotation of the tilt axis in a series whose shifts are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats, checked_series
from .preparation import prepared_series
from .projection_matching import match_projections
from .registration import centre_of_mass
from .resampling import TiltAxis

__all__ = ["TiltAxis", "axis_through_mass", "find_axis"]


def axis_through_mass(
    images: NDArray[Any],
    shifts_px: NDArray[Any],
    binning: int,
    rotation_deg: float = 0.0,
    weights: Floats | None = None,
) -> TiltAxis:
    """Place the tilt axis through the centre of the specimen's mass.

    That is right for shifts from pairwise registration, which keep the mass in place: only a
    mass on the axis stays in place while the specimen tilts.

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns).
    shifts_px : ndarray
        Shape (n, 2), along rows and columns, in pixels.
    binning : int
        Binning at which the centres of mass are measured.
    rotation_deg : float
        Rotation of the axis, within 45 deg of upright; passed through to the result.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1.

    Returns
    -------
    TiltAxis
        Its offset is the median over the images of centre of mass minus shift, across the axis.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((3, 16, 17))
    >>> images[:, 4:12, 9:12] = 1
    >>> axis = axis_through_mass(images, np.zeros((3, 2)), 1)
    >>> round(axis.offset_px, 1)
    2.0
    """
    small, _ = prepared_series(images, weights, binning)
    centres = [centre_of_mass(image) * binning for image in small]
    across = np.array(centres) - shifts_px[:, 1]
    if rotation_deg:
        down = np.array([centre_of_mass(image.T) * binning for image in small]) - shifts_px[:, 0]
        rotation_rad = np.deg2rad(rotation_deg)
        across = across * np.cos(rotation_rad) + down * np.sin(rotation_rad)
    return TiltAxis(float(np.median(across)), rotation_deg)


def find_axis(
    images: NDArray[Any],
    tilt_deg: NDArray[Any],
    *,
    start: TiltAxis | None = None,
    rounds: int = 30,
    weights: NDArray[Any] | None = None,
    progress: Callable[[float], None] | None = None,
) -> TiltAxis:
    """Find the tilt axis of a series that is free of shifts.

    Offset and rotation are refined until the images agree with the reprojections of their volume
    (:func:`.match_projections` with `axis_only`).

    Parameters
    ----------
    images : ndarray
        Shape (n, rows, columns), without shifts: only the tilt moves the specimen.
    tilt_deg : ndarray
        Angles in degrees, shape (n,), in any order and spacing.
    start : TiltAxis, optional
        First guess; by default the centre of the images, upright.
    rounds : int
        Most rounds of refinement.
    weights : ndarray, optional
        Share of each pixel that was measured, shape of the images, 0 to 1; by default all 1.
    progress : callable, optional
        Called with the finished fraction after each round.

    Returns
    -------
    TiltAxis
        Offset and rotation, see :mod:`.resampling`.

    Raises
    ------
    ValueError
        If images and angles do not belong together or hold NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrotome.analysis.tomography import project
    >>> volume = np.zeros((24, 24, 24), np.float32)
    >>> volume[6:18, 9:15, 8:16] = 1
    >>> tilt_deg = np.arange(-60.0, 61.0, 20.0)
    >>> axis = find_axis(project(volume, tilt_deg), tilt_deg, rounds=3)
    >>> abs(axis.offset_px) < 0.5
    True
    """
    images, tilts = checked_series(images, tilt_deg)
    return match_projections(
        images, tilts, np.zeros((len(images), 2)), start or TiltAxis(),
        rounds=rounds, axis_only=True, weights=weights, progress=progress,
    ).axis  # fmt: skip
