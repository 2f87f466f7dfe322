"""The projector: adjoint, against analytic line integrals, and against scikit-image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.transform import radon

from pyrotome.analysis.tomography.projector import (
    LANES,
    Geometry,
    backproject,
    blocks_of,
    project,
    slices_of,
)

TILTS = np.array([-88.0, -76, -50, -45, -40, -12.5, 0, 3, 40, 45, 46, 90, 133, 180])
ANGLES = st.floats(-180, 180, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(
    slices=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    detector=st.integers(1, 50),
    tilts=arrays(np.float64, st.integers(1, 9), elements=ANGLES),
    seed=st.integers(0, 2**32 - 1),
)
def test_backprojection_is_the_adjoint(slices, height, width, detector, tilts, seed):
    rng = np.random.default_rng(seed)
    volume = rng.random((slices, height, width), np.float32)
    images = rng.random((tilts.size, slices, detector), np.float32)
    forward = project(volume, tilts, detector)
    backward = backproject(images, tilts, (height, width))
    left = np.vdot(images.astype(np.float64), forward)
    right = np.vdot(backward.astype(np.float64), volume)
    assert left == pytest.approx(right, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("height", "width", "detector"), [(127, 129, 101), (65, 301, 333)])
def test_the_adjoint_is_exact_at_odd_sizes(height, width, detector):
    rng = np.random.default_rng(9)
    tilts = rng.uniform(-90, 90, 31)
    volume = rng.normal(size=(3, height, width)).astype(np.float32)
    images = project(volume, tilts, detector)
    forward = np.vdot(images.astype(np.float64), images)
    backward = np.vdot(volume.astype(np.float64), backproject(images, tilts, (height, width)))
    assert abs(forward - backward) < 1e-6 * forward


@settings(deadline=None, max_examples=30)
@given(slices=st.integers(1, 2 * LANES + 1), first=st.integers(1, 5), second=st.integers(1, 5))
def test_blocks_and_back(slices, first, second):
    stack = np.random.default_rng(slices).random((slices, first, second), np.float32)
    assert np.array_equal(slices_of(blocks_of(stack), slices), stack)


DISCS = [(0.0, 0.0, 20.0, 1.0), (22.0, -9.0, 11.0, 2.0), (-15.0, 30.0, 8.0, 0.5)]  # x, z, r, value


def discs_image(side):
    """Discs on a grid, each pixel the mean of 8 x 8 samples; axes (z, x)."""
    fine = (np.arange(side * 8) + 0.5) / 8 - 0.5 - (side - 1) / 2
    z, x = np.meshgrid(fine, fine, indexing="ij")
    image = np.zeros_like(x)
    for x0, z0, radius, value in DISCS:
        image += value * ((x - x0) ** 2 + (z - z0) ** 2 < radius**2)
    return image.reshape(side, 8, side, 8).mean(axis=(1, 3)).astype(np.float32)


def discs_sinogram(side, tilts):
    """Exact line integrals of the same discs, mean of 16 over a pixel; axes (angle, x')."""
    u = (np.arange(side * 16) + 0.5) / 16 - 0.5 - (side - 1) / 2
    rays = np.zeros((tilts.size, u.size))
    for x0, z0, radius, value in DISCS:
        centre = x0 * np.cos(np.deg2rad(tilts)) + z0 * np.sin(np.deg2rad(tilts))
        inside = np.maximum(0, radius**2 - (u[None, :] - centre[:, None]) ** 2)
        rays += value * 2 * np.sqrt(inside)
    return rays.reshape(tilts.size, side, 16).mean(axis=2)


@pytest.mark.parametrize("side", [127, 128])
def test_projections_of_discs_are_their_line_integrals(side):
    exact = discs_sinogram(side, TILTS)
    ours = project(discs_image(side)[None], TILTS)[:, 0]
    for tilt, found, wanted in zip(TILTS, ours, exact, strict=True):
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < 0.015, f"{tilt} deg: {error:.4f}"


def test_a_wrong_sense_of_rotation_or_half_a_pixel_would_be_noticed():
    exact = discs_sinogram(128, TILTS)
    shifted = (exact[:, 1:] + exact[:, :-1]) / 2
    assert np.linalg.norm(exact - discs_sinogram(128, -TILTS)) > 0.3 * np.linalg.norm(exact)
    assert np.linalg.norm(exact[:, 1:] - shifted) > 0.03 * np.linalg.norm(exact)


def test_projections_agree_with_scikit_image():
    side = 129  # odd: scikit-image turns about pixel side // 2
    image = discs_image(side)
    theirs = radon(image, theta=-TILTS, circle=True, preserve_range=True).T
    ours = project(image[None], TILTS)[:, 0]
    assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)


def test_every_slice_is_projected_alike_whatever_its_lane():
    rng = np.random.default_rng(3)
    volume = rng.random((LANES + 5, 24, 31), np.float32)
    together = project(volume, TILTS, 40)
    for y in (0, 7, LANES - 1, LANES, LANES + 4):
        assert np.allclose(together[:, y], project(volume[y : y + 1], TILTS, 40)[:, 0], atol=1e-4)


def test_mass_is_kept_at_every_angle():
    image = discs_image(128)
    sums = project(image[None], TILTS).sum(axis=(1, 2))
    assert np.allclose(sums, image.sum(), rtol=2e-3)


def test_bad_geometry_is_refused():
    with pytest.raises(ValueError, match="2 images but 3 tilt angles"):
        backproject(np.ones((2, 4, 8)), np.arange(3))
    with pytest.raises(ValueError, match="not a finite number"):
        project(np.ones((1, 8, 8)), np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="a list is needed"):
        Geometry(np.array([]), 8, 8, 8)
    with pytest.raises(ValueError, match="at least 1"):
        Geometry(np.array([0.0]), 8, 0, 8)
