"""Necks of two spheres and a cylinder of known sizes, in any direction; the table."""

import csv

import numpy as np
import pytest

from pyrotome.analysis.necks import Neck, measure_necks, measure_particles, write_csv
from pyrotome.analysis.segment import segment

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


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="both"):
        measure_necks(np.zeros((2, 3, 4)), np.zeros((2, 3, 5), np.int32), 1.0)
    with pytest.raises(ValueError, match="0 nm"):
        measure_necks(np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.int32), 0)


def test_the_table(tmp_path):
    neck = Neck(3, 7, 31.5, 75.0, 148.25, 140.0, 48.7, 1.05, 0.42, 0.988333333)
    write_csv(tmp_path / "necks.csv", [("series_001", 0.0, neck), ("series_002", 5.002, neck)])
    with (tmp_path / "necks.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["series"] == "series_001"
    assert float(second["hold_total_s"]) == 5.002
    assert first["particle_a"] == "3"
    assert float(first["neck_radius_nm"]) == 31.5
    assert float(first["distance_to_diameter"]) == pytest.approx(neck.distance_to_diameter, 1e-5)
    units = [name for name in first if name.endswith("_nm")]
    assert len(units) == 5
