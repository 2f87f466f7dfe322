"""How well atoms are known by the views there are, and will be by those that are planned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from ..atoms.refinement.common_motion import common_motion
from ..atoms.refinement.likelihood import Curvature, expect
from ..atoms.refinement.model import AtomModel, Floats64, Views
from ..atoms.refinement.newton import Fitted, NewtonSystem
from ..atoms.refinement.priors import Priors

# Random right-hand sides of the equations for the factor between joint and single errors.
_DRAWS, _PRODUCTS, _TOLERANCE = 2, 15, 0.1
_NEIGHBOURS = 24
# Where time is short, the planned views are represented by so many of them.
_FEW_VIEWS = 8
# Heights of atoms of one species differ by about this part.
_ALIKE = 0.05


@dataclass(frozen=True)
class PositionErrors:
    """Errors of the atoms' places in pixels.

    Attributes
    ----------
    now, expected : ndarray
        Shape (atoms,): root of the summed variances of x, y, z, by the views that are there, and
        by these and the planned ones.
    thinned : bool
        Whether only some of the planned views were looked at.
    height_scatter : float
        Variance of the heights over what their errors and a spread of 5 % make of it. Heights of
        one species are alike: much more than 1 says that some atoms are two, or none.
    next_deg : float or None
        Of the tilts that were looked at, the one whose view would lower the mean variance of the
        places most; None where there is none.
    """

    now: Floats64
    expected: Floats64
    thinned: bool
    height_scatter: float
    next_deg: float | None


def position_errors(
    views: Views,
    now: Fitted,
    priors: Priors,
    left_deg: Sequence[float],
    *,
    spare: bool = True,
    seed: int = 0,
) -> PositionErrors:
    """Errors of the atoms from the Fisher information of the counts, now and at the end.

    The information of a view depends on what a model expects of it, not on its counts: that of a
    view still to be taken is known as soon as there is a model. Its dose is taken as that of the
    views before. Atoms and alignment are not independent of one another; by how much that
    enlarges the errors is found for the views there are, and taken as the same for all.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        The model.
    priors : Priors
        The priors; the repulsion of neighbours counts as no information.
    left_deg : sequence of float
        Angles of the views still to be taken.
    spare : bool
        Whether there is time for all of them.
    seed : int
        Seed of the random right-hand sides.

    Returns
    -------
    PositionErrors
        In pixels.
    """
    system = NewtonSystem(views, now, replace(priors, nearest=0.0))
    spread = np.asarray(np.linalg.inv(system.blocks), np.float64)
    scatter = _height_scatter(now, priors, spread[:, 3, 3])
    alone = spread[:, :3, :3]
    inverse = np.linalg.inv(alone)
    ratios = np.zeros(now.model.size)
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        right = system.freed(system.curvature.drawn(rng).plus(system.terms.drawn(rng)))
        step = system.solved(right, _PRODUCTS, _TOLERANCE)
        translation, _ = common_motion(step.views[:, :2], now.model)
        moves = step.atoms[:, :3] + translation
        moves -= moves.mean(axis=0)
        ratios += np.einsum("ai,aij,aj->a", moves, inverse, moves) / (3 * _DRAWS)
    factor = np.maximum(1.0, _smoothed(now.model.positions, ratios))
    chosen = list(left_deg)
    thinned = not spare and len(chosen) > _FEW_VIEWS
    if thinned:
        picks = np.linspace(0, len(chosen) - 1, _FEW_VIEWS).round().astype(int)
        chosen = [chosen[n] for n in picks]
    blocks = system.blocks
    best, next_deg = math.inf, None
    for tilt_deg in chosen:
        more = information_of(views, now.model, tilt_deg)
        blocks = blocks + more * (len(left_deg) / len(chosen))
        left = np.linalg.inv(system.blocks + more)[:, :3, :3]
        variance = float(np.mean(np.trace(left, axis1=1, axis2=2)))
        if variance < best:
            best, next_deg = variance, tilt_deg
    whole = np.linalg.inv(blocks)[:, :3, :3]
    errors = [np.sqrt(factor * np.trace(part, axis1=1, axis2=2)) for part in (alone, whole)]
    return PositionErrors(errors[0], errors[1], thinned, scatter, next_deg)


def _height_scatter(now: Fitted, priors: Priors, variance: Floats64) -> float:
    """Variance of the heights over what is expected of atoms that are alike."""
    levels = now.heights.levels
    off = np.abs(now.model.heights[:, None] - levels)
    typical = levels[off.argmin(axis=1)]
    prior = (priors.height_spread * typical) ** 2
    # The prior has drawn the heights together; so much is left of their noise.
    noise = np.maximum(variance * (1 - np.minimum(variance / prior, 1)), 0)
    expected = float(np.mean(noise + (_ALIKE * typical) ** 2))
    return float(np.mean(off.min(axis=1) ** 2)) / expected


def information_of(views: Views, model: AtomModel, tilt_deg: float) -> Floats64:
    """Fisher information of a view that was not taken, about each atom by itself.

    Parameters
    ----------
    views : Views
        The recorded counts, for their size.
    model : AtomModel
        The model.
    tilt_deg : float
        Angle of the view.

    Returns
    -------
    ndarray
        Shape (atoms, 4, 4): for x, y, z in pixels and the height.
    """
    shape = (1, *views.counts.shape[1:])
    nothing = np.zeros(shape, np.float32)
    seen = np.broadcast_to(views.known.any(axis=0), shape)
    empty = Views(nothing, seen, nothing, views.margin)
    one = replace(
        model,
        shifts=model.shifts.mean(axis=0, keepdims=True),
        tilt_rad=np.deg2rad([tilt_deg]),
        background=np.array([model.background.mean()]),
        log_gain=np.zeros(1),
    )
    return Curvature(empty, one, expect(empty, one)).blocks


def _smoothed(positions: Floats64, values: Floats64) -> Floats64:
    """Mean over an atom and its neighbours: the draws are few."""
    count = min(_NEIGHBOURS + 1, len(positions))
    if count < 2:
        return values
    _, near = KDTree(positions).query(positions, k=count)
    return np.asarray(values[near].mean(axis=1), np.float64)
