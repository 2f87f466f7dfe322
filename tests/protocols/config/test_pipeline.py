"""The pipeline as data: what its steps leave, and in which order they may stand."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pyrotome.protocols.config.pipeline import (
    NECK_COLUMNS,
    TRIAL_COLUMNS,
    AnalysisStep,
    ResultPlan,
    complete_pipeline,
    planned_results,
)
from pyrotome.protocols.core.errors import Misplaced
from pyrotome.protocols.steps import ResultSpec
from pyrotome.protocols.steps.registry import installed, step_class


def planned(*steps: dict[str, object], kind: str = "series") -> dict[str, ResultPlan]:
    found = planned_results(
        [AnalysisStep.model_validate(step) for step in steps],
        kind,  # pyright: ignore[reportArgumentType]
        3,
        (16, 16),
        1.0,
    )
    return {result.name: result for result in found}


def test_tables_name_their_columns() -> None:
    results = planned(
        {"reconstruct": {"binning": 2}}, {"segment": {}}, {"measure": "necks"}
    )  # fmt: skip
    assert results["necks"].columns == NECK_COLUMNS
    assert results["necks"].shape[1] == len(NECK_COLUMNS)
    assert results["volume"].columns == ()
    tuning = planned({"denoise": {"noise": "auto"}}, kind="reference")["tuning"]
    assert tuning.columns == TRIAL_COLUMNS


def test_a_plan_without_names_of_columns_is_the_same_room() -> None:
    necks = planned({"reconstruct": {}}, {"segment": {}}, {"measure": "necks"})["necks"]
    written_by_0_1_0 = necks.model_dump(exclude={"columns", "unit"})
    assert ResultPlan.model_validate(written_by_0_1_0) == necks
    assert necks.model_copy(update={"shape": (3, 10)}) != necks
    assert necks != "necks"


HEAVY = ("numba", "skimage", "SimpleITK", "h5py", "zmq")
PLANNING = """
import sys
from pathlib import Path
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.protocols.config.recipe import Recipe, load_recipe
from pyrotome.protocols.config.rig import simulated_rig

