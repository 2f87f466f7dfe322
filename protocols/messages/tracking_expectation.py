"""What tracking can be expected to achieve, before a run: offset, beam shift and focus.

Estimates for `check`, by formula, so that a plan can be judged: the run measures what came of it.
They follow the model of the tracker (decision 24), with every unknown at its starting assumption
or, where a goniometer file tells it, as it was learned.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .tracking_rules import TrackingLimits

Floats = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

# What the tracker assumes of a stage that it does not know: rms of one axis, in nm.
START_JITTER_NM, START_COURSE_NM = 45.2, 47.0
# Of the course, half is smooth over so many degrees.
_SMOOTH_DEG = 10.0
# A specimen of which nothing is known stands so far over the axis, and from it; in nm.
HEIGHT_NM, AXIS_OFFSET_NM = 2000.0, 700.0
# Sd that comes in, in nm: between two frames of a series (drift, wander, what is not yet learned);
# at the way back to the first angle; in a hold; and of the height, that a hold changes.
_BETWEEN_NM, _WAY_BACK_NM, _HOLD_NM, _HEIGHT_NM = 25.0, 80.0, 130.0, 100.0
_ANGLE_DEG = 0.1


@dataclass(frozen=True)
class StageFigures:
    """How a stage errs, rms of one image axis in nm.

    Attributes
    ----------
    jitter_nm : float
        Displacement that is new at each arrival.
    course_nm : float
        Displacement that comes back at the same angle, where it is not known.
    learned_nm : tuple of (angle in degrees, sd)
        What is still unknown of it, at the angles that were visited.
    """

    jitter_nm: float = START_JITTER_NM
    course_nm: float = START_COURSE_NM
    learned_nm: tuple[tuple[float, float], ...] = ()

    def course_sd_nm(self, tilt_deg: float, visits: int) -> float:
        """What is unknown of the course at an angle, after so many earlier frames there."""
        sd = self.course_nm
        for angle, known in self.learned_nm:
            if abs(angle - tilt_deg) <= _ANGLE_DEG:
                sd = min(sd, known)
        # As the mean of readings that each have the jitter.
        return sd * self.jitter_nm / math.sqrt(self.jitter_nm**2 + visits * sd**2)


@dataclass(frozen=True)
class ExpectedSeries:
    """What is to be expected of a tilt series; lengths in nm.

    Attributes
    ----------
    frame_sd_nm : tuple of float
        Sd of the offset of each frame, of one axis, with recorded frames alone.
    rms_nm : float
        Their rms.
    shift_nm : float
        How far the beam shift may have to go.
    beyond_shift_limit : bool
        Whether that is more than the limit.
    focus_sd_nm : float
        Largest sd of the defocus, by the fitted geometry.
    """

    frame_sd_nm: tuple[float, ...]
    rms_nm: float
    shift_nm: float
    beyond_shift_limit: bool
    focus_sd_nm: float


def expected_series(
    tilt_deg: Sequence[float],
    limits: TrackingLimits,
    stage: StageFigures,
    series_before: int = 0,
    after_hold: bool = False,
) -> ExpectedSeries:
    """What tracking by the recorded frames alone is to be expected to achieve in a series.

    Parameters
    ----------
    tilt_deg : sequence of float
        Angles in the order of exposure.
    limits : TrackingLimits
        Of recipe and rig.
    stage : StageFigures
        How the stage errs.
    series_before : int
        Series of the same angles that the run took before; the first frame of a run defines the
        place, the first of a later series follows a way back.
    after_hold : bool
        Whether a hold came since the series before.

    Examples
    --------
    >>> tilts = range(-40, 41, 2)
    >>> first, fifth = (
    ...     expected_series(tilts, TrackingLimits(), StageFigures(), n, n > 0) for n in (0, 4)
    ... )
    >>> first.rms_nm > fifth.rms_nm, fifth.frame_sd_nm[0] > 150
    (True, True)
    """
    sds: list[float] = []
    for number, angle in enumerate(tilt_deg):
        if number == series_before == 0:
            sds.append(0.0)
            continue
        if number and angle == tilt_deg[number - 1]:
            sds.append(_BETWEEN_NM)  # the stage stands where the frame before was taken
            continue
        parts = [stage.jitter_nm, stage.course_sd_nm(angle, series_before), _BETWEEN_NM]
        if number == 0:
            parts += [_WAY_BACK_NM, _HOLD_NM if after_hold else 0.0]
        sds.append(math.hypot(*parts))
    tilt = np.radians(np.array(tilt_deg, np.float64))
    steepest = float(np.abs(tilt).max(initial=0.0))
    shift_nm = HEIGHT_NM * math.sin(steepest) + AXIS_OFFSET_NM * (1.0 - math.cos(steepest))
    rms_nm = math.sqrt(sum(sd**2 for sd in sds) / max(1, len(sds)))
    return ExpectedSeries(
        tuple(sds),
        rms_nm,
        shift_nm,
        shift_nm > limits.shift_limit_nm,
        _focus_sd_nm(tilt, stage, series_before, after_hold),
    )


def depth_of_focus_nm(voltage_kv: float, convergence_mrad: float) -> float:
    """Defocus that is not seen: half of lambda / alpha^2.

    Parameters
    ----------
    voltage_kv : float
        High tension.
    convergence_mrad : float
        Half angle of the probe.

    Examples
    --------
    >>> round(depth_of_focus_nm(300, 1.2))
    684
    """
    energy_ev = voltage_kv * 1e3
    # Relativistic: h / sqrt(2 m e V (1 + e V / 2 m c^2)), in nm.
    wavelength_nm = 1.226426 / math.sqrt(energy_ev * (1.0 + 0.9784755e-6 * energy_ev))
    return 0.5 * wavelength_nm / (convergence_mrad * 1e-3) ** 2


def _focus_sd_nm(tilt: Floats, stage: StageFigures, before: int, after_hold: bool) -> float:
    """Largest sd of Z cos t - X sin t, where Z and X are fitted to the offsets of a series.

    The smooth half of the course is alike in frames near each other, which average it less.
    """
    if len(tilt) < 3:
        return HEIGHT_NM
    per_smooth = max(1.0, _SMOOTH_DEG * len(tilt) / max(1.0, math.degrees(float(np.ptp(tilt)))))
    unknown = [stage.course_sd_nm(angle, before) for angle in np.degrees(tilt).tolist()]
    course = math.sqrt(float(np.mean(np.square(unknown))))
    scatter = math.sqrt(
        stage.jitter_nm**2 + _BETWEEN_NM**2 + course**2 * (1.0 + 0.5 * (per_smooth - 1.0))
    )
    parts = np.stack([np.ones_like(tilt), np.sin(tilt), np.cos(tilt) - 1.0], axis=1)
    prior = np.diag([0.0, HEIGHT_NM**-2, AXIS_OFFSET_NM**-2])
    covariance = np.linalg.inv(parts.T @ parts / scatter**2 + prior)[1:, 1:]
    rows = np.stack([np.cos(tilt), -np.sin(tilt)], axis=1)
    spread = ((rows @ covariance) * rows).sum(axis=1)
    risen = _HEIGHT_NM * np.cos(tilt) if after_hold else 0.0
    return float(np.sqrt((spread + np.square(risen)).max()))


# --- the goniometer file --------------------------------------------------------------------------


class _Motion(BaseModel):
    """The part of a tracker's state that says how the stage errs; see `analysis/tracking`."""

    model_config = ConfigDict(extra="ignore")

    jitter_nm: tuple[Positive, ...] = Field(min_length=1)
    course_nm: tuple[Positive, ...]
    log_weight: tuple[Finite, ...]
    angles_deg: tuple[Finite, ...]
    covariance: str


