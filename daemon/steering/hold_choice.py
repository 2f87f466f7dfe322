"""Choose the next hold of an adaptive cycle so that a quantity advances by a wanted step; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.steering import Statistic
from .kinetics import Advance, Estimate, GrowthFit, NoFit, Priors
from .quantities import Measurement, followed
from .thermal_history import Dwell, HoldShape, flat_shape

Floats = NDArray[np.float64]

# Lengths of a hold that are compared, and temperatures where they may move.
_LENGTHS, _TEMPERATURES = 48, 9
# A hold is at most so many times the longest before: one misleading series must not run away.
MOST_TIMES_LONGER = 3.0
# Before anything is known: how far growth scatters about its prediction, and the common factor
# about 1; for how many outcomes that counts; how much less an older outcome counts; how many are
# looked at.
_SCATTER, _FACTOR_SD, _TREND_SD, _PRIOR_COUNT, _FORGET, _OUTCOMES = 0.08, 0.35, 0.15, 2.0, 0.7, 6
_MOST_DOUBT = 0.3  # part of an advance that its uncertainty counts for at most
_REACHED = 0.9  # of the wanted step: a prediction below it, at the longest hold, is said
_NOISE_PART = 0.04  # of a value: noise of a measurement, where nothing tells it


@dataclass(frozen=True)
class HoldBounds:
    """What may be chosen.

    Parameters
    ----------
    step : float
        Wanted advance of the quantity, in its own unit.
    min_s, max_s : float
        Length of a hold in seconds.
    temperature_c, lowest_c, highest_c : float
        Processing temperature of the cycle, and the range in which it may move.
    standby_c : float
        Temperature between holds.
    """

    step: float
    min_s: float
    max_s: float
    temperature_c: float
    lowest_c: float
    highest_c: float
    standby_c: float


@dataclass(frozen=True)
class Prediction:
    """What a choice expected: the advance of the statistic and its standard deviation."""

    advance: float
    sd: float


@dataclass(frozen=True)
class HoldChoice:
    """The next hold, and what it rests on.

    Parameters
    ----------
    hold_s, temperature_c : float
        Length and temperature.
    reached : bool
        Whether the wanted step is expected of it.
    level : Estimate
        The statistic now, as fitted.
    prediction : Prediction
        Of its advance.
    exponent, activation_j_per_mol : Estimate
        The model's n and Q.
    pairs : int
        How many pairs were fitted.
    """

    hold_s: float
    temperature_c: float
    reached: bool
    level: Estimate
    prediction: Prediction
    exponent: Estimate
    activation_j_per_mol: Estimate
    pairs: int


@dataclass(frozen=True)
class PastPrediction:
    """A prediction of an earlier series, and what was measured then.

    Parameters
    ----------
    predicted : float
        Advance that the model gave, from the series until then and the heat that followed.
    measured, error : float
        Advance that was measured, and its standard error.
    """

    predicted: float
    measured: float
    error: float


@dataclass(frozen=True)
class Discrepancy:
    """How growth differs from the model: growth = factor * prediction * (1 +- scatter).

    Parameters
    ----------
    factor, factor_sd : float
        Of all predictions at present, and its standard deviation.
    scatter : float
        Standard deviation of one growth about that.
    share : float
        Part of the model's own uncertainty (of its variance) that the outcomes do not contain.
    """

    factor: float = 1.0
    factor_sd: float = 0.0
    scatter: float = _SCATTER
    share: float = 1.0


def discrepancy(outcomes: Sequence[PastPrediction]) -> Discrepancy:
    """Learn from past predictions how far the next one can be trusted.

    The law of the model is not that of the specimen. Its error changes slowly from one series to
    the next, so that the latest outcomes correct it; older ones are forgotten.

    Parameters
    ----------
    outcomes : sequence of PastPrediction
        Oldest first.

    Returns
    -------
    Discrepancy
        The prior's where there are none.
    """
    used = [one for one in outcomes if one.predicted > 0]
    if not used:
        return Discrepancy(1.0, _FACTOR_SD, _SCATTER)
    ratio = np.array([min(max(one.measured / one.predicted, 0.1), 5.0) for one in used])
    error2 = np.array([(one.error / one.predicted) ** 2 for one in used]) / ratio**2
    weight = _FORGET ** np.arange(len(used))[::-1]
    # ln(ratio) = level + trend * (number of series since the latest outcome), both near 0.
    design = np.stack([np.ones(len(used)), np.arange(len(used)) - len(used) + 1.0], axis=1)
    prior = np.diag([_FACTOR_SD**-2, _TREND_SD**-2])
    following = np.array([1.0, 1.0])
    scatter2, covariance, mean = _SCATTER**2, np.linalg.inv(prior), np.zeros(2)
    for _ in range(3):
        weighed = weight / (error2 + scatter2)
        covariance = np.linalg.inv(prior + (design.T * weighed) @ design)
        mean = covariance @ (design.T @ (weighed * np.log(ratio)))
        beyond = np.clip((np.log(ratio) - design @ mean) ** 2 - error2, 0.0, 1.0)
        total = _PRIOR_COUNT * _SCATTER**2 + float(weight @ beyond)
        scatter2 = total / (_PRIOR_COUNT + float(weight.sum()))
    factor = math.exp(float(following @ mean))
    sd = math.sqrt(float(following @ covariance @ following))
    share = _PRIOR_COUNT / (_PRIOR_COUNT + float(weight.sum()))
    return Discrepancy(factor, factor * sd, math.sqrt(scatter2), share)


def outcomes_of(
    measurements: Sequence[Measurement],
    dwells: Sequence[Dwell],
    statistic: Statistic,
    reference_c: float,
    priors: Priors,
) -> list[PastPrediction]:
    """What the model would have predicted of the latest series, each from those before it.

    Parameters are those of :func:`fit`.
    """
    found: list[PastPrediction] = []
    for number in range(max(2, len(measurements) - _OUTCOMES), len(measurements)):
        before, after = measurements[number - 1], measurements[number]
        try:
            model = fit(measurements[:number], dwells[:number], statistic, reference_c, priors)
            predicted = float(model.advance([dwells[number]]).mean[0])
        except NoFit:
            continue
        if before.value is None or after.value is None:
            continue
        error = math.sqrt(2.0) * model.measurement_error
        found.append(PastPrediction(predicted, after.value - before.value, error))
    return found


def fit(
    measurements: Sequence[Measurement],
    dwells: Sequence[Dwell],
    statistic: Statistic,
    reference_c: float,
    priors: Priors,
) -> GrowthFit:
    """Fit the kinetic model to all series so far.

    Parameters
    ----------
    measurements : sequence of Measurement
        Of series with a value, oldest first.
    dwells : sequence of Dwell
        Heat received before each of them, since the one before.
    statistic, reference_c, priors
        As for :class:`GrowthFit`.

    Raises
    ------
    NoFit
        If there are fewer than two, or they have nothing in common.
    """
    if len(measurements) < 2:
        raise NoFit("one series tells nothing of growth")
    values = followed(measurements)
    noise = None
    if len(values) < 3:
        noise = _NOISE_PART * float(np.nanmedian(np.abs(values)))
    return GrowthFit(values, list(dwells), statistic, reference_c, priors, noise)


def choose(
    model: GrowthFit,
    shape: HoldShape | None,
    bounds: HoldBounds,
    longest_s: float,
    known: Discrepancy,
) -> HoldChoice:
    """Choose the hold whose advance is expected to lie nearest to the wanted step.

    What counts is the expected square of (advance / step - 1), so that an uncertain prediction
    gives a shorter hold than its mean alone would, by a tenth at most. The temperature moves only
    where no length within its bounds serves.

    Parameters
    ----------
    model : GrowthFit
        Fitted to the series so far.
    shape : HoldShape or None
        Of the holds so far.
    bounds : HoldBounds
        What may be chosen, and the step.
    longest_s : float
        Length of the longest hold so far.
    known : Discrepancy
        As :func:`discrepancy` gives it.

    Returns
    -------
    Choice
        Within the bounds.
    """
    most_s = min(bounds.max_s, max(bounds.min_s, MOST_TIMES_LONGER * longest_s))
    lengths = np.geomspace(bounds.min_s, most_s, _LENGTHS)
    at_c = bounds.temperature_c
    best, loss, advance, sd = _best(model, shape, bounds, lengths, at_c, known)
    too_short = best == len(lengths) - 1 and advance < bounds.step and most_s == bounds.max_s
    too_long = best == 0 and advance > bounds.step
    hold_s = float(lengths[best])
    if (too_short and bounds.highest_c > at_c) or (too_long and bounds.lowest_c < at_c):
        end_c = bounds.highest_c if too_short else bounds.lowest_c
        for other_c in np.linspace(at_c, end_c, _TEMPERATURES)[1:]:
            found = _best(model, shape, bounds, lengths, float(other_c), known)
            if found[1] < loss - 1e-9:
                best, loss, advance, sd = found
                hold_s, at_c = float(lengths[best]), float(other_c)
    return HoldChoice(
        hold_s,
        at_c,
        advance >= _REACHED * bounds.step or hold_s < bounds.max_s * (1 - 1e-9),
        model.level,
        Prediction(advance, sd),
        model.exponent,
        model.activation_j_per_mol,
        model.pairs,
    )


def _best(
    model: GrowthFit,
    shape: HoldShape | None,
    bounds: HoldBounds,
    lengths: Floats,
    target_c: float,
    known: Discrepancy,
) -> tuple[int, float, float, float]:
    """The best length at a temperature: its index, expected loss, advance and its deviation."""
    run = shape or flat_shape()
    dwells = [run.dwell(float(s), bounds.standby_c, target_c) for s in lengths]
    found = model.advance(dwells)
    advance, sd = corrected(found, known)
    doubt = np.minimum(sd, _MOST_DOUBT * np.abs(advance))
    loss = (advance / bounds.step - 1.0) ** 2 + (doubt / bounds.step) ** 2
    best = int(np.argmin(loss))
    return best, float(loss[best]), float(advance[best]), float(sd[best])


def corrected(found: Advance, known: Discrepancy) -> tuple[Floats, Floats]:
    """Advances and their standard deviations, with what is known of the model's error."""
    advance = known.factor * found.mean
    beyond = math.hypot(known.factor_sd, known.scatter)
    own = known.factor * math.sqrt(known.share) * found.sd
    return advance, np.hypot(own, beyond * found.mean)
