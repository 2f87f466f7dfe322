"""Motion of the specimen in the field: a linear, Gaussian model that is fitted frame by frame.

The image of the specimen is displaced by, for each image axis (y along the tilt axis, x across it)
at the tilt t,

    constant + X (cos t - 1) + (Z + bulge dT) sin t + sideways dT + course(t) + visit + (1 + E) s

with the beam shift s that was applied. `constant` drifts (two amplitudes that decay), walks at
random, jumps in a hold, at a way back and where the stage slips. `course` is what comes back at
the same angle, `visit` what is new at each arrival. Each axis has a Kalman filter of its own: the
small X and Z of the axis y are those of a tilt axis that is turned against the scan. Several
hypotheses of jitter and course run side by side, weighted by their likelihood (Magill, IEEE
Trans. Autom. Control 10, 434, 1965). Slips are a second branch of each first measurement after an
arrival, merged by their moments (Ackerson and Fu, ibid. 15, 10, 1970).

The rigid part is that of Zheng et al., J. Struct. Biol. 147, 91 (2004). Nothing here knows a clock
or a file: times are seconds of any one clock.
"""

from __future__ import annotations

import math

import numpy as np

from .assumptions import (
    CONSTANT,
    DRIFT,
    DRIFT_MEAN,
    ERROR_X,
    ERROR_Y,
    FIXED,
    FOCUSED,
    HEIGHT,
    HYSTERESIS,
    JUMP,
    OFFSET,
    VISIT,
    Assumptions,
    Floats64,
    X,
    Y,
)
from .rows import defocus_rows, mixed, offset_rows

SAME_TILT_DEG = 0.02
# Hypotheses less likely than this are dropped, and not before so many measurements.
_NEGLIGIBLE = 1e-8
_MEASUREMENTS_BEFORE_DROPPING = 30
# Squared distance in sd of two calibrations that cannot both be right.
_EXCLUDED = 25.0
# Most angles of the course; beyond them an angle shares that of its nearest neighbour.
MOST_ANGLES = 300


