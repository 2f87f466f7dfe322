"""A tilt series through the steps of a pipeline, without a file: what several tests compare."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrotome.analysis.pipeline.pipeline import Notice, Pipeline, PlannedStack, Result
from pyrotome.protocols.config.pipeline import AnalysisStep, complete_pipeline, planned_results
from pyrotome.protocols.messages.manifest import StackPlan


def analysed(
    counts: NDArray[Any],
    angles: NDArray[np.float64],
    steps: list[dict[str, Any]],
    marked: float | None = None,
) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Results, warnings, and figures beside the mask.

    Parameters
    ----------
    counts, angles
        Frames, shape (n, rows, columns), and their tilts in degrees.
    steps
        As they stand in a recipe.
    marked
        The value by which the detector marks a pixel.
    """
    pipeline = complete_pipeline([AnalysisStep.model_validate(step) for step in steps])
    shape = (counts.shape[1], counts.shape[2])
    views = len({round(float(angle), 6) for angle in angles})
    plan = StackPlan(
        name="series_001",
        kind="series",
        frames=len(counts),
        tilt_deg=tuple(map(float, angles)),
        results=tuple(planned_results(pipeline, "series", len(counts), shape, 2.0, views)),
    )
    stack = Pipeline(pipeline, [PlannedStack(plan, shape, 2.0, marked)]).stacks["series_001"]
    found: dict[str, Any] = {"outliers": np.zeros(len(counts))}
    warnings: list[str] = []
    figures: dict[str, Any] = {}
    for index, frame in enumerate(counts):
        outputs = list(stack.frame(index, frame, float(angles[index])))
        outputs += [output for task in stack.take_tasks() for output in task.outputs]
        for output in outputs:
            if isinstance(output, Notice):
                warnings.append(output.message)
            elif isinstance(output, Result) and output.index is not None:
                found[output.name][output.index] = output.data
            elif isinstance(output, Result):
                found[output.name] = output.data
                figures |= output.parameters if output.name == "mask" else {}
    return found, warnings, figures
