"""The mean of dark frames is the dark reference of the stacks that follow."""

from __future__ import annotations

import numpy as np
import pytest

from pyrotome.analysis.pipeline.pipeline import Pipeline, PlannedStack
from pyrotome.protocols.config.pipeline import AnalysisStep, complete_pipeline, planned_results
from pyrotome.protocols.messages.manifest import StackPlan
from pyrotome.protocols.steps import Notice, Result

SIDE = 48
TILTS = (-10.0, -5.0, 0.0, 5.0, 10.0)


def specimen() -> np.ndarray:
    away = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2))
    return 400.0 * np.exp(-((away / 9.0) ** 2))


def run(dark_stacks: int, pattern: np.ndarray, settings: dict) -> tuple[np.ndarray, list, dict]:
    """The aligned image at no tilt, all notices, and the results of the dark stacks."""
    random = np.random.default_rng(3)
    steps = complete_pipeline(
        [
            AnalysisStep.model_validate({"correct": settings}),
            AnalysisStep.model_validate({"align": {"method": "centre-of-mass"}}),
        ]
    )
    darks = [(f"dark_{n:03d}", "dark", (0.0,) * 30) for n in range(1, dark_stacks + 1)]
    planned = [
        PlannedStack(
            StackPlan(
                name=name,
                kind=kind,  # pyright: ignore[reportArgumentType]
                frames=len(tilts),
                tilt_deg=tilts,
                results=tuple(planned_results(steps, kind, len(tilts), (SIDE, SIDE), 1.0)),  # pyright: ignore[reportArgumentType]
            ),
            (SIDE, SIDE),
            1.0,
        )
        for name, kind, tilts in [*darks, ("series_001", "series", TILTS)]
    ]
    notices, dark_results, aligned = [], {}, np.zeros((SIDE, SIDE))
    for name, stack in Pipeline(steps, planned).stacks.items():
        # An earlier dark stack knows nothing of the pattern that the detector has now.
        now = pattern if name in (darks[-1][0] if darks else "", "series_001") else 3 * pattern
        for index, tilt in enumerate(stack.plan.tilt_deg):
            image = now if name.startswith("dark") else now + specimen()
            frame = random.poisson(image).astype(np.uint16)
            outputs = list(stack.frame(index, frame, tilt))
            outputs += [o for task in stack.take_tasks() for o in task.outputs]
            for output in outputs:
                if isinstance(output, Notice):
                    notices.append(output.message)
                elif isinstance(output, Result) and name.startswith("dark"):
                    dark_results[name, output.name] = output
                elif isinstance(output, Result) and output.name == "aligned":
                    aligned = output.data[2] if output.data.ndim == 3 else output.data
    return aligned, notices, dark_results


@pytest.fixture
def pattern() -> np.ndarray:
    """Offsets of columns and pixels of a detector, in counts."""
    random = np.random.default_rng(5)
    return 100.0 + 60.0 * random.random(SIDE)[None, :] + 30.0 * random.random((SIDE, SIDE))


def likeness(image: np.ndarray) -> float:
    return float(np.corrcoef(image.ravel(), specimen().ravel())[0, 1])


def test_the_latest_dark_frames_are_taken_away(pattern: np.ndarray):
    plain, _, _ = run(0, pattern, {})
    dark, notices, results = run(2, pattern, {})
    mean = results["dark_002", "dark_mean"]
    assert mean.parameters["dark_frames"] == 30
    assert np.abs(mean.data - pattern).mean() < 3
    assert likeness(dark) > 0.99
    assert likeness(dark) > likeness(plain) + 0.01
    assert not any("everywhere" in text for text in notices)


def test_off_is_off(pattern: np.ndarray):
    _, _, results = run(1, pattern, "off")  # type: ignore[arg-type]
    assert results == {}


def test_blank_dark_frames_are_no_reason_to_worry():
    dark, notices, results = run(1, np.zeros((SIDE, SIDE)), {})
    assert results["dark_001", "dark_mean"].data.max() == 0
    assert not any("dark_001" in text for text in notices)
    assert likeness(dark) > 0.99