class Motion:
    """The model with what it has learned; `predict` asks it.

    Parameters
    ----------
    assumptions : Assumptions, optional
        What is assumed before the first frame.

    Examples
    --------
    >>> motion = Motion()
    >>> motion.tilt_to(0.0)
    >>> _ = motion.measure((10.0, -4.0), (0.5, 0.5), (0.0, 0.0))
    >>> float(round(motion.weights.sum(), 6)), motion.measurements
    (1.0, 1)
    """

    def __init__(self, assumptions: Assumptions | None = None) -> None:
        self.assumptions = assumptions or Assumptions()
        self.jitter_nm, self.course_nm = self.assumptions.hypotheses()
        count = len(self.jitter_nm)
        self.log_weight = np.full(count, -math.log(count))
        self.mean = np.zeros((count, 2, FIXED))
        self.covariance = np.zeros((count, 2, FIXED, FIXED))
        self.covariance[:] = [np.diag(sd**2) for sd in self.assumptions.prior_sd()]
        self.angles_deg: list[float] = []
        self.time_s = 0.0
        self.tilt_deg: float | None = None
        self.reference_c: float | None = None
        self.temperature_c: float | None = None
        self.measurements = 0
        self.arrived = False
        self.slip_probability = 0.0

    @property
    def weights(self) -> Floats64:
        """Probability of each hypothesis; their sum is 1."""
        weights = np.exp(self.log_weight - self.log_weight.max())
        return weights / weights.sum()

    def expect(self, tilt_deg: Floats64 | list[float]) -> None:
        """Make room for the course at angles that will be asked; known ones stay."""
        wanted = [float(round(angle, 2)) for angle in tilt_deg]
        fresh = sorted(set(wanted) - set(self.angles_deg))[: MOST_ANGLES - len(self.angles_deg)]
        if not fresh:
            return
        old, new = np.array(self.angles_deg), np.array(fresh)
        across = self.assumptions.course_covariance(new, old)
        own = self.assumptions.course_covariance(new, new)
        within = self.assumptions.course_covariance(old, old)
        weights = np.linalg.solve(within, across.T).T if len(old) else np.zeros((len(new), 0))
        left = own - weights @ across.T
        size, more = self.mean.shape[2], len(new)
        mean = np.zeros((len(self.mean), 2, size + more))
        mean[..., :size] = self.mean
        mean[..., size:] = self.mean[..., FIXED:] @ weights.T
        covariance = np.zeros((*mean.shape, size + more))
        covariance[..., :size, :size] = self.covariance
        shared = self.covariance[..., FIXED:]
        covariance[..., :size, size:] = shared @ weights.T
        covariance[..., size:, :size] = np.swapaxes(covariance[..., :size, size:], 2, 3)
        block = weights @ self.covariance[..., FIXED:, FIXED:] @ weights.T
        block += self.course_nm[:, None, None, None] ** 2 * left
        covariance[..., size:, size:] = block
        self.mean, self.covariance = mean, covariance
        self.angles_deg += fresh

    def advance(self, time_s: float) -> None:
        """Let time pass: the drift goes on, the specimen wanders. Time does not run back."""
        passed_s = time_s - self.time_s
        if passed_s <= 0.0:
            return
        self.time_s = time_s
        stays = np.exp(-passed_s / np.array(self.assumptions.drift_decay_s))
        self.mean[..., CONSTANT] += self.mean[..., DRIFT] @ (1.0 - stays)
        self.mean[..., DRIFT] *= stays
        rows = self.covariance
        rows[..., CONSTANT, :] += np.einsum("d,hadn->han", 1.0 - stays, rows[..., DRIFT, :])
        rows[..., DRIFT, :] *= stays[:, None]
        rows[..., :, CONSTANT] += rows[..., :, DRIFT] @ (1.0 - stays)
        rows[..., :, DRIFT] *= stays
        rows[..., CONSTANT, CONSTANT] += self.assumptions.wander_nm2_per_s * passed_s

    def tilt_to(self, tilt_deg: float) -> None:
        """Tell that the stage has gone to a tilt; nothing happens where it stands there."""
        before = self.tilt_deg
        if before is not None and abs(tilt_deg - before) < SAME_TILT_DEG:
            return
        self.expect([tilt_deg])
        self.tilt_deg = float(tilt_deg)
        self._arrive()
        if before is not None and abs(tilt_deg - before) > self.assumptions.way_back_deg:
            self.covariance[..., CONSTANT, CONSTANT] += self.assumptions.way_back_nm**2

    def hold(self, rise_k: float) -> None:
        """Tell that a hold is over.

        Parameters
        ----------
        rise_k : float
            By how much it was hotter than before and after.
        """
        given = self.assumptions
        scale = abs(rise_k) / given.rise_k
        self._add_learned(CONSTANT, JUMP, scale, (given.jump_spread_nm * scale) ** 2)
        for number in range(2):
            drift, learned = DRIFT.start + number, DRIFT_MEAN.start + number
            self._add_learned(drift, learned, scale, (given.drift_spread_nm * scale) ** 2)
        self._add_learned(HEIGHT, HYSTERESIS, scale, 0.0)
        self.covariance[:, X, HEIGHT, HEIGHT] += (given.hysteresis_spread_nm * scale) ** 2
        self._arrive()

    def set_temperature(self, temperature_c: float) -> None:
        """Tell the temperature of the specimen; the first one told is that of the start."""
        if self.reference_c is None:
            self.reference_c = temperature_c
        self.temperature_c = temperature_c

    def move_stage(
        self,
        moved_nm: tuple[float, float, float],
        error_nm: tuple[float, float, float],
    ) -> None:
        """Tell that the stage was moved on purpose.

        A move across the tilt axis, along x, also changes how far from it the specimen stands.

        Parameters
        ----------
        moved_nm, error_nm : tuple of float
            Along (x, y, z): the moves, and the standard deviation of each.
        """
        (x, y, z), (error_x, error_y, error_z) = moved_nm, error_nm
        self.mean[:, Y, CONSTANT] += y
        self.mean[:, X, CONSTANT] += x
        self.covariance[:, Y, CONSTANT, CONSTANT] += error_y**2
        self.mean[:, X, OFFSET] += x
        for one in (CONSTANT, OFFSET):
            for other in (CONSTANT, OFFSET):
                self.covariance[:, X, one, other] += error_x**2
        if z != 0.0 or error_z != 0.0:
            turn, turn_sd = _axis_turn(self)
            self.mean[:, X, HEIGHT] += z
            self.mean[:, Y, HEIGHT] += turn * z
            self.covariance[:, X, HEIGHT, HEIGHT] += error_z**2
            self.covariance[:, Y, HEIGHT, HEIGHT] += (turn_sd * z) ** 2 + (turn * error_z) ** 2
        self._arrive()

    def recalibrate(self, change: Floats64, spread: Floats64, shift_nm: Floats64) -> None:
        """Tell that beam shifts are given by another calibration from now on.

        What was learned of the shift is converted, and then the new calibration is taken in as a
        measurement of it. Where both exclude each other, the new one counts alone.

        Parameters
        ----------
        change : ndarray
            Shape (2, 2): turns a shift by the new calibration into the same one by the former.
        spread : ndarray
            Shape (2, 2, 2): for each axis of the image, covariance of what a shift of 1 nm of the
            new calibration along (y, x) does beside 1 nm.
        shift_nm : ndarray
            Shape (2,): the shift that is applied, by the new calibration.
        """
        errors = [ERROR_Y, ERROR_X]
        turn = np.eye(self.mean.shape[2])
        turn[np.ix_(errors, errors)] = change.T
        self.mean = self.mean @ turn.T
        self.mean[..., errors] += change - np.eye(2)
        self.covariance = turn @ self.covariance @ turn.T
        for axis in (Y, X):
            for mean, covariance in zip(self.mean[:, axis], self.covariance[:, axis], strict=True):
                _measure_errors(mean, covariance, spread[axis], shift_nm)

    def displace(self, by_nm: Floats64, sd_nm: tuple[float, float]) -> None:
        """Tell that the specimen stands elsewhere by (y, x) than expected, known to `sd_nm`."""
        self.mean[..., CONSTANT] += by_nm
        self.covariance[..., CONSTANT, CONSTANT] += np.square(sd_nm)

    def focus_here(self, sd_nm: float = 0.0, defocus_nm: float = 0.0) -> None:
        """Tell that the specimen is in focus now with this defocus applied, known to `sd_nm`."""
        row = _defocus_row(self)
        row[FOCUSED] = 0.0
        part = self.covariance[:, X]
        towards = part @ row
        variance = towards @ row + sd_nm**2
        self.mean[:, X, FOCUSED] = self.mean[:, X] @ row - defocus_nm
        part[:, FOCUSED, :] = towards
        part[:, :, FOCUSED] = towards
        part[:, FOCUSED, FOCUSED] = variance

    def doubt_focus(self, sd_nm: float) -> None:
        """Tell that the focus is no longer where it was, by about `sd_nm`."""
        self.covariance[:, X, FOCUSED, FOCUSED] += sd_nm**2

    def measure_focus(self, defocus_nm: float, sd_nm: float) -> None:
        """Take in a measured height over the height at which the specimen was in focus."""
        row = _defocus_row(self)
        part = self.covariance[:, X]
        towards = part @ row
        variance = towards @ row + sd_nm**2
        gain = towards / variance[:, None]
        innovation = defocus_nm - self.mean[:, X] @ row
        self.mean[:, X] += gain * innovation[:, None]
        part -= gain[:, :, None] * towards[:, None, :]
        self.log_weight -= 0.5 * (innovation**2 / variance + np.log(variance))

    def measure(
        self,
        offset_nm: tuple[float, float],
        sd_nm: tuple[float, float],
        applied_nm: tuple[float, float],
    ) -> float:
        """Take in the measured offset of a frame at the present tilt and time.

        Parameters
        ----------
        offset_nm, sd_nm : tuple of float
            Offset (y, x) of the specimen in the frame, and its standard deviation.
        applied_nm : tuple of float
            Beam shift (y, x) that was applied.

        Returns
        -------
        float
            Probability that the stage has slipped at its last arrival.
        """
        row = offset_rows(self, np.array([self.tilt_deg or 0.0]), np.zeros(1), self.temperature_c)[
            0
        ]
        row[VISIT] = 1.0
        row[ERROR_Y], row[ERROR_X] = applied_nm
        target = np.array(offset_nm) - np.array(applied_nm)
        towards = self.covariance @ row
        variance = towards @ row + np.array(sd_nm) ** 2
        innovation = target - self.mean @ row
        if self.arrived and self.assumptions.slip_probability > 0.0:
            self.log_weight += self._after_arrival(towards, variance, innovation)
        else:
            self.log_weight += _log_normal(innovation, variance)
            self.slip_probability = 0.0
            _condition(self.mean, self.covariance, towards, variance, innovation)
        self.arrived = False
        self.measurements += 1
        self._drop_unlikely()
        return self.slip_probability

    # --- parts -----------------------------------------------------------------------------------

    def _arrive(self) -> None:
        """A new arrival: its displacement is not known yet, and it may have slipped."""
        self.arrived = True
        self.mean[..., VISIT] = 0.0
        self.covariance[..., VISIT, :] = self.covariance[..., :, VISIT] = 0.0
        self.covariance[..., VISIT, VISIT] = (self.jitter_nm**2)[:, None]

    def _add_learned(self, to: int, learned: int, scale: float, variance: float) -> None:
        """Add `scale` times a learned mean to a number of the state, with new variance."""
        self.mean[..., to] += scale * self.mean[..., learned]
        rows = self.covariance
        rows[..., to, :] += scale * rows[..., learned, :]
        rows[..., :, to] += scale * rows[..., :, learned]
        rows[..., to, to] += variance

    def _after_arrival(
        self, towards: Floats64, variance: Floats64, innovation: Floats64
    ) -> Floats64:
        """Take in the first measurement after an arrival: the stage has slipped, or it has not.

        Both branches are merged by their moments. Returns the log likelihood of each hypothesis.
        """
        chance = self.assumptions.slip_probability
        extra = self.assumptions.slip_nm**2
        firm = math.log(1.0 - chance) + _log_normal(innovation, variance)
        slipped = math.log(chance) + _log_normal(innovation, variance + extra)
        both = np.logaddexp(firm, slipped)
        share = np.exp(slipped - both)
        # Weights that are rounded may add up to a little more than 1.
        self.slip_probability = min(1.0, float(self.weights @ share))
        # With a slip, the gain is that of a constant known less well.
        loose = towards.copy()
        loose[..., CONSTANT] += extra
        gain = towards / variance[..., None]
        loose_gain = loose / (variance + extra)[..., None]
        apart = (loose_gain - gain) * innovation[..., None]
        part = share[:, None, None]
        self.mean += gain * innovation[..., None] + part * apart
        left = np.stack([(part - 1.0) * gain, -part * loose_gain, part * (1.0 - part) * apart], 3)
        right = np.stack([towards, loose, apart], 2)
        self.covariance += left @ right
        self.covariance[..., CONSTANT, CONSTANT] += part[..., 0] * extra
        return both

    def _drop_unlikely(self) -> None:
        if self.measurements < _MEASUREMENTS_BEFORE_DROPPING:
            return
        keep = self.weights > _NEGLIGIBLE
        if not keep.all():
            self.log_weight = self.log_weight[keep]
            self.mean, self.covariance = self.mean[keep], self.covariance[keep]
            self.jitter_nm, self.course_nm = self.jitter_nm[keep], self.course_nm[keep]


