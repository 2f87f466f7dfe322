"""The kinetic model of growth: power law with Arrhenius temperature dependence; pure.

Each pair i of particles grows as

    x_i^n = x_i0^n + A_i * theta,   theta = integral of exp(-Q/R (1/T - 1/T_ref)) dt

with the exponent n and the activation energy Q common to all pairs (Kuczynski, Trans. AIME 1949,
185, 169; Kingery and Berg, J. Appl. Phys. 1955, 26, 1205: n is 2 for viscous flow, 5 for volume
diffusion, 7 for surface diffusion). For each pair of (n, Q) on a grid the rest is a line, fitted in
closed form. The specimen does not obey this law over its whole growth: near its end x saturates.
So the latest series count most (the exponent is that of the present growth), the grid is weighted
as if a few pairs only were independent, and what the predictions missed so far widens the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.steering import Statistic
from .thermal_history import Dwell

Floats = NDArray[np.float64]

# The grid, and how many pairs count as independent in the choice of n and Q.
_EXPONENTS = np.geomspace(1.0, 25.0, 14)
_ACTIVATIONS = np.linspace(-2.0, 2.0, 7)  # standard deviations about the prior's mean
_INDEPENDENT = 12.0
# A series counts half as much for each so many series after it.
_HALF_LIFE = 0.7
# Residuals beyond so many standard deviations lose weight (Student's t with few degrees).
_OUTLIER = 2.5
_ROUNDS = 5  # of reweighting
_SMALLEST = 0.05  # of the typical value: smaller ones have no power that means anything


@dataclass(frozen=True)
class Priors:
    """What is known before the first measurement.

    Parameters
    ----------
    exponent : float
        Median of n.
    exponent_factor : float
        n lies within this factor of it with 68 % probability.
    activation_j_per_mol, activation_sd_j_per_mol : float
        Mean and standard deviation of Q.
    """

    exponent: float = 3.0
    exponent_factor: float = 2.0
    activation_j_per_mol: float = 150e3
    activation_sd_j_per_mol: float = 60e3


@dataclass(frozen=True)
class Estimate:
    """A number and its standard deviation."""

    value: float
    sd: float


@dataclass(frozen=True)
class Advance:
    """Predicted advance of the statistic, for each of h holds: mean and standard deviation."""

    mean: Floats
    sd: Floats


class NoFit(ValueError):
    """The measurements do not determine the model."""


def spread(values: Floats) -> float:
    """Robust standard deviation: 1.4826 times the median distance from the median."""
    found = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(found - np.median(found)))) if found.size else math.nan


def statistic_of(values: Floats, statistic: Statistic) -> Floats:
    """A statistic along the last axis."""
    operations = {
        "median": np.median, "mean": np.mean, "max": np.max, "min": np.min, "std": np.std,
    }  # fmt: skip
    return np.asarray(operations[statistic](values, axis=-1))


@dataclass(frozen=True)
class _Lines:
    """Lines of all pairs at each (n, Q): through (middle, level) with a rate dx/dtheta now."""

    level: Floats
    middle: Floats
    level_var: Floats
    rate: Floats
    rate_var: Floats
    common_var: Floats
    residual: Floats
    robust: Floats
    steep: Floats
    latest: Floats


class GrowthFit:
    """The model fitted to pairs that were followed over series.

    Parameters
    ----------
    values : ndarray, shape (pairs, series)
        The quantity of each pair in each series; NaN where it was not measured.
    dwells : list of Dwell
        Heat received between each series and the one before; the first is not used.
    statistic : str
        What of the pairs is predicted.
    reference_c : float
        Reference temperature in deg C.
    priors : Priors
        Of n and Q.
    noise : float, optional
        Standard deviation of one measurement; from the scatter of the growth without it.

    Raises
    ------
    NoFit
        If fewer than two series have pairs in common with the latest, or nothing finite comes out.
    """

    def __init__(
        self,
        values: Floats,
        dwells: list[Dwell],
        statistic: Statistic,
        reference_c: float,
        priors: Priors,
        noise: float | None = None,
    ) -> None:
        present = np.isfinite(values[:, -1]) & (np.isfinite(values).sum(axis=1) >= 2)
        if not present.any():
            raise NoFit("no pair was measured in the latest series and in one before")
        self.statistic: Statistic = statistic
        self.reference_c = reference_c
        self.pairs = int(present.sum())
        y = values[present]
        self._scale = float(np.nanmedian(np.abs(y)))
        if not self._scale > 0:
            raise NoFit("the values are zero")
        u = y / self._scale
        self._measured = np.isfinite(u) & (u > _SMALLEST)
        self._u = np.where(self._measured, u, 1.0)
        self.noise = noise if noise is not None else growth_noise(y)
        self._sigma = max(self.noise / self._scale, 1e-4)
        self._n = _EXPONENTS
        sd = priors.activation_sd_j_per_mol
        self._q = priors.activation_j_per_mol + sd * (_ACTIVATIONS if sd > 0 else np.zeros(1))
        self._theta = self._exposures(dwells)
        age = np.arange(u.shape[1])[::-1]
        self._recent = 0.5 ** (age / _HALF_LIFE)
        self._fit(self._prior(priors))

    def _exposures(self, dwells: list[Dwell]) -> Floats:
        """Equivalent time of each series since the first, shape (q, series)."""
        steps = [np.zeros(len(self._q))]
        steps += [dwell.equivalent_s(self._q, self.reference_c) for dwell in dwells[1:]]
        return np.cumsum(np.stack(steps, axis=1), axis=1)

    def _prior(self, priors: Priors) -> Floats:
        wide = math.log(priors.exponent_factor)
        of_n = -0.5 * (np.log(self._n / priors.exponent) / wide) ** 2
        sd = priors.activation_sd_j_per_mol
        of_q = -0.5 * ((self._q - priors.activation_j_per_mol) / sd) ** 2 if sd > 0 else np.zeros(1)
        return of_n[:, None] + of_q[None, :]

    def _fit(self, log_prior: Floats) -> None:
        """Lines z = b + A theta of every pair at each (n, Q), reweighted until they agree."""
        n = self._n[:, None, None]
        tangent = n * self._u ** (n - 1.0)
        whole = (len(self._n), len(self._q), *self._u.shape)
        lines = self._lines(np.broadcast_to(tangent[:, None], whole), tangent[:, None, :, -1], None)
        for _ in range(_ROUNDS - 1):
            lines = self._lines(lines.steep, lines.latest, lines.robust)
        misfit = (self._recent * lines.robust * lines.residual**2).sum(axis=-1).mean(axis=-1)
        scored = log_prior - 0.5 * min(_INDEPENDENT, self.pairs) * misfit
        weight = np.exp(scored - scored.max())
        if not np.isfinite(weight).all():
            raise NoFit("the fit does not converge")
        self._weight = weight / weight.sum()
        self._now = lines
        self._slope = lines.rate * lines.latest
        theta = self._theta[None, :, None, -1]
        self._z_now = lines.level + self._slope * (theta - lines.middle)

    def _lines(self, steep: Floats, latest: Floats, robust: Floats | None) -> _Lines:
        """One round of weighted lines; arrays are (n, q, pairs, series).

        `steep` is dz/dx, which turns noise in x into noise in z, `latest` that of the last series.
        """
        n = self._n[:, None, None, None]
        z = self._u**n
        theta = self._theta[None, :, None, :]
        weight = self._recent * self._measured / (self._sigma * steep) ** 2
        if robust is not None:
            weight = weight * robust
        total = weight.sum(axis=-1)
        middle = (weight * theta).sum(axis=-1) / total
        level = (weight * z).sum(axis=-1) / total
        away = theta - middle[..., None]
        s2 = np.maximum((weight * away**2).sum(axis=-1), 1e-200)
        own = (weight * away * z).sum(axis=-1) / s2
        # Drawn together as rates dx/dtheta at present, which are alike where A is not.
        rate, rate_var, common_var = _shrunk(own / latest, 1.0 / (s2 * latest**2))
        line = level[..., None] + (rate * latest)[..., None] * away
        root = np.maximum(line, _SMALLEST**n) ** (1.0 / n)
        missed = np.where(self._measured, self._u - root, 0.0)
        residual = missed / self._sigma
        # The secant makes the line's misfit in z that of the curve in x.
        tangent = n * root ** (n - 1.0)
        far = np.abs(missed) > 1e-3
        secant = np.abs(z - line) / np.where(far, np.abs(missed), 1.0)
        return _Lines(
            level,
            middle,
            1.0 / total,
            rate,
            rate_var,
            common_var,
            residual,
            1.0 / (1.0 + (residual / _OUTLIER) ** 2),
            np.maximum(np.where(far, secant, tangent), 1e-12),
            tangent[..., -1],
        )

    def _moments(self, grid: Floats) -> Estimate:
        mean = float((self._weight * grid).sum())
        return Estimate(mean, math.sqrt(max(0.0, float((self._weight * (grid - mean) ** 2).sum()))))

    @property
    def exponent(self) -> Estimate:
        """The exponent n of the present growth."""
        return self._moments(np.broadcast_to(self._n[:, None], self._weight.shape))

    @property
    def activation_j_per_mol(self) -> Estimate:
        """The activation energy Q: the prior's, where all holds had the same temperature."""
        return self._moments(np.broadcast_to(self._q[None, :], self._weight.shape))

    @property
    def measurement_error(self) -> float:
        """Standard error that the noise of the measurements gives to the statistic."""
        return self.noise * math.sqrt(_SCATTER[self.statistic] / self.pairs)

    @property
    def level(self) -> Estimate:
        """The statistic of the pairs now, as fitted, and its standard deviation."""
        n = self._n[:, None, None]
        x = np.maximum(self._z_now, _SMALLEST**n) ** (1.0 / n)
        found = self._moments(statistic_of(x, self.statistic) * self._scale)
        steep = n * x ** (n - 1.0)
        own = (
            np.median(self._now.level_var / steep**2, axis=-1)
            / self.pairs
            * _SCATTER[self.statistic]
        )
        inner = float((self._weight * own).sum()) * self._scale**2
        return Estimate(found.value, math.sqrt(found.sd**2 + inner))

    def advance(self, dwells: list[Dwell]) -> Advance:
        """Predict how far the statistic advances in each of some holds.

        Parameters
        ----------
        dwells : list of Dwell
            Heat of each of h holds.

        Returns
        -------
        Advance
            In the unit of the quantity, shape (h,).
        """
        n = self._n[:, None, None]
        now = np.maximum(self._z_now, _SMALLEST**n) ** (1.0 / n)
        before = statistic_of(now, self.statistic)
        means: list[float] = []
        sds: list[float] = []
        for dwell in dwells:
            theta = dwell.equivalent_s(self._q, self.reference_c)[None, :, None]
            z = np.maximum(self._z_now + self._slope * theta, _SMALLEST**n)
            x = z ** (1.0 / n)
            gain = (statistic_of(x, self.statistic) - before) * self._scale
            # dx/drate over theta: 1 where the growth goes on as it is, less where it slows down.
            slowing = np.minimum(self._now.latest / (n * x ** (n - 1.0)), 1.5)
            own = np.median(self._now.rate_var * slowing**2, axis=-1) / self.pairs
            common = self._now.common_var * np.median(slowing, axis=-1) ** 2
            inner = theta[..., 0] ** 2 * (own * _SCATTER[self.statistic] + common)
            mean = float((self._weight * gain).sum())
            variance = self._weight * ((gain - mean) ** 2 + inner * self._scale**2)
            means.append(mean)
            sds.append(math.sqrt(float(variance.sum())))
        result = Advance(np.array(means), np.array(sds))
        if not (np.isfinite(result.mean).all() and np.isfinite(result.sd).all()):
            raise NoFit("the fit does not converge")
        return result


