"""One interpolation: whole pixels exact, parts of pixels as scipy has them, border continued."""

import math

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter, shift

from pyrotome.analysis.alignment.resampling import Splines, TiltAxis, apply_alignment


def smooth_images(count=2, rows=48, columns=60):
    noise = np.random.default_rng(0).random((count, rows, columns))
    return gaussian_filter(noise, (0, 1.5, 1.5)).astype(np.float32)


def test_nothing_to_do_changes_nothing():
    images = smooth_images()
    assert np.array_equal(apply_alignment(images, np.zeros((2, 2)), TiltAxis()), images)


def test_whole_pixels_are_copied_exactly():
    images = np.random.default_rng(1).integers(0, 60000, (2, 20, 30)).astype(np.uint16)
    aligned = apply_alignment(images, np.array([[3, -4], [-2, 5]]), TiltAxis(offset_px=1.0))
    assert aligned.dtype == np.float32
    # The second specimen has moved up by 2 and right by 5 + 1.
    assert np.array_equal(aligned[0, :17, 3:], images[0, 3:, :27])
    assert np.array_equal(aligned[1, 2:, :24], images[1, :18, 6:])


def test_parts_of_pixels_are_cubic_splines():
    images = smooth_images()
    shifts = np.array([[2.3, -1.7], [-0.5, 4.25]])
    aligned = apply_alignment(images, shifts, TiltAxis(offset_px=0.4))
    for image, made, (down, along) in zip(images, aligned, shifts, strict=True):
        expected = shift(image, (-down, -along - 0.4), order=3, mode="mirror")
        assert np.allclose(made[8:-8, 8:-8], expected[8:-8, 8:-8], atol=2e-6)


def test_shift_and_rotation_together_are_one_interpolation():
    images = smooth_images(1, 61, 61)
    turn = math.radians(4.0)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    moved = np.array([1.3, -2.6])
    # Input (row, column) = matrix (y, x' + offset) + shift, about the middle.
    start = 30 + moved + matrix @ (np.array([0.0, 3.7]) - 30)
    expected = affine_transform(images[0], matrix, start, order=3, mode="mirror")
    made = apply_alignment(images, moved[None], TiltAxis(3.7, 4.0))[0]
    assert np.allclose(made[10:-10, 10:-10], expected[10:-10, 10:-10], atol=2e-6)


def test_samples_start_from_the_recorded_pixels_each_time():
    images = smooth_images()
    splines = Splines(images)
    shifts = np.full((2, 2), 0.37)
    splines.sampled(np.full((2, 2), 5.5), TiltAxis(2.0, 3.0))
    made = splines.sampled(shifts, TiltAxis())
    assert np.array_equal(made, apply_alignment(images, shifts, TiltAxis()))


def test_border_is_continued_by_its_mean_not_by_its_noise():
    rng = np.random.default_rng(2)
    images = rng.poisson(4.0, (1, 64, 64)).astype(np.float32)
    images[0, :, 20:40] += 100.0
    made = apply_alignment(images, np.array([[30.0, 0.0]]), TiltAxis())[0]
    beyond = made[40:]
    assert np.all(np.abs(beyond[:, :14] - 4.0) < 2.5)
    assert np.all(np.abs(beyond[:, 27:33] - 104.0) < 2.5)


def test_some_rows_are_sampled_as_all_are_and_recorded_pixels_are_told():
    images = smooth_images()
    splines, axis = Splines(images), TiltAxis(1.5, 2.0)
    shifts = np.array([[12.0, -3.3], [0.0, 20.0]])
    every = splines.sampled(shifts, axis)
    rows = np.array([0, 7, 40])
    assert np.array_equal(splines.sampled(shifts, axis, rows), every[:, rows])
    seen = splines.valid_mask(shifts, axis)
    assert seen.shape == images.shape
    # Moved down by 12 and up to the middle: the lowest rows were never recorded.
    assert not seen[0, -10:].any() and seen[0, 6:30, 8:-8].all()
    assert not seen[1, :, -18:].any() and seen[1, 4:-4, 4:30].all()


@pytest.mark.parametrize(
    ("images", "shifts", "axis", "words"),
    [
        (np.zeros((2, 4, 4)), np.zeros((3, 2)), TiltAxis(), "for 2 images"),
        (np.zeros((4, 4)), np.zeros((1, 2)), TiltAxis(), "rows, columns"),
        (np.zeros((1, 4, 4)), np.full((1, 2), np.nan), TiltAxis(), "not a finite number"),
        (np.zeros((1, 4, 4)), np.zeros((1, 2)), TiltAxis(math.inf), "not a finite number"),
        (np.full((1, 4, 4), np.nan), np.zeros((1, 2)), TiltAxis(), "image 0 holds NaN"),
    ],
)
def test_what_cannot_be_is_refused(images, shifts, axis, words):
    with pytest.raises(ValueError, match=words):
        apply_alignment(images, shifts, axis)
