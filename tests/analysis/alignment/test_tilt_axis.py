"""The tilt axis is found in offset and rotation, from analytic projections of spheres."""

import numpy as np
import pytest

from pyrotome.analysis.alignment.resampling import TiltAxis
from pyrotome.analysis.alignment.tilt_axis import axis_through_mass, find_axis

TILTS = np.arange(-40.0, 41.0, 4.0)


def spheres_series(tilts, side, offset, rotation, shifts=None, seed=0, count=14):
    """Images of a film of spheres whose middle is the middle of the field, Poisson noise."""
    rng = np.random.default_rng(seed)
    x, y = (rng.random((2, count)) - 0.5) * 0.72 * side
    z = (rng.random(count) - 0.5) * 0.16 * side
    x, z = x - x.mean(), z - z.mean()
    radius = side * 0.07
    turn = np.deg2rad(rotation)
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    images = []
    for n, tilt in enumerate(np.deg2rad(tilts)):
        across = x * np.cos(tilt) + z * np.sin(tilt) + offset
        down, along = (0.0, 0.0) if shifts is None else shifts[n]
        row = across * np.sin(turn) + y * np.cos(turn) + down
        column = across * np.cos(turn) - y * np.sin(turn) + along
        image = np.zeros((side, side))
        for r, c in zip(row, column, strict=True):
            squared = radius**2 - (rows - r) ** 2 - (columns - c) ** 2
            image += 2 * np.sqrt(np.maximum(0.0, squared))
        images.append(rng.poisson(3 * image + 1))
    return np.stack(images).astype(np.uint16)


@pytest.mark.parametrize(
    ("offset", "rotation", "seed"), [(6.0, 1.5, 0), (-8.0, -2.0, 0), (3.0, -1.0, 1), (-4.0, 2.0, 2)]
)
def test_axis_is_found(offset, rotation, seed):
    images = spheres_series(TILTS, 128, offset, rotation, seed=seed)
    axis = find_axis(images, TILTS)
    assert axis.offset_px == pytest.approx(offset, abs=0.25)
    assert axis.rotation_deg == pytest.approx(rotation, abs=0.2)


def test_good_start_is_kept():
    images = spheres_series(TILTS, 128, 5.0, 0.0)
    axis = find_axis(images, TILTS, start=TiltAxis(5.0, 0.0), rounds=10)
    assert axis.offset_px == pytest.approx(5.0, abs=0.3)
    assert axis.rotation_deg == pytest.approx(0.0, abs=0.3)


def test_larger_images_give_the_axis_in_their_own_pixels():
    images = spheres_series(TILTS, 256, 12.0, 1.0)
    axis = find_axis(images, TILTS)
    assert axis.offset_px == pytest.approx(12.0, abs=1.0)
    assert axis.rotation_deg == pytest.approx(1.0, abs=0.3)


def test_axis_runs_through_the_mass_of_a_specimen_that_stays_in_place():
    shifts = np.column_stack([np.zeros(TILTS.size), np.linspace(-3, 3, TILTS.size)])
    images = spheres_series(TILTS, 64, 4.0, 0.0, shifts)
    axis = axis_through_mass(images, shifts, 1)
    assert axis.offset_px == pytest.approx(4.0, abs=0.5)
    assert axis.rotation_deg == 0.0


def test_progress_is_told_and_ends():
    told = []
    find_axis(spheres_series(TILTS, 32, 0.0, 0.0), TILTS, rounds=4, progress=told.append)
    assert told == sorted(told)
    assert {0.25, 0.5, 0.75, 1.0} <= set(told) and told[-1] == 1.0


def test_what_does_not_belong_together_is_refused():
    images = spheres_series(TILTS, 32, 0.0, 0.0)
    with pytest.raises(ValueError, match="21 images but 20 tilt angles"):
        find_axis(images, TILTS[1:])
