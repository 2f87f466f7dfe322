"""The method ``common-lines`` of the step ``align``: views put on the axis by what they count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.steps import Series, View
from ..alignment.common_lines import common_lines_shifts
from ..alignment.resampling import TiltAxis, apply_alignment
from ..core.arrays import Floats
from ..core.weights import checked_weights, every_pixel
from ..views.counts import count_series

Floats64 = NDArray[np.float64]


@dataclass(frozen=True)
class CommonLines:
    """Alignment by common lines along the axis and centres of mass across it.

    Attributes
    ----------
    shifts_px, sd_px : ndarray
        Shape (views, 2), along rows and columns: where the specimen is, and the standard
        deviations.
    axis : TiltAxis
        The axis; the centres of mass lie on it.
    """

    shifts_px: Floats64
    sd_px: Floats64
    axis: TiltAxis


def centred_view(view: View, rotation_deg: float) -> None:
    """Put the centre of mass of a view into its centre, for the live results.

    Raises
    ------
    ValueError
        If the view shows nothing above its background.
    """
    if view.frames is None:
        return
    data = count_series([view.frames])
    axis = TiltAxis(0.0, rotation_deg)
    tilts = np.array([view.tilt_deg])
    shifts, _ = common_lines_shifts(data.counts, tilts, axis, known=data.known)
    images, shares = _applied(view.image[None], view.weights, shifts, axis)
    view.image, view.weights = images[0], None if shares is None else shares[0]
    view.shift_px = float(shifts[0, 0]), float(shifts[0, 1])
    view.axis_deg = rotation_deg


def align_series(series: Series, rotation_deg: float) -> CommonLines:
    """Find the shifts of a series from its counts, and move its images by them.

    Parameters
    ----------
    series : Series
        Its images, weights and recorded images are moved; its counts are not.
    rotation_deg : float
        Direction of the tilt axis, as :class:`TiltAxis` has it.

    Returns
    -------
    CommonLines
        The alignment, in pixels of the images.

    Raises
    ------
    ValueError
        If a view shows nothing above its background.
    """
    data = count_series(series.frames or ())
    axis = TiltAxis(0.0, rotation_deg)
    shifts, sd = common_lines_shifts(data.counts, series.tilt_deg, axis, known=data.known)
    series.images, series.weights = _applied(series.images, series.weights, shifts, axis)
    if series.recorded is not None:
        shape = (series.images.shape[1], series.images.shape[2])
        series.recorded = apply_alignment(series.recorded, shifts, axis, shape=shape)
    series.shifts_px, series.shift_sd_px = shifts, sd
    series.axis_offset_px, series.axis_rotation_deg = 0.0, rotation_deg
    return CommonLines(shifts, sd, axis)


def _applied(
    images: Floats, weights: Floats | None, shifts: Floats64, axis: TiltAxis
) -> tuple[Floats, Floats | None]:
    given = every_pixel(images.shape) if weights is None else weights.reshape(images.shape)
    shape = (images.shape[1], images.shape[2])
    made, shares = apply_alignment(images, shifts, axis, given, shape=shape)
    return made, checked_weights(shares, shares.shape)
