"""``until`` of a tilt series: what may be compared, and with what."""

from __future__ import annotations

from typing import Any

import pytest
from command_line import TINY
from pydantic import ValidationError

from pyrotome.protocols.config.recipe import Recipe

TILTS = {"from": "-10 deg", "to": "10 deg", "step": "5 deg"}
TRACE: list[dict[str, Any]] = [{"trace": {"species": "Zr"}}]


def recipe(until: dict[str, Any], analysis: list[dict[str, Any]], cycle: bool = False) -> Recipe:
    series = {"tilt_series": {**TILTS, "until": until}}
    step: dict[str, Any] = series
    if cycle:
        step = {
            "cycle": {
                "standby": "60 degC", "processing": "90 degC", "holds": ["1 s"], "then": [series],
            }
        }  # fmt: skip
    written = {"title": "t", **TINY, "limits": {}, "steps": [step], "analysis": analysis}
    return Recipe.model_validate(written)


@pytest.mark.parametrize("cycle", [False, True])
def test_lengths_have_a_unit_and_are_told_in_pm(cycle: bool) -> None:
    made = recipe({"quantity": "atoms.position_error", "below": "0.25 Å"}, TRACE, cycle)
    step = made.steps[0]
    series = step.tilt_series if step.cycle is None else step.cycle.then[0].tilt_series
    assert series is not None
    until = series.until
    assert until is not None
    assert until.below_nm == pytest.approx(0.025)
    assert until.text == "the median of atoms.position_error is below 25 pm"
    assert (until.live_result, until.figure) == ("atoms_live", "position_error_median_nm")


@pytest.mark.parametrize(
    ("until", "analysis", "message"),
    [
        ({"below": "25 pm"}, [], "there is none"),
        ({"below": "25 pm"}, [{"reconstruct": {}}], "there is none"),
        (
            {"below": "25 pm"},
            [{"reconstruct": {"method": "resire"}}, {"trace": {"method": "paper"}}],
            "there is none",
        ),
        ({"quantity": "atoms.gain", "below": "1 nm"}, TRACE, "there is atoms.position_error"),
        ({"below": 25}, TRACE, "has no unit"),
        ({"below": "-1 pm"}, TRACE, "greater than 0"),
        ({"above": "1 pm"}, TRACE, "above"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    until: dict[str, Any], analysis: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(until, analysis)
