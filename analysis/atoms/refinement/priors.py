"""What is known before the counts are looked at: heights, distances, alignment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .model import GAIN, TILT, AtomModel, Floats64, Step

# The background has no prior; this keeps its precision positive.
_NEGLIGIBLE = 1e-9
# Views that follow one another at angles nearer than this are frames of one tilt.
_SAME_TILT_DEG = 1e-3


@dataclass(frozen=True)
class Priors:
    """Gaussian priors and the soft repulsion; lengths in pixels.

    Attributes
    ----------
    height_spread : float
        Standard deviation of the heights over their median.
    shifts, tilt_rad, rotation_rad
        Where the alignment is expected: (views, 2), (views,) and a number.
    shift_sd : ndarray
        Shape (views, 2): standard deviations of the shifts about that; 0 holds a shift.
    tilt_sd_rad, rotation_sd_rad, gain_sd : float
        Standard deviations of the others; 0 holds the parameter.
    nearest : float
        Atoms that are nearer to each other repel.
    softness : float
        A distance that is too short by so much costs half a unit of log likelihood.
    groups : ndarray
        Shape (views,): views of one number share their tilt, as the frames of one tilt do.
    """

    height_spread: float
    shifts: Floats64
    tilt_rad: Floats64
    rotation_rad: float
    shift_sd: Floats64
    tilt_sd_rad: float
    rotation_sd_rad: float
    gain_sd: float
    nearest: float
    softness: float
    groups: NDArray[np.intp]

    @property
    def free(self) -> Floats64:
        """1 for each parameter of a view that is fitted and 0 for one that is held; (views, 5)."""
        sds = np.empty((len(self.shifts), 5))
        sds[:, :2] = self.shift_sd
        sds[:, 2:] = (self.tilt_sd_rad, 1.0, self.gain_sd)
        return (sds > 0).astype(np.float64)

    def tied(self, views: Floats64) -> Floats64:
        """The part of a change of views (views, 5) by which the tilts of a group stay equal."""
        sizes = np.bincount(self.groups)
        if len(sizes) == len(self.groups):
            return views
        out = views.copy()
        out[:, TILT] = (np.bincount(self.groups, views[:, TILT]) / sizes)[self.groups]
        return out


def tilt_groups(tilt_deg: Floats64) -> NDArray[np.intp]:
    """Numbers of the groups of consecutive views at one angle: frames of one tilt.

    Parameters
    ----------
    tilt_deg : ndarray
        Angles in degrees, shape (views,), in the order of recording.

    Returns
    -------
    ndarray
        Shape (views,), from 0.

    Examples
    --------
    >>> tilt_groups(np.array([-2.0, -2, -2, 0, 0, -2])).tolist()
    [0, 0, 0, 1, 1, 2]
    """
    starts = np.r_[True, np.abs(np.diff(tilt_deg)) > _SAME_TILT_DEG]
    return np.cumsum(starts) - 1


def _precision(sd: float) -> float:
    return 1 / sd**2 if sd > 0 else 0.0


class PriorTerms:
    """Value, gradient and curvature of the priors at one model.

    Parameters
    ----------
    priors : Priors
        The priors.
    model : AtomModel
        The model.
    typical : float
        Height about which heights are expected.

    Attributes
    ----------
    value : float
        Logarithm of the prior, but for a constant.
    """

    def __init__(self, priors: Priors, model: AtomModel, typical: float) -> None:
        self._size = model.size
        self._height = _precision(priors.height_spread * typical)
        self.view_precision = np.empty((len(model.tilt_rad), 5))
        held = priors.shift_sd <= 0
        self.view_precision[:, :2] = np.where(held, 0, 1 / np.where(held, 1, priors.shift_sd) ** 2)
        self.view_precision[:, 2:] = (
            _precision(priors.tilt_sd_rad), _NEGLIGIBLE, _precision(priors.gain_sd)
        )  # fmt: skip
        # What is known of the tilt of a group is known once, not once for each of its frames.
        self.view_precision[:, TILT] /= np.bincount(priors.groups)[priors.groups]
        self.rotation_precision = _precision(priors.rotation_sd_rad)
        self._off = Step(np.zeros((model.size, 4)), np.zeros((len(model.tilt_rad), 5)))
        self._off.atoms[:, 3] = model.heights - typical
        self._off.views[:, :2] = model.shifts - priors.shifts
        self._off.views[:, TILT] = model.tilt_rad - priors.tilt_rad
        self._off.views[:, GAIN] = model.log_gain
        self._off.rotation = model.rotation_rad - priors.rotation_rad
        self._pairs, self._ways, self._stiffness = _close_pairs(priors, model)
        self._short = priors.nearest - self._lengths(model)
        self.value = -0.5 * self._plain(self._off).dot(self._off)
        self.value -= 0.5 * self._stiffness * float(np.sum(self._short**2))

    def _lengths(self, model: AtomModel) -> Floats64:
        one, two = self._pairs.T
        return np.linalg.norm(model.positions[one] - model.positions[two], axis=1)

    def _plain(self, step: Step) -> Step:
        atoms = np.zeros_like(step.atoms)
        atoms[:, 3] = self._height * step.atoms[:, 3]
        return Step(
            atoms, step.views * self.view_precision, step.rotation * self.rotation_precision
        )

    def gradient(self) -> Step:
        """Derivative of the value."""
        plain = self._plain(self._off)
        out = Step(-plain.atoms, -plain.views, -plain.rotation)
        push = (self._stiffness * self._short)[:, None] * self._ways
        _scatter(out.atoms, self._pairs, push)
        return out

    def product(self, step: Step) -> Step:
        """Curvature (positive) times a step."""
        out = self._plain(step)
        if len(self._pairs):
            one, two = self._pairs.T
            stretch = np.sum((step.atoms[one, :3] - step.atoms[two, :3]) * self._ways, axis=1)
            _scatter(out.atoms, self._pairs, self._stiffness * stretch[:, None] * self._ways)
        return out

    def drawn(self, rng: np.random.Generator) -> Step:
        """A random gradient, whose covariance is the curvature."""
        out = Step(
            np.zeros_like(self._off.atoms),
            rng.standard_normal(self._off.views.shape) * np.sqrt(self.view_precision),
            float(rng.standard_normal() * np.sqrt(self.rotation_precision)),
        )
        out.atoms[:, 3] = rng.standard_normal(self._size) * np.sqrt(self._height)
        push = rng.standard_normal(len(self._pairs)) * np.sqrt(self._stiffness)
        _scatter(out.atoms, self._pairs, push[:, None] * self._ways)
        return out

    def add_to(self, blocks: Floats64) -> None:
        """Add the curvature of single atoms to blocks (atoms, 4, 4)."""
        blocks[:, 3, 3] += self._height
        outer = self._stiffness * self._ways[:, :, None] * self._ways[:, None, :]
        for ends in self._pairs.T:
            np.add.at(blocks[:, :3, :3], ends, outer)


def _scatter(atoms: Floats64, pairs: NDArray[np.intp], pushes: Floats64) -> None:
    """Add a push to the first atom of each pair, and its opposite to the second."""
    if len(pairs):
        for axis in range(3):
            push = pushes[:, axis]
            atoms[:, axis] += np.bincount(pairs[:, 0], push, len(atoms))
            atoms[:, axis] -= np.bincount(pairs[:, 1], push, len(atoms))


def _close_pairs(priors: Priors, model: AtomModel) -> tuple[NDArray[np.intp], Floats64, float]:
    """Pairs that are too near, the direction from the second to the first, and the stiffness."""
    pairs = np.empty((0, 2), np.intp)
    if priors.nearest > 0 and model.size > 1:
        found = KDTree(model.positions).query_pairs(priors.nearest, output_type="ndarray")
        pairs = found.astype(np.intp).reshape(-1, 2)
        pairs = pairs[np.lexsort(pairs.T)]
    ways = model.positions[pairs[:, 0]] - model.positions[pairs[:, 1]]
    lengths = np.linalg.norm(ways, axis=1)
    ways = ways / np.maximum(lengths, 1e-9)[:, None]
    return pairs, ways, _precision(priors.softness)
