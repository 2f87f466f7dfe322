"""What an operator sees of tracking, in a terminal of 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pyrotome.daemon.cli.progress import ProgressView
from pyrotome.daemon.cli.tracking_pane import tracking_lines

TOLD: dict[str, Any] = {
    "series": "series_017", "state": "trusted", "why": "", "frame": 12, "doubt": "",
    "offset_nm": [-1203.2, 987.4], "offset_sd_nm": [1.2, 0.8], "expected_nm": [0.0, -0.2],
    "expected_sd_nm": [112.4, 354.9], "shift_nm": [-1120.0, 1400.2], "shift_limit_nm": 1900.0,
    "defocus_nm": -1310.4, "defocus_sd_nm": 130.2, "drift_nm_per_s": 0.412,
    "drift_sd_nm_per_s": 0.05, "scouts": 41, "scouts_e_per_nm2": 1.234,
    "scouts_limit_e_per_nm2": 2.0, "looking": "",
}  # fmt: skip
STATUS: dict[str, Any] = {
    "state": "running", "title": "Tracked", "step": "series_017: tilt series", "step_index": 3,
    "steps": 9, "frames": 41, "frames_done": 12, "dose_e_per_nm2": 70.1, "eta_s": 90.0,
    "temperature_c": 200.0, "tilt_deg": -12.0, "tracking": TOLD,
}  # fmt: skip


def shown(**changes: Any) -> dict[str, str]:
    return dict(tracking_lines(STATUS | {"tracking": TOLD | changes}))


def test_the_pane_fits_a_terminal_of_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    view = ProgressView(console, 1.0)
    console.print(view._render(STATUS))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    start = next(n for n, line in enumerate(lines) if "tracking" in line)
    assert [line.rstrip() for line in lines[start : start + 6]] == [
        "   tracking  series_017, trusted",
        "     offset  expected +0 +0 ± 112 355 nm, found -1203 +987 ± 1 1 nm (y x)",
        " beam shift  -1120 +1400 nm (y x), 1793 of 1900 nm",
        "      focus  -1310 ± 130 nm",
        "      drift  0.41 ± 0.05 nm/s",
        "     scouts  41 in the series, 1.2 of 2 e/nm²",
    ]


@pytest.mark.parametrize(
    ("changes", "label", "text"),
    [
        ({"looking": "scout"}, "tracking", "series_017, looks (scout)"),
        ({"looking": "wide"}, "tracking", "series_017, searches a wider field"),
        ({"state": "not found"}, "tracking", "series_017, not found: the run goes on"),
        ({"state": "not trusted"}, "tracking",
         "series_017, not trusted: the corrections make it worse"),
        ({"offset_nm": None, "doubt": "decoy"}, "offset",
         "expected +0 +0 ± 112 355 nm, not believed (decoy) (y x)"),
    ],
)  # fmt: skip
def test_states_are_told_in_words(changes: dict[str, Any], label: str, text: str) -> None:
    assert shown(**changes)[label] == text


def test_a_specimen_that_is_not_found_says_what_to_do_while_the_run_is_paused() -> None:
    status = STATUS | {"state": "paused", "tracking": TOLD | {"state": "not found"}}
    assert dict(tracking_lines(status))["tracking"].endswith("paused, centre it and resume")


def test_what_is_not_known_has_no_line() -> None:
    unknown = dict.fromkeys(
        ("offset_nm", "expected_nm", "expected_sd_nm", "defocus_sd_nm", "drift_nm_per_s")
    )
    lines = shown(**unknown, scouts=0, scouts_limit_e_per_nm2=0.0, series="", state="no table")
    assert lines == {
        "tracking": "waits for the tracker",
        "beam shift": "-1120 +1400 nm (y x), 1793 of 1900 nm",
        "focus": "-1310 nm",
    }
    assert tracking_lines(STATUS | {"tracking": None}) == []
    assert tracking_lines({"state": "idle"}) == []
