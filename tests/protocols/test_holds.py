"""Holds are measured from the log, and their times add up."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.protocols import layout
from pyrotome.protocols.holds import hold_total_s, holds_of, measure_hold


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
