"""The motion as JSON: for the next run, for the file, and for a run that is resumed."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...protocols.core.documents import Strict
from .assumptions import (
    BULGE,
    CONSTANT,
    DRIFT,
    FIXED,
    FOCUSED,
    HEIGHT,
    OFFSET,
    VISIT,
    Assumptions,
    Floats64,
)
from .motion import MOST_ANGLES, Motion

VERSION = 1
# What belongs to one specimen and one session, not to the column.
_OF_THE_SPECIMEN = (CONSTANT, OFFSET, HEIGHT, FOCUSED, DRIFT.start, DRIFT.start + 1, VISIT)

Finite = Annotated[float, Field(allow_inf_nan=False)]


class MotionState(Strict):
    """All that a :class:`.motion.Motion` has learned.

    Attributes
    ----------
    version : int
        Of this layout.
    assumptions : Assumptions
        What the model started from.
    jitter_nm, course_nm, log_weight : tuple of float
        The hypotheses that are left, and their log likelihoods.
    angles_deg : tuple of float
        Angles whose course is known.
    mean, covariance : str
        Float64, little-endian, base64: means of shape (hypotheses, 2, n), and the lower triangles
        of the covariances.
    time_s : float
        Time of the state, on the clock of the model.
    tilt_deg, reference_c, temperature_c : float or None
        Where the stage stands, and temperatures.
    measurements : int
        How many were taken in.
    arrived : bool
        Whether nothing was measured since the last arrival.
    slip_probability : float
        Of the last arrival.

    Examples
    --------
    >>> text = state_of(Motion()).model_dump_json()
    >>> MotionState.model_validate_json(text).version
    1
    """

    version: Literal[1] = VERSION
    assumptions: Assumptions
    jitter_nm: tuple[Finite, ...]
    course_nm: tuple[Finite, ...]
    log_weight: tuple[Finite, ...]
    angles_deg: Annotated[tuple[Finite, ...], Field(max_length=MOST_ANGLES)]
    mean: str
    covariance: str
    time_s: Finite
    tilt_deg: Finite | None
    reference_c: Finite | None
    temperature_c: Finite | None
    measurements: int
    arrived: bool
    slip_probability: Finite


def state_of(motion: Motion) -> MotionState:
    """Write down what a model has learned.

    Parameters
    ----------
    motion : Motion
        The model; it stays as it is.

    Returns
    -------
    MotionState
        :func:`motion_from` makes the same model from it, bit for bit but for rounding that made
        a covariance unsymmetric.

    Examples
    --------
    >>> motion = Motion()
    >>> motion_from(state_of(motion)).angles_deg == motion.angles_deg
    True
    """
    low = np.tril_indices(motion.mean.shape[2])
    return MotionState(
        assumptions=motion.assumptions,
        jitter_nm=tuple(motion.jitter_nm.tolist()),
        course_nm=tuple(motion.course_nm.tolist()),
        log_weight=tuple((motion.log_weight - motion.log_weight.max()).tolist()),
        angles_deg=tuple(motion.angles_deg),
        mean=_text(motion.mean),
        covariance=_text(motion.covariance[..., low[0], low[1]]),
        time_s=motion.time_s,
        tilt_deg=motion.tilt_deg,
        reference_c=motion.reference_c,
        temperature_c=motion.temperature_c,
        measurements=motion.measurements,
        arrived=motion.arrived,
        slip_probability=motion.slip_probability,
    )


def motion_from(state: MotionState) -> Motion:
    """Make the model that a state describes.

    Parameters
    ----------
    state : MotionState
        What was written down.

    Returns
    -------
    Motion
        A model that goes on from there.

    Raises
    ------
    ValueError
        If the parts of the state do not belong together or are no numbers.

    Examples
    --------
    >>> motion = Motion()
    >>> motion.tilt_to(10.0)
    >>> motion_from(state_of(motion)).tilt_deg
    10.0
    """
    motion = Motion(state.assumptions)
    count, size = len(state.jitter_nm), FIXED + len(state.angles_deg)
    if not count == len(state.course_nm) == len(state.log_weight) or count == 0:
        raise ValueError("the hypotheses of the motion's state differ in number; start without it")
    low = np.tril_indices(size)
    motion.mean = _numbers(state.mean, (count, 2, size), "mean")
    triangle = _numbers(state.covariance, (count, 2, len(low[0])), "covariance")
    motion.covariance = np.zeros((count, 2, size, size))
    motion.covariance[..., low[0], low[1]] = triangle
    motion.covariance[..., low[1], low[0]] = triangle
    if (np.diagonal(motion.covariance, axis1=2, axis2=3) < -1e-6).any():
        raise ValueError("a variance in the motion's state is negative; start without it")
    motion.jitter_nm, motion.course_nm = np.array(state.jitter_nm), np.array(state.course_nm)
    motion.log_weight = np.array(state.log_weight)
    motion.angles_deg = list(state.angles_deg)
    motion.time_s, motion.tilt_deg = state.time_s, state.tilt_deg
    motion.reference_c, motion.temperature_c = state.reference_c, state.temperature_c
    motion.measurements, motion.arrived = state.measurements, state.arrived
    motion.slip_probability = state.slip_probability
    return motion


def for_next_specimen(state: MotionState) -> MotionState:
    """Keep what belongs to the column: course, jitter, means of drift and jumps, shift matrix.

    Place, height, focus and drift under way are those of one specimen; they start anew.

    Parameters
    ----------
    state : MotionState
        At the end of a run.

    Returns
    -------
    MotionState
        For the start of the next one; its clock begins at 0.

    Examples
    --------
    >>> motion = Motion()
    >>> motion.tilt_to(10.0)
    >>> for_next_specimen(state_of(motion)).tilt_deg is None
    True
    """
    motion = motion_from(state)
    sd = motion.assumptions.prior_sd()
    for number in (*_OF_THE_SPECIMEN, BULGE):
        motion.mean[..., number] = 0.0
        motion.covariance[..., number, :] = motion.covariance[..., :, number] = 0.0
        motion.covariance[..., number, number] = sd[:, number] ** 2
    motion.time_s, motion.tilt_deg = 0.0, None
    motion.reference_c = motion.temperature_c = None
    motion.arrived, motion.slip_probability = False, 0.0
    return state_of(motion)


def _text(values: Floats64) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()


def _numbers(text: str, shape: tuple[int, ...], what: str) -> NDArray[np.float64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the {what} in the motion's state is not base64") from None
    if len(raw) != 8 * int(np.prod(shape)):
        raise ValueError(
            f"the {what} in the motion's state has {len(raw)} bytes; {8 * int(np.prod(shape))} "
            "are needed"
        )
    values = np.frombuffer(raw, "<f8").reshape(shape).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"the {what} in the motion's state is not finite; start without it")
    return values
