"""Holds are measured from the log, and their times add up."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols.runfile import layout
from pyrotome.protocols.runfile.holds import Hole, hold_total_s, holds_of, measure_hold


@given(
    up_s=st.floats(1, 50),
    hold_s=st.floats(0.5, 100),
    rise_s=st.floats(0.02, 0.4),
    phase=st.floats(0, 1),
    noise=st.integers(0, 1000),
)
def test_a_hold_is_measured_between_samples(
    up_s: float, hold_s: float, rise_s: float, phase: float, noise: int
) -> None:
    corners = (0, up_s - rise_s / 2, up_s + rise_s / 2, up_s + hold_s - rise_s / 2)
    times = np.array([*corners, up_s + hold_s + rise_s / 2, up_s + hold_s + 10])
    levels = np.array([200.0, 200, 350, 350, 200, 200])
    t = (np.arange(int(times[-1] / 0.01)) + phase) * 0.01
    exact = np.interp(t, times, levels)
    noisy = exact + np.random.default_rng(noise).normal(0, 0.05, t.size)
    found = measure_hold(t, noisy, 275.0)
    assert found is not None
    # Where a sample interval holds a corner of the ramp the line between samples is not the ramp.
    assert abs(found.achieved_s - hold_s) < 0.011
    if rise_s > 0.05:
        assert abs(found.achieved_s - hold_s) < 0.002
    if rise_s < 0.4 * hold_s:
        assert abs(found.median_c - 350.0) < 0.5
    assert found.max_c < 350.5


@pytest.mark.parametrize("levels", [[200.0] * 4, [350.0] * 4, [350.0, 350, 200, 200], [200.0], []])
def test_no_hold_no_figures(levels: list[float]) -> None:
    assert measure_hold(np.arange(len(levels), dtype=float), np.array(levels), 275.0) is None


def a_file(commanded: tuple[bool, ...], begun: bool = True) -> Any:
    """Holds of 5 s that were commanded or not, and a stack after all of them."""
    file: Any = h5py.File(io.BytesIO(), "w")
    count = len(commanded)
    file[f"{layout.HOLDS}/index"] = np.arange(count) + 1
    for name, value in (("standby_c", 200.0), ("target_c", 350.0), ("requested_s", 5.0)):
        file[f"{layout.HOLDS}/{name}"] = np.full(count, value)
    up_s = 10.0 + 20.0 * np.arange(count)
    done = np.array(commanded, bool)
    for name, times_s in (("commanded_up_ns", up_s), ("commanded_down_ns", up_s + 5.0)):
        file[f"{layout.HOLDS}/{name}"] = np.where(done, np.int64(times_s * 1e9), -1)
    time_s, level_c = [0.0], [200.0]
    for start_s in up_s[done]:
        time_s += [start_s, start_s + 0.1, start_s + 5.0, start_s + 5.1]
        level_c += [200.0, 350.0, 350.0, 200.0]
    log = file.create_group(layout.telemetry_path(layout.HEATER, "temperature_c"))
    log["time"], log["value"] = time_s, level_c
    log["time"].attrs["start_ns"], log["value"].attrs["units"] = 0, "degC"
    file[layout.holds_before_path("series_001")] = count
    keys = [layout.RECORDED if begun else layout.MISSING, layout.MISSING]
    file[layout.image_key_path("series_001")] = keys
    return file


@pytest.mark.parametrize(
    ("commanded", "begun", "total_s"),
    [
        ((), True, 0.0),
        ((True, True), True, 10.0),
        # A steered cycle that ended after its first hold.
        ((True, False, False), True, 5.0),
        ((True, False, False), False, None),
    ],
)
def test_the_time_before_a_series(
    commanded: tuple[bool, ...], begun: bool, total_s: float | None
) -> None:
    with a_file(commanded, begun) as file:
        holds = holds_of(file)
        assert [hold.commanded for hold in holds] == list(commanded)
        assert [hold.figures is not None for hold in holds] == list(commanded)
        assert hold_total_s(file, "series_001", holds) == (
            None if total_s is None else pytest.approx(total_s, abs=1e-9)
        )
        assert hold_total_s(file, "series_002", holds) is None, "an imported series"


def test_a_hold_without_an_end_makes_the_time_unknown() -> None:
    with a_file((True, True)) as file:
        log = layout.telemetry_path(layout.HEATER, "temperature_c")
        values = file[f"{log}/value"][...]
        values[-1] = 350.0
        file[f"{log}/value"][...] = values
        assert hold_total_s(file, "series_001", holds_of(file)) is None


def segments(pieces: list[tuple[float, float, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Samples of 100 a second of straight pieces (from s, to s, level before, level after)."""
    times = [np.arange(a, b, 0.01) for a, b, _, _ in pieces]
    levels = [np.interp(t, (a, b), (c, d)) for t, (a, b, c, d) in zip(times, pieces, strict=True)]
    return np.concatenate(times), np.concatenate(levels)


# Recorded: standby, a rise at 10 s, hot until the kill at 13 s; again from 20 s on.
BEFORE = [(0.0, 10.0, 200.0, 200.0), (10.0, 10.1, 200.0, 350.0), (10.1, 13.0, 350.0, 350.0)]


