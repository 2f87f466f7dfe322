"""Variance stabilisation: flat variance, no bias on the way back, gain and read-out noise."""

import numpy as np
import pytest

from pyrotome.analysis.denoise.variance_stabilisation import anscombe, inverse_anscombe

DRAWS = 400_000


@pytest.mark.parametrize("mean", [4.0, 10.0, 100.0, 3000.0])
def test_the_variance_is_one(mean):
    counts = np.random.default_rng(1).poisson(mean, DRAWS)
    assert anscombe(counts).var() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("gain", [1.0, 12.5])
@pytest.mark.parametrize("mean", [0.02, 0.3, 1.0, 5.0, 40.0, 63.0, 66.0, 2000.0])
def test_the_mean_comes_back_without_bias(mean, gain):
    counts = np.random.default_rng(2).poisson(mean, DRAWS)
    average = anscombe(counts * gain, gain).astype(np.float64).mean(keepdims=True)
    error = 5 * np.sqrt(mean / DRAWS) + 2e-3 * np.sqrt(mean)
    assert inverse_anscombe(average, gain)[0] / gain == pytest.approx(mean, abs=error)


def test_the_algebraic_inverse_would_be_biased():
    counts = np.random.default_rng(3).poisson(1.0, DRAWS)
    average = anscombe(counts).astype(np.float64).mean(keepdims=True)
    assert average[0] ** 2 / 4 - 0.375 < 0.85
    assert inverse_anscombe(average)[0] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("mean", [6.0, 20.0])
def test_readout_noise_is_part_of_it(mean):
    rng = np.random.default_rng(4)
    gain, readout = 3.0, 4.5
    frame = gain * rng.poisson(mean, DRAWS) + rng.normal(scale=readout, size=DRAWS)
    stable = anscombe(frame, gain, readout).astype(np.float64)
    assert stable.var() == pytest.approx(1, abs=0.06)
    back = inverse_anscombe(stable.mean(keepdims=True), gain, readout)[0]
    assert back / gain == pytest.approx(mean, abs=0.05 * np.sqrt(mean))


def test_the_inverse_is_monotone_and_never_negative():
    values = np.linspace(-1, 60, 20_000)
    back = inverse_anscombe(values)
    assert back.dtype == np.float32
    assert (np.diff(back) >= 0).all()
    assert back[0] == 0
    assert inverse_anscombe(anscombe(np.zeros(1)))[0] == pytest.approx(0, abs=1e-6)


def test_table_and_asymptote_meet():
    edge = 2 * np.sqrt(64 + 0.375)
    below, above = (
        inverse_anscombe(np.array([edge - 0.3])),
        inverse_anscombe(np.array([edge + 0.3])),
    )
    assert above[0] - below[0] == pytest.approx(0.6 * edge / 2, rel=1e-4)


def test_negative_counts_do_no_harm():
    assert anscombe(np.array([-5.0]))[0] == 0
