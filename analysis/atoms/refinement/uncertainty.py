"""Errors of a fitted model: covariance of each atom, and how likely it is that it is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ...core.arrays import in_threads
from . import kernels
from .common_motion import common_motion
from .likelihood import removal_gains
from .model import Floats64, Step, Views, places, window
from .newton import Fitted, NewtonSystem
from .priors import Priors

_DRAWS = 8
_PRODUCTS, _TOLERANCE = 40, 0.03
# An atom's own draws are few: its factor is the mean over so many atoms around it.
_NEIGHBOURS = 12
# The information of the counts about a place falls with the distance from it. Errors that are not
# small against the width of a peak therefore exceed the linear estimate: variance grows by
# exp(_SPREAD * trace / width^2). The number is that of simulated particles (benchmarks/atoms):
# errors of 11, 15 and 20 pm have 9, 16 and 31 % more variance.
_SPREAD, _MOST_SPREAD = 1.5, 0.5
# Probability that an atom is there: logistic in its gain. The middle and the width are those of
# a simulated particle of 20,000 atoms at 8.0e3 e/A^2 (benchmarks/atoms).
_HALF_GAIN, _GAIN_WIDTH = 9.6, 1.6


@dataclass(frozen=True)
class Errors:
    """Errors of a fitted model; lengths in pixels, angles in radians.

    Attributes
    ----------
    covariance : ndarray
        Shape (atoms, 3, 3): of x, y, z, inflated where the residuals are larger than the model
        says.
    gain : ndarray
        Shape (atoms,): by how much an atom raises the log likelihood.
    probability : ndarray
        Shape (atoms,): that the atom is there.
    misfit : ndarray
        Shape (atoms,): mean squared score over its expectation, over views; 1 where the model is
        right.
    height_sd : ndarray
        Shape (atoms,).
    shift_sd : ndarray
        Shape (views, 2).
    tilt_sd_rad : ndarray
        Shape (views,).
    rotation_sd_rad, offset_sd : float
        Of rotation and offset of the tilt axis.
    """

    covariance: Floats64
    gain: Floats64
    probability: Floats64
    misfit: Floats64
    height_sd: Floats64
    shift_sd: Floats64
    tilt_sd_rad: Floats64
    rotation_sd_rad: float
    offset_sd: float


def errors_of(views: Views, now: Fitted, priors: Priors, seed: int, draws: int = _DRAWS) -> Errors:
    """Errors of a model from the Fisher information of all parameters together.

    Solutions of the Newton equations for random right-hand sides, whose covariance is the
    curvature, have the inverse of the curvature as their covariance. They tell by which factor the
    errors of an atom exceed those that it would have were everything else known.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        The model at its optimum.
    priors : Priors
        The priors.
    seed : int
        Seed of the random right-hand sides.
    draws : int
        Number of them.

    Returns
    -------
    Errors
        Covariances and probabilities.
    """
    model = now.model
    system = NewtonSystem(views, now, priors)
    rng = np.random.default_rng(seed)
    alone = np.linalg.inv(system.blocks)
    inverse = np.linalg.inv(alone[:, :3, :3])
    ratios = np.zeros(model.size)
    heights = np.zeros(model.size)
    alignment = np.zeros((draws, views.size, 3))
    turns, offsets = np.zeros(draws), np.zeros(draws)
    for n in range(draws):
        moves, step = _drawn(system, now, rng)
        _, offsets[n] = common_motion(step.views[:, :2], model)
        ratios += np.einsum("ai,aij,aj->a", moves, inverse, moves) / (3 * draws)
        heights += step.atoms[:, 3] ** 2 / draws
        alignment[n] = step.views[:, :3]
        turns[n] = step.rotation
    del system
    misfit = smoothed(model.positions, misfits(views, now))
    factor = smoothed(model.positions, ratios) * np.maximum(1.0, misfit)
    linear = np.trace(alone[:, :3, :3], axis1=1, axis2=2) * factor / model.width**2
    factor = factor * np.exp(_SPREAD * np.minimum(linear, _MOST_SPREAD))
    gains = removal_gains(views, model, now.found)
    spread = np.sqrt(np.mean(alignment**2, axis=0))
    return Errors(
        alone[:, :3, :3] * factor[:, None, None],
        gains,
        probability_of(gains),
        misfit,
        np.sqrt(smoothed(model.positions, heights)),
        spread[:, :2],
        spread[:, 2],
        float(np.sqrt(np.mean(turns**2))),
        float(np.sqrt(np.mean(offsets**2))),
    )


def position_bound(views: Views, now: Fitted, priors: Priors, seed: int = 0) -> float:
    """Least root of the summed variances of x, y, z, mean over the atoms (Cramer and Rao).

    It is that of the whole Fisher information at this model: no estimate without bias is better.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        The model, best with the true atoms.
    priors : Priors
        The priors.
    seed : int
        Seed of the random right-hand sides.

    Returns
    -------
    float
        In pixels.
    """
    system = NewtonSystem(views, now, priors)
    rng = np.random.default_rng(seed)
    squares = [
        np.mean(np.sum(moves**2, axis=1))
        for moves, _ in (_drawn(system, now, rng) for _ in range(_DRAWS))
    ]
    return float(np.sqrt(np.mean(squares)))


def _drawn(system: NewtonSystem, now: Fitted, rng: np.random.Generator) -> tuple[Floats64, Step]:
    """Moves of the atoms with the errors' covariance, about their mean, and the whole step."""
    right = system.freed(system.curvature.drawn(rng).plus(system.terms.drawn(rng)))
    step = system.solved(right, _PRODUCTS, _TOLERANCE)
    translation, _ = common_motion(step.views[:, :2], now.model)
    moves = step.atoms[:, :3] + translation
    return moves - moves.mean(axis=0), step