def _log_normal(innovation: Floats64, variance: Floats64) -> Floats64:
    """Log likelihood of both axes together, without its constant; shape (hypotheses,)."""
    return -0.5 * np.sum(innovation**2 / variance + np.log(variance), axis=1)


def _condition(
    mean: Floats64,
    covariance: Floats64,
    towards: Floats64,
    variance: Floats64,
    innovation: Floats64,
) -> None:
    gain = towards / variance[..., None]
    mean += gain * innovation[..., None]
    covariance -= gain[..., :, None] * towards[..., None, :]


def _measure_errors(
    mean: Floats64, covariance: Floats64, spread: Floats64, shift_nm: Floats64
) -> None:
    """Take in, for one hypothesis and axis, that the errors of the shift are none, to `spread`."""
    errors = [ERROR_Y, ERROR_X]
    found = mean[errors]
    variance = covariance[np.ix_(errors, errors)] + spread
    if found @ np.linalg.solve(variance, found) > _EXCLUDED:
        # Another column, or deflectors that were turned: the place was told by them, too.
        covariance[CONSTANT, CONSTANT] += (found @ shift_nm) ** 2
        mean[errors] = 0.0
        covariance[errors, :] = covariance[:, errors] = 0.0
        covariance[np.ix_(errors, errors)] = spread
        return
    towards = covariance[:, errors]
    gain = np.linalg.solve(variance, towards.T).T
    mean -= gain @ found
    covariance -= gain @ towards.T


def _axis_turn(motion: Motion) -> tuple[float, float]:
    """Turn of the scan against the tilt axis in rad, and its sd, from both heights."""
    weights = motion.weights
    heights = motion.mean[..., HEIGHT]
    variances = motion.covariance[..., HEIGHT, HEIGHT]
    mean, variance = mixed(weights, heights, variances)
    assumed = motion.assumptions.axis_turn_rad
    # A height of nothing says nothing about the turn.
    strength = mean[X] ** 2 / (variance[Y] + 1e-9)
    turn_variance = 1.0 / (1.0 / assumed**2 + strength) if assumed > 0.0 else 0.0
    turn = turn_variance * mean[X] * mean[Y] / (variance[Y] + 1e-9)
    return float(turn), math.sqrt(turn_variance)


def _defocus_row(motion: Motion) -> Floats64:
    return defocus_rows(motion, np.array([motion.tilt_deg or 0.0]), motion.temperature_c)[0]
