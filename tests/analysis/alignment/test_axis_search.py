"""Direction of the tilt axis: found over the full circle, told, doubted."""

import numpy as np
import pytest
from scipy.ndimage import rotate

from pyrotome.analysis.alignment.align import align_series
from pyrotome.analysis.alignment.axis_choice import ToldAxis, choose_direction, doubts
from pyrotome.analysis.alignment.axis_search import (
    difference_deg,
    search_direction,
    wrapped_deg,
)
from pyrotome.analysis.alignment.coarse import CoarseAlignment
from pyrotome.analysis.alignment.resampling import TiltAxis, apply_alignment, turned_shifts
from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.tomography.iterative import sirt

from ...conftest import CASES
from .test_align import TILTS, jitter, moves, spheres_series
from .test_align import measured_needle as needle

SHIFTS = jitter(TILTS, 5.0)
DIRECTIONS = [0.0, 30.0, 45.0, 84.8, 90.0, -88.7]


def turned_series(rotation, side=64, seed=3, offset=0.0):
    return spheres_series(TILTS, SHIFTS, side=side, rotation=rotation, seed=seed, offset=offset)


@pytest.mark.parametrize("seed", [3, 7])
@pytest.mark.parametrize("rotation", [*DIRECTIONS, -20.0, -50.0, 65.0])
def test_direction_is_found_over_the_full_circle(rotation, seed):
    search = search_direction(turned_series(rotation, seed=seed), TILTS, SHIFTS)
    assert abs(difference_deg(search.best_deg, rotation)) < 5.0
    # No other direction fits nearly as well.
    assert search.rival(rotation)[1] > 1.1 * search.misfit.min()


def test_seven_views_and_narrow_frames_are_enough():
    images = turned_series(65.0)[::3, 8:-8]
    search = search_direction(images, TILTS[::3], SHIFTS[::3])
    assert abs(difference_deg(search.best_deg, 65.0)) < 8.0


@pytest.mark.parametrize(
    ("rotation", "line"), [(90.4, 90.4), (91.0, -89.0), (-89.6, 90.4), (-88.7, -88.7), (180, 0)]
)
def test_a_line_has_one_angle(rotation, line):
    assert wrapped_deg(rotation) == pytest.approx(line)
    assert difference_deg(rotation, line) == pytest.approx(0.0)


@pytest.mark.parametrize("rotation", DIRECTIONS)
def test_axis_of_any_direction_is_found_and_the_volume_is_that_of_the_upright_one(rotation):
    images = turned_series(rotation, side=96)
    found = align_series(images, TILTS, "phase-correlation")
    assert abs(difference_deg(found.rotation_deg, rotation)) < 0.5
    assert found.axis_source == "found" and found.notes == ()
    wrong = moves(found.shifts_px, found.axis) - moves(SHIFTS, TiltAxis(0.0, found.rotation_deg))
    # The moves along the axis are right but for a displacement of the specimen.
    assert wrong[:, 0].std() < 0.25
    made = apply_alignment(images, SHIFTS, TiltAxis(0.0, found.rotation_deg))
    upright = apply_alignment(turned_series(0.0, side=96), SHIFTS, TiltAxis())
    volumes = [sirt(np.stack([binned(i, 2) for i in s]), TILTS, 10).volume for s in (made, upright)]
    assert np.corrcoef(*(volume.ravel() for volume in volumes))[0, 1] > 0.9


@pytest.mark.parametrize("method", ["mutual-information", "phase-correlation", "centre-of-mass"])
def test_axis_told_is_taken_and_refined(method):
    images = turned_series(84.8, side=96)
    told = align_series(images, TILTS, method, told_axis=ToldAxis(82.5))
    assert told.rotation_deg == pytest.approx(84.8, abs=0.5)
    assert told.axis_source == "told" and told.notes == ()
    kept = align_series(images, TILTS, method, rounds=2, told_axis=ToldAxis(84.8, refine=False))
    assert kept.rotation_deg == pytest.approx(84.8, abs=1e-9)


def test_opposite_directions_told_give_mirrored_volumes():
    images = turned_series(84.8)
    one, other = (
        align_series(images, TILTS, "phase-correlation", rounds=3, told_axis=ToldAxis(a, False))
        for a in (84.8, -95.2)
    )
    assert (one.rotation_deg, other.rotation_deg) == pytest.approx((84.8, -95.2))
    first, second = one.images[10], other.images[10][::-1, ::-1]
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (ToldAxis(-84.8), "counted the other way"),
        (ToldAxis(30.0, refine=False), "fits worse"),
        (ToldAxis(60.0), "fits worse"),
    ],
)
def test_a_wrong_axis_told_is_doubted(told, words):
    choice = choose_direction(turned_series(84.8), TILTS, SHIFTS, None, told)
    assert words in choice.notes[0]
    if "other way" in words:
        assert choice.rotation_deg == 84.8


