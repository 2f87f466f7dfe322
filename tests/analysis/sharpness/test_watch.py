"""When blur is told: soon, once, and not in ordinary frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrotome.analysis.sharpness import SharpnessWatch, Spectrum
from pyrotome.analysis.sharpness.spectrum import disc_contrast
from pyrotome.analysis.sharpness.watch import WatchState

PER_NM = np.linspace(0.005, 0.11, 23)
MODES = np.full(23, 150.0)
NOISE = 1.0


def shown(rng, radius_nm=0.0):
    """A frame with the noise of its counts and of what it shows, not a nanometre of blur."""
    power = 60.0 * (0.02 / PER_NM) ** 4 * disc_contrast(2 * np.pi * radius_nm * PER_NM) ** 2
    power = power * (1 + 0.03 * rng.standard_normal(23)) * rng.uniform(0.8, 1.2)
    sd = np.sqrt((NOISE**2 + 2 * NOISE * power) / MODES)
    return Spectrum(power + sd * rng.standard_normal(23), NOISE, MODES, PER_NM, 4.0)


def series(watch, rng, radii, name="series_001", first_deg=-20.0):
    return [
        watch.look(shown(rng, radius), name, first_deg + 2.0 * k) for k, radius in enumerate(radii)
    ]


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_ordinary_series_are_never_called_blurred(seed):
    watch, rng = SharpnessWatch(0.8), np.random.default_rng(seed)
    for number in range(3):
        found = series(watch, rng, [0.0] * 21, f"series_{number}")
        assert not any(one.blurred for one in found if one is not None)


def test_a_jump_is_told_within_three_frames_and_once():
    watch, rng = SharpnessWatch(0.8), np.random.default_rng(1)
    series(watch, rng, [0.0] * 21)
    found = series(watch, rng, [0.0] * 5 + [6.0] * 6, "series_002")
    begins = [k for k, one in enumerate(found) if one is not None and one.begins]
    assert len(begins) == 1
    assert 5 <= begins[0] <= 7
    told = found[begins[0]]
    assert told.radius_nm == pytest.approx(6.0, abs=4 * told.radius_sd_nm)
    assert all(one.blurred for one in found[begins[0] :])


def test_it_is_over_when_the_frames_are_sharp_again():
    watch, rng = SharpnessWatch(0.8), np.random.default_rng(2)
    series(watch, rng, [0.0] * 21)
    found = series(watch, rng, [8.0] * 4 + [0.0] * 4, "series_002")
    assert [one.blurred for one in found[-3:]] == [False] * 3
    again = series(watch, rng, [8.0] * 3, "series_002", -10.0)
    assert sum(one.begins for one in again) == 1


def test_what_stays_after_a_focus_series_is_not_the_focus():
    watch, rng = SharpnessWatch(0.8), np.random.default_rng(3)
    series(watch, rng, [0.0] * 21)
    assert any(one.begins for one in series(watch, rng, [8.0] * 3, "series_002"))
    watch.focused()
    found = series(watch, rng, [8.0] * 6, "series_002", -14.0)
    assert [one.stays for one in found if one is not None].count(True) == 1
    assert not found[-1].blurred, "these frames are what there is to compare with now"


def test_a_watch_goes_on_from_its_state():
    watch, rng = SharpnessWatch(0.8), np.random.default_rng(4)
    series(watch, rng, [0.0] * 9)
    series(watch, rng, [8.0] * 2, "series_002")
    again = SharpnessWatch(0.8, WatchState.model_validate_json(watch.state().model_dump_json()))
    frame = shown(rng, 8.0)
    one, other = (each.look(frame, "series_002", -16.0) for each in (watch, again))
    assert one.blur.square_nm2 == pytest.approx(other.blur.square_nm2, rel=1e-4)
    assert (one.blurred, one.begins) == (other.blurred, other.begins)


def test_a_damaged_state_is_refused():
    watch = SharpnessWatch()
    watch.look(shown(np.random.default_rng(5)), "series_001", 0.0)
    state = watch.state()
    short = state.kept[0].model_copy(update={"power": state.kept[0].power[:-1]})
    with pytest.raises(ValueError, match="damaged"):
        SharpnessWatch(state=state.model_copy(update={"kept": (short,)}))


def test_frames_of_another_size_are_compared_among_themselves():
    watch, rng = SharpnessWatch(), np.random.default_rng(6)
    assert watch.look(shown(rng), "series_001", 0.0) is None
    frame = shown(rng)
    other = Spectrum(frame.power, frame.noise, MODES, PER_NM / 2, 8.0)
    assert watch.look(other, "series_001", 2.0) is None
    assert watch.look(other, "series_001", 4.0) is not None