def test_a_hold_that_the_guardian_cut_short_goes_on() -> None:
    """Hot for 0.5 s unseen, cold when the run goes on, then the rest of 2 s."""
    after = [(20.0, 22.0, 200.0, 200.0), (22.0, 22.1, 200.0, 350.0), (22.1, 24.0, 350.0, 350.0),
             (24.0, 24.1, 350.0, 200.0), (24.1, 30.0, 200.0, 200.0)]  # fmt: skip
    time_s, level_c = segments(BEFORE + after)
    holes = [Hole(13.0, 20.0, 0.5)]
    found = measure_hold(time_s, level_c, 275.0, 10.0, 23.9, holes)
    assert found is not None
    assert found.achieved_s == pytest.approx(2.95 + 0.5 + 2.0, abs=0.03)
    assert (found.up_s, found.down_s) == pytest.approx((10.05, 24.05), abs=0.02)
    assert found.median_c == pytest.approx(350.0)
    naive = measure_hold(time_s, level_c, 275.0, 10.0, 23.9)
    assert naive is not None
    assert naive.achieved_s == pytest.approx(14.0, abs=0.02), "what not to do"


def test_a_hold_that_stayed_hot_unseen_goes_on() -> None:
    after = [(20.0, 21.0, 350.0, 350.0), (21.0, 21.1, 350.0, 200.0), (21.1, 30.0, 200.0, 200.0)]
    time_s, level_c = segments(BEFORE + after)
    found = measure_hold(time_s, level_c, 275.0, 10.0, 20.9, [Hole(13.0, 20.0, 7.0)])
    assert found is not None
    assert found.achieved_s == pytest.approx(2.95 + 7.0 + 1.05, abs=0.03)


def test_a_hold_that_ended_unseen() -> None:
    """Its end was commanded before the kill, or is known from the interruption alone."""
    time_s, level_c = segments([*BEFORE, (20.0, 30.0, 200.0, 200.0)])
    for down_from_s in (12.99, 13.2, -np.inf):
        found = measure_hold(time_s, level_c, 275.0, 10.0, down_from_s, [Hole(13.0, 20.0, 0.4)])
        assert found is not None
        assert found.achieved_s == pytest.approx(2.95 + 0.4, abs=0.03)
        assert found.max_c == pytest.approx(350.0)


def test_a_hold_that_began_unseen() -> None:
    before = [(0.0, 10.0, 200.0, 200.0)]
    after = [(20.0, 21.0, 350.0, 350.0), (21.0, 21.1, 350.0, 200.0), (21.1, 30.0, 200.0, 200.0)]
    time_s, level_c = segments(before + after)
    found = measure_hold(time_s, level_c, 275.0, 9.99, 20.9, [Hole(10.0, 20.0, 9.0)])
    assert found is not None
    assert found.achieved_s == pytest.approx(9.0 + 1.05, abs=0.03)


@given(
    up_s=st.floats(2, 10),
    hold_s=st.floats(0.5, 20),
    noise=st.integers(0, 1000),
    elsewhere=st.sampled_from(["before", "after", "none"]),
)
def test_an_interruption_elsewhere_changes_no_hold(
    up_s: float, hold_s: float, noise: int, elsewhere: str
) -> None:
    corners = [0.0, up_s, up_s + 0.1, up_s + 0.1 + hold_s, up_s + 0.2 + hold_s, up_s + hold_s + 9]
    t = np.arange(int(corners[-1] / 0.01)) * 0.01
    levels = [200.0, 200.0, 350.0, 350.0, 200.0, 200.0]
    level_c = np.interp(t, corners, levels) + np.random.default_rng(noise).normal(0, 0.5, t.size)
    places = {"before": (0.5, 1.5), "after": (corners[-2] + 2, corners[-2] + 4)}
    holes = [Hole(*place, hot_s=0.3) for name, place in places.items() if name == elsewhere]
    there = np.ones(t.size, bool)
    for hole in holes:
        there &= (t <= hole.from_s) | (t >= hole.until_s)
    args = (275.0, up_s, up_s + hold_s)
    assert measure_hold(t[there], level_c[there], *args, holes) == measure_hold(t, level_c, *args)


@given(
    data=st.data(),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 4), st.booleans()), max_size=4),
)
def test_time_above_adds_up_over_any_number_of_interruptions(
    data: st.DataObject, cuts: list[tuple[float, float, bool]]
) -> None:
    """Recorded time in pieces, each hot to its end; what is unseen counts by `hot_s` alone."""
    pieces, holes, at_s, hot_s = [(0.0, 5.0, 200.0, 200.0), (5.0, 5.1, 200.0, 350.0)], [], 5.1, 0.05
    for share, gap_s, cooled in cuts:
        length_s = round(0.5 + share, 2)
        pieces.append((at_s, at_s + length_s, 350.0, 350.0))
        at_s, hot_s = at_s + length_s, hot_s + length_s
        unseen_s = round(data.draw(st.floats(0, gap_s)), 2)
        holes.append(Hole(at_s, at_s + gap_s, unseen_s))
        at_s, hot_s = at_s + gap_s, hot_s + unseen_s
        if cooled:
            pieces += [(at_s, at_s + 1, 200.0, 200.0), (at_s + 1, at_s + 1.1, 200.0, 350.0)]
            at_s, hot_s = at_s + 1.1, hot_s + 0.05
    pieces += [(at_s, at_s + 1, 350.0, 350.0), (at_s + 1, at_s + 1.1, 350.0, 200.0)]
    pieces.append((at_s + 1.1, at_s + 5, 200.0, 200.0))
    time_s, level_c = segments(pieces)
    found = measure_hold(time_s, level_c, 275.0, 4.9, at_s + 0.99, holes)
    assert found is not None
    # A sample is missing at each end of a piece.
    assert found.achieved_s == pytest.approx(hot_s + 1.05, abs=0.05 + 0.03 * len(cuts))
    assert found.max_c <= 350.0
