"""Alignment good enough to look at, view by view, before the last view is there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.arrays import Floats
from .pairwise import Method, OnlineRegistration
from .registration import centre_of_mass
from .resampling import Axis, apply_alignment

Floats64 = NDArray[np.float64]
# Voxels along (y, z, x).
Displacement = tuple[float, float, float]
NO_DISPLACEMENT: Displacement = (0.0, 0.0, 0.0)
# Range of the cosines of the tilts from which a displacement can be told from the axis's offset.
_LEAST_COSINES = 0.02


@dataclass(frozen=True)
class KnownAlignment:
    """What the series before has left: axis, shift of every view by its place, and thickness."""

    axis: Axis
    shifts_px: Mapping[int, Floats64]
    thickness_px: int | None = None


class CoarseAlignment:
    """Shifts from one view to its neighbour in tilt, about the axis of the series before.

    Parameters
    ----------
    method : str
        How views are registered, see `pairwise.register_pair`.
    known : KnownAlignment, optional
        Without it, the axis goes through the middle of the mass in the first view.
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
        """Shifts of the views so far, shape (views, 2), in the order in which they came."""
        return np.array(self._shifts).reshape(-1, 2)

    def add_view(self, number: int, place: int, image: Floats, tilt_deg: float) -> Floats:
        """Take in a view.

        Parameters
        ----------
        number : int
            Of the view in the series that will be aligned as a whole.
        place : int
            Place among the asked angles.
        image : ndarray
            Shape (rows, columns).
        tilt_deg : float
            Its angle.

        Returns
        -------
        ndarray
            The view, moved and turned to where the others are.

        Raises
        ------
        ValueError
            If it cannot be registered; it is then left out here.
        """
        self.registration.add(number, tilt_deg, image)
        if self._axis is None:
            self._axis = Axis(centre_of_mass(image - np.percentile(image, 10)))
        if not self._numbers:
            known = self._known.shifts_px.get(place) if self._known is not None else None
            shift = np.zeros(2) if known is None else np.asarray(known, np.float64)
        else:
            nearest = int(np.argmin(np.abs(np.array(self._tilts) - tilt_deg)))
            steps = self.registration.pair_shifts([self._numbers[nearest], number])
            sign, step = (1, steps[0, 1]) if (0, 1) in steps else (-1, steps[1, 0])
            shift = self._shifts[nearest] + sign * step
        self._numbers.append(number)
        self._tilts.append(tilt_deg)
        self._shifts.append(shift)
        return apply_alignment(image[None], shift[None], self._axis)[0]

    def displacement_to(self, shifts_px: Floats64, axis: Axis) -> Displacement:
        """How far the specimen lies, in a better alignment, from where this one showed it.

        Parameters
        ----------
        shifts_px : ndarray
            Shape (views, 2), by the numbers of the views.
        axis : Axis
            The better axis.
        """
        if self._axis is None:
            return NO_DISPLACEMENT
        before = displacements(self.shifts_px, self._axis)
        after = displacements(shifts_px[self._numbers], axis)
        return displacement_between(before, after, np.array(self._tilts))


def displacements(shifts_px: Floats64, axis: Axis) -> Floats64:
    """How far an alignment moves each image: along the axis, and across it with the offset."""
    turn_rad = math.radians(axis.rotation_deg)
    along = shifts_px @ [math.cos(turn_rad), -math.sin(turn_rad)]
    across = shifts_px @ [math.sin(turn_rad), math.cos(turn_rad)] + axis.offset_px
    return np.column_stack([along, across])


def displacement_between(before: Floats64, after: Floats64, tilt_deg: Floats64) -> Displacement:
    """How far the specimen of one alignment lies from that of another.

    Parameters
    ----------
    before, after : ndarray
        :func:`displacements` of both, shape (n, 2).
    tilt_deg : ndarray
        Angles, shape (n,).

    Returns
    -------
    tuple of float
        Along (y, z, x). An image that is moved further shows a specimen that lies the other way.
    """
    moved, tilts = after - before, np.deg2rad(tilt_deg)
    # What is constant across the axis is the axis's own move.
    terms = np.column_stack([np.cos(tilts), np.sin(tilts), np.ones_like(tilts)])
    if len(tilts) < terms.shape[1] or np.ptp(np.cos(tilts)) < _LEAST_COSINES:
        terms = terms[:, :1]
    across = np.linalg.lstsq(terms, moved[:, 1])[0]
    z = float(across[1]) if len(across) > 1 else 0.0
    return -float(moved[:, 0].mean()), -z, -float(across[0])
