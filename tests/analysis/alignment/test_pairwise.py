"""Neighbours registered as their images arrive: the very numbers of the finished series."""

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from pyrotome.analysis.alignment.pairwise import (
    METHODS,
    OnlineRegistration,
    prepare_image,
    register_pair,
    register_series,
)

TILTS = np.array([-20.0, -10.0, 0.0, 10.0, 20.0, 30.0])


def series(shape=(80, 96), tilts=TILTS, seed=0):
    """One texture, moved from image to image and with noise of its own in each."""
    rng = np.random.default_rng(seed)
    texture = np.fft.fft2(gaussian_filter(rng.random(shape), 2.5))
    shifts = np.round(rng.uniform(-6, 6, (len(tilts), 2)), 1)
    shifts[int(np.argmin(np.abs(tilts)))] = 0.0
    clean = [np.fft.ifft2(fourier_shift(texture, shift)).real for shift in shifts]
    return rng.poisson(400 * np.array(clean)).astype(np.uint16), shifts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 3, 1, 4, 0, 5]])
def test_arriving_images_give_the_numbers_of_the_finished_series(method, order):
    images, _ = series()
    registration = OnlineRegistration(method)
    for n in order:
        registration.add(n, TILTS[n], images[n])
    steps = registration.pair_shifts(range(len(images)))
    assert sorted(pair for pair in steps if pair[1] == pair[0] + 1) == [
        (n, n + 1) for n in range(5)
    ]
    at_once = register_series(images, TILTS, method)
    # Whatever is wrong with the images, they are not looked at: all steps are known.
    blank = np.zeros_like(images)
    assert np.array_equal(register_series(blank, TILTS, method, pair_shifts=steps), at_once)


def test_only_what_is_missing_is_computed(monkeypatch):
    from pyrotome.analysis.alignment import pairwise as neighbours

    images, _ = series()
    at_once = register_series(images, TILTS, "phase-correlation")
    registration = OnlineRegistration("phase-correlation")
    for n in (0, 1, 4, 5):
        registration.add(n, TILTS[n], images[n])
    computed = []

    def counted(first, second, expected):
        computed.append(1)
        return register_pair(first, second, expected)

    monkeypatch.setattr(neighbours, "register_pair", counted)
    steps = registration.pair_shifts(range(6))
    assert np.array_equal(
        register_series(images, TILTS, "phase-correlation", pair_shifts=steps), at_once
    )
    # (1, 4) are no neighbours any more; 1-2, 2-3 and 3-4 are new.
    assert len(computed) == 3


def test_steps_are_told_by_the_place_in_a_stack_with_views_missing():
    images, _ = series()
    registration = OnlineRegistration("phase-correlation")
    numbers = [1, 2, 4, 5]
    for n in numbers:
        registration.add(n, TILTS[n], images[n])
    steps = registration.pair_shifts(np.array(numbers))
    assert set(steps) == {(0, 1), (1, 2), (2, 3)}
    kept = images[numbers]
    assert np.array_equal(
        register_series(kept, TILTS[numbers], "phase-correlation", pair_shifts=steps),
        register_series(kept, TILTS[numbers], "phase-correlation"),
    )


@pytest.mark.parametrize("method", ["mutual-information", "phase-correlation"])
def test_a_pair_is_registered_in_pixels_of_the_images_given(method):
    images, shifts = series((256, 320))
    step = register_pair(*(prepare_image(images[n], method) for n in (2, 3)))
    assert step == pytest.approx(shifts[3], abs=1.0)


def test_preparation_of_an_image_asks_nothing_of_the_others():
    images, _ = series()
    alone = prepare_image(images[3], "mutual-information")
    assert prepare_image(images[3].copy(), "mutual-information").small.tobytes() == (
        alone.small.tobytes()
    )
    assert alone.small.dtype == np.float32 and alone.small.shape == images[3].shape
    assert prepare_image(np.ones((512, 300)), "phase-correlation").small.shape == (128, 75)


def test_what_cannot_be_registered_is_refused():
    images, _ = series()
    with pytest.raises(
        ValueError, match="alignment method 'guessing' is unknown; use one of mutual-information"
    ):
        OnlineRegistration("guessing")
    registration = OnlineRegistration("phase-correlation")
    registration.add(0, 0.0, images[0])
    with pytest.raises(ValueError, match="image 0 of the series was added before"):
        registration.add(0, 2.0, images[1])
    with pytest.raises(ValueError, match="tilt angle of image 1 is not a finite number"):
        registration.add(1, np.nan, images[1])
    with pytest.raises(ValueError, match="image holds NaN"):
        registration.add(1, 2.0, np.full((80, 96), np.nan))
    with pytest.raises(ValueError, match=r"image 1 has the shape \(40, 96\), the other"):
        registration.add(1, 2.0, images[1][:40])
    assert registration.pair_shifts(range(6)) == {}
    with pytest.raises(ValueError, match="cannot be registered with one another"):
        register_pair(
            prepare_image(images[0], "phase-correlation"),
            prepare_image(images[1], "centre-of-mass"),
        )
    with pytest.raises(ValueError, match=r"shift between images \(0, 1\) is not a pair"):
        register_series(
            images, TILTS, "phase-correlation", pair_shifts={(0, 1): np.array([np.nan, 0.0])}
        )
