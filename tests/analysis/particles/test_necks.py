"""Necks of known sizes, in any direction, from the volume and from the images; the table."""

import csv
import threading

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pyrotome.analysis.particles.necks import (
    Neck,
    iter_measure_necks,
    measure_necks,
    measure_particles,
    write_necks,
)
from pyrotome.analysis.particles.segmentation import segment
from pyrotome.analysis.tomography.projector import project

VOXEL_NM = 4.0


def pair(neck, radius=14.0, distance=26.0, azimuth=0.0, out=0.0, side=72, blur_z=1.0):
    """Fractions of matter in voxels of two spheres joined by a cylinder; lengths in voxels."""
    sub = 3
    axes = [(np.arange(n * sub) + 0.5) / sub - n / 2 for n in (side, 44, side)]
    y, z, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    z = z / blur_z
    along = np.array([np.sin(azimuth) * np.cos(out), np.sin(out), np.cos(azimuth) * np.cos(out)])
    s = y * along[0] + z * along[1] + x * along[2]
    square = y**2 + z**2 + x**2
    half = distance / 2
    inside = (square + half**2 - 2 * half * s < radius**2) | (
        square + half**2 + 2 * half * s < radius**2
    )
    inside |= (square - s**2 < neck**2) & (np.abs(s) < half)
    shape = (side, sub, 44, sub, side, sub)
    return inside.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)


def noisy(volume, seed=0):
    return 3 * volume + np.random.default_rng(seed).normal(0, 0.1, volume.shape)


@pytest.mark.parametrize(
    ("neck", "azimuth", "out"), [(7.0, 0.0, 0.0), (8.0, 0.7, 0.0), (9.0, 2.1, 0.4), (7.5, 1.57, 0)]
)
def test_a_known_pair_is_measured(neck, azimuth, out):
    volume = noisy(pair(neck, azimuth=azimuth, out=out))
    (row,) = measure_necks(volume, segment(volume), VOXEL_NM)
    assert row.neck_radius_nm == pytest.approx(neck * VOXEL_NM, rel=0.04)
    assert row.particle_radius_nm == pytest.approx(14 * VOXEL_NM, rel=0.03)
    assert row.distance_nm == pytest.approx(26 * VOXEL_NM, rel=0.03)
    assert row.distance_z_nm == pytest.approx(26 * VOXEL_NM * np.sin(out), abs=1.5)
    assert row.distance_nm**2 == pytest.approx(row.distance_xy_nm**2 + row.distance_z_nm**2)
    assert row.neck_to_particle == row.neck_radius_nm / row.particle_radius_nm
    assert row.distance_to_diameter == row.distance_nm / (2 * row.particle_radius_nm)
    assert row.aspect == pytest.approx(1.0, abs=0.06)
    assert (row.particle_a, row.particle_b) == (1, 2)


def test_elongation_along_the_beam_changes_neither_neck_nor_radius():
    volume = noisy(pair(7.0, azimuth=0.5, blur_z=1.3))
    (row,) = measure_necks(volume, segment(volume), VOXEL_NM)
    assert row.neck_radius_nm == pytest.approx(28, rel=0.04)
    assert row.particle_radius_nm == pytest.approx(56, rel=0.03)
    assert row.aspect == pytest.approx(1.3, rel=0.05)


def test_necks_are_told_apart_below_a_voxel():
    found = []
    for neck in (5.0, 5.3, 5.6):
        volume = pair(neck, azimuth=0.3, distance=30.0)
        found.append(measure_necks(volume, segment(volume), VOXEL_NM)[0].neck_radius_nm)
    assert np.diff(found) == pytest.approx(0.3 * VOXEL_NM, rel=0.4)


def test_a_mask_will_do():
    mask = (pair(7.0, azimuth=0.4) > 0.5).astype(np.uint8)
    (row,) = measure_necks(mask, segment(mask), VOXEL_NM)
    assert row.neck_radius_nm == pytest.approx(28, rel=0.08)


def test_particles_alone_have_no_neck():
    volume = pair(0.0, distance=31.0)
    labels = segment(volume)
    assert labels.max() == 2
    assert measure_necks(volume, labels, VOXEL_NM) == []
    one, _ = measure_particles(volume, labels, VOXEL_NM)
    assert one.radius_nm == pytest.approx(56, rel=0.01)
    assert one.height_nm == pytest.approx(112, rel=0.03)
    assert one.level == pytest.approx(1.0)


