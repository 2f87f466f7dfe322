"""Rays through spheres and a cylinder against sums along the rays; images read between pixels."""

import numpy as np
import pytest

from pyrotome.analysis.particles.neck_kernels import FINE, PAD, add_interpolated, blur_taps, render

BODIES = {
    "apart": [-9.0, 0.3, 1.0, 7.0, 9.0, -0.4, -2.0, 8.0, 3.0],
    "overlapping": [-6.0, 0.0, 0.0, 8.0, 6.0, 0.0, 0.0, 8.0, 4.0],
    "one before the other": [-3.0, 1.0, -9.0, 8.0, 3.0, -1.0, 9.0, 7.0, 5.0],
    "a neck alone between": [-12.0, 0.0, 0.0, 2.0, 12.0, 0.0, 5.0, 2.0, 4.0],
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_rays_hold_the_matter_of_all_three_bodies_once(body):
    tall, wide, blur = 25, 21, 0.4
    taps = blur_taps(blur)
    out = np.empty((1, tall, wide))
    render(-12.0, -10.0, np.array([body]), taps, out)
    a, b = np.array(body[:3]), np.array(body[4:7])
    s, t = (first - PAD + np.arange(FINE * (n - 1) + taps.size) / FINE
            for first, n in ((-12, tall), (-10, wide)))  # fmt: skip
    step = 0.02
    depth = np.arange(-20, 20, step) + step / 2
    away = [
        np.stack(np.broadcast_arrays(s[:, None, None] - c[0], t[:, None] - c[1], depth - c[2]))
        for c in (a, b)
    ]
    inside = sum((v**2).sum(0) < r**2 for v, r in zip(away, (body[3], body[7]), strict=True)) > 0
    axis = (b - a) / np.linalg.norm(b - a)
    along = np.tensordot(axis, away[0], 1)
    inside |= (
        ((away[0] ** 2).sum(0) - along**2 < body[8] ** 2)
        & (along > 0)
        & (along < np.linalg.norm(b - a))
    )
    sharp = inside.sum(axis=2) * step
    blurred = np.zeros((tall, wide))
    for i, one in enumerate(taps):
        for j, other in enumerate(taps):
            part = sharp[i : i + FINE * tall : FINE, j : j + FINE * wide : FINE]
            blurred += one * other * part[:tall, :wide]
    assert out[0] == pytest.approx(blurred, abs=2 * step)


def test_blur_keeps_the_matter_and_widens_as_told():
    taps = blur_taps(0.8)
    away = np.arange(-PAD * FINE, PAD * FINE + 1) / FINE
    assert taps.sum() == pytest.approx(1)
    assert np.sqrt(taps @ away**2) == pytest.approx(0.8, rel=0.02)


def test_images_are_read_between_pixels_and_end_at_their_edge():
    rows, columns = np.indices((6, 7), dtype=np.float32)
    images = np.ascontiguousarray(np.stack([rows, columns], axis=1))
    at = np.full((2, 1, 3), 2.25)
    across = np.broadcast_to([1.5, 5.75, 6.5], (2, 1, 3)).copy()
    out = np.ones((2, 1, 3))
    add_interpolated(images, -2.0, at, across, out)
    assert out[0, 0] == pytest.approx([-3.5, -3.5, 1.0])
    assert out[1, 0] == pytest.approx([-2.0, -10.5, 1.0])
