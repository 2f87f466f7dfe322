"""The chip: overshoot as published, response, ramps, consistent readings."""

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatedChip
from pyrotome.simulators.world import chip as module
from pyrotome.simulators.world.chip import Chip, resistance_ohm

S = 1_000_000_000
# Ihara et al., Nanoscale 2023, 15, 10133: hold in s, median temperature reached in degC.
PUBLISHED = [
    *[(5, 372), (7, 370), (5, 370), (5, 370), (5, 372), (4, 372), (5, 370), (5, 370), (5, 372)],
    *[(5, 370), (10, 364), (10, 364), (10, 364), (19, 354), (20, 353), (30, 351), (59, 350)],
]


def at_standby() -> Chip:
    chip = Chip(SimulatedChip(), 0)
    chip.go_to(200.0, 0.0)
    chip.advance_to(60 * S)
    return chip


def course(chip: Chip, seconds: float, step_s: float = 0.01) -> np.ndarray:
    start = chip.t_ns
    values = []
    for k in range(1, round(seconds / step_s) + 1):
        chip.advance_to(start + round(k * step_s * S))
        values.append(chip.temperature_c)
    return np.array(values)


def test_medians_of_holds_agree_with_the_published_table():
    chip = at_standby()
    for hold_s, median_c in PUBLISHED:
        chip.go_to(350.0, 0.0)
        values = course(chip, hold_s)
        chip.go_to(200.0, 0.0)
        rest = course(chip, 30.0)
        assert abs(np.median(values) - median_c) < 4.0, (hold_s, np.median(values))
        assert abs(values.max() - 383.0) < 1.5
        assert np.all(np.abs(rest[20:] - 200.0) < 0.1), "no undershoot after the quench"


@pytest.mark.parametrize("target_c", [350.0, 25.0, 900.0])
def test_response_is_below_100_ms(target_c):
    chip = at_standby()
    step_c = target_c - 200.0
    chip.go_to(target_c, 0.0)
    values = course(chip, 0.1, 0.001)
    assert abs(values[-1] - 200.0) > 0.98 * abs(step_c)
    # Not instantaneous either: one time constant takes 63 %.
    assert 0.5 < (values[14] - 200.0) / step_c < 0.85


def test_integration_does_not_depend_on_who_asks_when():
    once, often = at_standby(), at_standby()
    for chip in (once, often):
        chip.go_to(350.0, 0.0)
    once.advance_to(70 * S)
    rng = np.random.default_rng(1)
    for t in np.sort(rng.integers(60 * S, 70 * S, 5000)):
        often.advance_to(int(t))
    often.advance_to(70 * S)
    assert often.temperature_c == pytest.approx(once.temperature_c, abs=0.01)
    assert equivalent_s(often) == pytest.approx(equivalent_s(once), rel=2e-3)


def test_linear_ramps_track():
    chip = at_standby()
    chip.go_to(300.0, 10.0)
    values = course(chip, 12.0)
    expected = np.minimum(200.0 + 10.0 * np.arange(0.01, 12.005, 0.01), 300.0)
    assert np.max(np.abs(values - expected)) < 0.2


def test_stopping_a_ramp_holds_the_setpoint_reached():
    chip = at_standby()
    chip.go_to(300.0, 10.0)
    chip.advance_to(64 * S)
    chip.hold_here()
    assert chip.setpoint_c == pytest.approx(240.0, abs=0.1)
    chip.advance_to(74 * S)
    assert chip.temperature_c == pytest.approx(240.0, abs=0.1)


def test_power_never_exceeds_the_maximum_and_temperature_is_refused_beyond_the_chip():
    chip = Chip(SimulatedChip.model_validate({"overshoot": 1.0}), 0)
    chip.go_to(1300.0, 0.0)
    rng = np.random.default_rng(0)
    powers = []
    for k in range(1, 200):
        chip.advance_to(k * S // 100)
        powers.append(chip.reading(rng).power_w)
    assert max(powers) == module.MAX_POWER_W
    for bad in (1300.1, -100.0, float("nan")):
        with pytest.raises(ValueError, match="not within"):
            chip.go_to(bad, 0.0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="ramp time"):
            chip.go_to(100.0, bad)


def test_readings_agree_with_one_another_and_with_the_calibration():
    chip = at_standby()
    rng = np.random.default_rng(0)
    readings = [chip.reading(rng) for _ in range(400)]
    for r in readings[:20]:
        assert r.voltage_v * r.current_a == pytest.approx(r.power_w)
        assert r.voltage_v / r.current_a == pytest.approx(r.resistance_ohm)
        assert resistance_ohm(r.temperature_c) == pytest.approx(r.resistance_ohm)
        assert r.setpoint_c == 200.0
    noise = np.std([r.temperature_c for r in readings])
    assert noise == pytest.approx(0.05, rel=0.2)
    assert readings[0].power_w == pytest.approx(module.holding_power_w(200.0), rel=1e-3)


def equivalent_s(chip):
    return chip.at(chip.t_ns)[1]


def test_equivalent_time_counts_seconds_at_350_and_next_to_nothing_at_200():
    config = SimulatedChip.model_validate({"overshoot": 0.0})
    chip = Chip(config, 0)
    chip.go_to(350.0, 0.0)
    chip.advance_to(60 * S)
    assert equivalent_s(chip) == pytest.approx(60.0, abs=0.1)
    before = equivalent_s(chip)
    chip.go_to(200.0, 0.0)
    chip.advance_to(61 * S)
    quenched = equivalent_s(chip)
    assert quenched - before < 0.05
    chip.advance_to(4 * 3600 * S)
    assert equivalent_s(chip) - quenched < 0.05


def test_the_recent_course_can_be_asked_for():
    chip = at_standby()
    chip.go_to(350.0, 0.0)
    truth = {}
    for k in range(1, 100):
        chip.advance_to(60 * S + k * 1_000_000)
        truth[chip.t_ns] = chip.temperature_c
    chip.advance_to(70 * S)
    for t_ns, value in truth.items():
        assert chip.at(t_ns)[0] == pytest.approx(value, abs=1e-6)
    times, values = chip.trace(60 * S + 1)
    assert times[0] > 60 * S
    assert np.all(np.diff(times) > 0)
    assert np.diff(times).max() <= 1_000_000
    assert values.shape == (len(times), 3)
    assert chip.at(80 * S)[0] == chip.temperature_c
