"""The volume that grows with its series, on a ball whose volume is known."""

import numpy as np
import pytest

from pyrotome.analysis.tomography.live_reconstruction import LiveReconstruction
from pyrotome.analysis.tomography.projector import project
from pyrotome.analysis.tomography.total_variation import tv

SIDE, RADIUS = 32, 7.0
TILTS = np.arange(-60.0, 61.0, 10.0)


def ball(centre=(0.0, 0.0, 0.0)):
    away = np.indices((SIDE, SIDE, SIDE)) - (SIDE - 1) / 2 - np.reshape(centre, (3, 1, 1, 1))
    return ((away**2).sum(axis=0) < RADIUS**2).astype(np.float32)


def error(volume, truth):
    return float(np.linalg.norm(volume - truth) / np.linalg.norm(truth))


def grown(images, iterations):
    volume = LiveReconstruction((SIDE, SIDE, SIDE), len(TILTS), iterations)
    seen = []
    for image, tilt in zip(images, TILTS, strict=True):
        seen.append(list(volume.add_view(image, float(tilt))))
    return volume, seen


@pytest.mark.parametrize("iterations", [0, 12, 78])
def test_after_the_last_view_the_volume_shows_the_object(iterations):
    truth = ball()
    volume, seen = grown(project(truth, TILTS) + 5.0, iterations)
    # The vacuum's brightness of 5 has been taken off, or nothing would fit.
    assert error(volume.volume, truth) < 0.5
    assert len(seen) == len(TILTS)
    assert all(fractions[-1] == 1.0 for fractions in seen)
    assert volume.serves_as_start == (iterations == 78)
    assert volume.iterations == (39 if iterations == 78 else 0)


def test_iterations_done_before_the_last_view_count():
    truth = ball()
    images = project(truth, TILTS)
    volume, _ = grown(images, 312)
    fractions = list(volume.finish(images, TILTS, 312))
    assert volume.iterations == 312
    assert len(fractions) == 312 - 12 * len(TILTS)
    assert fractions[-1] == 1.0
    whole = tv(images, TILTS, 312).volume
    assert error(volume.volume, truth) < 1.2 * error(whole, truth)
    assert volume.residual < 0.05


def test_a_specimen_that_lies_elsewhere_is_moved_there_first():
    moved = (2.0, -3.0, 4.0)
    early, late = project(ball(), TILTS), project(ball(moved), TILTS)
    errors = []
    for displacement in (moved, (0.0, 0.0, 0.0)):
        volume, _ = grown(early, 52)
        next(volume.finish(late, TILTS, 52, displacement))
        errors.append(error(volume.volume, ball(moved)))
    assert errors[0] < 0.6 * errors[1]


def test_a_volume_to_start_from_is_where_it_starts():
    truth = ball()
    first = project(truth, TILTS)[0]
    volume = LiveReconstruction((SIDE, SIDE, SIDE), len(TILTS), 78, initial=truth)
    list(volume.add_view(first, float(TILTS[0])))
    assert error(volume.volume, truth) < 0.1
