"""The volume that follows an alignment: converges, ignores what was not recorded, shears."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from pyrotome.analysis.alignment.matching.matching_volume import MatchingVolume
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import project

TILTS = np.arange(-40.0, 41.0, 4.0)


def smooth_volume(tall=40, thickness=16, wide=48, seed=0):
    """Non-negative and smooth, nothing near the border."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((tall, thickness, wide))
    for _ in range(10):
        y, z, x = (rng.uniform(0.3, 0.7) * side for side in volume.shape)
        grid = np.ogrid[:tall, :thickness, :wide]
        squared = (grid[0] - y) ** 2 + 2 * (grid[1] - z) ** 2 + (grid[2] - x) ** 2
        volume += np.exp(-squared / 18)
    return gaussian_filter(volume, 1.0).astype(np.float32)


@pytest.mark.parametrize("wide", [48, 47])
def test_volume_explains_its_images_sooner_than_sirt(wide):
    images = project(smooth_volume(wide=wide), TILTS)
    matching = MatchingVolume(TILTS, images.shape[1:], 16)
    seen = np.ones(images.shape, bool)
    residuals = [matching.fit(images, seen, 5) for _ in range(6)]
    assert residuals == sorted(residuals, reverse=True)

    def left(projections):
        return np.linalg.norm(projections - images) / np.linalg.norm(images)

    peer = sirt(images, TILTS, 30, slice_shape=(16, wide)).volume
    assert left(matching.projections()[0]) < 0.8 * left(project(peer, TILTS))


def test_pixels_that_were_not_recorded_ask_nothing_of_the_volume():
    images = project(smooth_volume(), TILTS)
    seen = np.ones(images.shape, bool)
    seen[:, :, :9] = False
    seen[3, 30:] = False
    spoilt = np.where(seen, images, 1e3).astype(np.float32)
    volumes = []
    for given in (images, spoilt):
        matching = MatchingVolume(TILTS, images.shape[1:], 16)
        matching.fit(given, seen, 6)
        volumes.append(matching.projections()[0])
    assert np.array_equal(*volumes)


def test_shears_are_what_they_do_to_the_images():
    volume = smooth_volume()
    images = project(volume, TILTS)
    matching = MatchingVolume(TILTS, images.shape[1:], 16)
    matching.fit(images, np.ones(images.shape, bool), 60)
    made, along, across = matching.projections()
    y, z, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in volume.shape), indexing="ij")
    middle = [(n - 1) / 2 for n in volume.shape]
    angle = 0.01

    def sheared(places):
        moved = [place + m for place, m in zip(places, middle, strict=True)]
        return project(map_coordinates(volume, moved, order=3, mode="nearest"), TILTS)

    for expected, slope in (
        (sheared((y + angle * x, z, x)) - sheared((y - angle * x, z, x)), along),
        (sheared((y, z, x + angle * y)) - sheared((y, z, x - angle * y)), across),
    ):
        wrong = expected / (2 * angle) - slope
        assert np.linalg.norm(wrong) < 0.1 * np.linalg.norm(slope)
    assert np.linalg.norm(made - images) < 0.05 * np.linalg.norm(images)


def test_nothing_is_made_of_nothing():
    images = np.zeros((TILTS.size, 8, 12), np.float32)
    matching = MatchingVolume(TILTS, (8, 12), 4)
    assert matching.fit(images, np.ones(images.shape, bool), 3) == 0.0
    assert not any(part.any() for part in matching.projections())
