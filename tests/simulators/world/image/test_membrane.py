"""The membrane: bulge, what a hold leaves, and when a hold is over."""

import numpy as np
import pytest

from pyrotome.protocols.config.simulated import SimulatedChip
from pyrotome.simulators.world.image.membrane import Membrane

S = 1_000_000_000


def membrane(seed=1, **options) -> Membrane:
    config = SimulatedChip.model_validate({"ideal": False, **options})
    return Membrane(config, [seed])


def cycle(m: Membrane, t_ns: int, standby=200.0, processing=350.0, seconds=5):
    """A hold that begins now; returns when it is over."""
    m.advance_to(t_ns, standby)
    m.advance_to(t_ns, processing)
    for k in range(seconds):
        m.advance_to(t_ns + k * S, processing)
    m.advance_to(t_ns + seconds * S, standby)
    return t_ns + (seconds - 1) * S


def test_an_ideal_membrane_stays_where_it_is():
    m = Membrane(SimulatedChip(), [1])
    cycle(m, 0)
    assert m.still
    assert m.rise_nm(350.0) == 0.0
    assert m.offset_nm(100 * S) == (0.0, 0.0)


def test_it_bulges_by_the_temperature():
    assert membrane().rise_nm(200.0) == pytest.approx(8 * 175)
    assert membrane(bulge="-3 nm/K").rise_nm(125.0) == pytest.approx(-300)


def test_a_hold_leaves_a_jump_and_a_drift_that_decays():
    moved, decays = [], []
    for seed in range(40):
        m = membrane(seed)
        over = cycle(m, 100 * S)
        assert m.offset_nm(over - 1) == (0.0, 0.0)
        assert np.hypot(*m.offset_nm(over)) == pytest.approx(100.0)
        after = [np.hypot(*m.offset_nm(over + k * S)) - 100.0 for k in (1, 60, 1000)]
        moved.append(after[0])
        decays.append(after[1] / after[2])
    assert np.mean(moved) == pytest.approx(5.0, rel=0.15)
    assert np.std(moved) == pytest.approx(1.5, rel=0.4)
    assert np.mean(decays) == pytest.approx(1 - np.exp(-1), abs=0.1)


def test_holds_add_up_in_a_direction_of_the_chip():
    m, t = membrane(3), 0
    for _ in range(18):
        t = cycle(m, t + 200 * S)
    assert 18 * 300 < np.hypot(*m.offset_nm(t + 1000 * S)) < 18 * 500
    assert 0 < m.rise_nm(25.0) < 3 * 18 * 60, "five per cent of each hold's 1.2 um stay"


def test_a_slow_fall_is_one_end_of_a_hold_and_leaves_as_much_as_a_quick_one():
    quick, slow = membrane(5, drift="0 nm/s"), membrane(5, drift="0 nm/s")
    cycle(quick, 0)
    slow.advance_to(0, 350.0)
    for k in range(150):
        slow.advance_to((k + 1) * S, 349.0 - k)
    assert slow.rise_nm(25.0) == pytest.approx(quick.rise_nm(25.0))
    assert np.hypot(*slow.offset_nm(1000 * S)) == pytest.approx(100.0)


def test_small_steps_are_no_holds():
    m = membrane()
    for k, setpoint in enumerate((200.0, 210.0, 195.0, 205.0, 190.5)):
        m.advance_to(k * S, setpoint)
    assert m.offset_nm(1000 * S) == (0.0, 0.0)