recipe, _ = load_recipe(Path(sys.argv[1]))
bare = recipe.model_copy(update={"analysis": []})
make_plan(bare, simulated_rig())
before = set(sys.modules)
plan = make_plan(recipe, simulated_rig())
assert {step.kind for step in recipe.analysis} >= {"align", "reconstruct", "segment", "measure"}
assert any(stack.results for stack in plan.stacks)
print(*(name.partition(".")[0] for name in set(sys.modules) - before))
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_recipes_and_plans_load_no_heavy_package_through_the_steps() -> None:
    recipe = Path(__file__).resolve().parents[3] / "examples" / "recipes" / "neck_growth.yaml"
    done = subprocess.run(
        [sys.executable, "-c", PLANNING, str(recipe)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    by_the_steps, loaded = (set(line.split()) for line in done.stdout.splitlines())
    assert not {*HEAVY, "scipy"} & by_the_steps
    assert not set(HEAVY) & loaded  # scipy is loaded by pint, which reads the units


def steps_of(*steps: dict[str, object]) -> list[AnalysisStep]:
    return [AnalysisStep.model_validate(step) for step in steps]


@pytest.mark.parametrize(
    ("steps", "position", "said"),
    [
        ([{"segment": {}}, {"reconstruct": {}}], 0, "step 'segment' needs the step 'reconstruct'"),
        ([{"reconstruct": {}}, {"align": {}}], 1, "step 'align' must come before 'reconstruct'"),
        ([{"align": {}}, {"denoise": {}}], 1, "step 'denoise' must come before 'align'"),
        ([{"align": {}}, {"measure": "necks"}], 1, "before it, which gives 'labels'"),
        ([{"align": {}}, {"align": {}}], 1, "step 'align' is written twice"),
        ([{"align": {}}, {"correct": {}}], 1, "step 'correct' must come before 'align'"),
    ],
)
def test_order_follows_from_what_steps_take_and_give(
    steps: list[dict[str, object]], position: int, said: str
) -> None:
    with pytest.raises(Misplaced, match=said) as caught:
        complete_pipeline(steps_of(*steps))
    assert caught.value.place == (position,)


def test_what_a_step_needs_may_depend_on_its_settings() -> None:
    paper = {"trace": {"method": "paper"}}
    with pytest.raises(Misplaced, match="needs the step 'reconstruct' before it"):
        complete_pipeline(steps_of(paper))
    assert complete_pipeline(steps_of({"reconstruct": {"method": "resire"}}, paper))
    assert complete_pipeline(steps_of({"trace": {}}))
    with pytest.raises(Misplaced, match="'merge' must come before 'align'"):
        complete_pipeline(steps_of({"align": {}}, {"merge": {}}))


@pytest.mark.parametrize(
    ("steps", "kinds"),
    [
        ([{"align": {}}], ["correct", "align"]),
        ([{"denoise": {}}], ["correct", "denoise"]),
        ([{"correct": {"pedestal": 30}}, {"align": {}}], ["correct", "align"]),
        ([{"correct": False}, {"align": {}}], ["correct", "align"]),
        ([], []),
    ],
)
def test_counts_are_corrected_first_wherever_images_are_treated(
    steps: list[dict[str, object]], kinds: list[str]
) -> None:
    whole = complete_pipeline(steps_of(*steps))
    assert [step.kind for step in whole] == kinds
    names = [plan.name for plan in planned_results(whole, "series", 2, (64, 48), 1.0)]
    assert ("mask" in names) == (bool(steps) and {"correct": False} not in steps)


def test_the_correction_has_the_last_number_and_the_frames_shape() -> None:
    steps = complete_pipeline(steps_of({"reconstruct": {"binning": 4}}))
    plans = {plan.name: plan for plan in planned_results(steps, "series", 3, (64, 48), 0.5)}
    assert plans["volume"].process == 1
    assert (plans["mask"].process, plans["mask"].shape) == (2, (64, 48))
    assert (plans["mask"].pixel_nm, plans["volume"].pixel_nm) == (0.5, 2.0)
    assert planned_results(steps, "reference", 3, (64, 48), 0.5) == [], "nothing looks at them"


def test_a_manifest_of_0_1_0_names_all_steps_and_means_one() -> None:
    written = {"denoise": None, "align": None, "reconstruct": {"binning": 2}, "segment": None}
    (step,) = steps_of(written)
    assert step.kind == "reconstruct"
    assert step.model_dump() == {
        "reconstruct": {
            "method": "sirt", "iterations": 30, "binning": 2, "thickness": "auto", "step": None,
        }
    }  # fmt: skip
    assert AnalysisStep.model_validate(step.model_dump()) == step


def test_own_steps_are_entry_points_as_well() -> None:
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    written = tomllib.loads(project.read_text())["project"]["entry-points"]["pyrotome.steps"]
    assert {name: installed()[name].value for name in written} == written
    assert list(installed())[: len(written)] == list(written)
    for name in written:
        assert step_class(name).name == name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "Big Name"}, "use lower-case letters"),
        ({"name": "a", "dtype": "object"}, "dtype 'object' is not a number type"),
        ({"name": "a", "dtype": "flot"}, "dtype 'flot' is not a number type"),
        ({"name": "a", "columns": ("b",)}, "give both"),
        ({"name": "a", "axes": ("row", "column"), "sizes": {"row": 2}}, "give both"),
        (
            {"name": "a", "axes": ("row", "column"), "columns": ("b", "b"), "sizes": {"row": 2}},
            "named twice",
        ),
        ({"name": "a", "axes": ("y", "x"), "per": "frame"}, "'frame' as its first axis"),
        ({"name": "a", "axes": ("frame",)}, "'frame' as its first axis"),
        ({"name": "a", "axes": ("grain",)}, "give the length of the axis 'grain' in sizes"),
        ({"name": "a", "axes": ("view",), "per": "run"}, "length of the axis 'view'"),
    ],
)
def test_declarations_that_do_not_agree_are_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ResultSpec(**spec)
