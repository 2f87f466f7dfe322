"""Event frames: the same counts as an event list, as an array, and split in two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyrotome.analysis.spectra import frame_of_counts, frame_of_events


def events_of(dense):
    flat = dense.reshape(-1, dense.shape[2])
    channels = [np.repeat(np.arange(dense.shape[2]), pixel) for pixel in flat]
    return dense.sum(axis=2), np.concatenate(channels).astype(np.uint8)


@given(arrays(np.int64, (3, 4, 5), elements=st.integers(0, 4)))
def test_counts_survive_as_events_and_as_an_array(dense):
    counts, channels = events_of(dense)
    for frame in (frame_of_events(counts, channels, 5), frame_of_counts(dense)):
        assert np.array_equal(frame.dense(), dense)
        assert np.array_equal(frame.image(), counts)
        assert np.array_equal(frame.spectrum(), dense.sum(axis=(0, 1)))
        assert frame.events == dense.sum()


def test_events_in_any_order_are_merged():
    frame = frame_of_events(np.array([[3]]), np.array([7, 2, 7]), 8)
    assert sorted(zip(frame.channel.tolist(), frame.number.tolist(), strict=True)) == [
        (2, 1),
        (7, 2),
    ]


def test_the_halves_of_a_split_add_up_and_are_independent():
    rng = np.random.default_rng(1)
    dense = rng.poisson(3.0, (40, 40, 4))
    one, other = frame_of_counts(dense).split(rng)
    a, b = one.dense(), other.dense()
    assert np.array_equal(a + b, dense)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("counts", "channels", "words"),
    [
        ([[1, 1]], [0], "the pixels have 2 events, 1 are there"),
        ([[2]], [0, 9], "channels 0 to 9 on an axis of 8"),
        ([[-1]], [], "a pixel has -1 events"),
    ],
)
def test_what_disagrees_is_refused(counts, channels, words):
    with pytest.raises(ValueError, match=words):
        frame_of_events(np.array(counts), np.array(channels, int), 8)


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_what_is_no_count_is_refused(bad):
    with pytest.raises(ValueError, match="no counts"):
        frame_of_counts(np.full((1, 1, 2), bad))
