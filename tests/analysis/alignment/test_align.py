"""Alignment: neighbours, whole series with known shifts, awkward series, and a measured one."""

import threading
import warnings

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from pyrotome.analysis.alignment.align import (
    align_series,
    dark_images,
    iter_align_series,
    register_series,
)
from pyrotome.analysis.alignment.pairwise import OnlineRegistration
from pyrotome.analysis.alignment.preparation import binning_for, prepared
from pyrotome.analysis.alignment.registration import (
    centre_of_mass,
    common_line,
    line_shift,
    mutual_information,
    phase_correlation,
)
from pyrotome.analysis.alignment.resampling import TiltAxis, apply_alignment
from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.reconstruction import r_factor

METHODS = ("mutual-information", "phase-correlation", "centre-of-mass")
SIDE = 96
TILTS = np.arange(-40.0, 41.0, 4.0)
OFFSET, ROTATION = 2.0, 1.2


def spheres_series(tilts, shifts, side=SIDE, offset=OFFSET, rotation=ROTATION, seed=3):
    """Analytic projections of a film of spheres with Poisson noise; the axis is off and turned."""
    rng = np.random.default_rng(seed)
    x, y = (rng.random((2, 16)) - 0.5) * 0.66 * side
    z = (rng.random(16) - 0.5) * 0.16 * side
    turn = np.deg2rad(rotation)
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    images = []
    for tilt, (down, along) in zip(np.deg2rad(tilts), shifts, strict=True):
        across = x * np.cos(tilt) + z * np.sin(tilt) + offset
        row = across * np.sin(turn) + y * np.cos(turn) + down
        column = across * np.cos(turn) - y * np.sin(turn) + along
        image = np.zeros((side, side))
        for r, c in zip(row, column, strict=True):
            squared = (0.07 * side) ** 2 - (rows - r) ** 2 - (columns - c) ** 2
            image += 2 * np.sqrt(np.maximum(0.0, squared))
        images.append(rng.poisson(2 * image + 1))
    return np.stack(images).astype(np.uint16)


def jitter(tilts, largest, seed=4):
    shifts = np.random.default_rng(seed).uniform(-largest, largest, (len(tilts), 2))
    shifts[int(np.argmin(np.abs(tilts)))] = 0.0
    return shifts


def moves(shifts, axis):
    """Displacement of every image in the frame of the specimen: along the axis and across."""
    turn = np.deg2rad(axis.rotation_deg)
    along = shifts[:, 0] * np.cos(turn) - shifts[:, 1] * np.sin(turn)
    across = shifts[:, 1] * np.cos(turn) + shifts[:, 0] * np.sin(turn) + axis.offset_px
    return np.column_stack([along, across])


def residual(found, true_shifts, tilts):
    """Misalignment (n, 2) that no displacement of the specimen explains; the offset's error."""
    wrong = moves(found.shifts_px, found.axis) - moves(true_shifts, TiltAxis(OFFSET, ROTATION))
    wrong[:, 0] -= wrong[:, 0].mean()
    tilt = np.deg2rad(tilts)
    displaced = np.column_stack([np.cos(tilt), np.sin(tilt)])
    terms = np.column_stack([displaced, np.ones_like(tilt)])
    offset = np.linalg.lstsq(terms, wrong[:, 1])[0][2]
    wrong[:, 1] -= displaced @ np.linalg.lstsq(displaced, wrong[:, 1])[0]
    return wrong, offset


def textured(rows=96, columns=80, seed=0):
    return gaussian_filter(np.random.default_rng(seed).random((rows, columns)), 2.0)


def moved(image, shift):
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), shift)).real


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -0.45), (7.25, -12.6), (-20.4, 18.7)])
def test_phase_correlation_finds_parts_of_pixels(shift):
    first, second = textured(), moved(textured(), shift)
    assert phase_correlation(first, second) == pytest.approx(shift, abs=0.15)


@pytest.mark.parametrize("shift", [(0.6, -0.4), (3.3, -2.2)])
def test_mutual_information_does_not_mind_another_contrast(shift):
    first, second = textured(), moved(textured(), shift)
    inverted = 5.0 - 2.0 * second
    found, information = mutual_information(first, inverted, np.round(shift))
    assert found == pytest.approx(shift, abs=0.2)
    again, _ = mutual_information(first, inverted, np.round(shift))
    assert np.array_equal(found, again)
    unrelated = textured(seed=9)
    assert information > 2 * mutual_information(first, unrelated, np.zeros(2))[1]


