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
    cosine, sine = math.cos(model.rotation_rad), math.sin(model.rotation_rad)
    along = shifts[:, 0] * cosine - shifts[:, 1] * sine
    across = shifts[:, 0] * sine + shifts[:, 1] * cosine
    ones = np.ones(len(shifts))
    columns = np.stack([np.cos(model.tilt_rad), np.sin(model.tilt_rad), ones], axis=1)
    solution = np.linalg.lstsq(columns, across, rcond=1e-6)[0]
    return np.array([solution[0], along.mean(), solution[1]]), float(solution[2])


def normalised(model: AtomModel) -> AtomModel:
    """The same model with displacements of the whole specimen in its atoms, not in the shifts."""
    move, _ = common_motion(model.shifts, model)
    cosine, sine = math.cos(model.rotation_rad), math.sin(model.rotation_rad)
    across = move[0] * np.cos(model.tilt_rad) + move[2] * np.sin(model.tilt_rad)
    shifts = np.stack([move[1] * cosine + across * sine, across * cosine - move[1] * sine], axis=1)
    return replace(model, positions=model.positions + move, shifts=model.shifts - shifts)
