"""The stage: speed, settling, backlash, eucentric error, drift, limits."""

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatedGoniometer
from pyrotome.simulators.world.goniometer import WOBBLE_DEG, Goniometer

S = 1_000_000_000
QUIET = {"readback_noise": "0 deg"}


def stage(**options) -> Goniometer:
    config = SimulatedGoniometer.model_validate({**QUIET, **options})
    return Goniometer(config, 0, np.random.default_rng(1))


def test_moves_at_its_speed_and_arrives_exactly():
    g = stage(speed="20 deg/s")
    g.move(S, {"a_deg": 40.0})
    assert g.encoder(S) == 0.0
    assert g.encoder(2 * S) == pytest.approx(20.0)
    assert g.moving(3 * S - 1)
    assert not g.moving(3 * S)
    assert g.readback(3 * S, np.random.default_rng(0))["a_deg"] == 40.0
    g.move(4 * S, {"a_deg": 0.0}, speed=0.5)
    assert g.encoder(5 * S) == pytest.approx(30.0)
    assert g.arrival_ns() == 8 * S


def test_a_new_target_takes_over_from_where_the_stage_is():
    g = stage(speed="20 deg/s")
    g.move(0, {"a_deg": 40.0})
    g.move(S, {"a_deg": 10.0})
    assert g.encoder(S) == pytest.approx(20.0)
    assert g.arrival_ns() == pytest.approx(1.5 * S, abs=2)
    assert g.encoder(2 * S) == 10.0


def test_wobble_decays_within_the_settling_time():
    g = stage(settling="0.2 s", backlash="0 deg")
    g.move(0, {"a_deg": 10.0})
    arrival = g.arrival_ns()
    times = np.arange(arrival, arrival + S // 2, S // 1000)
    error = np.abs(np.array([g.true_tilt_deg(int(t)) for t in times]) - 10.0)
    assert 0.3 * WOBBLE_DEG < error.max() <= WOBBLE_DEG
    assert error[100:200].max() < 0.3 * error[:100].max()
    assert np.all(error[200:] == 0.0)
    assert g.encoder(int(times[20])) == 10.0, "the encoder does not see the wobble"


def test_backlash_is_hysteresis_between_encoder_and_specimen():
    g = stage(backlash="0.1 deg", settling="0 s", speed="10 deg/s")
    g.move(0, {"a_deg": 10.0})
    assert g.true_tilt_deg(10 * S) == pytest.approx(9.95)
    g.move(10 * S, {"a_deg": 9.96})
    assert g.true_tilt_deg(20 * S) == pytest.approx(9.95), "within the play nothing moves"
    g.move(20 * S, {"a_deg": 5.0})
    assert g.true_tilt_deg(30 * S) == pytest.approx(5.05)
    g.move(30 * S, {"a_deg": 7.0}, method="MOVE")
    assert g.true_tilt_deg(60 * S) == pytest.approx(6.95), "from below, by way of zero"


def test_move_goes_by_way_of_zero_tilt():
    g = stage(speed="10 deg/s")
    g.move(0, {"a_deg": 10.0})
    g.move(2 * S, {"a_deg": 20.0, "x_nm": 20_000.0}, method="MOVE")
    assert g.encoder(3 * S) == pytest.approx(0.0)
    assert g.encoder(3 * S, "x_nm") == 0.0
    assert g.encoder(4 * S, "x_nm") == pytest.approx(20_000.0)
    assert g.encoder(4 * S) == pytest.approx(0.0)
    assert g.encoder(6 * S) == pytest.approx(20.0)


def test_readback_noise():
    g = stage(readback_noise="0.01 deg")
    rng = np.random.default_rng(3)
    values = [g.readback(S, rng)["a_deg"] for _ in range(500)]
    assert np.std(values) == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize(
    "targets",
    [{"a_deg": 80.1}, {"a_deg": -90.0}, {"b_deg": 1.0}, {"x_nm": 2e6}, {"c": 1.0}],
)
def test_refuses_what_it_cannot_reach_and_stays(targets):
    g = stage()
    with pytest.raises(ValueError, match=r"limits|no axis"):
        g.move(S, {"a_deg": 10.0, **targets})
    assert not g.moving(S + 1)


def test_image_shifts_with_tilt_by_the_eucentric_error():
    g = stage(eucentric_error_nm=20.0, drift_nm=0.0, speed="1000 deg/s", settling="0 s")
    assert g.shift_nm(0, 25.0) == (0.0, 0.0)
    shifts = []
    for k, tilt in enumerate((-40.0, 40.0)):
        g.move((k + 1) * S, {"a_deg": tilt})
        shifts.append(g.shift_nm((k + 1) * S + S // 2, 25.0))
    y, x = np.abs(np.array(shifts)).max(axis=0)
    assert 1.0 < x < 25.0
    assert 0.1 < y < 15.0
    steady = stage(eucentric_error_nm=0.0, drift_nm=0.0)
    steady.move(0, {"a_deg": 40.0})
    assert steady.shift_nm(10 * S, 400.0) == (0.0, 0.0)


def test_specimen_drifts_with_the_holder():
    g = stage(eucentric_error_nm=0.0, drift_nm=5.0)
    assert np.hypot(*g.shift_nm(0, 175.0)) == pytest.approx(5.0)
