"""The step ``align`` with a tilt axis that is not upright: told by recipe or file, or found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyrotome.analysis.core.outputs import Notice, Result
from pyrotome.analysis.pipeline.pipeline import Pipeline, PlannedStack
from pyrotome.protocols.config.pipeline import AnalysisStep, planned_results
from pyrotome.protocols.messages.manifest import StackPlan

from ..alignment.test_align import TILTS, jitter, spheres_series

SIDE, AXIS_DEG = 64, 84.8
IMAGES = spheres_series(TILTS, jitter(TILTS, 4.0), side=SIDE, rotation=AXIS_DEG).astype(np.float32)


def processed(align: dict[str, Any], told_deg: float | None) -> tuple[dict[str, Result], list[str]]:
    """Results and messages of a pipeline with these settings of the step."""
    written = (
        {"align": {"method": "phase-correlation", **align}},
        {"reconstruct": {"method": "tv", "iterations": 60, "binning": 1}},
    )
    steps = [AnalysisStep.model_validate(step) for step in written]
    tilts = tuple(float(tilt) for tilt in TILTS)
    plan = StackPlan(
        name="series_001",
        kind="series",
        frames=len(tilts),
        tilt_deg=tilts,
        tilt_axis_deg=told_deg,
        results=tuple(planned_results(steps, "series", len(tilts), (SIDE, SIDE), 1.0)),
    )
    stack = Pipeline(steps, [PlannedStack(plan, (SIDE, SIDE), 1.0)]).stacks["series_001"]
    outputs = [
        o for index, tilt in enumerate(tilts) for o in stack.frame(index, IMAGES[index], tilt)
    ]
    for task in stack.take_tasks():
        outputs += task.outputs
    results = {o.name: o for o in outputs if isinstance(o, Result) and o.record}
    return results, [o.message for o in outputs if isinstance(o, Notice)]


@pytest.mark.parametrize(
    ("align", "told_deg"),
    [({}, AXIS_DEG), ({"axis": "84.8 deg"}, None), ({"axis": "84.8 deg"}, 12.0)],
)
def test_recipe_goes_before_file(align: dict[str, Any], told_deg: float | None) -> None:
    results, warnings = processed(align, told_deg)
    assert warnings == []
    about = results["shifts"].parameters
    assert about["axis_source"] == "told" and "doubts" not in about
    assert about["axis_rotation_deg"] == pytest.approx(AXIS_DEG, abs=0.7)
    # The volume that grew with the views was about the right axis.
    assert results["volume"].parameters["iterations_before_the_last_view"] != 0


def test_an_axis_found_at_the_end_makes_the_volume_right_and_doubts_the_preview() -> None:
    results, warnings = processed({}, None)
    assert len(warnings) == 1 and "only the final volume is right" in warnings[0]
    about = results["aligned"].parameters
    assert about["axis_source"] == "found"
    assert about["axis_rotation_deg"] == pytest.approx(AXIS_DEG, abs=0.7)
    assert results["volume"].parameters["iterations_before_the_last_view"] == 0
    told, _ = processed({"axis": "84.8 deg"}, None)
    pair = (results["volume"].data.ravel(), told["volume"].data.ravel())
    assert np.corrcoef(*pair)[0, 1] > 0.9


def test_an_axis_that_is_kept() -> None:
    results, _ = processed({"axis": "83 deg", "refine_axis": False}, None)
    assert results["shifts"].parameters["axis_rotation_deg"] == pytest.approx(83.0, abs=1e-9)


@pytest.mark.parametrize("axis", ["84.8 nm", "361 deg", "nan deg"])
def test_nonsense_is_refused(axis: str) -> None:
    with pytest.raises(ValueError, match="axis"):
        AnalysisStep.model_validate({"align": {"axis": axis}})
