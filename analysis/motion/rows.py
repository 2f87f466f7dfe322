"""Rows that turn the state of the motion into an offset or a defocus at a tilt and a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .assumptions import (
    BULGE,
    CONSTANT,
    DRIFT,
    FIXED,
    FOCUSED,
    HEIGHT,
    OFFSET,
    SIDEWAYS,
    Assumptions,
    Floats64,
)


class Stated(Protocol):
    """What the rows depend on: a :class:`.motion.Motion`."""

    assumptions: Assumptions
    angles_deg: list[float]
    reference_c: float | None


def offset_rows(
    motion: Stated, tilt_deg: Floats64, later_s: Floats64, temperature_c: float | None
) -> Floats64:
    """Rows for the offset without beam shift and without the displacement of the arrival.

    Parameters
    ----------
    motion : Motion
        Its angles, time constants and temperature of reference are used.
    tilt_deg, later_s : ndarray
        Tilts, and times from the present one on; shape (n,) both.
    temperature_c : float or None
        Of the specimen; None counts as the temperature of reference.

    Returns
    -------
    ndarray
        Shape (n, numbers of the state).
    """
    tilt = np.deg2rad(tilt_deg)
    rows = np.zeros((len(tilt), FIXED + len(motion.angles_deg)))
    warmer = _warmer(motion, temperature_c)
    rows[:, CONSTANT] = 1.0
    rows[:, OFFSET] = np.cos(tilt) - 1.0
    rows[:, HEIGHT] = np.sin(tilt)
    rows[:, BULGE] = warmer * np.sin(tilt)
    rows[:, SIDEWAYS] = warmer
    rows[:, DRIFT] = 1.0 - np.exp(
        -later_s[:, None] / np.array(motion.assumptions.drift_decay_s)[None, :]
    )
    if motion.angles_deg:
        known = np.array(motion.angles_deg)
        nearest = np.argmin(np.abs(known - np.asarray(tilt_deg)[:, None]), axis=1)
        rows[np.arange(len(tilt)), FIXED + nearest] = 1.0
    return rows


def defocus_rows(motion: Stated, tilt_deg: Floats64, temperature_c: float | None) -> Floats64:
    """Rows for the height of the specimen over the one in focus, shape (n, numbers of the state).

    The specimen stands at the height Z cos t - X sin t.
    """
    tilt = np.deg2rad(tilt_deg)
    rows = np.zeros((len(tilt), FIXED + len(motion.angles_deg)))
    rows[:, HEIGHT] = np.cos(tilt)
    rows[:, BULGE] = _warmer(motion, temperature_c) * np.cos(tilt)
    rows[:, OFFSET] = -np.sin(tilt)
    rows[:, FOCUSED] = -1.0
    return rows


def mixed(weights: Floats64, means: Floats64, variances: Floats64) -> tuple[Floats64, Floats64]:
    """Mean and variance of a mixture; hypotheses lie along the first axis."""
    mean = np.tensordot(weights, means, 1)
    return mean, np.tensordot(weights, variances + (means - mean) ** 2, 1)


def _warmer(motion: Stated, temperature_c: float | None) -> float:
    if temperature_c is None or motion.reference_c is None:
        return 0.0
    return temperature_c - motion.reference_c
