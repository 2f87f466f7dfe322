"""A field that wanders: alignment from measured offsets, and weights of what it did not reach."""

import numpy as np
import pytest

from pyrotome.analysis.alignment.align import align_series
from pyrotome.analysis.alignment.coarse import CoarseAlignment, KnownAlignment
from pyrotome.analysis.alignment.pairwise import OnlineRegistration, prepare_image, register_pair
from pyrotome.analysis.alignment.resampling import TiltAxis
from pyrotome.analysis.core.offsets import Offset

from .test_align import (
    METHODS,
    OFFSET,
    ROTATION,
    TILTS,
    moves,
    residual,
    spheres_series,
    textured,
)

SIDE = 96
# A third of the field from one tilt to the next.
PLACES = 16.0 * np.array([[(-1.0) ** n, (-1.0) ** (n // 2)] for n in range(len(TILTS))])


def offsets_of(places, sd=0.2):
    noise = np.random.default_rng(5).normal(0, sd, places.shape)
    return [Offset((float(y), float(x)), (sd, sd)) for y, x in places + noise]


@pytest.fixture(scope="module")
def series():
    return spheres_series(TILTS, PLACES).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_a_field_that_jumps_by_a_third_is_aligned_from_its_offsets(series, method):
    found = align_series(series, TILTS, method, offsets=offsets_of(PLACES))
    wrong, offset = residual(found, PLACES, TILTS)
    assert np.sqrt((wrong**2).sum(axis=1).mean()) < 0.3
    assert abs(offset) < 1.0
    assert not [note for note in found.notes if "same specimen" in note]
    # Where the field did not reach, nothing is taken for measured.
    assert found.weights is not None
    down, along = np.abs(found.shifts_px[3] + (0.0, found.axis_offset_px)) / SIDE
    assert found.weights[3].mean() == pytest.approx((1 - down) * (1 - along), abs=0.02)


def test_the_specimen_comes_to_lie_where_an_offset_of_zero_would_show_it(series):
    found = align_series(series, TILTS, "phase-correlation", offsets=offsets_of(PLACES))
    lowest = int(np.argmin(np.abs(TILTS)))
    moved = found.shifts_px[lowest] + (0.0, found.axis_offset_px)
    assert moved == pytest.approx(PLACES[lowest], abs=1.0)
    without = align_series(series[:, 8:, 8:], TILTS, "phase-correlation", rounds=1)
    assert moves(without.shifts_px, without.axis)[lowest] == pytest.approx((0.0, 0.0), abs=1e-6)


def test_a_still_field_has_no_weights(series):
    still = np.repeat(series[:1], 5, axis=0)
    found = align_series(still, np.zeros(5), "phase-correlation", rounds=1)
    assert found.weights is None or found.weights.min() == 1


def test_one_offset_for_each_image_is_needed(series):
    with pytest.raises(ValueError, match="2 offsets for 21 images"):
        align_series(series, TILTS, offsets=[None, None])


@pytest.mark.parametrize("method", ["phase-correlation", "mutual-information"])
def test_a_pair_is_refined_from_where_it_is_expected(method):
    whole = textured(160, 160)
    first, second = whole[:96, :96], whole[40:136, 10:106]
    pair = [prepare_image(image, method) for image in (first, second)]
    expected = Offset((-39.4, -10.7), (0.5, 0.5))
    assert register_pair(*pair, expected) == pytest.approx((-40.0, -10.0), abs=0.3)
    # What does not fit near there leaves the expectation as it is, or stays within reach of it.
    wrong = Offset((20.0, 20.0), (0.1, 0.1))
    assert np.abs(register_pair(*pair, wrong) - (20.0, 20.0)).max() <= 2.4
    # Gaps do not change that.
    weights = np.ones(first.shape)
    weights[:, 50:53] = 0
    gappy = [prepare_image(image, method, weights) for image in (first, second)]
    assert register_pair(*gappy, expected) == pytest.approx((-40.0, -10.0), abs=0.3)


def test_pairs_registered_before_their_offsets_were_known_are_registered_anew(series):
    offsets = offsets_of(PLACES)
    registration = OnlineRegistration("phase-correlation")
    for n in range(4):
        registration.add(n, TILTS[n], series[n], offset=offsets[n] if n < 2 else None)
    assert set(registration.pair_shifts(range(4))) == {(0, 1), (1, 2), (2, 3)}
    assert set(registration.pair_shifts(range(4), offsets[:4])) == {(0, 1)}
    assert set(registration.pair_shifts(range(4), [*offsets[:2], None, None])) == {
        (0, 1), (1, 2), (2, 3),
    }  # fmt: skip


def test_views_that_come_with_their_offsets_lie_alike(series):
    offsets = offsets_of(PLACES)
    known = KnownAlignment(TiltAxis(OFFSET, ROTATION), {})
    coarse = CoarseAlignment("phase-correlation", known)
    made = [coarse.add_view(n, n, series[n], TILTS[n], None, offsets[n]) for n in range(len(TILTS))]
    steps = coarse.shifts_px - coarse.shifts_px[0] - (PLACES - PLACES[0])
    assert np.abs(steps).max() < 6.0
    assert all(weights is not None and weights.min() == 0 for _, weights in made[1::2])


def test_the_first_view_goes_where_the_series_before_had_it_and_the_field_has_moved(series):
    before = KnownAlignment(
        TiltAxis(), {0: np.array([2.0, -3.0])}, offsets={0: Offset((1.0, 1.0), (0.1, 0.1))}
    )
    coarse = CoarseAlignment("phase-correlation", before)
    coarse.add_view(0, 0, series[0], TILTS[0], None, Offset((11.0, -4.0), (0.1, 0.1)))
    assert coarse.shifts_px[0].tolist() == [12.0, -8.0]
