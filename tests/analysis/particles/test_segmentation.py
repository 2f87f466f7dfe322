"""Segmentation: counts spheres, splits touching ones, keeps their labels over the series."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from pyrotome.analysis.particles.kernels import depth_in
from pyrotome.analysis.particles.segmentation import (
    contacts,
    dilation,
    erosion,
    iter_segment,
    otsu_level,
    segment,
)
from pyrotome.analysis.particles.tracking import centroids, track

CENTRES = ((14, 16, 14), (14, 16, 33), (40, 15, 18), (40, 17, 44), (20, 14, 56))
RADII = (10.0, 9.5, 8.0, 7.0, 6.0)  # the first two touch


def spheres(centres=CENTRES, radii=RADII, shape=(56, 32, 66)):
    y, z, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    volume = np.zeros(shape, np.float32)
    for (cy, cz, cx), r in zip(centres, radii, strict=True):
        volume[(y - cy) ** 2 + (z - cz) ** 2 + (x - cx) ** 2 < r * r] = 1
    return volume


def noisy(volume, seed=0):
    rng = np.random.default_rng(seed)
    return gaussian_filter(volume, 0.8) + rng.normal(0, 0.1, volume.shape).astype(np.float32)


def test_the_level_parts_two_values():
    rng = np.random.default_rng(0)
    volume = np.concatenate([rng.normal(0, 0.1, 9000), rng.normal(1, 0.1, 1000)])
    assert 0.3 < otsu_level(volume) < 0.7
    assert otsu_level(np.full((2, 2, 2), 3.0)) == 3.0


def test_particles_are_counted_and_touching_ones_split():
    made = segment(noisy(spheres()))
    assert made.dtype == np.int32
    names, centres, sizes = centroids(made)
    assert names.tolist() == [1, 2, 3, 4, 5]
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert np.abs(centres - np.array(CENTRES)).max() < 0.5
    assert sizes == pytest.approx(4 / 3 * np.pi * np.array(RADII) ** 3, rel=0.1)
    border = (made[:, :, 23] > 0) & (made[:, :, 24] > 0)
    assert border.any()  # they do touch


def test_a_thick_neck_still_parts_two_particles():
    volume = spheres(((20, 16, 18), (20, 16, 38)), (11.0, 11.0), (40, 32, 56))
    y, z, x = np.ogrid[:40, :32, :56]
    volume[((y - 20) ** 2 + (z - 16) ** 2 < 0.65**2 * 121) & (x > 18) & (x < 38)] = 1
    made = segment(noisy(volume))
    assert made.max() == 2
    _, centres, _ = centroids(made)
    assert sorted(centres[:, 2].round().tolist()) == [18, 38]


def test_one_long_body_is_one_particle():
    y, z, x = np.ogrid[:40, :40, :70]
    rod = ((y - 20) ** 2 + (z - 20) ** 2 < 81) & (x > 8) & (x < 60)
    assert segment(noisy(rod.astype(np.float32))).max() == 1


def test_specks_are_dropped():
    volume = spheres()
    volume[50:53, 25:28, 2:5] = 1
    assert segment(noisy(volume)).max() == 5
    assert segment(noisy(volume), opening=0, smallest_voxels=15).max() == 6
    assert not segment(np.zeros((4, 5, 6))).any()


def test_bad_volumes_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        segment(np.full((3, 3, 3), np.nan))
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        segment(np.zeros((3, 3)))


def test_labels_follow_particles_through_a_permutation():
    before = segment(spheres())
    moved = tuple((cy + 4, cz - 1, cx + 5) for cy, cz, cx in CENTRES)
    plain = segment(spheres(moved, RADII))
    permutation = np.array([0, 4, 5, 1, 3, 2])
    now = permutation[plain]
    tracked = track(before, now)
    _, old, _ = centroids(before)
    names, new, _ = centroids(tracked)
    assert names.tolist() == [1, 2, 3, 4, 5]
    assert np.abs(new - old - (4, -1, 5)).max() < 1.0


def test_a_new_particle_gets_a_new_number_and_a_lost_one_leaves_a_gap():
    before = segment(spheres(CENTRES[:4], RADII[:4]))
    now = segment(spheres(CENTRES[1:], RADII[1:]))
    tracked = track(before, now)
    names, centres, _ = centroids(tracked)
    assert names.tolist() == [2, 3, 4, 5]
    assert np.abs(centres[-1] - CENTRES[4]).max() < 0.1
    assert track(before, now, first_new=9).max() == 9
    assert track(np.zeros_like(now), now).max() == 4
    assert not track(before, np.zeros_like(now)).any()
    with pytest.raises(ValueError, match="must be equal"):
        track(before, now[1:])


def test_labels_grow_into_the_vacuum_only():
    labels = np.zeros((5, 5, 9), np.int32)
    labels[2, 2, 3], labels[2, 2, 5] = 1, 2
    grown = dilation(labels, 2)
    assert grown[2, 2].tolist()[0] == 0
    assert grown[2, 2, 1] == 1
    assert grown[2, 2, 7] == 2
    assert np.count_nonzero(labels) == 2
    assert grown[2, 2, 3] == 1
    assert grown[0, 2, 3] == 1
    assert grown[0, 1, 3] == 0


def test_it_is_done_in_pieces():
    volume = noisy(spheres())
    steps, fractions = iter_segment(volume), []
    while True:
        try:
            fractions.append(next(steps))
        except StopIteration as end:
            assert (end.value == segment(volume)).all()
            break
    assert len(fractions) > 8
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] <= 1


def test_depths_and_erosion_are_exact():
    mask = np.pad(noisy(spheres()) > 0.5, 1)
    assert depth_in(mask) == pytest.approx(ndimage.distance_transform_edt(mask))
    full = np.random.default_rng(0).random((9, 10, 11)) > 0.1
    assert (erosion(full) == ndimage.binary_erosion(full)).all()
    assert (erosion(full, beyond=True) == ndimage.binary_erosion(full, border_value=1)).all()


def test_borders_are_told_with_their_greatest_value():
    labels = np.zeros((3, 3, 4), np.int32)
    labels[0], labels[1, :, :2], labels[1, :, 2:] = 3, 1, 2
    values = np.arange(36, dtype=np.float32).reshape(3, 3, 4)
    assert contacts(labels, values) == {(1, 2): 21.0, (1, 3): 9.0, (2, 3): 11.0}
    assert list(contacts(labels)) == [(1, 2), (1, 3), (2, 3)]
    assert contacts(np.zeros((2, 2, 2), np.int32)) == {}