def test_an_axis_told_some_degrees_wrong_ends_at_its_bound_with_a_word():
    found = align_series(
        turned_series(0.0, side=96), TILTS, "phase-correlation", told_axis=ToldAxis(9.0)
    )
    assert found.rotation_deg == pytest.approx(4.0)
    assert "more than 5 deg from the 9 deg told" in found.notes[0]


def test_a_specimen_that_looks_alike_about_two_directions_is_told():
    away = np.indices((64, 64)) - 31.5
    ball = np.sqrt(np.maximum(400.0 - (away**2).sum(axis=0), 0))
    images = np.stack([ball] * 9)
    choice = choose_direction(images, np.linspace(-40, 40, 9), np.zeros((9, 2)), None, None)
    assert choice.rotation_deg == 0.0
    assert "direction of the tilt axis is uncertain" in choice.notes[0]


def test_doubts_give_the_misfit():
    assert doubts(0.05, 0.99, 0.0, 1) == ()
    assert "has not settled" in doubts(0.05, 0.99, 0.5, 1)[0]
    assert "agree poorly (misfit 0.700" in doubts(0.7, 0.9, 0.0, 1)[0]
    assert "agree poorly" in doubts(0.1, 0.3, 0.0, 1)[0]


def test_images_without_a_common_specimen_are_doubted():
    images = np.random.default_rng(0).random((9, 64, 64))
    found = align_series(images, np.linspace(-40, 40, 9), "phase-correlation")
    assert found.notes


def test_quarter_turns_are_exact():
    images = np.random.default_rng(0).random((2, 12, 16), np.float32)
    for quarters in range(4):
        made = apply_alignment(images, np.zeros((2, 2)), TiltAxis(0.0, 90.0 * quarters))
        assert np.array_equal(made, np.rot90(images, quarters, axes=(1, 2)))
    shifts = np.array([[2.0, -3.0]])
    assert np.array_equal(turned_shifts(turned_shifts(shifts, 3), 1), shifts)
    made = apply_alignment(images, np.zeros((2, 2)), TiltAxis(0.0, 90.0), shape=(12, 16))
    assert made.shape == images.shape
    assert np.array_equal(made[:, :, 2:-2], np.rot90(images, axes=(1, 2))[:, 2:-2])


def test_what_a_turn_cuts_off_is_told():
    images = turned_series(90.0, side=96)[:, 24:-24]
    found = align_series(images, TILTS, "phase-correlation", rounds=3)
    assert found.images.shape == images.shape
    assert "of the specimen lies outside the 48 x 96 pixels" in found.notes[0]


@pytest.mark.parametrize("method", ["phase-correlation", "centre-of-mass"])
def test_views_that_arrive_one_by_one_are_placed_about_the_axis_told(method):
    images = turned_series(84.8, side=96).astype(np.float32)
    coarse = CoarseAlignment(method, told=ToldAxis(84.8))
    for n, image in enumerate(images):
        assert coarse.add_view(n, n, image, TILTS[n])[0].shape == image.shape
    wrong = moves(coarse.shifts_px, TiltAxis(0.0, 84.8)) - moves(SHIFTS, TiltAxis(0.0, 84.8))
    assert wrong[:, 0].std() < 1.5
    assert coarse.shows(TiltAxis(3.0, 82.0)) and not coarse.shows(TiltAxis(3.0, 0.0))
    assert not CoarseAlignment(method).shows(TiltAxis(0.0, 84.8))


def test_horizontal_axis_of_the_cases():
    path = CASES / "tilt_axis_horizontal.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with np.load(path) as case:
        images, tilts = case["data"].astype(np.float32), case["angles"]
    found = align_series(images, tilts, "phase-correlation")
    assert found.rotation_deg == pytest.approx(90.0, abs=0.5)
    assert found.notes == ()


@pytest.mark.parametrize("turn", [0.0, 57.2])
def test_axis_of_a_measured_needle(measured_data, turn):
    images, tilts = needle(measured_data)
    small = np.stack([binned(np.pad(i, 64), 3) for i in images[::3]])
    if turn:
        small = rotate(small, turn, axes=(2, 1), reshape=False, order=3)
    found = align_series(small, tilts[::3], "phase-correlation")
    # That program finds -2.79 deg for the images as they are turned here.
    assert abs(difference_deg(found.rotation_deg, -2.79 - turn)) < 0.5
