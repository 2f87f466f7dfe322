"""What moves the image at each tilt: sizes, what comes back, what stays, and faults."""

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatedGoniometer
from pyrotome.simulators.world.goniometer import Goniometer
from pyrotome.simulators.world.image.stage_errors import StageErrors

S = 1_000_000_000
STILL = {"jitter": "0 nm", "slips": "0 %", "way_back": "0 nm", "xy_backlash": "0 nm"}


def errors(seed=1, **options) -> StageErrors:
    config = SimulatedGoniometer.model_validate({"ideal": False, **STILL, **options})
    return StageErrors(config, seed, 0)


def stage(**options) -> Goniometer:
    words = {"ideal": False, "readback_noise": "0 deg", "backlash": "0 deg", "settling": "0 s"}
    config = SimulatedGoniometer.model_validate({**words, **STILL, **options})
    return Goniometer(config, 0, np.random.default_rng(1))


def walk(e: StageErrors, angles, begin_ns=0):
    """Displacement after each tilt of a series."""
    found, before = [], 0.0
    for k, angle in enumerate(angles):
        t = begin_ns + k * S
        e.tilts(t, t + S // 10, before, angle)
        found.append(e.at(t + S // 2))
        before = angle
    return np.array(found)


def test_jitter_has_its_size_and_half_of_its_variance_comes_back():
    angles = np.arange(-40.0, 42.0, 2.0)
    runs = []
    for seed in range(12):
        e = errors(seed, jitter="60 nm")
        runs.append([walk(e, angles, k * 100 * S) for k in range(2)])
    first, second = np.array(runs)[:, 0], np.array(runs)[:, 1]
    courses = first - first.mean(axis=1, keepdims=True)
    assert 45 < courses.std() < 75
    new = (second - first).std() / np.sqrt(2)
    assert new == pytest.approx(60 * np.sqrt(0.5), rel=0.1)


def test_the_course_is_the_goniometers_own_and_half_of_it_is_smooth():
    angles = np.arange(-60.0, 60.0, 1.0)
    one = np.array([errors(7, jitter="60 nm").course_nm(a) for a in angles])
    np.testing.assert_array_equal(one, [errors(7, jitter="60 nm").course_nm(a) for a in angles])
    assert not np.allclose(one, [errors(8, jitter="60 nm").course_nm(a) for a in angles])
    many = np.array([[errors(s, jitter="60 nm").course_nm(a) for a in angles] for s in range(30)])
    near = np.mean(many[:, 1:] * many[:, :-1]) / np.mean(many**2)
    far = np.mean(many[:, 40:] * many[:, :-40]) / np.mean(many**2)
    assert near == pytest.approx(0.5, abs=0.1)
    assert abs(far) < 0.1
    assert np.sqrt(np.mean(many**2)) == pytest.approx(60 * np.sqrt(0.5), rel=0.1)


def test_the_image_moves_while_the_stage_does_and_not_when_it_stands():
    e = errors(jitter="60 nm")
    e.tilts(S, 2 * S, 0.0, 20.0)
    assert e.at(S) == (0.0, 0.0)
    np.testing.assert_allclose(np.array(e.at(S + S // 2)) * 2, e.at(2 * S))
    assert e.at(2 * S) == e.at(50 * S)
    e.tilts(60 * S, 60 * S, 20.0, 20.0)
    assert e.at(2 * S) == e.at(61 * S), "a tilt to where it stands is none"


def test_slips_have_their_share_and_size_and_stay():
    e = errors(slips="10 %", slip="300 nm")
    angles = np.tile([2.0, 4.0], 2000)
    steps = np.hypot(*np.diff(walk(e, angles), axis=0).T)
    assert np.mean(steps > 1) == pytest.approx(0.1, abs=0.02)
    np.testing.assert_allclose(steps[steps > 1], 300.0)
    assert walk(errors(slips="100 %"), [0.3, 0.0]).max() == 0, "an approach is too short to slip"


def test_a_long_way_shifts_for_good():
    e = errors(way_back="80 nm")
    assert np.abs(walk(e, np.arange(0.0, 42.0, 2.0))).max() == 0.0
    jumps = np.diff(walk(e, np.tile([-40.0, 40.0], 300), 100 * S), axis=0)
    assert jumps.std() == pytest.approx(80.0, rel=0.1)


def test_a_slip_that_is_told_comes_once_with_the_next_tilt():
    e = errors()
    e.slip_next(400.0)
    found = walk(e, [0.2, 4.0, 6.0])
    np.testing.assert_allclose(np.hypot(*found.T), [0.0, 400.0, 400.0])


def test_a_drift_goes_on_until_it_is_cleared_and_stays():
    e = errors()
    e.drift(S, 50.0)
    assert np.hypot(*e.at(3 * S)) == pytest.approx(100.0)
    e.tilts(3 * S, 4 * S, 0.0, 30.0)
    e.drift(5 * S, None)
    assert np.hypot(*e.at(9 * S)) == pytest.approx(200.0)


def test_a_specimen_off_the_axis_moves_and_rises_with_the_tilt():
    g = stage(height="2000 nm", offset="500 nm", speed="1000 deg/s")
    g.move(0, {"a_deg": 30.0})
    y, x = g.shift_nm(S, 25.0)
    assert y == 0.0
    assert x == pytest.approx(2000 * 0.5 + 500 * (np.cos(np.pi / 6) - 1))
    assert g.height_nm(S) == pytest.approx(2000 * (np.cos(np.pi / 6) - 1) - 500 * 0.5)
    assert g.shift_nm(S, 25.0, 1000.0)[1] == pytest.approx(x + 500.0)
    g.move(S, {"z_nm": -2000.0})
    assert g.shift_nm(9 * S, 25.0)[1] == pytest.approx(x - 1000.0), "at the axis it stays"
    g.move(9 * S, {"x_nm": 1000.0, "y_nm": -700.0})
    y, moved = g.shift_nm(19 * S, 25.0)
    assert (y, moved - x + 1000.0) == pytest.approx((-700.0, 1000 * np.cos(np.pi / 6)))


def test_x_and_y_have_play_and_z_has_none():
    g = stage(xy_backlash="300 nm")
    g.move(0, {"x_nm": 1000.0, "z_nm": 1000.0})
    assert g.encoder(S, "x_nm") == 1000.0
    assert g.true_nm(S, "x_nm") == pytest.approx(850.0)
    assert g.true_nm(S, "z_nm") == 1000.0
    g.move(S, {"x_nm": 800.0, "z_nm": 800.0})
    assert g.true_nm(2 * S, "x_nm") == pytest.approx(850.0), "within the play nothing moves"
    g.move(2 * S, {"x_nm": 0.0})
    assert g.true_nm(3 * S, "x_nm") == pytest.approx(150.0)


def test_a_z_that_sticks_and_moves_that_are_ignored():
    g = stage()
    g.move(0, {"z_nm": 1000.0})
    g.stick_z(S, True)
    g.move(S, {"z_nm": 3000.0})
    assert (g.encoder(2 * S, "z_nm"), g.true_nm(2 * S, "z_nm")) == (3000.0, 1000.0)
    g.stick_z(2 * S, False)
    assert g.true_nm(2 * S, "z_nm") == 3000.0
    g.xy_ignored = True
    g.move(3 * S, {"x_nm": 500.0, "a_deg": 5.0})
    assert (g.encoder(9 * S, "x_nm"), g.encoder(9 * S)) == (0.0, 5.0)


def test_z_has_limits_of_its_own():
    with pytest.raises(ValueError, match=r"z_nm .* beyond the limits -300000 to 300000"):
        stage().move(0, {"z_nm": 4e5})
