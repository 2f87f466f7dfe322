"""Drift between the frames of a tilt: found, with its error, and taken out row by row."""

import numpy as np
import pytest

from pyrotome.analysis.views import frame_drift, merge_frames

SIDE = 64
SPOTS = np.random.default_rng(5).uniform(14, SIDE - 14, (40, 2))


def scanned(time, velocity, exposure=1.0, side=SIDE):
    """Mean counts of a frame whose rows are recorded one after another while the specimen moves."""
    rows = np.arange(side)
    moment = time + ((rows + 0.5) / side - 0.5) * exposure
    y = rows[:, None, None] - velocity[0] * moment[:, None, None] - SPOTS[:, 0]
    x = np.arange(side)[None, :, None] - velocity[1] * moment[:, None, None] - SPOTS[:, 1]
    return 1 + 8 * np.exp(-(y**2 + x**2) / (2 * 1.3**2)).sum(axis=-1)


def frames_of(velocity, rng=None, count=3, spacing=1.0):
    means = np.stack([scanned(spacing * (k - (count - 1) / 2), velocity) for k in range(count)])
    return means if rng is None else rng.poisson(means)


def test_drift_is_found_with_its_error():
    rng = np.random.default_rng(1)
    truth = np.array([0.6, -1.3])
    means = frames_of(truth)
    found = [frame_drift(rng.poisson(means)) for _ in range(40)]
    assert all(one.believed and one.steady for one in found)
    errors = np.array([one.velocity_px - truth for one in found])
    stated = np.mean([one.velocity_sd_px for one in found], axis=0)
    scatter = errors.std(axis=0, ddof=1)
    assert (np.abs(errors.mean(axis=0)) < 0.02).all()
    # The scatter of 40 draws is known to 11 %.
    assert (np.abs(scatter / stated - 1) < 0.4).all(), (scatter, stated)


def test_times_and_pauses_are_taken_into_account():
    means = frames_of((0.5, 1.0), spacing=2.0)
    found = frame_drift(means, np.array([10.0, 12.0, 14.0]), 1.0)
    assert found.velocity_px == pytest.approx([0.5, 1.0], abs=0.01)
    assert found.exposure == 1.0
    assert frame_drift(means).velocity_px == pytest.approx([1.0, 2.0], abs=0.02)


def test_a_specimen_that_jumps_is_not_called_steady():
    rng = np.random.default_rng(2)
    base = 20 * scanned(0.0, (0.0, 0.0))
    found = frame_drift(rng.poisson(np.stack([base, np.roll(base, 3, 1), base])))
    assert found.believed
    assert not found.steady
    assert found.places_px[:, 1] == pytest.approx([-1, 2, -1], abs=0.1)


def test_noise_alone_is_not_believed():
    rng = np.random.default_rng(3)
    found = frame_drift(rng.poisson(2.0, (3, SIDE, SIDE)))
    assert not found.believed
    assert not found.places_px.any()
    merged = merge_frames(np.ones((3, 4, 4)), found)
    assert (merged.total == 3).all()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        frame_drift(np.ones((1, 8, 8)))
    with pytest.raises(ValueError, match="times must rise"):
        frame_drift(np.ones((2, 8, 8)), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="2 places"):
        merge_frames(np.ones((3, 8, 8)), frame_drift(frames_of((0, 0), count=2)))


def test_the_sum_shows_the_specimen_as_it_stood():
    velocity = (1.8, -2.4)
    means = frames_of(velocity)
    found = frame_drift(means)
    truth = 3 * scanned(0.0, velocity, exposure=0.0)
    inner = (slice(8, -8), slice(8, -8))
    merged = merge_frames(means, found).total[inner]
    shifted = merge_frames(means, type(found)(**{**vars(found), "exposure": 0.0})).total[inner]
    plain = means.sum(axis=0)[inner]
    error, without_rows, as_is = (
        np.sqrt(np.mean((image - truth[inner]) ** 2)) for image in (merged, shifted, plain)
    )
    assert error < 0.6 * without_rows < 0.3 * as_is


def test_the_statistics_of_the_sum():
    rng = np.random.default_rng(4)
    found = frame_drift(frames_of((0.5, 0.9)))
    sums = [merge_frames(rng.poisson(5.0, (3, SIDE, SIDE)), found) for _ in range(60)]
    inner = (slice(8, -8), slice(8, -8))
    totals = np.array([one.total[inner] for one in sums])
    stated = np.mean([one.variance[inner] for one in sums])
    assert totals.min() >= 0
    assert totals.mean() == pytest.approx(15, rel=0.01)
    assert totals.var(axis=0).mean() == pytest.approx(stated, rel=0.05)
    # Noise that is wide against a pixel is that of Poisson counts.
    squares = totals.reshape(60, 6, 8, 6, 8).sum(axis=(2, 4))
    assert squares.var(axis=0).mean() / squares.mean() == pytest.approx(1, abs=0.12)


def test_what_was_not_measured_does_not_count():
    frames = np.full((2, 8, 8), 5.0)
    weights = np.ones_like(frames)
    frames[0, 4, 4], weights[0, 4, 4] = 1e6, 0
    still = frame_drift(frames_of((0, 0), count=2))
    still = type(still)(
        **{**vars(still), "places_px": np.zeros((2, 2)), "velocity_px": np.zeros(2)}
    )
    merged = merge_frames(frames, still, weights)
    assert merged.total[4, 4] == pytest.approx(10)
    assert merged.weights[4, 4] == 0.5
    assert merged.variance[4, 4] == pytest.approx(20)
