"""Prediction: shift, defocus and drift that the model of the motion expects, with uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .assumptions import DRIFT, ERROR_X, ERROR_Y, FIXED, FOCUSED, VISIT, Floats64, X
from .motion import SAME_TILT_DEG, Motion
from .rows import defocus_rows, mixed, offset_rows


@dataclass(frozen=True)
class MotionPrediction:
    """What the model expects at some tilts and times; n of them, lengths in nm.

    Attributes
    ----------
    shift_nm : ndarray
        Shape (n, 2), (y, x): the beam shift that brings the specimen to its place.
    sd_nm : ndarray
        Shape (n, 2): standard deviation of the offset that remains.
    defocus_nm, defocus_sd_nm : ndarray
        Shape (n,): height of the specimen over the height at which it was in focus.
    drift_nm_per_s, drift_sd_nm_per_s : ndarray
        Shape (n, 2), (y, x): speed of the drift after the last hold.
    offset_nm : ndarray
        Shape (n, 2): offset with the shift that was assumed (see :func:`predict`).
    """

    shift_nm: Floats64
    sd_nm: Floats64
    defocus_nm: Floats64
    defocus_sd_nm: Floats64
    drift_nm_per_s: Floats64
    drift_sd_nm_per_s: Floats64
    offset_nm: Floats64


def predict(
    motion: Motion,
    tilt_deg: Floats64 | list[float],
    time_s: Floats64 | list[float],
    temperature_c: float | None = None,
    assumed_shift_nm: tuple[float, float] | None = None,
    in_order: bool = False,
) -> MotionPrediction:
    """Predict shift, defocus and drift for tilts at coming times; the model stays as it is.

    Parameters
    ----------
    motion : Motion
        The model. It makes room for angles that it has not met.
    tilt_deg, time_s : array_like
        Shape (n,) both; a time before the present one counts as now.
    temperature_c : float, optional
        Temperature then; by default the present one.
    assumed_shift_nm : tuple of float, optional
        Beam shift (y, x) to predict the offset for; by default the one that centres.
    in_order : bool
        Whether the stage goes to the tilts one after the other; by default to each from here.

    Returns
    -------
    MotionPrediction
        Of the mixture of all hypotheses: means, and standard deviations about them.

    Examples
    --------
    >>> motion = Motion()
    >>> motion.tilt_to(0.0)
    >>> _ = motion.measure((0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    >>> near, far = predict(motion, [2.0, 40.0], [2.0, 40.0]).sd_nm[:, 1]
    >>> bool(near < 150 < far)
    True
    """
    tilts = np.asarray(tilt_deg, np.float64)
    motion.expect(tilts)
    later_s = np.maximum(np.asarray(time_s, np.float64) - motion.time_s, 0.0)
    at_c = motion.temperature_c if temperature_c is None else temperature_c
    here = np.zeros(len(tilts), bool)
    ways_back = np.zeros(len(tilts))
    if motion.tilt_deg is not None:
        here = np.abs(tilts - motion.tilt_deg) < SAME_TILT_DEG
        from_deg = np.append(motion.tilt_deg, tilts)[:-1] if in_order else motion.tilt_deg
        ways_back += np.abs(tilts - from_deg) > motion.assumptions.way_back_deg
        if in_order:
            here, ways_back = np.logical_and.accumulate(here), np.cumsum(ways_back)
    rows = offset_rows(motion, tilts, later_s, at_c)
    rows[:, VISIT] = here
    weights = motion.weights
    errors = np.tensordot(weights, motion.mean[..., [ERROR_Y, ERROR_X]], 1)
    still = np.tensordot(weights, motion.mean @ rows.T, 1).T
    if assumed_shift_nm is None:
        shift = -np.linalg.solve(np.eye(2) + errors, still.T).T + 0.0
    else:
        shift = np.broadcast_to(np.array(assumed_shift_nm, np.float64), still.shape)
    rows[:, ERROR_Y], rows[:, ERROR_X] = shift.T
    means = motion.mean @ rows.T + shift.T
    spread = _spread(motion.covariance, rows)
    spread += _added_variance(motion, later_s, here, ways_back)
    offset, variance = mixed(weights, means, spread)
    defocus, defocus_sd = _mixture_of(motion, defocus_rows(motion, tilts, at_c))
    speed, speed_sd = drift_speed(motion, later_s)
    return MotionPrediction(
        np.array(shift, np.float64),
        np.sqrt(variance).T,
        defocus,
        defocus_sd,
        speed,
        speed_sd,
        offset.T,
    )


def _spread(covariance: Floats64, rows: Floats64) -> Floats64:
    """Variance of each row; of the course, a row holds one angle."""
    fixed = rows[:, :FIXED]
    angle = FIXED + np.argmax(rows[:, FIXED:], axis=1)
    spread = ((fixed @ covariance[..., :FIXED, :FIXED]) * fixed).sum(axis=3)
    spread += 2.0 * (covariance[..., :FIXED, angle] * fixed.T).sum(axis=2)
    return spread + covariance[..., angle, angle]


def _added_variance(
    motion: Motion, later_s: Floats64, here: NDArray[np.bool_], ways_back: Floats64
) -> Floats64:
    """Variance that comes in until then: wander, a new arrival, ways back.

    Slips are left out: they are rare and large, and each is told when it is seen.
    """
    given = motion.assumptions
    added = given.wander_nm2_per_s * later_s + ways_back * given.way_back_nm**2
    jitter = motion.jitter_nm[:, None] ** 2 * ~here
    return (added + jitter)[:, None, :]


def _mixture_of(motion: Motion, rows: Floats64) -> tuple[Floats64, Floats64]:
    """Mean and sd, shape (n,), of what rows make of the state across the axis."""
    fixed = rows[:, :FIXED]
    means = motion.mean[:, X, :FIXED] @ fixed.T
    spread = ((fixed @ motion.covariance[:, X, :FIXED, :FIXED]) * fixed).sum(axis=2)
    mean, variance = mixed(motion.weights, means, spread)
    return mean, np.sqrt(np.maximum(variance, 0.0))


def height_over_axis(motion: Motion) -> tuple[float, float]:
    """Height of the specimen over the tilt axis at its present temperature, and its sd, in nm.

    Parameters
    ----------
    motion : Motion
        What is known.

    Examples
    --------
    >>> height, sd = height_over_axis(Motion())
    >>> height, round(sd)
    (0.0, 2500)
    """
    rows = defocus_rows(motion, np.zeros(1), motion.temperature_c)
    rows[:, FOCUSED] = 0.0
    height, sd = _mixture_of(motion, rows)
    return float(height[0]), float(sd[0])


def drift_speed(motion: Motion, later_s: Floats64) -> tuple[Floats64, Floats64]:
    """Speed of the drift after the last hold, and its sd.

    Parameters
    ----------
    motion : Motion
        What is known.
    later_s : ndarray
        Seconds from now, shape (n,).

    Returns
    -------
    speed, sd : ndarray
        Shape (n, 2), (y, x), in nm/s.
    """
    decay_s = np.array(motion.assumptions.drift_decay_s)
    rows = np.exp(-later_s[:, None] / decay_s) / decay_s
    means = motion.mean[..., DRIFT] @ rows.T
    spread = ((rows @ motion.covariance[..., DRIFT, DRIFT]) * rows).sum(axis=3)
    mean, variance = mixed(motion.weights, means, spread)
    return mean.T, np.sqrt(np.maximum(variance, 0.0)).T
