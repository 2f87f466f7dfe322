"""The pipeline as data: what its steps leave, and in which order they may stand."""

from __future__ import annotations

from pyrotome.protocols.config.pipeline import (
    NECK_COLUMNS,
    TRIAL_COLUMNS,
    AnalysisStep,
    ResultPlan,
    planned_results,
)


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
