"""What the shifts of a fitted series have in common: a displacement of the specimen, and the axis.

A displacement (x, y, z) of the specimen moves view k across the axis by x cos(tilt) + z sin(tilt)
and along it by y. What all views share beyond that is the offset of the tilt axis.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .model import AtomModel, Floats64


def common_motion(shifts: Floats64, model: AtomModel) -> tuple[Floats64, float]:
    """Displacement of the specimen and offset of the axis that explain shifts best.

    Parameters
    ----------
    shifts : ndarray
        Shape (views, 2): along rows and columns, in pixels.
    model : AtomModel
        Gives tilts and rotation of the axis.

    Returns
    -------
    displacement : ndarray
        Shape (3,): x, y, z in pixels.
    offset : float
        Offset of the tilt axis in pixels.
    """
    return _motion(shifts, model.tilt_rad, model.rotation_rad)


def displacement_shifts(shifts: Floats64, tilt_rad: Floats64, rotation_rad: float) -> Floats64:
    """The part of shifts (views, 2) that a displacement of the whole specimen explains."""
    move, _ = _motion(shifts, tilt_rad, rotation_rad)
    cosine, sine = math.cos(rotation_rad), math.sin(rotation_rad)
    across = move[0] * np.cos(tilt_rad) + move[2] * np.sin(tilt_rad)
    return np.stack([move[1] * cosine + across * sine, across * cosine - move[1] * sine], axis=1)


def normalised(model: AtomModel) -> AtomModel:
    """The same model with displacements of the whole specimen in its atoms, not in the shifts."""
    move, _ = common_motion(model.shifts, model)
    shifts = displacement_shifts(model.shifts, model.tilt_rad, model.rotation_rad)
    return replace(model, positions=model.positions + move, shifts=model.shifts - shifts)


def _motion(shifts: Floats64, tilt_rad: Floats64, rotation_rad: float) -> tuple[Floats64, float]:
    cosine, sine = math.cos(rotation_rad), math.sin(rotation_rad)
    along = shifts[:, 0] * cosine - shifts[:, 1] * sine
    across = shifts[:, 0] * sine + shifts[:, 1] * cosine
    columns = np.stack([np.cos(tilt_rad), np.sin(tilt_rad), np.ones(len(shifts))], axis=1)
    solution = np.linalg.lstsq(columns, across, rcond=1e-6)[0]
    return np.array([solution[0], along.mean(), solution[1]]), float(solution[2])