class _Goniometer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    motion: _Motion


def stage_of(raw: bytes) -> StageFigures:
    """How a stage errs, as a goniometer file tells it.

    Parameters
    ----------
    raw : bytes
        The file, which the tracker has written.

    Raises
    ------
    ValueError
        If it is not one.
    """
    try:
        motion = _Goniometer.model_validate_json(raw).motion
    except ValidationError as error:
        raise ValueError(str(error.errors()[0]["msg"])) from None
    count, angles = len(motion.jitter_nm), motion.angles_deg
    if not count == len(motion.course_nm) == len(motion.log_weight):
        raise ValueError("its hypotheses differ in number")
    log_weight = np.array(motion.log_weight)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    jitter, course = np.array(motion.jitter_nm), np.array(motion.course_nm)
    left = _course_variance(motion.covariance, count, len(angles))
    return StageFigures(
        math.sqrt(float(weight @ jitter**2)),
        math.sqrt(float(weight @ course**2)),
        tuple(zip(angles, np.sqrt(weight @ left).tolist(), strict=True)),
    )


def _course_variance(text: str, hypotheses: int, angles: int) -> Floats:
    """Variance of the course, mean of both axes; shape (hypotheses, angles).

    The text holds lower triangles of covariances, two axes for each hypothesis; the angles are the
    last numbers of the state.
    """
    try:
        raw: Any = np.frombuffer(base64.b64decode(text, validate=True), "<f8")
    except (binascii.Error, ValueError):
        raise ValueError("its covariance is not base64 of numbers") from None
    length = len(raw) // (2 * hypotheses)
    size = int((math.sqrt(8 * length + 1) - 1) / 2)
    if length * 2 * hypotheses != len(raw) or size * (size + 1) // 2 != length or size < angles:
        raise ValueError("its covariance has a wrong size")
    diagonal = np.arange(1, size + 1).cumsum() - 1
    variance: Floats = raw.reshape(hypotheses, 2, length)[..., diagonal[size - angles :]].mean(1)
    if not np.isfinite(variance).all() or (variance < -1e-6).any():
        raise ValueError("its covariance holds what is no variance")
    return np.maximum(variance, 0.0)
