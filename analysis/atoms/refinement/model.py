"""The model of a tilt series of atoms: its parameters, and where each atom lies in each view.

Lengths are pixels and angles radians inside. With (x, y, z) of an atom counted from the centre of
the volume, view k shows it, counted from the centre of the image, at

    x' = x cos(tilt) + z sin(tilt)
    row    = y cos(r) + x' sin(r) + shift_row
    column = x' cos(r) - y sin(r) + shift_column

which is the convention of :mod:`pyrotome.analysis.alignment.resampling`; the offset of the tilt
axis is a part of the shifts that all views have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.arrays import Floats

Floats64 = NDArray[np.float64]
# Windows reach so many standard deviations of a peak.
REACH = 3.3
# Columns of the parameters of a view.
ROW, COLUMN, TILT, BACKGROUND, GAIN = range(5)


@dataclass(frozen=True)
class Views:
    """Recorded counts with a margin around each view.

    Attributes
    ----------
    counts : ndarray
        Float32, shape (views, rows, columns), counts as recorded, 0 in the margin.
    known : ndarray
        Bool, shape of `counts`: pixels that were measured; False in the margin.
    floor : ndarray
        Float32, shape of `counts`: expected counts of what is known beside the atoms.
    margin : int
        Pixels of the margin on every side.
    """

    counts: Floats
    known: NDArray[np.bool_]
    floor: Floats
    margin: int

    @property
    def size(self) -> int:
        """Number of views."""
        return len(self.counts)

    @property
    def centre(self) -> Floats64:
        """Centre of the recorded pixels, from the first pixel of the padded image."""
        return (np.array(self.counts.shape[1:], np.float64) - 1) / 2


def make_views(
    counts: NDArray[Any],
    margin: int,
    known: NDArray[np.bool_] | None = None,
    floor: NDArray[Any] | None = None,
) -> Views:
    """Pad a series; what is the same for all views is stored once."""
    pad = ((0, 0), (margin, margin), (margin, margin))
    padded = np.pad(np.asarray(counts, np.float32), pad)
    if known is None:
        known = np.ones((1, *counts.shape[1:]), np.bool_)
    seen = np.broadcast_to(np.pad(known, pad), padded.shape)
    given = np.zeros((1, 1, 1), np.float32) if floor is None else np.asarray(floor, np.float32)
    level = np.broadcast_to(given, (len(given), *counts.shape[1:]))
    beneath = np.broadcast_to(np.pad(level, pad), padded.shape)
    padded[~seen] = 0
    return Views(padded, seen, beneath, margin)


@dataclass(frozen=True)
class AtomModel:
    """Parameters of the model.

    Attributes
    ----------
    positions : ndarray
        Shape (atoms, 3): x, y, z in pixels from the centre of the volume.
    heights : ndarray
        Shape (atoms,): counts of an atom in a view, its tail apart.
    shifts : ndarray
        Shape (views, 2): along rows and columns, in pixels.
    tilt_rad : ndarray
        Shape (views,).
    rotation_rad : float
        Rotation of the tilt axis from the vertical.
    background : ndarray
        Shape (views,): counts of a pixel beside the atoms.
    log_gain : ndarray
        Shape (views,): logarithm of a view's beam current over the mean one.
    width : float
        Standard deviation of a peak in pixels.
    tail : float
        Counts in the wide part of a peak over those in the narrow one.
    tail_width : float
        Standard deviation, in pixels, of the Gaussian that makes the wide part of the narrow one.
    """

    positions: Floats64
    heights: Floats64
    shifts: Floats64
    tilt_rad: Floats64
    rotation_rad: float
    background: Floats64
    log_gain: Floats64
    width: float
    tail: float
    tail_width: float

    @property
    def size(self) -> int:
        """Number of atoms."""
        return len(self.heights)

    def with_atoms(self, positions: Floats64, heights: Floats64) -> AtomModel:
        """The same model with other atoms."""
        return replace(self, positions=positions, heights=heights)

    def moved(self, step: Step, share: float = 1.0) -> AtomModel:
        """The model after a step; heights stay positive."""
        views = share * step.views
        return replace(
            self,
            positions=self.positions + share * step.atoms[:, :3],
            heights=np.maximum(self.heights + share * step.atoms[:, 3], 0.1 * self.heights),
            shifts=self.shifts + views[:, :2],
            tilt_rad=self.tilt_rad + views[:, TILT],
            background=np.maximum(self.background + views[:, BACKGROUND], 0.0),
            log_gain=self.log_gain + views[:, GAIN],
            rotation_rad=self.rotation_rad + share * step.rotation,
        )


@dataclass
class Step:
    """A change of atoms (atoms, 4), views (views, 5) and rotation; also a gradient by them."""

    atoms: Floats64
    views: Floats64
    rotation: float = 0.0

    def dot(self, other: Step) -> float:
        """Sum of products."""
        return (
            float(np.vdot(self.atoms, other.atoms) + np.vdot(self.views, other.views))
            + self.rotation * other.rotation
        )

    def plus(self, other: Step, share: float = 1.0) -> Step:
        """Sum of this one and a share of another."""
        return Step(
            self.atoms + share * other.atoms,
            self.views + share * other.views,
            self.rotation + share * other.rotation,
        )


@dataclass(frozen=True)
class Places:
    """Where the atoms lie in one view, and how that changes."""

    rows: Floats64
    columns: Floats64
    jacobian: Floats64  # (2, 3): (row, column) by (x, y, z)
    by_tilt: Floats64  # (2, atoms)
    by_rotation: Floats64  # (2, atoms)
    gain: float = field(default=1.0)


def places(model: AtomModel, view: int, centre: Floats64) -> Places:
    """Project the atoms into one view.

    Parameters
    ----------
    model : AtomModel
        The model.
    view : int
        Index of the view.
    centre : ndarray
        Shape (2,): row and column to which the centre of the volume projects without shift.

    Returns
    -------
    Places
        Rows, columns and their derivatives, in pixels and pixels per radian.
    """
    tilt, rotation = float(model.tilt_rad[view]), model.rotation_rad
    cos_t, sin_t = math.cos(tilt), math.sin(tilt)
    cos_r, sin_r = math.cos(rotation), math.sin(rotation)
    x, y, z = model.positions.T
    across, depth = x * cos_t + z * sin_t, z * cos_t - x * sin_t
    rows, columns = y * cos_r + across * sin_r, across * cos_r - y * sin_r
    shift = model.shifts[view] + centre
    jacobian = np.array(
        [[sin_r * cos_t, cos_r, sin_r * sin_t], [cos_r * cos_t, -sin_r, cos_r * sin_t]]
    )
    return Places(
        rows + shift[0],
        columns + shift[1],
        jacobian,
        np.stack([depth * sin_r, depth * cos_r]),
        np.stack([columns, -rows]),
        math.exp(float(model.log_gain[view])),
    )


def window(width: float) -> tuple[int, int]:
    """Rows and columns of the window of a peak."""
    tall = 2 * math.ceil(REACH * width) + 1
    return tall, -(-tall // 8) * 8


def margin_for(width: float) -> int:
    """Margin with which an atom at the border of a view lies within the padded image."""
    return window(1.3 * width)[1]
