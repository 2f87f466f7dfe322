"""When the stage takes out a height, and how a stage that does not move is found out."""

from __future__ import annotations

import math

import pytest

from pyrotome.daemon.tracking.height_correction import HeightCorrection
from pyrotome.protocols.messages.tracking import Row, Table
from pyrotome.protocols.messages.tracking_rules import TrackingLimits

LIMITS = TrackingLimits(shift_limit_nm=1500.0, hand_over_nm=1000.0)


def table(height_nm: float, sd_nm: float = 30.0) -> Table:
    """The table of a specimen that stands so high."""
    rows = tuple(
        Row(
            tilt_deg=tilt, t_ns=0, shift_nm=(0.0, -height_nm * math.sin(math.radians(tilt))),
            shift_sd_nm=(30.0, 30.0), defocus_nm=0.0, defocus_sd_nm=50.0, drift_nm_per_s=0.0,
            drift_sd_nm_per_s=0.0,
        )
        for tilt in range(-40, 41, 2)
    )  # fmt: skip
    return Table(t_ns=0, number=1, series="series_001", rows=rows, height=(height_nm, sd_nm))


def moved(
    before_nm: float, sd_nm: float, after_nm: float, tilt_deg: float = 0.0
) -> tuple[HeightCorrection, float | None]:
    """A correction of one height, and what is due when another is found afterwards."""
    heights = HeightCorrection()
    by_nm = heights.due(table(before_nm, sd_nm), 5, tilt_deg, LIMITS)
    assert by_nm == pytest.approx(-before_nm, abs=1)
    heights.moved((before_nm, sd_nm), by_nm)
    return heights, heights.due(table(after_nm), 5, tilt_deg, LIMITS)


def test_a_height_is_taken_out_once_it_is_known_and_matters() -> None:
    heights = HeightCorrection()
    assert heights.due(table(2000.0), 5, 0.0, LIMITS) == pytest.approx(-2000, abs=1)
    assert heights.due(table(2000.0), 2, 0.0, LIMITS) is None, "too few frames"
    assert heights.due(table(1200.0), 5, 0.0, LIMITS) is None, "the beam shift can follow that"
    assert heights.due(table(2000.0), 5, 30.0, LIMITS) is None, "a move would move the image"
    assert heights.due(table(2300.0), 5, 40.0, LIMITS) is not None, "the shift is at its end"
    assert heights.due(table(2000.0, 1500.0), 5, 0.0, LIMITS) is None, "it is not known"
    assert heights.due(table(2000.0, 300.0), 5, 10.0, LIMITS) is None, (
        "the focus would not be known"
    )
    assert heights.due(table(2300.0, 300.0), 5, 40.0, LIMITS) is not None, "the shift is at its end"


def test_what_an_uncertain_first_estimate_has_left_is_taken_out_too() -> None:
    # The first estimate was 2200 +- 600; 2250 were left: as before, but not certainly so.
    heights, due_nm = moved(2200.0, 600.0, 2250.0, 40.0)
    assert due_nm == pytest.approx(-2250, abs=1)
    assert heights.stuck_nm is None
    # The same once more is no chance.
    heights.moved((2250.0, 600.0), due_nm)
    assert heights.due(table(2200.0, 600.0), 5, 40.0, LIMITS) is None
    assert heights.stuck_nm == pytest.approx(2200, abs=1)


def test_a_stage_that_does_not_move_is_found_out_and_not_asked_again() -> None:
    heights, due_nm = moved(2500.0, 30.0, 2450.0)
    assert due_nm is None
    assert heights.stuck_nm == pytest.approx(2450, abs=1)
    assert heights.due(table(2400.0), 9, 0.0, LIMITS) is None


def test_a_stage_that_moves_too_far_or_a_membrane_that_rises_is_corrected_again() -> None:
    for after_nm in (-2000.0, 1700.0):
        heights, due_nm = moved(4000.0, 30.0, after_nm)
        assert due_nm == pytest.approx(-after_nm, abs=1)
        assert heights.stuck_nm is None
