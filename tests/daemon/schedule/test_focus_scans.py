"""Focus series: their scans and dose, and what is refused or warned of before a run."""

from __future__ import annotations

import math
from typing import Any

import pytest
from command_line import RIG
from tracked import TRACKED

from pyrotome.daemon.schedule.focus_scans import (
    check_focus,
    focus_series_e_per_nm2,
    focus_settings,
    focus_step_nm,
    focus_warnings,
    focus_within_nm,
)
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import Rig
from pyrotome.protocols.config.tracking import Focus
from pyrotome.protocols.core.errors import BadInput


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**TRACKED, **changes})


def rig(**focus: Any) -> Rig:
    given = {"by": "probe_defocus", "convergence": "1.2 mrad", **focus}
    return Rig.model_validate({**RIG, "beam": {**RIG["beam"], "focus": given}})


def test_a_picture_is_a_quarter_of_the_field_at_a_quarter_of_the_dwell_time() -> None:
    beam = recipe().beam
    picture = focus_settings(beam)
    assert picture.field_nm == pytest.approx(beam.field_nm / 2)
    each = beam.dose_per_frame_e_per_nm2 / 4
    assert focus_series_e_per_nm2(beam, 0.1) == pytest.approx(3 * (each + 0.1))


def test_the_step_follows_convergence_pixel_and_jump() -> None:
    beam = recipe().beam
    assert focus_step_nm(beam, 1.2) == pytest.approx(1.5 * beam.pixel_nm / 1.2e-3)
    assert focus_step_nm(beam, 12.0) == pytest.approx(1.5 * beam.pixel_nm / 12e-3)
    assert focus_step_nm(beam, 12.0, 4000.0) == pytest.approx(6000.0)


def test_within_auto_is_the_depth_of_focus_where_the_model_can_know_it() -> None:
    auto = Focus.model_validate({"within": "auto"})
    assert focus_within_nm(auto, 300.0, 1.2) == pytest.approx(684, abs=1)
    assert focus_within_nm(auto, 300.0, 10.0) == 150.0
    assert focus_within_nm(Focus.model_validate({"within": "300 nm"}), 300.0, 1.2) == 300.0
    assert focus_within_nm(Focus(), 300.0, 1.2) == math.inf
    assert focus_within_nm(auto, 300.0, None) == math.inf


@pytest.mark.parametrize(
    ("asked", "changed", "words"),
    [
        ({"within": "100 nm"}, {}, "less than the 150 nm"),
        ({"by": "series", "dose": "0.5 e/nm^2"}, {}, "one focus series takes"),
        ({"by": "series"}, {"by": "stage"}, "out of the field of a tilted scan"),
        ({"by": "series"}, {"convergence": None}, "half angle of the probe"),
    ],
)
def test_what_cannot_work_is_refused(
    asked: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput) as refused:
        check_focus(recipe(focus={"dose": "9 e/nm^2", **asked}), rig(**changed), "recipe.yaml")
    assert words in str(refused.value)


def test_what_can_work_is_taken() -> None:
    for asked in ({"by": "series", "within": "50 nm"}, {"within": "auto"}, {}):
        check_focus(recipe(focus={"dose": "9 e/nm^2", **asked}), rig(), "recipe.yaml")


@pytest.mark.parametrize(
    "focus",
    [{"within": "0 nm"}, {"by": "none", "within": "auto"}, {"by": "series", "dose": "none"}],
)
def test_a_recipe_that_contradicts_itself_is_refused(focus: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"focus\."):
        recipe(focus=focus)


def test_focus_series_need_tracking() -> None:
    with pytest.raises(ValueError, match="track: model"):
        recipe(track="none", focus={"by": "series"})


def test_a_tilted_field_that_is_higher_than_the_depth_of_focus_is_warned_of() -> None:
    tilts = [-40.0, 0.0, 40.0]
    assert focus_warnings(recipe(), rig(), tilts) == ()
    field, depth = focus_warnings(recipe(), rig(convergence="10 mrad"), tilts)
    assert "spans \u00b1447 nm of height" in field
    assert "\u00b110 nm" in field
    assert "8.9 nm" in field
    assert "knows the height to 150 nm at best" in depth
    (only,) = focus_warnings(recipe(), rig(convergence="10 mrad", dynamic=True), tilts)
    assert only == depth
    assert focus_warnings(recipe(), rig(convergence=None), tilts) == ()
