"""What the model of the motion assumes before the first frame, and the layout of its state."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...protocols.core.documents import Strict

Floats64 = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

# Numbers of the state of one image axis; the course at each asked angle follows them.
CONSTANT, OFFSET, HEIGHT, FOCUSED, BULGE, SIDEWAYS, HYSTERESIS, JUMP = range(8)
DRIFT = slice(8, 10)
DRIFT_MEAN = slice(10, 12)
ERROR_Y, ERROR_X, VISIT = 12, 13, 14
FIXED = 15

Y, X = 0, 1


class Assumptions(Strict):
    """Standard deviations and scales that the model starts from; lengths in nm.

    Values of the study in ``shared/tracking.md``: wide enough for the stages that were found in
    the literature. What matters is learned: the jitter from several hypotheses, the rest by the
    state itself.

    Attributes
    ----------
    jitter_nm : tuple of float
        Hypotheses of the displacement that is new at each arrival, rms of one axis.
    course_nm : tuple of float
        Hypotheses of the displacement that comes back at the same angle, rms of one axis.
    course_length_deg : float
        Angle over which the smooth half of the course stays alike.
    origin_nm, axis_offset_nm, height_nm : float
        Of the specimen at the start: place in the field, distance from the tilt axis along x and z.
    axis_turn_rad : float
        Of the scan's rows against the tilt axis.
    bulge_nm_per_k, sideways_nm_per_k : float
        Motion of the membrane with the temperature, along the beam and in its plane.
    hysteresis_nm, hysteresis_spread_nm : float
        What stays of the bulge after a hold: the mean over holds, and about the mean.
    drift_nm, drift_spread_nm : float
        Way that is still to go after a hold, for each time constant: mean, and about the mean.
    drift_decay_s : tuple of float
        Time constants of the drift.
    jump_nm, jump_spread_nm : float
        Displacement in a hold and the way back after it: mean, and about the mean.
    way_back_nm : float
        Displacement that stays after a tilt of more than `way_back_deg`.
    way_back_deg : float
        Tilt in one step beyond which it is a way back.
    wander_nm2_per_s : float
        Random walk: variance a second.
    matrix_error : float
        Each element of the shift matrix against the true one.
    slip_probability, slip_nm : float
        Of a displacement at an arrival that stays.
    rise_k : float
        Rise of a hold for which drift, jump and hysteresis are stated; they scale with it.

    Examples
    --------
    >>> jitter, course = Assumptions(jitter_nm=(10.0, 20.0), course_nm=(30.0,)).hypotheses()
    >>> jitter.tolist(), course.tolist()
    ([10.0, 20.0], [30.0, 30.0])
    """

    jitter_nm: tuple[Positive, ...] = (5.0, 8.0, 12.0, 17.0, 24.0, 34.0, 48.0, 68.0, 96.0)
    course_nm: tuple[Positive, ...] = (10.0, 30.0, 75.0)
    course_length_deg: Positive = 10.0
    origin_nm: Positive = 300.0
    axis_offset_nm: Positive = 700.0
    height_nm: Positive = 2500.0
    axis_turn_rad: NotNegative = 0.05
    bulge_nm_per_k: NotNegative = 10.0
    sideways_nm_per_k: NotNegative = 1.0
    hysteresis_nm: NotNegative = 80.0
    hysteresis_spread_nm: NotNegative = 90.0
    drift_nm: NotNegative = 200.0
    drift_spread_nm: NotNegative = 80.0
    drift_decay_s: tuple[Positive, Positive] = (30.0, 90.0)
    jump_nm: NotNegative = 40.0
    jump_spread_nm: NotNegative = 100.0
    way_back_nm: NotNegative = 80.0
    way_back_deg: Positive = 10.0
    wander_nm2_per_s: NotNegative = 0.3
    matrix_error: NotNegative = 0.03
    slip_probability: Annotated[float, Field(ge=0, lt=0.5)] = 0.005
    slip_nm: Positive = 300.0
    rise_k: Positive = 150.0

    def hypotheses(self) -> tuple[Floats64, Floats64]:
        """Every pair of jitter and course, as two arrays of one length."""
        jitter, course = np.meshgrid(self.jitter_nm, self.course_nm, indexing="ij")
        return jitter.ravel(), course.ravel()

    def prior_sd(self) -> Floats64:
        """Standard deviations of the fixed part of the state, shape (2, FIXED): axes y and x."""
        sd = np.zeros((2, FIXED))
        sd[:, CONSTANT] = self.origin_nm
        sd[X, OFFSET], sd[X, HEIGHT] = self.axis_offset_nm, self.height_nm
        sd[Y, OFFSET] = self.axis_turn_rad * self.axis_offset_nm
        sd[Y, HEIGHT] = self.axis_turn_rad * self.height_nm
        sd[X, BULGE] = self.bulge_nm_per_k
        sd[Y, BULGE] = self.axis_turn_rad * self.bulge_nm_per_k
        sd[:, SIDEWAYS] = self.sideways_nm_per_k
        sd[X, HYSTERESIS] = self.hysteresis_nm
        sd[:, JUMP] = self.jump_nm
        sd[:, DRIFT_MEAN] = self.drift_nm
        sd[:, ERROR_Y] = sd[:, ERROR_X] = self.matrix_error
        return sd

    def course_covariance(self, one: Floats64, other: Floats64) -> Floats64:
        """Covariance of the course at two sets of angles, for a course of 1 nm rms.

        Half of the variance is smooth, half is free at each angle.

        Parameters
        ----------
        one, other : ndarray
            Angles in degrees, shapes (n,) and (m,).

        Returns
        -------
        ndarray
            Shape (n, m).
        """
        apart = one[:, None] - other[None, :]
        smooth = np.exp(-0.5 * (apart / self.course_length_deg) ** 2)
        return 0.5 * smooth + 0.5 * (apart == 0.0)
