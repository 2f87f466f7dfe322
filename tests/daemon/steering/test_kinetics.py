"""The kinetic model: what it was made with comes back, growth only grows, choices keep bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.daemon.steering.hold_choice import (
    MOST_TIMES_LONGER,
    Discrepancy,
    HoldBounds,
    PastPrediction,
    choose,
    discrepancy,
)
from pyrotome.daemon.steering.kinetics import GrowthFit, NoFit, Priors
from pyrotome.daemon.steering.quantities import followed, measure, measured_entry, measurement_of
from pyrotome.daemon.steering.thermal_history import Dwell, HoldShape, ThermalHistory
from pyrotome.protocols.config.steering import Quantity
from pyrotome.protocols.messages.journal import line_of, parse_line

REFERENCE_C = 350.0
COLUMNS = ("particle_a", "particle_b", "neck_to_particle")


def held(time_s: float, temperature_c: float = REFERENCE_C) -> Dwell:
    return Dwell(np.array([temperature_c]), np.array([time_s]))


def grown(
    exponent: float,
    rate: float,
    times_s: list[float],
    *,
    pairs: int = 24,
    noise: float = 0.0,
    seed: int = 1,
) -> np.ndarray:
    """Pairs that obey the law of the model: shape (pairs, series)."""
    rng = np.random.default_rng(seed)
    start = 0.2 * (1 + 0.05 * rng.standard_normal(pairs))
    speed = rate * (1 + 0.1 * rng.standard_normal(pairs))
    theta = np.cumsum([0.0, *times_s])
    values = (start[:, None] ** exponent + speed[:, None] * theta) ** (1 / exponent)
    return values + noise * rng.standard_normal(values.shape)


@given(exponent=st.floats(2.0, 6.0), last=st.floats(0.3, 0.5), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_growth_by_the_law_of_the_model_is_predicted(
    exponent: float, last: float, seed: int
) -> None:
    times_s = [10.0] * 7
    rate = (last**exponent - 0.2**exponent) / 70.0
    values = grown(exponent, rate, times_s, noise=0.001, seed=seed)
    dwells = [held(0.0), *map(held, times_s[:-1])]
    model = GrowthFit(values[:, :-1], dwells, "median", REFERENCE_C, Priors())
    found = model.advance([held(times_s[-1])])
    true = np.median(values[:, -1]) - np.median(values[:, -2])
    # Slow growth with a high exponent is known least: 0.004 is a tenth of a usual step.
    assert found.mean[0] == pytest.approx(true, rel=0.3, abs=0.004)
    assert found.sd[0] > 0


@given(rate=st.floats(1e-6, 1e-3), noise=st.floats(0.0005, 0.02), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_longer_hold_grows_more_and_a_hotter_one_too(
    rate: float, noise: float, seed: int
) -> None:
    times_s = [5.0, 5.0, 8.0]
    values = grown(3.0, rate, times_s, noise=noise, seed=seed)
    try:
        model = GrowthFit(values, [held(0.0), *map(held, times_s)], "median", REFERENCE_C, Priors())
    except NoFit:
        return
    longer = model.advance([held(t) for t in (1.0, 2.0, 5.0, 20.0, 60.0)]).mean
    rising = np.sign(longer[-1])
    assert (np.diff(longer) * rising >= -1e-12).all(), "all holds grow, or all shrink"
    hotter = model.advance([held(5.0, t) for t in (320.0, 350.0, 380.0)]).mean
    assert (np.diff(hotter) * rising >= -1e-12).all()


@given(
    step=st.floats(0.005, 0.2),
    longest_s=st.floats(0.5, 100.0),
    noise=st.floats(0.0005, 0.05),
    seed=st.integers(0, 1000),
    low=st.floats(300.0, 349.0),
    high=st.floats(351.0, 400.0),
)
@settings(max_examples=20, deadline=None)
def test_a_choice_keeps_its_bounds(
    step: float, longest_s: float, noise: float, seed: int, low: float, high: float
) -> None:
    values = grown(3.0, 5e-4, [5.0, 5.0], noise=noise, seed=seed)
    dwells = [held(0.0), held(5.0), held(5.0)]
    model = GrowthFit(values, dwells, "median", REFERENCE_C, Priors())
    bounds = HoldBounds(step, 0.2, 60.0, REFERENCE_C, low, high, 200.0)
    found = choose(model, None, bounds, longest_s, Discrepancy())
    assert 0.2 <= found.hold_s <= min(60.0, MOST_TIMES_LONGER * longest_s) * (1 + 1e-9)
    assert low <= found.temperature_c <= high
    assert found.prediction.sd >= 0


def test_the_temperature_moves_only_where_no_length_serves() -> None:
    values = grown(3.0, 1e-4, [20.0, 20.0, 20.0], noise=0.001)
    dwells = [held(0.0), *[held(20.0)] * 3]
    model = GrowthFit(values, dwells, "median", REFERENCE_C, Priors())
    wide = HoldBounds(0.01, 0.2, 600.0, REFERENCE_C, 320.0, 400.0, 200.0)
    assert choose(model, None, wide, 600.0, Discrepancy()).temperature_c == REFERENCE_C
    short = HoldBounds(0.05, 0.2, 5.0, REFERENCE_C, 320.0, 400.0, 200.0)
    assert choose(model, None, short, 5.0, Discrepancy()).temperature_c > REFERENCE_C
    fixed = HoldBounds(0.05, 0.2, 5.0, REFERENCE_C, REFERENCE_C, REFERENCE_C, 200.0)
    found = choose(model, None, fixed, 5.0, Discrepancy())
    assert found.hold_s == pytest.approx(5.0)
    assert not found.reached


def test_two_temperatures_tell_the_activation_energy() -> None:
    true_q, temperatures = 210e3, [350.0, 380.0, 350.0, 380.0, 350.0, 380.0]
    dwells = [held(0.0), *(held(4.0, c) for c in temperatures)]
    theta = [float(d.equivalent_s(np.array([true_q]), REFERENCE_C)[0]) for d in dwells[1:]]
    values = grown(3.0, 4e-4, theta, noise=0.0005)
    model = GrowthFit(values, dwells, "median", REFERENCE_C, Priors())
    one = GrowthFit(grown(3.0, 4e-4, [4.0] * 6, noise=0.0005),
                    [held(0.0), *[held(4.0)] * 6], "median", REFERENCE_C, Priors())  # fmt: skip
    q = model.activation_j_per_mol
    assert abs(q.value - true_q) < 2 * q.sd + 20e3
    assert q.sd < 0.7 * one.activation_j_per_mol.sd
    assert one.activation_j_per_mol.sd == pytest.approx(60e3, rel=0.2), "as the prior has it"


def test_nothing_in_common_is_no_fit() -> None:
    values = np.array([[0.2, np.nan], [np.nan, 0.3]])
    with pytest.raises(NoFit, match="latest series and in one before"):
        GrowthFit(values, [held(0.0), held(5.0)], "median", REFERENCE_C, Priors())


@given(factor=st.floats(0.3, 2.5), scatter=st.floats(0.0, 0.1), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_common_error_of_predictions_is_learned(factor: float, scatter: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes = [
        PastPrediction(0.05, 0.05 * factor * (1 + scatter * rng.standard_normal()), 0.001)
        for _ in range(6)
    ]
    known = discrepancy(outcomes)
    assert known.factor == pytest.approx(factor, rel=0.35)
    assert known.factor_sd > 0
    assert known.scatter > 0
    assert abs(np.log(known.factor / factor)) < abs(np.log(discrepancy(outcomes[:1]).factor)) + 0.35


def test_heat_is_what_the_readings_say() -> None:
    history = ThermalHistory()
    for k in range(0, 2001):  # 20 s at 100 Hz: up at 5 s, down at 15 s, with an overshoot
        t_s = k * 0.01
        hot = 5.0 <= t_s < 15.0
        history.add(k * 10_000_000, 380.0 if hot and t_s < 7.0 else 350.0 if hot else 200.0)
    q = np.array([0.0, 200e3])
    flat, real = history.dwell(0, 20_000_000_000).equivalent_s(q, REFERENCE_C)
    assert flat == pytest.approx(20.0, abs=0.05), "without an activation energy all time counts"
    hotter = np.exp(200e3 / 8.314462618 * (1 / 623.15 - 1 / 653.15))
    assert real == pytest.approx(8.0 + 2.0 * hotter, rel=0.02)
    shape = history.hold_shape(5_000_000_000, 15_000_000_000, 200.0, 350.0)
    assert shape is not None
    assert shape.part.max() == pytest.approx(1.2, abs=0.01)
    assert shape.part[-1] == pytest.approx(1.0, abs=0.01)
    longer = shape.dwell(30.0, 200.0, 350.0)
    assert longer.seconds.sum() == pytest.approx(30.0, rel=0.01)
    assert longer.temperature_c[-1] == pytest.approx(350.0, abs=1.0)


def test_a_silence_counts_as_cold() -> None:
    history = ThermalHistory()
    for t_s, celsius in ((0, 350.0), (1, 350.0), (2, 350.0), (62, 200.0), (63, 200.0)):
        history.add(t_s * 1_000_000_000, celsius)
    dwell = history.dwell(0, 63_000_000_001)
    assert dwell.seconds[dwell.temperature_c > 300].sum() == pytest.approx(2.0)


def test_a_shape_scales_to_another_temperature() -> None:
    shape = HoldShape(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.1, 1.0]), 1.0)
    assert shape.dwell(2.0, 200.0, 300.0).temperature_c.max() == pytest.approx(310.0, abs=0.5)
    assert shape.dwell(2.0, 200.0, 400.0).temperature_c.max() == pytest.approx(420.0, abs=0.5)


cells = st.none() | st.floats(0.05, 1.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), cells), max_size=20))
def test_what_was_measured_survives_the_journal(rows: list[tuple[int, int, float | None]]) -> None:
    table = np.full((24, 3), np.nan)
    for k, (a, b, value) in enumerate(rows):
        table[k] = [a, b, np.nan if value is None else value]
    found = measure("series_001", table, COLUMNS, COLUMNS[2], "mean")
    known = [value for _, _, value in rows if value is not None]
    assert found.count == len(known)
    assert found.value == (pytest.approx(np.mean(known)) if known else None)
    quantity = Quantity("necks", COLUMNS[2], "mean")
    noted = parse_line(line_of(1, measured_entry(quantity, found)).rstrip(b"\n"))
    assert noted is not None
    assert measurement_of(noted.entry) == found  # type: ignore[arg-type]


def test_pairs_are_followed_by_their_labels() -> None:
    one = measure("a", np.array([[1, 2, 0.2], [2, 3, 0.3]]), COLUMNS, COLUMNS[2], "median")
    two = measure("b", np.array([[2, 3, 0.4], [4, 5, 0.5]]), COLUMNS, COLUMNS[2], "median")
    np.testing.assert_equal(followed([one, two]), [[0.3, 0.4], [np.nan, 0.5]])