def test_what_only_the_missing_wedge_joins_is_no_pair():
    upright = pair(5.0, radius=9.0, distance=17.0, out=1.4)
    assert measure_necks(upright, segment(upright), VOXEL_NM) == []
    far = pair(3.0, distance=34.0)
    labels = np.where(far > 0.5, np.where(np.arange(72) < 36, 1, 2), 0).astype(np.int32)
    assert measure_necks(far, labels, VOXEL_NM) == []


TILTS = np.arange(-40.0, 41.0, 4.0)


def fractions(inside, side=64, deep=48, sub=3):
    """Fractions of matter in voxels from a function of (s, y, z): a contact in the middle."""
    s = (np.arange(side * sub) + 0.5) / sub - side / 2
    z = (np.arange(deep * sub) + 0.5) / sub - deep / 2
    azimuth = 0.4
    y, x = np.meshgrid(s, s, indexing="ij")
    along, off = (x * np.cos(azimuth) + y * np.sin(azimuth) for x, y in ((x, y), (y, -x)))
    found = inside(along[:, None], off[:, None], z[:, None][None])
    return found.reshape(side, sub, deep, sub, side, sub).mean(axis=(1, 3, 5), dtype=np.float32)


def two_spheres(radii, neck, gap=None, flat=1.0, fillet=0.0):
    """Spheres about a neck; drawn out by `flat` along the beam; or a rounded neck."""
    a, b = radii
    overlap = neck**2 / (2 * (a + b) / 2) if gap is None else -gap

    def inside(s, y, z):
        square = y**2 + (z / flat) ** 2
        found = (s + a - overlap / 2) ** 2 + square < a**2
        found |= (s - b + overlap / 2) ** 2 + square < b**2
        width = neck + (fillet - np.sqrt(np.maximum(fillet**2 - s**2, 0)) if fillet else 0)
        return found | ((square < width**2) & (np.abs(s) < (fillet or min(a, b) / 2)))

    return inside


def with_images(inside, seed=0, noise=1.2):
    """Volume whose crevices are filled as by a regularised reconstruction, and noisy images."""
    volume = fractions(inside)
    images = project(volume, TILTS)
    images += np.random.default_rng(seed).normal(0, noise, images.shape).astype(np.float32)
    return gaussian_filter(volume, 1.2), images


def both_ways(inside, **kwargs):
    volume, images = with_images(inside, **kwargs)
    labels = segment(volume)
    (width,) = measure_necks(volume, labels, 1.0)
    (fit,) = measure_necks(volume, labels, 1.0, images=images, tilt_deg=TILTS)
    return width, fit


@pytest.mark.parametrize("neck", [3.0, 3.6, 5.0, 8.0])
def test_a_young_neck_is_found_in_the_images(neck):
    width, fit = both_ways(two_spheres((14, 14), neck))
    if neck < 4:
        assert width.neck_radius_nm > 1.25 * neck
    assert fit.neck_radius_nm == pytest.approx(neck, rel=0.06)
    assert fit.distance_nm == width.distance_nm


def test_spheres_that_only_touch_have_hardly_a_neck():
    width, fit = both_ways(two_spheres((14, 14), 0.3))
    assert fit.neck_radius_nm < min(2.5, 0.55 * width.neck_radius_nm)


@pytest.mark.parametrize(
    ("shape", "neck"),
    [
        (two_spheres((15, 10), 3.6), 3.6),
        (two_spheres((14, 14), 3.6, flat=1.15), 3.6),
        (two_spheres((14, 14), 6.0, fillet=4.0), 6.0),
    ],
    ids=["unequal", "ellipsoids", "fillet"],
)
def test_shapes_beside_the_model_are_measured_all_the_same(shape, neck):
    _, fit = both_ways(shape)
    assert fit.neck_radius_nm == pytest.approx(neck, rel=0.12)


def test_what_is_no_pair_of_spheres_keeps_its_width():
    def prisms(s, y, z):
        bars = (np.abs(np.abs(s) - 14) < 12) & (np.abs(y) < 11) & (np.abs(z) < 11)
        return bars | ((np.abs(s) < 5) & (np.abs(y) < 5) & (np.abs(z) < 5))

    width, fit = both_ways(prisms)
    assert fit == width
    assert width.neck_radius_nm == pytest.approx(5, rel=0.1)


