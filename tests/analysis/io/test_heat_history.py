"""Frames find their time in a heater log, and holds are found in it."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.analysis.io.heat_history import Timing, find_holds, match, without_log
from pyrotome.analysis.io.heater_logs import HeaterLog
from pyrotome.protocols.core.errors import BadInput

START = datetime(2026, 3, 31, 12, 0, 0)


def course(*parts: tuple[float, float], step_s: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Levels, each held so long, with ramps of 0.5 s between them."""
    time_s, temperature_c = [0.0], [parts[0][1]]
    for seconds, level_c in parts:
        begin = time_s[-1]
        if temperature_c[-1] != level_c:
            ramp = np.arange(step_s, 0.5, step_s)
            time_s += list(begin + ramp)
            temperature_c += list(temperature_c[-1] + (level_c - temperature_c[-1]) * ramp / 0.5)
        count = round(seconds / step_s)
        time_s += [time_s[-1] + step_s * n for n in range(1, count + 1)]
        temperature_c += [level_c] * count
    return np.array(time_s), np.array(temperature_c)


def a_log(*parts: tuple[float, float], from_s: float = 0.0, **more: object) -> HeaterLog:
    time_s, temperature_c = course(*parts)
    return HeaterLog("CSV", time_s + from_s, temperature_c, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise_c", [0.0, 0.3])
def test_holds_between_standbys(noise_c: float) -> None:
    time_s, temperature_c = course(
        (20, 21), (60, 200), (5, 350), (30, 200), (7, 350), (30, 200), (2, 21)
    )
    temperature_c = temperature_c + np.random.default_rng(1).normal(0, noise_c, len(time_s))
    holds, ends_s = find_holds(time_s, temperature_c)
    assert [round(h.standby_c) for h in holds] == [200, 200]
    assert [round(h.target_c) for h in holds] == [350, 350]
    assert np.diff(ends_s)[0] == pytest.approx(38, abs=0.6)


@pytest.mark.parametrize(
    "parts",
    [
        [(60, 20)],
        [(60, 20), (60, 200), (60, 400)],  # only upwards: the last level has no end
        [(60, 20), (60, 24), (60, 20)],  # too small a step
    ],
)
def test_no_hold(parts: list[tuple[float, float]]) -> None:
    assert find_holds(*course(*parts))[0] == ()


def test_a_slow_ramp_is_no_hold() -> None:
    time_s = np.arange(0, 1200, 0.1)
    temperature_c = np.interp(time_s, [0, 600, 1200], [20, 620, 20])  # 1 degC/s up and down
    assert find_holds(time_s, temperature_c)[0] == ()


@given(seconds=st.lists(st.floats(2, 30), min_size=1, max_size=4), target=st.floats(260, 900))
def test_every_hold_is_found(seconds: list[float], target: float) -> None:
    parts = [(20.0, 200.0)]
    for hold_s in seconds:
        parts += [(hold_s, target), (20.0, 200.0)]
    holds, _ = find_holds(*course(*parts))
    assert len(holds) == len(seconds)


def test_frames_by_their_own_times() -> None:
    log = a_log((60, 20), (60, 200), start=START)
    times = np.array(["2026-03-31T12:01:30", "2026-03-31T12:00:30"], "datetime64[ms]")
    heat = match(log, Timing(times), 2, "log and stack")
    assert heat.frame_s.tolist() == [90, 30]
    assert heat.temperature_c.tolist() == [200, 20]
    assert heat.started == START
    assert heat.told.startswith("CSV log")


def test_frames_at_an_interval_after_a_moment() -> None:
    log = a_log((60, 20), (60, 200), start=START)
    started = datetime(2026, 3, 31, 12, 0, 50)
    heat = match(log, Timing(None, started, 10.0), 3, "log and stack")
    assert heat.frame_s.tolist() == [50, 60, 70]
    assert heat.temperature_c[[0, 2]].tolist() == [20, 200]


def test_seconds_after_the_start_of_the_log() -> None:
    log = a_log((60, 20), (60, 200))
    heat = match(log, Timing(None, 100.0, 1.0), 2, "log and stack")
    assert heat.frame_s.tolist() == [100, 101]
    assert heat.started is None


def test_a_log_that_begins_before_the_first_frame() -> None:
    log = a_log((60, 200), (5, 350), (60, 200), from_s=-100.0, from_first_frame=True)
    heat = match(log, Timing(None, None, 1.0), 2, "log and stack")
    assert heat.log_s[0] == 0
    assert heat.frame_s.tolist() == [100, 101]
    assert heat.holds_before == len(heat.holds) == 1


def test_a_log_that_begins_after_the_first_frame() -> None:
    log = a_log((60, 200), (60, 200), from_s=50.0, from_first_frame=True)
    heat = match(log, Timing(None, None, 20.0), 4, "log and stack")
    assert heat.frame_s.tolist() == [0, 20, 40, 60]
    assert heat.log_s[0] == 50
    assert np.isnan(heat.temperature_c).tolist() == [True, True, False, False]
    assert "2 of 4 frames lie outside" in heat.warnings[0]


def test_frames_without_times_have_a_steady_temperature_or_none() -> None:
    steady = a_log((60, 20), (60, 200), from_s=-80.0, from_first_frame=True)
    heat = match(steady, Timing(), 3, "log and stack")
    assert heat.temperature_c.tolist() == [200, 200, 200]
    assert np.isfinite(heat.frame_s).tolist() == [True, False, False]
    assert not heat.warnings
    changing = a_log((60, 200), (60, 350), from_s=-10.0, from_first_frame=True)
    heat = match(changing, Timing(), 3, "log and stack")
    assert np.isfinite(heat.temperature_c).tolist() == [True, False, False]
    assert "give --frame-interval" in heat.warnings[0]


@pytest.mark.parametrize(
    ("log", "timing", "words"),
    [
        (a_log((9, 20), start=START), Timing(), "begins at 2026-03-31 12:00:00, and the frames"),
        (a_log((9, 20)), Timing(None, None, 1.0), r"has no date; .*--started '120 s'"),
        (
            a_log((9, 20), start=START),
            Timing(None, datetime(2026, 4, 2), 1.0),
            "more than a day apart",
        ),
        (
            a_log((9, 20), from_first_frame=True),
            Timing(None, START, 1.0),
            "counts its time from the start of the first frame",
        ),
    ],
)
def test_what_cannot_be_matched(log: HeaterLog, timing: Timing, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        match(log, timing, 2, "log and stack")


def test_times_without_a_log() -> None:
    assert without_log(Timing(), 3) is None
    times = np.array([START, datetime(2026, 3, 31, 12, 0, 2)], "datetime64[ms]")
    heat = without_log(Timing(times), 2)
    assert heat is not None
    assert heat.started == START
    assert heat.frame_s.tolist() == [0, 2]
