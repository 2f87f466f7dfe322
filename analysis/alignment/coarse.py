"""Coarse alignment: view by view while a series is recorded, good enough for a preview."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from ..core.offsets import Offset, between
from ..core.weights import checked_weights, every_pixel, filled
from .axis_choice import NEARLY_UPRIGHT_DEG, ToldAxis
from .displacement import (
    NO_DISPLACEMENT,
    Displacement,
    directions,
    displacement_between,
    displacements,
)
from .pairwise import Method, OnlineRegistration
from .registration import centre_of_mass
from .resampling import TiltAxis, apply_alignment

Floats64 = NDArray[np.float64]

# A live preview about an axis further from the right one shows another object.
_SAME_DIRECTION_DEG = 12.0


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
    as_previewed : bool
        Whether the views of that series were shown about nearly the same axis as they arrived.
    offsets : mapping
        Where the specimen was measured to be in each view, in pixels, by the same index.
    """

    axis: TiltAxis
    shifts_px: Mapping[int, Floats64]
    thickness_px: int | None = None
    as_previewed: bool = True
    offsets: Mapping[int, Offset] = field(default_factory=dict[int, Offset])


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
    told : ToldAxis, optional
        Direction of the axis of the first series, where it is known; upright without it.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((32, 32), np.float32)
    >>> image[8:20, 12:20] = 1
    >>> coarse = CoarseAlignment("phase-correlation", KnownAlignment(TiltAxis(), {}))
    >>> aligned, weights = coarse.add_view(0, 0, image, -2.0)
    >>> aligned, weights = coarse.add_view(1, 1, np.roll(image, 3, axis=0), 0.0)
    >>> [round(float(shift)) for shift in coarse.shifts_px[:, 0]]
    [0, 3]
    """

    def __init__(
        self,
        method: Method,
        known: KnownAlignment | None = None,
        told: ToldAxis | None = None,
    ) -> None:
        self.registration = OnlineRegistration(method)
        self._known = known
        self._axis = known.axis if known is not None else None
        start_deg = told.rotation_deg if told is not None else 0.0
        self._rotation_deg = known.axis.rotation_deg if known is not None else start_deg
        # The centre of mass is registered across the axis, in images that are turned upright.
        self._turned = method == "centre-of-mass" and abs(self._rotation_deg) > NEARLY_UPRIGHT_DEG
        self._numbers: list[int] = []
        self._tilts: list[float] = []
        self._shifts: list[Floats64] = []

    @property
    def shifts_px(self) -> Floats64:
        """Shifts of the views so far in pixels, shape (views, 2), in their order of arrival."""
        return np.array(self._shifts).reshape(-1, 2)

    @property
    def axis(self) -> TiltAxis | None:
        """The axis about which views are shown; None before the first."""
        return self._axis

    def add_view(
        self,
        number: int,
        tilt_index: int,
        image: Floats,
        tilt_deg: float,
        weights: Floats | None = None,
        offset: Offset | None = None,
    ) -> tuple[Floats, Floats | None]:
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
        weights : ndarray, optional
            Share of each pixel that was measured, shape (rows, columns), 0 to 1; by default all
            1. A pixel of weight 0 has no influence.
        offset : Offset, optional
            Where the specimen is in the image, in pixels, if that was measured: the registration
            then starts from there.

        Returns
        -------
        image : ndarray
            Float32, shape (rows, columns): the view, shifted and rotated onto the other views.
        weights : ndarray or None
            Those of its pixels, 0 where the view did not reach; None where all are 1.

        Raises
        ------
        ValueError
            If the view cannot be registered; it is left out of the coarse alignment.
        """
        self._register(number, tilt_deg, image, weights, offset)
        if self._axis is None:
            self._axis = self._through_mass(image if weights is None else filled(image, weights))
        if not self._numbers:
            shift = self._first_shift(tilt_index, offset)
        else:
            nearest = int(np.argmin(np.abs(np.array(self._tilts) - tilt_deg)))
            pairs = self.registration.pair_shifts([self._numbers[nearest], number])
            sign, step = (1, pairs[0, 1]) if (0, 1) in pairs else (-1, pairs[1, 0])
            if self._turned:
                along, across = directions(self._rotation_deg)
                step = step[0] * along + step[1] * across
            shift = self._shifts[nearest] + sign * step
        self._numbers.append(number)
        self._tilts.append(tilt_deg)
        self._shifts.append(shift)
        given = every_pixel(image.shape) if weights is None else weights
        shape = (image.shape[0], image.shape[1])
        made, shares = apply_alignment(
            image[None], shift[None], self._axis, given[None], shape=shape
        )
        return made[0], checked_weights(shares[0], image.shape)

    def _first_shift(self, tilt_index: int, offset: Offset | None) -> Floats64:
        """Shift of the first view: that which the series before had, and what moved since."""
        if self._known is None or tilt_index not in self._known.shifts_px:
            return np.zeros(2)
        shift = np.asarray(self._known.shifts_px[tilt_index], np.float64)
        moved = between(self._known.offsets.get(tilt_index), offset)
        return shift if moved is None else shift + moved.place

    def _register(
        self,
        number: int,
        tilt_deg: float,
        image: Floats,
        weights: Floats | None,
        offset: Offset | None,
    ) -> None:
        if self._turned:
            still, upright = np.zeros((1, 2)), TiltAxis(0.0, self._rotation_deg)
            given = every_pixel(image.shape) if weights is None else weights
            made, shares = apply_alignment(image[None], still, upright, given[None])
            image, weights = made[0], shares[0]
            offset = None if offset is None else offset.along(*directions(self._rotation_deg))
        self.registration.add(number, tilt_deg, image, weights, offset)

    def _through_mass(self, image: Floats) -> TiltAxis:
        """The axis through the centre of mass of an image."""
        level = image - np.percentile(image, 10)
        if self._rotation_deg == 0:
            return TiltAxis(centre_of_mass(level))
        _, across = directions(self._rotation_deg)
        offset_px = across @ [centre_of_mass(level.T), centre_of_mass(level)]
        return TiltAxis(float(offset_px), self._rotation_deg)

    def pair_shifts(
        self, count: int, offsets: Sequence[Offset | None] | None = None
    ) -> dict[tuple[int, int], Floats64]:
        """Shifts between neighbours in tilt, for the alignment of the first `count` views.

        With `offsets`, those that were registered before an offset was known are left out.
        """
        return {} if self._turned else self.registration.pair_shifts(range(count), offsets)

    def shows(self, axis: TiltAxis) -> bool:
        """Whether the views were shown about nearly the direction of this axis."""
        turn_deg = math.remainder(axis.rotation_deg - self._rotation_deg, 360.0)
        return abs(turn_deg) < _SAME_DIRECTION_DEG

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
        if self._axis is None or not self.shows(axis):
            return NO_DISPLACEMENT
        before = displacements(self.shifts_px, self._axis)
        after = displacements(shifts_px[self._numbers], axis)
        return displacement_between(before, after, np.array(self._tilts))