def test_a_third_particle_does_not_spoil_the_neck():
    two = two_spheres((13, 13), 3.6)

    def three(s, y, z):
        return two(s, y, z) | (s**2 + (y - 23.5) ** 2 + (z + 8) ** 2 < 9**2)

    volume, images = with_images(three)
    labels = segment(volume)
    rows = measure_necks(volume, labels, 1.0, images=images, tilt_deg=TILTS)
    (fit,) = (row for row in rows if (row.particle_a, row.particle_b) == (1, 2))
    assert fit.neck_radius_nm == pytest.approx(3.6, rel=0.12)


def test_measuring_is_done_in_pieces_and_may_be_left():
    volume, images = with_images(two_spheres((14, 14), 5.0))
    labels = segment(volume)
    threads = threading.active_count()
    steps, fractions = iter_measure_necks(volume, labels, 1.0, images=images, tilt_deg=TILTS), []
    while True:
        try:
            fractions.append(next(steps))
        except StopIteration as end:
            assert end.value == measure_necks(volume, labels, 1.0, images=images, tilt_deg=TILTS)
            break
        assert threading.active_count() == threads
    assert fractions == sorted(fractions)
    assert 0.8 < fractions[-1] <= 1
    left = iter_measure_necks(volume, labels, 1.0, images=images, tilt_deg=TILTS)
    next(left)
    left.close()


def test_the_order_of_the_views_does_not_matter():
    volume, images = with_images(two_spheres((14, 14), 3.6))
    labels, mixed = segment(volume), np.random.default_rng(0).permutation(len(TILTS))
    (one,) = measure_necks(volume, labels, 1.0, images=images, tilt_deg=TILTS)
    (other,) = measure_necks(volume, labels, 1.0, images=images[mixed], tilt_deg=TILTS[mixed])
    assert one == other


def test_images_of_something_else_are_refused():
    volume, images = with_images(two_spheres((14, 14), 5.0))
    labels = segment(volume)
    with pytest.raises(ValueError, match="do not belong together"):
        measure_necks(volume, labels, 1.0, images=images[1:], tilt_deg=TILTS)
    with pytest.raises(ValueError, match="do not belong together"):
        measure_necks(volume, labels, 1.0, images=images[:, 2:], tilt_deg=TILTS)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="both"):
        measure_necks(np.zeros((2, 3, 4)), np.zeros((2, 3, 5), np.int32), 1.0)
    with pytest.raises(ValueError, match="0 nm"):
        measure_necks(np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.int32), 0)


def test_the_table(tmp_path):
    neck = Neck(3, 7, 31.5, 75.0, 148.25, 140.0, 48.7, 1.05, 0.42, 0.988333333)
    write_necks(tmp_path / "necks.csv", [("series_001", 0.0, neck), ("series_002", 5.002, neck)])
    with (tmp_path / "necks.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["series"] == "series_001"
    assert float(second["hold_total_s"]) == 5.002
    assert first["particle_a"] == "3"
    assert float(first["neck_radius_nm"]) == 31.5
    assert float(first["distance_to_diameter"]) == pytest.approx(neck.distance_to_diameter, 1e-5)
    units = [name for name in first if name.endswith("_nm")]
    assert len(units) == 5


def test_pixels_that_were_not_measured_have_hardly_an_influence_on_a_neck():
    volume, images = with_images(two_spheres((14, 14), 5.0))
    labels = segment(volume)
    weights = np.ones(images.shape, np.float32)
    weights[::2, :, 30:] = weights[1::3, :34] = 0
    # The image continues there as the mean of its border.
    broken = np.where(weights > 0, images, images.mean(axis=(1, 2), keepdims=True))
    taken, left_out = (
        measure_necks(volume, labels, 1.0, images=broken, tilt_deg=TILTS, weights=shares)[0]
        for shares in (None, weights)
    )
    assert left_out.neck_radius_nm == pytest.approx(5.0, rel=0.08)
    assert abs(taken.neck_radius_nm - 5.0) > abs(left_out.neck_radius_nm - 5.0)
    nowhere = np.zeros(images.shape)
    (width,) = measure_necks(volume, labels, 1.0)
    (fit,) = measure_necks(volume, labels, 1.0, images=broken, tilt_deg=TILTS, weights=nowhere)
    assert fit == width