def test_centre_of_mass_ignores_an_even_background():
    rows, columns = np.mgrid[:64, :64] - 31.5
    blob = 50.0 * np.exp(-(rows**2 + (columns - 8.25) ** 2) / 60)
    noise = np.random.default_rng(0).normal(10, 0.5, blob.shape)
    assert centre_of_mass(blob + noise) == pytest.approx(8.25, abs=0.2)


def test_common_lines_of_all_tilts_agree():
    images = spheres_series(np.array([-40.0, 30.0]), [(0.0, 0.0), (5.5, -3.0)], rotation=0.0)
    found = line_shift(*(common_line(image) for image in images))
    assert found == pytest.approx(5.5, abs=0.4)


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_are_registered_through_large_shifts(method):
    shifts = jitter(TILTS, 9.0)
    images = spheres_series(TILTS, shifts)
    found = register_series(images, TILTS, method)
    assert found[TILTS == 0.0] == pytest.approx(np.zeros((1, 2)), abs=1e-9)
    # Along the axis only the shift moves anything; across, the specimen's own tilting adds a bit.
    assert np.abs(found[:, 0] - shifts[:, 0]).max() < 1.5
    assert np.abs(found[:, 1] - shifts[:, 1]).max() < 3.0


@pytest.mark.parametrize("method", METHODS)
def test_series_is_aligned_better_than_half_a_pixel(method):
    shifts = jitter(TILTS, 8.0)
    images = spheres_series(TILTS, shifts)
    told = []
    found = align_series(images, TILTS, method, progress=told.append)
    wrong, offset = residual(found, shifts, TILTS)
    assert np.sqrt((wrong**2).sum(axis=1).mean()) < 0.25
    assert abs(offset) < 0.5
    assert found.rotation_deg == pytest.approx(ROTATION, abs=0.3)
    assert found.residual_after < found.residual_before
    assert found.correlation.min() > 0.95
    assert found.dark == () and found.notes == ()
    assert told == sorted(told) and told[-1] == 1.0
    # What is handed over was interpolated once, from what was recorded.
    assert np.array_equal(found.images, apply_alignment(images, found.shifts_px, found.axis))
    middle = moves(found.shifts_px, found.axis)[TILTS == 0.0]
    assert middle == pytest.approx(np.zeros((1, 2)), abs=1e-6)


def test_small_pieces_give_the_same_alignment():
    shifts = jitter(TILTS, 6.0)
    images = spheres_series(TILTS, shifts)
    pieces, told = iter_align_series(images, TILTS, "phase-correlation", rounds=8), []
    while True:
        try:
            told.append(next(pieces))
        except StopIteration as end:
            found = end.value
            break
    assert told == sorted(told) and told[0] == 0.0 and told[-1] == 1.0
    # Pairs, thicknesses, rounds and the interpolation.
    assert len(told) > 25
    again = align_series(images, TILTS, "phase-correlation", rounds=8)
    assert np.array_equal(found.images, again.images)
    assert np.array_equal(found.shifts_px, again.shifts_px)


def test_abandoned_pieces_leave_nothing_running():
    images = spheres_series(TILTS, jitter(TILTS, 2.0), side=48)
    pieces = iter_align_series(images, TILTS, "phase-correlation")
    for _ in range(12):
        next(pieces)
    pieces.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("slices")]


def test_steps_known_before_change_nothing_but_the_time():
    shifts = jitter(TILTS, 6.0)
    images = spheres_series(TILTS, shifts)
    images[5] = 0
    registration = OnlineRegistration("phase-correlation")
    for n in range(len(TILTS) - 1, -1, -1):
        registration.add(n, TILTS[n], images[n])
    found = align_series(
        images,
        TILTS,
        "phase-correlation",
        rounds=8,
        pair_shifts=registration.pair_shifts(range(TILTS.size)),
    )
    again = align_series(images, TILTS, "phase-correlation", rounds=8)
    assert np.array_equal(found.shifts_px, again.shifts_px)
    assert found.axis == again.axis


@pytest.mark.parametrize("start", [TiltAxis(OFFSET, ROTATION), TiltAxis(-9.0, -6.0)])
def test_axis_of_the_series_before_helps_and_a_wrong_one_does_no_harm(start):
    shifts = jitter(TILTS, 6.0)
    images = spheres_series(TILTS, shifts)
    found = align_series(images, TILTS, "phase-correlation", start_axis=start)
    wrong, offset = residual(found, shifts, TILTS)
    assert np.sqrt((wrong**2).sum(axis=1).mean()) < 0.25
    assert abs(offset) < 0.5
    assert found.rotation_deg == pytest.approx(ROTATION, abs=0.3)


def test_good_start_is_better_after_few_rounds():
    shifts = jitter(TILTS, 6.0)
    images = spheres_series(TILTS, shifts)

    def turn(**more):
        made = align_series(images, TILTS, "phase-correlation", rounds=1, **more)
        return abs(made.rotation_deg - ROTATION)

    assert turn(start_axis=TiltAxis(OFFSET, ROTATION)) < 0.5 * turn()