# Variance of a statistic of many values, over that of their mean.
_SCATTER: dict[Statistic, float] = {
    "median": math.pi / 2, "mean": 1.0, "max": 4.0, "min": 4.0, "std": 0.5,
}  # fmt: skip


def growth_noise(values: Floats) -> float:
    """Standard deviation of one measurement, from how the growth of the pairs scatters.

    Pairs grow alike from one series to the next; what differs is mostly twice the noise of one
    measurement in the variance. Some of it is that pairs do differ: the noise is not understated.

    Parameters
    ----------
    values : ndarray, shape (pairs, series)
        As for :class:`GrowthFit`.

    Returns
    -------
    float
        In the unit of the values; 0 where nothing can be told.
    """
    found: list[float] = []
    for column in range(max(1, values.shape[1] - 3), values.shape[1]):
        gained = values[:, column] - values[:, column - 1]
        if np.isfinite(gained).sum() >= 3:
            found.append(spread(gained) / math.sqrt(2.0))
    return float(np.mean(found)) if found else 0.0


def _shrunk(own: Floats, variance: Floats) -> tuple[Floats, Floats, Floats]:
    """Rates of the pairs drawn to their common median, as far as noise explains their differences.

    The estimate of James and Stein (1961) with medians in place of means, for a few pairs are
    always measured wrongly. Arrays are (n, q, pairs).

    Returns
    -------
    rate, rate_var : ndarray, shape (n, q, pairs)
        Drawn together, and their variances.
    common_var : ndarray, shape (n, q)
        Variance of the common median.
    """
    pairs = own.shape[-1]
    if pairs == 1:
        return own, np.zeros_like(own), variance[..., 0]
    typical = np.median(variance, axis=-1)[..., None]
    common = np.median(own, axis=-1)[..., None]
    scatter = 1.4826 * np.median(np.abs(own - common), axis=-1)[..., None]
    between = np.maximum(0.0, scatter**2 - typical)
    keep = between / (np.maximum(variance, typical) + between)
    rate = common + keep * (own - common)
    common_var = math.pi / 2 * (typical + between)[..., 0] / pairs
    return rate, keep * typical, common_var
