"""Coarse alignment: view by view while a series is recorded, good enough for a preview."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from .pairwise import Method, OnlineRegistration
from .registration import centre_of_mass
from .resampling import TiltAxis, apply_alignment

Floats64 = NDArray[np.float64]
# Voxels along (y, z, x).
Displacement = tuple[float, float, float]
NO_DISPLACEMENT: Displacement = (0.0, 0.0, 0.0)
# A displacement differs from the offset of the axis if the cosines of the tilts span this much.
_MIN_COSINE_SPAN = 0.02


@dataclass(frozen=True)
class KnownAlignment:
    """Alignment of the previous series.

    Attributes
    ----------
    axis : TiltAxis
        The tilt axis.
    shifts_px : mapping
        Shift along (rows, columns) of each view, by its index among the requested tilts.
    thickness_px : int or None
        Thickness of the specimen.
    """

    axis: TiltAxis
    shifts_px: Mapping[int, Floats64]
    thickness_px: int | None = None


class CoarseAlignment:
    """Coarse alignment of a series while it is recorded.

    Each view is registered with its neighbour in tilt and placed about the axis of the previous
    series.

    Parameters
    ----------
    method : str
        Method of the pairwise registration, see :func:`.pairwise.register_pair`.
    known : KnownAlignment, optional
        Alignment of the previous series. Without it the axis goes through the centre of mass of
        the first view.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((32, 32), np.float32)
    >>> image[8:20, 12:20] = 1
    >>> coarse = CoarseAlignment("phase-correlation", KnownAlignment(TiltAxis(), {}))
    >>> aligned = coarse.add_view(0, 0, image, -2.0)
    >>> aligned = coarse.add_view(1, 1, np.roll(image, 3, axis=0), 0.0)
    >>> [round(float(shift)) for shift in coarse.shifts_px[:, 0]]
    [0, 3]
    """

    def __init__(self, method: Method, known: KnownAlignment | None = None) -> None:
        self.registration = OnlineRegistration(method)
        self._known = known
        self._axis = known.axis if known is not None else None
        self._numbers: list[int] = []
        self._tilts: list[float] = []
        self._shifts: list[Floats64] = []

    @property
    def shifts_px(self) -> Floats64:
        """Shifts of the views so far in pixels, shape (views, 2), in their order of arrival."""
        return np.array(self._shifts).reshape(-1, 2)

    def add_view(self, number: int, tilt_index: int, image: Floats, tilt_deg: float) -> Floats:
        """Add a view.

        Parameters
        ----------
        number : int
            Number of the view in the series that is aligned later as a whole.
        tilt_index : int
            Index among the requested tilts.
        image : ndarray
            Shape (rows, columns).
        tilt_deg : float
            Tilt angle in degrees.

        Returns
        -------
        ndarray
            Float32, shape (rows, columns): the view, shifted and rotated onto the other views.

        Raises
        ------
        ValueError
            If the view cannot be registered; it is left out of the coarse alignment.
        """
        self.registration.add(number, tilt_deg, image)
        if self._axis is None:
            self._axis = TiltAxis(centre_of_mass(image - np.percentile(image, 10)))
        if not self._numbers:
            known = self._known.shifts_px.get(tilt_index) if self._known is not None else None
            shift = np.zeros(2) if known is None else np.asarray(known, np.float64)
        else:
            nearest = int(np.argmin(np.abs(np.array(self._tilts) - tilt_deg)))
            pairs = self.registration.pair_shifts([self._numbers[nearest], number])
            sign, step = (1, pairs[0, 1]) if (0, 1) in pairs else (-1, pairs[1, 0])
            shift = self._shifts[nearest] + sign * step
        self._numbers.append(number)
        self._tilts.append(tilt_deg)
        self._shifts.append(shift)
        return apply_alignment(image[None], shift[None], self._axis)[0]

    def displacement_to(self, shifts_px: Floats64, axis: TiltAxis) -> Displacement:
        """Displacement of the specimen from this alignment to a better one.

        Parameters
        ----------
        shifts_px : ndarray
            Better shifts, shape (views, 2), by the numbers of the views.
        axis : TiltAxis
            Better axis.

        Returns
        -------
        tuple of float
            Along (y, z, x), in voxels.
        """
        if self._axis is None:
            return NO_DISPLACEMENT
        before = displacements(self.shifts_px, self._axis)
        after = displacements(shifts_px[self._numbers], axis)
        return displacement_between(before, after, np.array(self._tilts))


def displacements(shifts_px: Floats64, axis: TiltAxis) -> Floats64:
    """How far an alignment moves each image, along and across the tilt axis.

    Parameters
    ----------
    shifts_px : ndarray
        Shape (n, 2), along rows and columns.
    axis : TiltAxis
        The tilt axis.

    Returns
    -------
    ndarray
        Shape (n, 2): along the axis, and across it with the offset of the axis, in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> displacements(np.array([[1.0, 2.0]]), TiltAxis(0.5))
    array([[1. , 2.5]])
    """
    rotation_rad = math.radians(axis.rotation_deg)
    along = shifts_px @ [math.cos(rotation_rad), -math.sin(rotation_rad)]
    across = shifts_px @ [math.sin(rotation_rad), math.cos(rotation_rad)] + axis.offset_px
    return np.column_stack([along, across])


def displacement_between(before: Floats64, after: Floats64, tilt_deg: Floats64) -> Displacement:
    """Displacement of the specimen between two alignments of the same images.

    Parameters
    ----------
    before, after : ndarray
        :func:`displacements` of both alignments, shape (n, 2), in pixels.
    tilt_deg : ndarray
        Angles in degrees, shape (n,).

    Returns
    -------
    tuple of float
        Along (y, z, x), in voxels. A larger displacement of an image moves the specimen in the
        opposite direction.

    Examples
    --------
    >>> import numpy as np
    >>> before = np.zeros((3, 2))
    >>> found = displacement_between(before, before + [2.0, 0.0], np.array([-1.0, 0.0, 1.0]))
    >>> [round(part) for part in found]
    [-2, 0, 0]
    """
    moved, tilts = after - before, np.deg2rad(tilt_deg)
    # The constant term across the axis is the displacement of the axis itself.
    terms = np.column_stack([np.cos(tilts), np.sin(tilts), np.ones_like(tilts)])
    if len(tilts) < terms.shape[1] or np.ptp(np.cos(tilts)) < _MIN_COSINE_SPAN:
        terms = terms[:, :1]
    across = np.linalg.lstsq(terms, moved[:, 1])[0]
    z = float(across[1]) if len(across) > 1 else 0.0
    return -float(moved[:, 0].mean()), -z, -float(across[0])
