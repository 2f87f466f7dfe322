"""What the model has learned, in the words of a microscopist: for the file and for people."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .assumptions import (
    DRIFT_MEAN,
    ERROR_X,
    ERROR_Y,
    FIXED,
    HEIGHT,
    HYSTERESIS,
    OFFSET,
    Floats64,
    X,
)
from .motion import Motion
from .rows import mixed


@dataclass(frozen=True)
class LearnedMotion:
    """Figures of a column and a specimen, each with its standard deviation.

    Attributes
    ----------
    height_nm, height_sd_nm : float
        Of the specimen over the tilt axis, at zero tilt.
    axis_offset_nm, axis_offset_sd_nm : float
        Of the specimen from the tilt axis, across it.
    jitter_nm : float
        Displacement that is new at each arrival, rms of one axis.
    course_nm : ndarray
        Shape (angles, 2), (y, x): displacement that comes back at each angle.
    course_sd_nm : ndarray
        Its standard deviation.
    angles_deg : tuple of float
        Those angles, rising.
    drift_nm, drift_sd_nm : tuple of float
        Mean way (y, x) of the drift after a hold of the rise that the assumptions state.
    hysteresis_nm, hysteresis_sd_nm : float
        Mean rise of the specimen that stays after such a hold.
    shift_error : ndarray
        Shape (2, 2): what the true shift matrix has beyond the one in use, relative.
    shift_error_sd : ndarray
        Its standard deviation.
    """

    height_nm: float
    height_sd_nm: float
    axis_offset_nm: float
    axis_offset_sd_nm: float
    jitter_nm: float
    course_nm: Floats64
    course_sd_nm: Floats64
    angles_deg: tuple[float, ...]
    drift_nm: tuple[float, float]
    drift_sd_nm: tuple[float, float]
    hysteresis_nm: float
    hysteresis_sd_nm: float
    shift_error: Floats64
    shift_error_sd: Floats64


def what_was_learned(motion: Motion) -> LearnedMotion:
    """Summarise a model; the hypotheses are merged by their probabilities.

    Parameters
    ----------
    motion : Motion
        The model.

    Returns
    -------
    LearnedMotion
        Its figures.

    Examples
    --------
    >>> learned = what_was_learned(Motion())
    >>> learned.height_nm, round(learned.height_sd_nm)
    (0.0, 2500)
    """
    variances = np.diagonal(motion.covariance, axis1=2, axis2=3)
    mean, variance = mixed(motion.weights, motion.mean, variances)
    sd = np.sqrt(np.maximum(variance, 0.0))
    order = np.argsort(motion.angles_deg)
    drift = motion.mean[..., DRIFT_MEAN].sum(axis=2)
    drift_variance = motion.covariance[..., DRIFT_MEAN, DRIFT_MEAN].sum(axis=(2, 3))
    drift, drift_variance = mixed(motion.weights, drift, drift_variance)
    errors = [ERROR_Y, ERROR_X]
    return LearnedMotion(
        height_nm=float(mean[X, HEIGHT]),
        height_sd_nm=float(sd[X, HEIGHT]),
        axis_offset_nm=float(mean[X, OFFSET]),
        axis_offset_sd_nm=float(sd[X, OFFSET]),
        jitter_nm=math.sqrt(float(motion.weights @ motion.jitter_nm**2)),
        course_nm=mean[:, FIXED:].T[order],
        course_sd_nm=sd[:, FIXED:].T[order],
        angles_deg=tuple(np.array(motion.angles_deg)[order].tolist()),
        drift_nm=(float(drift[0]), float(drift[1])),
        drift_sd_nm=(math.sqrt(drift_variance[0]), math.sqrt(drift_variance[1])),
        hysteresis_nm=float(mean[X, HYSTERESIS]),
        hysteresis_sd_nm=float(sd[X, HYSTERESIS]),
        shift_error=mean[:, errors],
        shift_error_sd=sd[:, errors],
    )
