"""Instrument time on our clock: what delays the reception must not enter."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.drivers.common.instrument_time import InstrumentTime

START_NS = 1_795_000_000_000_000_000


def stamps_of(instrument_s, delays_s, drift=0.0):
    mapped = InstrumentTime()
    true_ns = [START_NS + round(t * (1 + drift) * 1e9) for t in instrument_s]
    stamps = [
        mapped.stamp_ns(t, n + round(d * 1e9))
        for t, n, d in zip(instrument_s, true_ns, delays_s, strict=True)
    ]
    return np.array(stamps), np.array(true_ns)


def test_jitter_does_not_enter():
    rng = np.random.default_rng(1)
    instrument_s = np.arange(2000) * 0.01
    delays_s = 0.001 + rng.exponential(0.02, 2000)
    delays_s[::50] = 0.001
    delays_s[1000:1010] = np.linspace(0.5, 0.4, 10)  # the event loop stood still
    stamps, true_ns = stamps_of(instrument_s, delays_s)
    error_s = (stamps - true_ns)[100:] * 1e-9
    assert error_s.min() >= 0.0009
    assert error_s.max() <= 0.0012
    assert np.std(error_s) < 1e-4


@pytest.mark.parametrize("drift", [-5e-5, 5e-5])
def test_clocks_that_drift_apart_stay_mapped(drift):
    rng = np.random.default_rng(2)
    instrument_s = np.arange(0, 3600, 0.1)
    delays_s = 0.001 + rng.exponential(0.002, instrument_s.size)
    stamps, true_ns = stamps_of(instrument_s, delays_s, drift)
    error_s = (stamps - true_ns) * 1e-9
    assert np.abs(error_s[-1000:]).max() < 0.003


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(START_NS, START_NS + 10**15)),
        min_size=1,
    )
)
def test_stamps_always_rise(readings):
    mapped = InstrumentTime()
    stamps = [mapped.stamp_ns(t, received) for t, received in readings]
    assert all(b > a for a, b in itertools.pairwise(stamps))


@given(st.lists(st.floats(1e-4, 10), min_size=1), st.lists(st.floats(0, 1), min_size=1))
def test_never_after_the_reception(steps_s, delays_s):
    instrument_s = np.cumsum(steps_s)
    delays = np.resize(delays_s, len(steps_s))
    mapped = InstrumentTime()
    received = START_NS
    for t, delay in zip(instrument_s, delays, strict=True):
        received = max(received + 2, START_NS + round((t + delay) * 1e9))
        assert mapped.stamp_ns(float(t), received) <= received


def test_restarted_instrument_begins_anew():
    mapped = InstrumentTime()
    before = mapped.stamp_ns(500.0, START_NS)
    after = mapped.stamp_ns(0.1, START_NS + 3_000_000_000)
    assert after - before == pytest.approx(3_000_000_000, abs=1000)
