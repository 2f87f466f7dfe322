"""Which atoms the counts support: some are removed, some are added, by likelihood ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ...alignment.resampling import TiltAxis, apply_alignment
from ...core.arrays import Floats, in_threads
from ...tomography.projector import backproject
from ..refinement import kernels
from ..refinement.likelihood import blur_kernel, blurred, removal_gains
from ..refinement.model import AtomModel, Floats64, Views
from ..refinement.newton import Fitted
from .peaks import local_maxima, spaced

# A new atom is expected to explain this part of a whole one: its neighbours have taken the rest.
_LEFT = 0.6
_NEW_HEIGHT = 0.8


@dataclass(frozen=True)
class SearchRules:
    """Bounds of the search; lengths in pixels, gains in units of log likelihood.

    Attributes
    ----------
    least_gain : float
        An atom that raises the log likelihood by less is removed.
    alone_gain : float
        The same for an atom with fewer than `neighbours` others within `neighbourhood`.
    nearest : float
        Of two atoms that are nearer the one of less gain is removed.
    apart : float
        Least distance of two atoms that are added in one round.
    share : float
        Most atoms that are added in one round, as a part of those there are.
    wide : float
        Width of the mean that is subtracted from the score.
    neighbourhood, neighbours
        What counts as surroundings of an atom.
    """

    least_gain: float
    alone_gain: float
    nearest: float
    apart: float
    share: float
    wide: float
    neighbourhood: float
    neighbours: int = 3


def surrounded(positions: Floats64, atoms: Floats64, rules: SearchRules) -> NDArray[np.bool_]:
    """Which positions have atoms about them; a position's own atom does not count."""
    if len(atoms) <= rules.neighbours:
        return np.zeros(len(positions), np.bool_)
    reach = rules.neighbourhood
    tree = KDTree(atoms)
    nearest, _ = tree.query(positions, k=rules.neighbours + 1, distance_upper_bound=reach)
    others = (np.isfinite(nearest) & (nearest > 1e-9)).sum(axis=1)
    return others >= rules.neighbours


def pruned(views: Views, now: Fitted, rules: SearchRules) -> AtomModel:
    """Remove atoms that the counts do not support, and of two that are too near the weaker.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        The model and what it expects.
    rules : SearchRules
        Bounds.

    Returns
    -------
    AtomModel
        The model with the atoms that stay, in their order.
    """
    model = now.model
    gains = removal_gains(views, model, now.found)
    wanted = np.where(
        surrounded(model.positions, model.positions, rules), rules.least_gain, rules.alone_gain
    )
    stay = np.flatnonzero(gains >= wanted)
    kept = np.sort(stay[spaced(model.positions[stay], gains[stay], rules.nearest)])
    return model.with_atoms(model.positions[kept], model.heights[kept])


def missing_atoms(views: Views, now: Fitted, rules: SearchRules) -> Floats64:
    """Places where an atom is missing, the clearest first.

    The score of a place is the sum over views of the residual, seen through a peak less a wider
    one, so that a smooth residual counts for nothing. A place is told if an atom of typical height
    there would raise the log likelihood by `least_gain`.

    Parameters
    ----------
    views : Views
        The recorded counts.
    now : Fitted
        The model and what it expects.
    rules : SearchRules
        Bounds.

    Returns
    -------
    ndarray
        Shape (atoms, 3): x, y, z in pixels.
    """
    model = now.model
    gain = _gain_map(views, now, rules)
    indices, positions = local_maxima(gain, rules.least_gain)
    gains = gain[tuple(indices.T)]
    clear = surrounded(positions, model.positions, rules)
    if model.size:
        distances, _ = KDTree(model.positions).query(positions)
        clear &= distances > rules.nearest
    positions, gains = positions[clear], gains[clear]
    kept = spaced(positions, gains, rules.apart)
    return positions[kept[: max(4, round(rules.share * model.size))]]


def with_added(model: AtomModel, positions: Floats64, typical: float) -> AtomModel:
    """The model with more atoms."""
    heights = np.full(len(positions), _NEW_HEIGHT * typical)
    return model.with_atoms(
        np.concatenate([model.positions, positions]), np.concatenate([model.heights, heights])
    )


def _gain_map(views: Views, now: Fitted, rules: SearchRules) -> Floats:
    """Gain of log likelihood by one more atom at each voxel about the atoms there are."""
    model, margin = now.model, views.margin
    high, broad = (size - 2 * margin for size in views.counts.shape[1:])
    narrow, wide = blur_kernel(model.width), blur_kernel(rules.wide)
    score = np.empty((views.size, high, broad), np.float32)
    information = np.empty_like(score)
    inside = (slice(margin, -margin), slice(margin, -margin))

    def one(k: int) -> None:
        excess, weights = np.empty_like(now.found.means[k]), np.empty_like(now.found.means[k])
        kernels.residuals(views.counts[k], now.found.means[k], excess, weights)
        score[k] = (blurred(excess, narrow) - blurred(excess, wide))[inside]
        information[k] = blurred(weights, narrow)[inside]

    in_threads(one, range(views.size))
    reach = np.abs(model.positions).max(axis=0) + rules.neighbourhood
    across, along, depth = (2 * math.ceil(part) for part in reach)
    shape = (min(high, along + high % 2), broad)
    slices = (depth, min(across, broad))
    axis = TiltAxis(0.0, math.degrees(model.rotation_rad))
    tilts = np.rad2deg(model.tilt_rad)
    maps: list[Floats] = []
    for images in (score, information):
        straight = apply_alignment(images, model.shifts, axis, shape=shape)
        maps.append(backproject(straight, tilts, slices))
    # Sums over pixels of products of the two Gaussians that the score is made of.
    one_one = 1 / (4 * math.pi * model.width**2)
    one_two = 1 / (2 * math.pi * (model.width**2 + rules.wide**2))
    two_two = 1 / (4 * math.pi * rules.wide**2)
    signal, power = one_one - one_two, one_one - 2 * one_two + two_two
    height = _LEFT * now.typical
    gain = maps[0] - (0.5 * height * signal) * maps[1]
    return np.asarray((height * signal / power) * gain, np.float32)