def test_missing_tilt_and_mixed_order_do_not_matter():
    keep = np.random.default_rng(1).permutation(np.delete(np.arange(TILTS.size), [6, 7]))
    tilts = TILTS[keep]
    shifts = jitter(tilts, 6.0)
    found = align_series(spheres_series(tilts, shifts), tilts, "phase-correlation")
    wrong, _ = residual(found, shifts, tilts)
    assert np.sqrt((wrong**2).sum(axis=1).mean()) < 0.25


def test_dark_image_takes_its_shift_from_its_neighbours():
    shifts = jitter(TILTS, 6.0)
    images = spheres_series(TILTS, shifts)
    images[5] = np.random.default_rng(0).poisson(0.02, images[5].shape)
    found = align_series(images, TILTS, "phase-correlation")
    assert found.dark == (5,)
    assert "image 5 at -20 deg is dark" in found.notes[0]
    assert found.shifts_px[5] == pytest.approx(found.shifts_px[[4, 6]].mean(axis=0))
    assert np.isnan(found.correlation[5])
    assert not np.isnan(np.delete(found.correlation, 5)).any()
    lit = np.delete(np.arange(TILTS.size), 5)
    wrong = moves(found.shifts_px, found.axis) - moves(shifts, TiltAxis(OFFSET, ROTATION))
    assert wrong[lit, 0].std() < 0.25


def test_dark_images_are_those_without_contrast():
    images = np.stack([textured(), 0 * textured() + 7.0, 3 * textured(), 0.01 * textured()])
    assert dark_images(images).tolist() == [1, 3]
    assert dark_images(np.zeros((3, 8, 8))).tolist() == [0, 1, 2]


def test_errors_name_the_image_or_the_method():
    images = spheres_series(TILTS, jitter(TILTS, 1.0), side=32).astype(np.float32)
    with pytest.raises(ValueError, match="21 images but 20 tilt angles"):
        align_series(images, TILTS[1:])
    with pytest.raises(ValueError, match="21 of 21 images are dark"):
        align_series(np.zeros_like(images), TILTS)
    with pytest.raises(ValueError, match="the start axis TiltAxis"):
        align_series(images, TILTS, start_axis=TiltAxis(np.nan, 0.0))
    with pytest.raises(
        ValueError, match="alignment method 'guessing' is unknown; use one of mutual-information"
    ):
        align_series(images, TILTS, "guessing")
    images[4, 3, 2] = np.nan
    with pytest.raises(ValueError, match="image 4 holds NaN"):
        align_series(images, TILTS)


@pytest.mark.parametrize(("shape", "side", "binning"), [((1024, 1024), 128, 8), ((96, 64), 128, 1)])
def test_binning(shape, side, binning):
    assert binning_for(shape, side) == binning


def test_prepared_images_have_no_background_and_a_mean_of_one():
    images = spheres_series(TILTS[:3], np.zeros((3, 2)), side=64) + 100
    small = prepared(images, 2)
    assert small.shape == (3, 32, 32)
    assert small.mean() == pytest.approx(1.0, rel=1e-5)
    assert abs(np.median(small[:, :2])) < 0.3


def measured_needle(measured_data):
    """The needle and its tilts, turned so that the tilt axis runs down the columns."""
    import mrcfile

    folder = measured_data / "needle_haadf"
    with warnings.catch_warnings():
        # The header is an old one.
        warnings.simplefilter("ignore")
        with mrcfile.open(folder / "HAADF.mrc", permissive=True) as file:
            recorded = np.asarray(file.data, np.float32)
    tilts = np.loadtxt(folder / "HAADF.rawtlt")
    # The tilt axis of this microscope runs along the rows; here it runs down the columns.
    return np.ascontiguousarray(recorded.transpose(0, 2, 1)) - np.percentile(recorded, 5), tilts


def test_needle_is_aligned_no_worse_than_by_others(measured_data):
    images, tilts = measured_needle(measured_data)
    reference = -np.load(measured_data / "needle_haadf/reference_shifts_px.npy")[:, ::-1]
    found = align_series(images, tilts, "phase-correlation")
    assert found.rotation_deg == pytest.approx(-2.79, abs=0.3)

    def figure(aligned):
        small = np.stack([binned(image, 2) for image in aligned])
        return r_factor(sirt(small, tilts, 30).volume, small, tilts)

    # 3 px is the offset with which those shifts do best.
    assert figure(found.images) <= figure(apply_alignment(images, reference, TiltAxis(3.0, -2.79)))
