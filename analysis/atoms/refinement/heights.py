"""Heights of atoms: one typical height for each species, about which its atoms spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .model import Floats64

_TURNS = 30
# A species has at least this part of the atoms, so that one that was lost can come back.
_LEAST_PART = 0.01
# Levels of two species keep this ratio.
_LEAST_RATIO = 1.15


@dataclass(frozen=True)
class HeightClasses:
    """Typical heights of the species, and the part of the atoms that each has.

    Attributes
    ----------
    levels : ndarray
        Shape (species,), rising: counts of an atom in a view.
    parts : ndarray
        Shape (species,), of sum 1.
    """

    levels: Floats64
    parts: Floats64

    @property
    def lowest(self) -> float:
        """Typical height of the faintest species."""
        return float(self.levels[0])

    def memberships(self, heights: Floats64, sd: Floats64) -> Floats64:
        """Probability of each species for each atom; (atoms, species).

        Parameters
        ----------
        heights : ndarray
            Shape (atoms,).
        sd : ndarray
            Standard deviations of the heights about the levels, shape (species,) or
            (atoms, species).

        Returns
        -------
        ndarray
            Shape (atoms, species), of sum 1.
        """
        logs = self._logs(heights, np.broadcast_to(sd, (len(heights), self.levels.size)))
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def log_density(self, heights: Floats64, sd: Floats64) -> Floats64:
        """Logarithm of the mixture's density at each height, but for a constant."""
        logs = self._logs(heights, np.broadcast_to(sd, (len(heights), self.levels.size)))
        return np.logaddexp.reduce(logs, axis=1)

    def _logs(self, heights: Floats64, sd: Floats64) -> Floats64:
        off = (heights[:, None] - self.levels) / sd
        # Relative to the first class, so that one species has no constant.
        return np.log(self.parts) - np.log(sd / sd[:, :1]) - 0.5 * off**2


def height_classes(
    heights: Floats64, species: int, spread: float, before: HeightClasses | None = None
) -> HeightClasses:
    """Typical heights: the median, or a mixture of Gaussians for more than one species.

    Parameters
    ----------
    heights : ndarray
        Shape (atoms,).
    species : int
        Number of species.
    spread : float
        Standard deviation of the heights of a species over its typical one.
    before : HeightClasses, optional
        Where the mixture starts; by default at quantiles.

    Returns
    -------
    HeightClasses
        The classes.

    Examples
    --------
    >>> import numpy as np
    >>> height_classes(np.array([9.0, 10, 11, 29, 30, 31]), 2, 0.05).levels.round(1).tolist()
    [10.0, 30.0]
    """
    if not heights.size:
        return HeightClasses(np.ones(species), np.full(species, 1 / species))
    if species == 1:
        return HeightClasses(np.array([np.median(heights)]), np.ones(1))
    if before is None:
        ends = np.percentile(heights, [5, 95])
        levels = np.maximum(np.linspace(ends[0], ends[1], species), 1e-6)
        # The first turns are wide, so that no class is out of reach of its atoms.
        before = HeightClasses(levels, np.full(species, 1 / species))
        widths = np.r_[np.geomspace(max(spread, 0.3), spread, 10), np.full(_TURNS, spread)]
    else:
        widths = np.full(_TURNS, spread)
    found = before
    for width in widths:
        shares = found.memberships(heights, width * found.levels)
        weights = shares.sum(axis=0)
        levels = (shares * heights[:, None]).sum(axis=0) / np.maximum(weights, 1e-9)
        levels = np.where(weights > 1e-6 * heights.size, levels, found.levels)
        parts = np.maximum(weights / heights.size, _LEAST_PART)
        found = HeightClasses(_apart(np.sort(levels)), parts / parts.sum())
    return found


def _apart(levels: Floats64) -> Floats64:
    """Levels that rise by a least ratio."""
    out = levels.copy()
    for n in range(1, out.size):
        out[n] = max(out[n], _LEAST_RATIO * out[n - 1])
    return out
