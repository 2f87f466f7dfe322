"""Shifts by common lines and centres of mass: a particle of atoms whose shifts are known."""

import dataclasses

import numpy as np
import pytest

from pyrotome.analysis.alignment import TiltAxis, apply_alignment, common_lines_shifts
from pyrotome.simulators.world.atoms.particle import amorphous_particle
from pyrotome.simulators.world.atoms.tilt_series import Imaging, simulated_series

TILTS = np.linspace(-75.0, 75.0, 31)
IMAGING = Imaging(pixel_a=0.35, shape=(96, 100), dose_e_per_a2=4e4, shift_sd_px=3.0)


@pytest.fixture(scope="module")
def particle():
    return amorphous_particle(250, np.random.default_rng(3))


def made(particle, **changes):
    imaging = dataclasses.replace(IMAGING, **changes)
    return simulated_series(particle, TILTS, imaging, np.random.default_rng(5))


def errors(found, series, rotation_deg=0.0):
    """Errors along and across the axis; where the specimen lies in the volume does not count."""
    turn, tilt = np.deg2rad(rotation_deg), np.deg2rad(TILTS)
    off = found - series.shifts_px
    along = off[:, 0] * np.cos(turn) - off[:, 1] * np.sin(turn)
    across = off[:, 0] * np.sin(turn) + off[:, 1] * np.cos(turn)
    circle = np.stack([np.cos(tilt), np.sin(tilt), np.ones_like(tilt)], axis=1)
    across -= circle @ np.linalg.lstsq(circle, across)[0]
    return along - along.mean(), across


@pytest.mark.parametrize("rotation_deg", [0.0, 4.0, 90.0])
def test_shifts_of_several_pixels_are_found_as_well_as_told(particle, rotation_deg):
    series = made(particle, rotation_deg=rotation_deg, axis_offset_px=2.0)
    shifts, sd = common_lines_shifts(series.counts, TILTS, TiltAxis(0.0, rotation_deg))
    along, across = errors(shifts, series, rotation_deg)
    assert along.std() < 0.25
    assert across.std() < 0.35
    told = sd if rotation_deg < 45 else sd[:, ::-1]
    assert 0.5 < along.std() / np.sqrt(np.mean(told[:, 0] ** 2)) < 1.4
    assert 0.6 < across.std() / np.sqrt(np.mean(told[:, 1] ** 2)) < 1.4


def test_the_particle_comes_to_lie_in_the_centre(particle):
    series = made(particle + np.array([1.0, -2.0, 1.5]))
    axis = TiltAxis(3.0, 0.0)
    shifts, _ = common_lines_shifts(series.counts, TILTS, axis)
    straight = apply_alignment(series.counts.astype(float), shifts, axis) - 1
    rows, columns = np.mgrid[:96, :100]
    total = straight.sum()
    assert (straight * (rows - 47.5)).sum() / total == pytest.approx(0, abs=0.3)
    assert (straight * (columns - 49.5)).sum() / total == pytest.approx(0, abs=0.3)


def test_a_pattern_of_layers_is_not_missed_by_one_layer():
    layers = np.stack(np.mgrid[-4:5, -4:5, -4:5], -1).reshape(-1, 3) * 2.0
    series = made(layers, shift_sd_px=4.0)
    shifts, _ = common_lines_shifts(series.counts, TILTS)
    along, _ = errors(shifts, series)
    assert np.abs(along).max() < 0.5


def test_pixels_that_were_not_measured_do_not_count(particle):
    series = made(particle)
    counts, known = series.counts.copy(), np.ones((1, 96, 100), bool)
    known[0, :, 3:5] = False
    counts[:, :, 3:5] = 60000
    shifts, _ = common_lines_shifts(counts, TILTS, known=known)
    along, across = errors(shifts, series)
    assert along.std() < 0.25
    assert across.std() < 0.35


def test_an_empty_view_is_refused(particle):
    counts = made(particle).counts.copy()
    counts[4] = 1
    with pytest.raises(ValueError, match="view 4 shows nothing above its background"):
        common_lines_shifts(counts, TILTS)
    with pytest.raises(ValueError, match="31 images but 30 tilt angles"):
        common_lines_shifts(counts, TILTS[1:])
