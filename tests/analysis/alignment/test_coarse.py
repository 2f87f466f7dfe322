"""Views put where their neighbours are, as they come."""

import numpy as np
import pytest

from pyrotome.analysis.alignment.coarse import (
    CoarseAlignment,
    KnownAlignment,
    displacement_between,
    displacements,
)
from pyrotome.analysis.alignment.resampling import TiltAxis, apply_alignment
from pyrotome.analysis.tomography.projector import project

SIDE = 64
TILTS = np.arange(-40.0, 41.0, 5.0)


def blobs(centre=(0.0, 0.0, 0.0)):
    """A volume of a few balls around `centre` (y, z, x)."""
    rng = np.random.default_rng(4)
    grid = np.indices((SIDE, SIDE, SIDE)) - (SIDE - 1) / 2
    volume = np.zeros((SIDE, SIDE, SIDE), np.float32)
    for _ in range(9):
        at = rng.uniform(-14, 14, 3) * (1, 0.4, 1) + centre
        away = ((grid - at.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)
        volume += away < rng.uniform(3, 6) ** 2
    return volume


def recorded(images, shifts):
    """Images as a drifting stage would show them."""
    return apply_alignment(images, -shifts, TiltAxis())


@pytest.mark.parametrize("order", ["ascending", "dose-symmetric"])
def test_views_come_to_lie_where_the_first_one_is(order):
    images = project(blobs(), TILTS)
    shifts = np.random.default_rng(1).uniform(-5, 5, (TILTS.size, 2))
    shifts -= shifts[TILTS.size // 2]
    places = np.arange(TILTS.size)
    if order == "dose-symmetric":
        places = np.argsort(np.abs(TILTS), kind="stable")
    else:
        shifts -= shifts[0]
    seen = recorded(images, shifts)
    coarse = CoarseAlignment("phase-correlation", KnownAlignment(TiltAxis(), {}))
    aligned = {
        int(p): coarse.add_view(n, int(p), seen[p], TILTS[p])[0] for n, p in enumerate(places)
    }
    away = [
        np.linalg.norm(aligned[p][8:-8, 8:-8] - images[p][8:-8, 8:-8])
        / np.linalg.norm(images[p])
        for p in aligned
    ]  # fmt: skip
    before = [np.linalg.norm(seen[p] - images[p]) / np.linalg.norm(images[p]) for p in aligned]
    assert np.median(away) < 0.5 * np.median(before)


def test_the_first_view_goes_where_the_series_before_had_it():
    image = project(blobs(), TILTS)[0]
    known = KnownAlignment(TiltAxis(1.5, 0.0), {0: np.array([2.0, -3.0])})
    coarse = CoarseAlignment("phase-correlation", known)
    expected = apply_alignment(image[None], np.array([[2.0, -3.0]]), TiltAxis(1.5, 0.0))[0]
    assert np.array_equal(coarse.add_view(0, 0, image, -40.0)[0], expected)
    # A view that the series before did not have begins anew.
    other = CoarseAlignment("phase-correlation", known)
    expected = apply_alignment(image[None], np.zeros((1, 2)), TiltAxis(1.5, 0.0))[0]
    assert np.array_equal(other.add_view(0, 3, image, -40.0)[0], expected)


def test_without_one_the_axis_goes_through_the_mass():
    image = project(blobs((0.0, 0.0, 6.0)), np.array([0.0]))[0]
    aligned, _ = CoarseAlignment("phase-correlation").add_view(0, 0, image, 0.0)
    weights = aligned.sum(axis=0)
    middle = (weights * (np.arange(SIDE) - (SIDE - 1) / 2)).sum() / weights.sum()
    assert abs(middle) < 0.5


def test_the_displacement_of_the_specimen_is_told_from_a_move_of_the_axis():
    at = np.array([3.0, -4.0, 5.0])
    tilt = np.deg2rad(TILTS)
    here = displacements(np.zeros((TILTS.size, 2)), TiltAxis(2.0))
    # Images of a specimen displaced by `at`, aligned so that it is back in the middle.
    back = np.column_stack([np.full(tilt.size, at[0]), at[2] * np.cos(tilt) + at[1] * np.sin(tilt)])
    found = displacement_between(here, here + back + [0.0, -1.0], TILTS)
    assert np.allclose(found, -at)


def test_a_better_alignment_tells_where_the_volume_has_to_go():
    images = project(blobs(), TILTS)
    coarse = CoarseAlignment("phase-correlation", KnownAlignment(TiltAxis(), {}))
    for place, (image, tilt) in enumerate(zip(images, TILTS, strict=True)):
        coarse.add_view(place, place, image, tilt)
    # Moved further by 2 px along the axis: what they show lies 2 px the other way.
    found = coarse.displacement_to(coarse.shifts_px + np.array([2.0, 0.0]), TiltAxis())
    assert np.allclose(found, (-2.0, 0.0, 0.0), atol=1e-6)


def test_a_view_that_cannot_be_registered_is_left_out():
    images = project(blobs(), TILTS)
    spoilt = np.full((SIDE, SIDE), np.nan, np.float32)
    coarse = CoarseAlignment("phase-correlation", KnownAlignment(TiltAxis(), {}))
    for place, (image, tilt) in enumerate(zip(images, TILTS, strict=True)):
        if place == 3:
            with pytest.raises(ValueError, match="NaN"):
                coarse.add_view(place, place, spoilt, tilt)
            continue
        coarse.add_view(place, place, image, tilt)
    assert len(coarse.shifts_px) == TILTS.size - 1
    shifts = np.insert(coarse.shifts_px, 3, (77.0, -77.0), axis=0)
    assert np.allclose(coarse.displacement_to(shifts, TiltAxis()), 0.0, atol=1e-6)
