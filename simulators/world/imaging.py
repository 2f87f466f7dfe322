"""What the beam sees at one moment: where the image of the specimen is, and how far out of focus.

Image position = specimen, shifted and turned by the goniometer and the chip's membrane, in the
direction of the scan, and shifted by the beam deflectors. Defocus = height of the specimen along
the beam, less the height in focus; both count from where they were at first, at tilt 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .deflectors import rotated
from .present import Present

if TYPE_CHECKING:
    from .scan import Exposure

# Moments of a frame at which the position is computed; rows lie between them.
_KNOTS = 9
# Rows that lie elsewhere than they were drawn by less than this need not be drawn again.
_UNSEEN_NM = 0.05


@dataclass(frozen=True)
class ImagingState:
    """What the beam sees at one moment.

    Attributes
    ----------
    shift_nm : tuple of float
        Displacement (y, x) of the image.
    equivalent_s : float
        Time at 350 degC that would have sintered as much.
    field_nm : float
        Width of the scanned field.
    defocus_nm : float
        Height of the specimen over the plane in focus.
    axis_deg : float
        Direction of the tilt axis in the image, counter-clockwise from the columns in a picture
        with its first row at the bottom.
    rows_nm : ndarray of float64, shape (rows, 2), or None
        Displacement (y, x) of each row of a frame at its own time; None: all as `shift_nm`.
    pitch_nm : float or None
        Distance in x and y at which the specimen repeats itself, by a fault.
    """

    t_ns: int
    tilt_deg: float
    shift_nm: tuple[float, float]
    temperature_c: float
    equivalent_s: float
    field_nm: float
    electrons_per_s: float
    defocus_nm: float = 0.0
    axis_deg: float = 0.0
    rows_nm: NDArray[np.float64] | None = None
    pitch_nm: float | None = None

    def looks_like(self, other: ImagingState) -> bool:
        """Whether a frame of either would show the rows at the same places."""
        if self.rows_nm is None or other.rows_nm is None:
            return self.rows_nm is other.rows_nm
        return bool(np.abs(self.rows_nm - other.rows_nm).max() < _UNSEEN_NM)


@dataclass(frozen=True)
class ImageTruth:
    """Where the image truly is, to compare a tracker with.

    Attributes
    ----------
    offset_nm : tuple of float
        Displacement (y, x) of the specimen in the image.
    deflected_nm : tuple of float
        The part of it that the beam deflectors make.
    defocus_nm : float
        Height of the specimen over the plane in focus.
    axis_deg : float
        Direction of the tilt axis in the image, as in `ImagingState`.
    """

    t_ns: int
    tilt_deg: float
    offset_nm: tuple[float, float]
    deflected_nm: tuple[float, float]
    defocus_nm: float
    axis_deg: float


def image_truth(present: Present, t_ns: int) -> ImageTruth:
    """The truth now, or a short while ago; the caller holds the lock."""
    temperature_c, _, holder_c = present.chip.at(t_ns)
    rise_nm = present.membrane.rise_nm(temperature_c)
    stage, optics = present.stage, present.column.optics
    axis_deg = stage.config.axis_turn_deg - optics.rotation_deg
    y, x = stage.shift_nm(t_ns, holder_c, rise_nm)
    aside_y, aside_x = present.membrane.offset_nm(t_ns)
    y, x = rotated(y + aside_y, x + aside_x, axis_deg)
    deflected_y, deflected_x = optics.image_shift_nm(t_ns)
    return ImageTruth(
        t_ns,
        stage.true_tilt_deg(t_ns),
        (y + deflected_y, x + deflected_x),
        (deflected_y, deflected_x),
        stage.height_nm(t_ns, rise_nm) - optics.focus_nm,
        axis_deg,
    )


def imaging_state(
    present: Present, t_ns: int, exposure: Exposure | None = None, pitch_nm: float | None = None
) -> ImagingState:
    """What the beam sees now, or a short while ago; the caller holds the lock.

    Parameters
    ----------
    present : Present
        The world.
    t_ns : int
        When.
    exposure : Exposure, optional
        The scan whose rows are to be placed; the rest of one under way goes on as it is now.
    pitch_nm : float, optional
        At which the specimen repeats itself.
    """
    temperature_c, equivalent_s, _ = present.chip.at(t_ns)
    truth = image_truth(present, t_ns)
    rows_nm = None
    if exposure is not None and present.column.config.rolling:
        rows_nm = _rows_nm(present, exposure)
    return ImagingState(
        t_ns,
        truth.tilt_deg,
        truth.offset_nm,
        temperature_c,
        equivalent_s,
        present.column.field_nm,
        present.column.electrons_per_s,
        truth.defocus_nm,
        truth.axis_deg,
        rows_nm,
        pitch_nm,
    )


def _rows_nm(present: Present, exposure: Exposure) -> NDArray[np.float64]:
    rows = exposure.shape[0]
    span = exposure.end_ns - exposure.start_ns
    shares = np.linspace(0.0, 1.0, _KNOTS)
    at = [image_truth(present, exposure.start_ns + int(s * span)).offset_nm for s in shares]
    where = np.array(at)
    middles = (np.arange(rows) + 0.5) / rows
    return np.stack([np.interp(middles, shares, where[:, k]) for k in (0, 1)], axis=1)
