"""D0 and Q of a diffusing species from the profiles of all frames of a ramp at once.

The counts of a species along the depth, in boxes and frames, are compared with profiles that
follow from an Arrhenius law and the measured course of temperature, by their Poisson likelihood.
Laws:

- ``fick``: theta = int D dt, a source of constant level.
- ``fick-free-source``: the same, and the level of the source is a smooth curve that is fitted.
- ``paper``: theta = D(T) (T - T0) / rate (Pham et al., Nano Lett. 2024, 24, 3702, equation i).
  On a ramp Fick's second law gives int D dt, which is about D R T^2 / (Q rate): some nine times
  less at 260 to 400 degC. Where Fick's law holds, the paper's gives a D that is so much too small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from ...protocols.core.units import GAS_CONSTANT_J_PER_MOL_K, ZERO_CELSIUS_K
from .front_profile import tabulated_profiles

Array = NDArray[np.float64]
Law = Literal["fick", "fick-free-source", "paper"]
REFERENCE_C = 330.0
# Two-sided, of a normal distribution.
Z95 = 1.959964
_CM2 = 1e-8  # in a square micrometre
# The search has ended where a full step would add less to the log likelihood.
_ITERATIONS, _CONVERGED = 40, 1e-3
# Of the source's level; it may change from so many kelvin before the first frame.
_KNOTS, _CHANGES, _BEFORE_K = 9, 41, 60.0
# Sd of the second differences of the logarithm of the level between knots, and of the change of
# the species' yield over the frames.
_SMOOTH, _YIELD = 0.5, 0.2
# Frames that may err together.
_BLOCK = 5


@dataclass(frozen=True)
class Profiles:
    """Counts of a species along the depth.

    Attributes
    ----------
    counts : ndarray of shape (frames, boxes, rows)
        Assigned events; not scaled.
    depth_um : ndarray of shape (frames, rows)
        Depth of each row below an estimate of the interface, corrected for drift.
    time_s : ndarray of shape (frames,)
        When the interface was scanned.
    course_s, course_c : ndarray of shape (n,)
        Measured temperature from the beginning of the ramp to its end.
    """

    counts: Array
    depth_um: Array
    time_s: Array
    course_s: Array
    course_c: Array

    @property
    def temperature_c(self) -> Array:
        """Temperature of each frame."""
        return np.interp(self.time_s, self.course_s, self.course_c)


@dataclass(frozen=True)
class DiffusionFit:
    """What the profiles say of diffusion.

    Attributes
    ----------
    law : str
        As asked.
    activation_j_per_mol, activation_sd : float
        Q and its sd.
    log_d_reference, log_d_reference_sd : float
        Natural logarithm of D at 330 degC in um^2/s, and its sd.
    covariance : ndarray, shape (2, 2)
        Of (ln D at 330 degC, Q).
    interface_um, interface_sd_um : ndarray of shape (boxes,)
        Depth of the interface against the estimate.
    blur_um : float
        Sd of the blur.
    background : float
        Events without the species, as a part of those in the source.
    level : ndarray of shape (frames,)
        Level of the source against that of the last frame; 1 where it is held constant.
    misfit : float
        Squared residuals over what is expected; 1 where the model is right.
    log_likelihood : float
        Of the counts, up to a constant that depends on them alone.
    converged : bool
        Whether the search has ended by itself.
    doubts : tuple of str
        What seems wrong.
    """

    law: Law
    activation_j_per_mol: float
    activation_sd: float
    log_d_reference: float
    log_d_reference_sd: float
    covariance: Array
    interface_um: Array
    interface_sd_um: Array
    blur_um: float
    background: float
    level: Array
    misfit: float
    log_likelihood: float
    converged: bool
    doubts: tuple[str, ...] = field(default=())

    @property
    def log_d0(self) -> float:
        """Natural logarithm of D0 in um^2/s."""
        return self.log_d_reference + float(self.activation_j_per_mol / _rt(REFERENCE_C))

    @property
    def log_d0_sd(self) -> float:
        """Its sd."""
        return float(self.log_d_sd(np.array([np.inf]))[0])

    def d_cm2_per_s(self, temperature_c: Array) -> Array:
        """D at temperatures, in cm^2/s."""
        moved = 1.0 / _rt(np.asarray(temperature_c, float)) - 1.0 / _rt(REFERENCE_C)
        return _CM2 * np.exp(self.log_d_reference - self.activation_j_per_mol * moved)

    def log_d_sd(self, temperature_c: Array) -> Array:
        """Sd of ln D at temperatures."""
        moved = 1.0 / _rt(np.asarray(temperature_c, float)) - 1.0 / _rt(REFERENCE_C)
        gradient = np.stack([np.ones_like(moved), -moved])
        return np.sqrt(np.einsum("in,ij,jn->n", gradient, self.covariance, gradient))


def _rt(temperature_c: Array | float) -> Array:
    return GAS_CONSTANT_J_PER_MOL_K * (np.asarray(temperature_c) + ZERO_CELSIUS_K)


# Places in the vector of parameters; those of the boxes and of the source's knots follow.
_LOG_D, _ACTIVATION, _LOG_BLUR, _LOG_BACKGROUND, _BOXES = range(5)
_J_PER_MOL = 1e5  # unit of the activation energy among the parameters


class _Model:
    """Expected profiles for a vector of parameters."""

    def __init__(self, profiles: Profiles, law: Law) -> None:
        self.profiles = profiles
        self.law: Law = law
        self.boxes = profiles.counts.shape[1]
        self.knots = slice(_BOXES + self.boxes, None)
        self.free = law == "fick-free-source"
        frame_c = profiles.temperature_c
        first_c = profiles.course_c[0]
        if self.free:
            # Before the first frame the source may have changed, too.
            first_c = max(first_c, frame_c[0] - _BEFORE_K)
            self.knot_c = np.linspace(first_c, frame_c[-1], _KNOTS)
            self.change_c = np.linspace(first_c, frame_c[-1], _CHANGES)
        else:
            self.knot_c, self.change_c = np.zeros(0), np.array([first_c])
        # A change between two levels happens halfway; the first one before the ramp.
        halfway_c = np.concatenate([[-np.inf], 0.5 * (self.change_c[1:] + self.change_c[:-1])])
        self.change_s = np.interp(halfway_c, profiles.course_c, profiles.course_s)
        self.seen = self._seen_level() if self.free else np.zeros(0)

    def _seen_level(self) -> Array:
        """Logarithm of the counts in the source at each knot, 0 at the last one."""
        profiles = self.profiles
        inside = profiles.depth_um < np.quantile(profiles.depth_um, 0.05)
        rows = np.maximum(inside.sum(axis=1), 1)
        found = (profiles.counts.sum(axis=1) * inside).sum(axis=1) / rows
        width = self.knot_c[1] - self.knot_c[0]
        away = (profiles.temperature_c[None, :] - self.knot_c[:, None]) / width
        weight = np.exp(-0.5 * np.maximum(np.abs(away), 0.0) ** 2) + 1e-12
        level = np.log(np.maximum((weight * found).sum(axis=1) / weight.sum(axis=1), 1e-9))
        return level - level[-1]

    def start(self, d_um2_per_s: float, activation: float, blur_um: float) -> Array:
        """Parameters to begin with."""
        known = [np.log(d_um2_per_s), activation / _J_PER_MOL, np.log(blur_um), np.log(1e-2)]
        return np.array([*known, *[0.0] * self.boxes, *self.seen])

    def theta_um2(self, log_d: float, activation: float) -> tuple[Array, Array]:
        """Theta at the frames and at the changes of the source."""
        profiles = self.profiles
        course_c, course_s = profiles.course_c, profiles.course_s
        moved = 1.0 / _rt(course_c) - 1.0 / _rt(REFERENCE_C)
        d = np.exp(np.clip(log_d - activation * moved, -60.0, 20.0))
        if self.law == "paper":
            rate = np.gradient(course_c, course_s)
            theta = d * np.maximum(course_c - course_c[0], 0.0) / np.maximum(np.abs(rate), 1e-9)
            return np.interp(profiles.time_s, course_s, theta), np.zeros(1)
        steps = 0.5 * (d[1:] + d[:-1]) * np.diff(course_s)
        theta = np.concatenate([[0.0], np.cumsum(steps)])
        at = np.interp(profiles.time_s, course_s, theta)
        return at, np.interp(self.change_s, course_s, theta)

    def level(self, parameters: Array, temperature_c: Array) -> Array:
        """Level of the source at temperatures; 1 at the last frame."""
        if not self.free:
            return np.ones_like(temperature_c)
        knots = parameters[self.knots] - parameters[-1]
        inside = np.clip(temperature_c, self.knot_c[0], self.knot_c[-1])
        return np.exp(np.clip(CubicSpline(self.knot_c, knots, bc_type="natural")(inside), -8, 8))

    def basis(self, parameters: Array) -> Array:
        """Profiles of all changes of the source, shape (frames, boxes, rows, changes)."""
        blur = np.exp(parameters[_LOG_BLUR])
        at, changed = self.theta_um2(parameters[_LOG_D], parameters[_ACTIVATION] * _J_PER_MOL)
        left = at[:, None] - changed[None, :]
        lengths = np.where(left >= 0.0, np.sqrt(2.0 * np.maximum(left, 0.0)) / blur, -1.0)
        depth = self.profiles.depth_um
        boxes = [(depth - x0) / blur for x0 in parameters[_BOXES : _BOXES + self.boxes]]
        return np.stack([tabulated_profiles(x, lengths) for x in boxes], axis=1)

    def expected(self, parameters: Array, basis: Array | None = None) -> Array:
        """Counts expected, scaled in each frame and box to the counts that are there."""
        basis = self.basis(parameters) if basis is None else basis
        steps = np.diff(self.level(parameters, self.change_c), prepend=0.0)
        shape = np.maximum(basis @ steps + np.exp(parameters[_LOG_BACKGROUND]), 1e-9)
        total = self.profiles.counts.sum(axis=2) / shape.sum(axis=2)
        return np.maximum(total[:, :, None] * shape, 1e-9)

    def slopes(self, parameters: Array, expected: Array, basis: Array) -> Array:
        """Derivatives of the expected counts, shape (counts, parameters)."""
        n, step = len(parameters), 1e-4
        found = np.zeros((*expected.shape, n))

        def moved(which: int | slice, by: float) -> Array:
            there = parameters.copy()
            there[which] += by
            # The basis is the same where only source and background change.
            same = isinstance(which, int) and which not in (_LOG_D, _ACTIVATION, _LOG_BLUR)
            return self.expected(there, basis if same else None)

        for k in [*range(_BOXES), *range(_BOXES + self.boxes, n)]:
            found[..., k] = (moved(k, step) - moved(k, -step)) / (2 * step)
        # Each box knows its own interface alone: one step for all of them.
        boxes = slice(_BOXES, _BOXES + self.boxes)
        change = (moved(boxes, step) - moved(boxes, -step)) / (2 * step)
        for box in range(self.boxes):
            found[:, box, :, _BOXES + box] = change[:, box]
        return found.reshape(-1, n)

    def prior(self, parameters: Array) -> tuple[float, Array, Array]:
        """What is known of the source beforehand: half its square, gradient and curvature.

        Its level is smooth, and it follows the counts that are seen in the source, as far as their
        yield does not change.
        """
        n = len(parameters)
        curvature, middle = np.zeros((n, n)), np.zeros(n)
        if self.free:
            second = np.diff(np.eye(len(self.knot_c)), n=2, axis=0) / _SMOOTH
            curvature[self.knots, self.knots] = second.T @ second
            middle[self.knots] = self.seen
            follows = np.where(self.knot_c >= self.profiles.temperature_c[0], 1 / _YIELD**2, 1e-2)
            curvature[self.knots, self.knots] += np.diag(follows)
        # What is smooth is how the level differs from the counts: a yield that changes.
        away = parameters - middle
        gradient = curvature @ away
        return 0.5 * float(away @ gradient), gradient, curvature


def fit_diffusion(
    profiles: Profiles,
    law: Law = "fick",
    blur_um: float = 0.17,
    progress: Callable[[float], None] | None = None,
) -> DiffusionFit:
    """Fit D at 330 degC and Q to the profiles of all frames.

    Parameters
    ----------
    profiles : Profiles
        Counts of the species.
    law : {"fick", "fick-free-source", "paper"}
        See the module.
    blur_um : float
        Where the search of the blur begins.
    progress : callable, optional
        Takes the part that is done.

    Returns
    -------
    DiffusionFit
        With covariance from the Fisher information, inflated where residuals are larger than
        counts allow, or where neighbouring frames err together.

    Raises
    ------
    ValueError
        If there are fewer than three frames, or no counts.

    Examples
    --------
    A front whose length grows from 0.1 to 1 um between 260 and 400 degC:

    >>> from .front_profile import front_profile
    >>> course = np.linspace(0.0, 400.0, 801)
    >>> d = 7.1e4 * np.exp(-87.2e3 / (8.314 * (course + 323.15)))
    >>> theta = np.concatenate([[0.0], np.cumsum(0.25 * (d[1:] + d[:-1]))])
    >>> time_s = np.linspace(210.0, 350.0, 40)
    >>> lengths = np.sqrt(2.0 * np.interp(time_s, course, theta))
    >>> depth = np.tile(np.arange(-14, 60) * 0.055, (40, 1))
    >>> mean = front_profile(depth / 0.17, lengths[:, None] / 0.17)
    >>> counts = np.random.default_rng(1).poisson(400.0 * np.maximum(mean, 0.0))[:, None]
    >>> fit = fit_diffusion(Profiles(counts.astype(float), depth, time_s, course, 50.0 + course))
    >>> abs(fit.activation_j_per_mol - 87.2e3) < 4 * fit.activation_sd < 6e3
    True
    """
    if len(profiles.counts) < 3:
        raise ValueError(f"{len(profiles.counts)} frames; at least 3 are needed")
    if profiles.counts.sum() <= 0:
        raise ValueError("no counts of the species in the boxes")
    model = _Model(profiles, law)
    middle = profiles.time_s[len(profiles.time_s) // 2]
    # A front about a sd of blur long in the middle of the frames.
    best: tuple[Array, float, Array, bool] | None = None
    for activation in (70e3, 110e3):
        theta = model.theta_um2(0.0, activation)[0]
        reference = blur_um**2 / 2.0 / max(float(np.interp(middle, profiles.time_s, theta)), 1e-30)
        start = model.start(reference, activation, blur_um)
        found = _search(model, start, progress)
        if best is None or found[1] > best[1]:
            best = found
        if found[3]:
            break
    assert best is not None
    return _result(model, *best)


def _objective(model: _Model, parameters: Array) -> float:
    expected = model.expected(parameters)
    counts = model.profiles.counts
    return float((counts * np.log(expected) - expected).sum()) - model.prior(parameters)[0]


def _search(
    model: _Model, parameters: Array, progress: Callable[[float], None] | None
) -> tuple[Array, float, Array, bool]:
    """Fisher scoring, damped: parameters, likelihood, information, and whether it has ended."""
    damping, value, converged = 1e-2, _objective(model, parameters), False
    information = np.eye(len(parameters))
    for number in range(_ITERATIONS):
        if progress is not None:
            progress(number / _ITERATIONS)
        gradient, information = _scoring(model, parameters)
        if 0.5 * float(gradient @ np.linalg.pinv(information) @ gradient) < _CONVERGED:
            converged = True
            break
        while damping < 1e8:
            damped = information + damping * np.diag(np.maximum(np.diag(information), 1e-9))
            step = np.linalg.solve(damped, gradient)
            step = np.clip(step, -1.0, 1.0)
            moved = _objective(model, parameters + step)
            if moved >= value:
                break
            damping *= 8.0
        else:
            break
        value = moved
        parameters, damping = parameters + step, max(damping / 8.0, 1e-9)
    return parameters, value, information, converged


def _scoring(model: _Model, parameters: Array) -> tuple[Array, Array]:
    """Gradient of the objective, and Fisher information with that of the prior."""
    basis = model.basis(parameters)
    expected = model.expected(parameters, basis)
    root = np.sqrt(expected).ravel()
    residuals = (model.profiles.counts - expected).ravel() / root
    slopes = model.slopes(parameters, expected, basis) / root[:, None]
    _, gradient, curvature = model.prior(parameters)
    return slopes.T @ residuals - gradient, slopes.T @ slopes + curvature


def _covariance(
    model: _Model, parameters: Array, expected: Array, information: Array, misfit: float
) -> Array:
    """Covariance of the parameters, larger where neighbouring frames err together.

    An error of the drift moves all boxes of a frame, and lasts for some frames: the counts alone
    do not know it. The gradients of blocks of frames are therefore taken as independent, and not
    those of single counts (White, Econometrica 1982, 50, 1); of the two sds the larger one stays.
    """
    inverse = np.array(np.linalg.pinv(information), np.float64)
    counts = model.profiles.counts
    slopes = model.slopes(parameters, expected, model.basis(parameters))
    pull = ((counts - expected) / expected).ravel()[:, None] * slopes
    frames = pull.reshape(len(counts), -1, len(parameters)).sum(axis=1)
    starts = np.arange(0, len(frames), _BLOCK)
    blocks = np.add.reduceat(frames, starts, axis=0)
    spread = inverse @ (blocks.T @ blocks) @ inverse
    # Few blocks tell their own spread too small.
    spread *= len(starts) / max(1, len(starts) - 2)
    own = np.maximum(np.diag(inverse) * max(1.0, misfit), 1e-30)
    scale = np.sqrt(np.maximum(np.diag(spread), own) / np.diag(inverse).clip(1e-30))
    return inverse * scale[:, None] * scale[None, :]


def _result(
    model: _Model, parameters: Array, value: float, information: Array, converged: bool
) -> DiffusionFit:
    expected, counts = model.expected(parameters), model.profiles.counts
    # Where next to nothing is expected, a count more or less weighs too much.
    seen = expected > 0.1
    freedom = max(1, int(seen.sum()) - counts.shape[0] * counts.shape[1] - len(parameters))
    misfit = float(((counts - expected)[seen] ** 2 / expected[seen]).sum()) / freedom
    covariance = _covariance(model, parameters, expected, information, misfit)
    scale = np.array([1.0, _J_PER_MOL])
    two = np.array(covariance[:2, :2] * scale[:, None] * scale[None, :], np.float64)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    boxes = slice(_BOXES, _BOXES + model.boxes)
    doubts: list[str] = []
    if not converged:
        doubts.append("the fit has not converged")
    if misfit > 1.5:
        doubts.append(f"residuals are {misfit:.1f} times what counts allow: the model is not right")
    return DiffusionFit(
        law=model.law,
        activation_j_per_mol=float(parameters[_ACTIVATION] * _J_PER_MOL),
        activation_sd=float(sd[_ACTIVATION] * _J_PER_MOL),
        log_d_reference=float(parameters[_LOG_D]),
        log_d_reference_sd=float(sd[_LOG_D]),
        covariance=two,
        interface_um=parameters[boxes].copy(),
        interface_sd_um=sd[boxes],
        blur_um=float(np.exp(parameters[_LOG_BLUR])),
        background=float(np.exp(parameters[_LOG_BACKGROUND])),
        level=model.level(parameters, model.profiles.temperature_c),
        misfit=misfit,
        log_likelihood=value,
        converged=converged,
        doubts=tuple(doubts),
    )
