"""The five steps that come with pyrotome, one after another on simulated copper particles."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from pyrotome.analysis.core.outputs import Notice, Result, Task
from pyrotome.analysis.particles.necks import Neck
from pyrotome.analysis.pipeline.pipeline import Pipeline, PlannedStack, StackAnalysis
from pyrotome.protocols.config.pipeline import NECK_COLUMNS, AnalysisStep, planned_results
from pyrotome.protocols.messages.manifest import StackPlan
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import thickness_nm

SIDE, PIXEL_NM = 128, 8.0
TILTS = tuple(float(t) for t in range(-40, 41, 5))
STEPS = [
    AnalysisStep.model_validate(step)
    for step in (
        {"align": {"method": "phase-correlation"}},
        {"reconstruct": {"method": "tv", "iterations": 30, "binning": 1}},
        {"segment": {}},
        {"measure": "necks"},
    )
]


def recorded(tasks: list[Task]) -> dict[str, Result]:
    outputs = [output for task in tasks for output in task.outputs]
    return {o.name: o for o in outputs if isinstance(o, Result) and o.record}


def test_the_columns_of_the_table_are_the_fields_of_a_neck() -> None:
    assert tuple(f.name for f in fields(Neck)) == NECK_COLUMNS


def test_two_series_are_aligned_reconstructed_labelled_alike_and_measured() -> None:
    planned = tuple(planned_results(STEPS, "series", len(TILTS), (SIDE, SIDE), PIXEL_NM))
    stacks = [
        StackPlan(name=n, kind="series", frames=len(TILTS), tilt_deg=TILTS, results=planned)
        for n in ("series_001", "series_002")
    ]
    pipeline = Pipeline(STEPS, [PlannedStack(plan, (SIDE, SIDE), PIXEL_NM) for plan in stacks])
    specimen = Sintering(particles=10, seed=3)
    rng = np.random.default_rng(0)
    found: list[dict[str, Result]] = []
    for plan, time_s in zip(stacks, (0.0, 60.0), strict=True):
        stack = pipeline.stacks[plan.name]
        for index, tilt in enumerate(TILTS):
            shift = rng.uniform(-20, 20, 2)
            image = thickness_nm(
                specimen.truth(time_s), (SIDE, SIDE), PIXEL_NM, tilt, (shift[0], shift[1])
            )
            assert not [o for o in stack.frame(index, image, tilt) if isinstance(o, Notice)]
        assert stack.complete
        found.append(recorded(stack.take_tasks()))
    for results in found:
        assert set(results) == {plan.name for plan in planned}
        for plan in planned:
            assert results[plan.name].data.shape == plan.shape
            assert results[plan.name].data.dtype == plan.dtype
        assert np.isfinite(results["shifts"].data).all()
    first, second = (set(np.unique(r["labels"].data)) - {0} for r in found)
    assert len(first & second) >= 0.7 * len(first), "particles keep their numbers"
    ratios = [float(r["necks"].parameters["neck_ratio_median"]) for r in found]
    assert ratios[1] > ratios[0], "necks grow at 350 degC"
    table = found[1]["necks"].data
    rows = table[np.isfinite(table[:, 0])]
    assert len(rows) == found[1]["necks"].parameters["pairs"] > 0


def align_only(tilts: tuple[float, ...]) -> StackAnalysis:
    planned = tuple(planned_results(STEPS[:1], "series", len(tilts), (SIDE, SIDE), PIXEL_NM))
    plan = StackPlan(name="s", kind="series", frames=len(tilts), tilt_deg=tilts, results=planned)
    return Pipeline(STEPS[:1], [PlannedStack(plan, (SIDE, SIDE), PIXEL_NM)]).stacks["s"]


def test_a_view_that_is_missing_leaves_a_gap() -> None:
    specimen = Sintering(particles=10, seed=3).truth(0.0)
    stack = align_only(TILTS)
    for index, tilt in enumerate(TILTS):
        if index == 4:
            list(stack.lost(index))
        else:
            image = thickness_nm(specimen, (SIDE, SIDE), PIXEL_NM, tilt)
            list(stack.frame(index, image, tilt))
    results = {name: result.data for name, result in recorded(stack.take_tasks()).items()}
    others = np.array([k for k in range(len(TILTS)) if k != 4])
    assert np.isnan(results["aligned"][4]).all()
    assert np.isnan(results["shifts"][4]).all()
    assert np.isfinite(results["aligned"][others]).all()


def test_what_cannot_be_aligned_is_told() -> None:
    stack = align_only(TILTS[:2])
    faint = np.zeros((SIDE, SIDE), np.float32)
    faint[0, 0] = 1e-30  # not quite dark, so that the frame is not left out
    for index in range(2):
        list(stack.frame(index, faint, TILTS[index]))
    outputs = [output for task in stack.take_tasks() for output in task.outputs]
    errors = [o.message for o in outputs if isinstance(o, Notice) and o.level == "error"]
    assert len(errors) == 1
    assert errors[0].startswith("s is not aligned: ")


@pytest.mark.parametrize("method", ["sirt", "wbp"])
def test_every_method_of_reconstruction_is_wired(method: str) -> None:
    steps = [AnalysisStep.model_validate({"reconstruct": {"method": method, "iterations": 3}})]
    planned = tuple(planned_results(steps, "series", 3, (32, 32), 1.0))
    plan = StackPlan(
        name="s", kind="series", frames=3, tilt_deg=(-30.0, 0.0, 30.0), results=planned
    )
    stack = Pipeline(steps, [PlannedStack(plan, (32, 32), 1.0)]).stacks["s"]
    image = np.zeros((32, 32), np.float32)
    image[12:20, 12:20] = 10
    for index in range(3):
        list(stack.frame(index, image, plan.tilt_deg[index]))
    volume = recorded(stack.take_tasks())["volume"]
    assert volume.data.shape == (8, 8, 8)
    assert volume.data[4, 4, 4] > volume.data[0, 0, 0]