def probability_of(gains: Floats64) -> Floats64:
    """Probability that an atom is there, by its gain of log likelihood."""
    return 1 / (1 + np.exp(-(np.asarray(gains) - _HALF_GAIN) / _GAIN_WIDTH))


def smoothed(positions: Floats64, values: Floats64) -> Floats64:
    """Mean over an atom and its neighbours."""
    count = min(_NEIGHBOURS + 1, len(positions))
    if count < 2:
        return values
    _, near = KDTree(positions).query(positions, k=count)
    return values[near].mean(axis=1)


def misfits(views: Views, now: Fitted) -> NDArray[np.float64]:
    """Mean over views of an atom's squared score by its place, over what is expected of it."""
    model = now.model
    tall, wide = window(model.width)
    parts = np.zeros((views.size, model.size))
    seen = np.zeros((views.size, model.size))

    def one(k: int) -> None:
        at = places(model, k, views.centre)
        excess, weights = np.empty_like(now.found.means[k]), np.empty_like(now.found.means[k])
        kernels.residuals(views.counts[k], now.found.means[k], excess, weights)
        sums = np.empty((model.size, 3), np.float32)
        squares = np.empty((model.size, 6), np.float32)
        kernels.gather(at.rows, at.columns, model.width, tall, wide, excess, sums)
        kernels.gather_squares(at.rows, at.columns, model.width, tall, wide, weights, squares)
        rr, rc, cc = squares[:, 3:].T.astype(np.float64)
        r, c = sums[:, 1:].T.astype(np.float64)
        whole = rr * cc - rc * rc
        good = whole > 1e-12 * (rr + cc) ** 2
        whole = np.where(good, whole, 1.0)
        parts[k] = np.where(good, (cc * r * r - 2 * rc * r * c + rr * c * c) / whole, 0.0)
        seen[k] = 2 * good

    in_threads(one, range(views.size))
    return parts.sum(axis=0) / np.maximum(seen.sum(axis=0) - 3, 1)
