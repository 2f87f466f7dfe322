"""The renderer against brute force, and the statistics of its counts."""

import numpy as np
import pytest

from pyrotome.simulators.world.copper import Sintering, Truth
from pyrotome.simulators.world.haadf import (
    BACKGROUND,
    PER_NM,
    SATURATION,
    draw_counts,
    expected_fraction,
    thickness_nm,
)


def marched_nm(truth: Truth, shape, pixel_nm, tilt_deg, shift_nm, step_nm=1.0) -> np.ndarray:
    """Thickness by walking along each ray and asking at each step whether matter is there.

    Written from the geometry in words, in specimen coordinates: a ray of pixel (row, column) is
    x'(cos a, 0, -sin a)... rotated back, so that no formula is shared with the renderer.
    """
    a = np.deg2rad(tilt_deg)
    rows, columns = shape
    y = (np.arange(rows) - (rows - 1) / 2) * pixel_nm - shift_nm[0]
    across = (np.arange(columns) - (columns - 1) / 2) * pixel_nm - shift_nm[1]
    depth = np.arange(-700.0, 700.0, step_nm)
    sideways, beam = np.array([np.cos(a), 0.0, np.sin(a)]), np.array([-np.sin(a), 0.0, np.cos(a)])
    out = np.zeros(shape)
    for r in range(rows):
        for c in range(columns):
            start = across[c] * sideways + np.array([0.0, y[r], 0.0])
            points = start + depth[:, None] * beam
            inside = np.zeros(len(depth), bool)
            for centre, radius in zip(truth.centres_nm, truth.radii_nm, strict=True):
                inside |= np.linalg.norm(points - centre, axis=1) <= radius
            for (i, j), radius in zip(truth.pairs, truth.neck_radii_nm, strict=True):
                foot, axis = truth.centres_nm[i], truth.centres_nm[j] - truth.centres_nm[i]
                share = (points - foot) @ axis / (axis @ axis)
                gap = np.linalg.norm(points - foot - share[:, None] * axis, axis=1)
                inside |= (gap <= radius) & (share >= 0) & (share <= 1)
            out[r, c] = inside.sum() * step_nm
    return out


@pytest.mark.parametrize(
    ("tilt_deg", "equivalent_s", "shift_nm", "shape"),
    [
        (0.0, 0.0, (0.0, 0.0), (24, 24)),
        (35.0, 60.0, (13.0, -21.0), (24, 20)),
        (-67.0, 1e6, (0.0, 40.0), (20, 25)),
        (90.0, 15.0, (5.0, 5.0), (21, 24)),
    ],
)
def test_thickness_equals_ray_marching(tilt_deg, equivalent_s, shift_nm, shape):
    truth = Sintering(14, 4).truth(equivalent_s)
    fast = thickness_nm(truth, shape, 43.0, tilt_deg, shift_nm)
    slow = marched_nm(truth, shape, 43.0, tilt_deg, shift_nm)
    assert slow.max() > 100.0
    np.testing.assert_allclose(fast, slow, atol=4.0)
    assert np.abs(fast - slow).mean() < 0.5


def test_necks_show():
    specimen = Sintering(2, 1)
    truth = specimen.truth(1e6)
    bare = Truth(
        truth.centres_nm,
        truth.radii_nm,
        truth.pairs[:0],
        truth.neck_radii_nm[:0],
        truth.bound[:0],
        truth.clusters,
    )
    more = thickness_nm(truth, (256, 256), 4.0, 0.0) - thickness_nm(bare, (256, 256), 4.0, 0.0)
    assert more.min() >= -1e-3
    assert more.max() > 20.0


def test_volume_in_projection_is_the_same_at_every_tilt():
    truth = Sintering(6, 3).truth(30.0)
    volumes = [
        thickness_nm(truth, (700, 700), 2.0, tilt).sum(dtype=float) * 4.0
        for tilt in (-50.0, 0.0, 33.0)
    ]
    assert np.ptp(volumes) < 1e-3 * volumes[0]


def test_haadf_law():
    t = np.array([0.0, 150.0, 10_000.0], np.float32)
    expected = [BACKGROUND, BACKGROUND + 150.0 * PER_NM, BACKGROUND + SATURATION]
    np.testing.assert_allclose(expected_fraction(t), expected)


@pytest.mark.parametrize("electrons", [0.3, 6.24, 200.0])
def test_counts_follow_poisson_at_the_dose(electrons):
    thickness = np.repeat(np.array([0.0, 60.0, 150.0, 700.0], np.float32), 64)[:, None]
    thickness = np.repeat(thickness, 1024, axis=1)
    per_row = np.full(256, electrons, np.float32)
    counts = draw_counts(thickness, per_row, np.random.default_rng(5)).astype(float)
    for k in range(4):
        part = counts[64 * k : 64 * (k + 1)].ravel()
        mean = electrons * float(expected_fraction(thickness[64 * k, :1])[0])
        n = len(part)
        assert abs(part.mean() - mean) < 5.0 * np.sqrt(mean / n)
        # The variance of a sample's variance of Poisson numbers is (mean + 2 mean^2) / n.
        assert abs(part.var() - mean) < 5.0 * np.sqrt((mean + 2.0 * mean**2) / n)
        if mean < 8:
            zeros = np.exp(-mean)
            assert abs((part == 0).mean() - zeros) < 5.0 * np.sqrt(zeros * (1 - zeros) / n) + 1e-12


def test_neighbouring_pixels_are_independent():
    thickness = np.full((512, 512), 100.0, np.float32)
    counts = draw_counts(thickness, np.full(512, 6.0, np.float32), np.random.default_rng(2))
    flat = counts.astype(float).ravel() - counts.mean()
    correlation = np.mean(flat[1:] * flat[:-1]) / np.mean(flat**2)
    assert abs(correlation) < 5.0 / np.sqrt(flat.size)


def test_rows_without_beam_are_dark_and_counts_are_clipped():
    thickness = np.full((4, 100), 300.0, np.float32)
    counts = draw_counts(
        thickness, np.array([0, 1e3, 1e5, 1e7], np.float32), np.random.default_rng(0), np.uint16
    )
    assert counts[0].max() == 0
    assert counts.dtype == np.uint16
    assert np.all(counts[3] == 65_535)
    assert (
        draw_counts(
            thickness, np.full(4, 1e4, np.float32), np.random.default_rng(0), np.uint8
        ).max()
        == 255
    )


def test_same_generator_same_frame():
    thickness = thickness_nm(Sintering(12, 1).truth(0.0), (128, 128), 8.0, 10.0)
    per_row = np.full(128, 6.24, np.float32)
    a, b, c = (draw_counts(thickness, per_row, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
