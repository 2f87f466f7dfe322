"""The analysis pipeline: the steps of a recipe at work on every stack of frames of a run.

No process, no socket, no file: the online worker and offline processing feed frames in and take
results out. What one frame needs is done at once; what concerns its whole series comes as tasks,
to be done in their order whenever no frame waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...protocols.config.pipeline import (
    AnalysisStep,
    ResultPlan,
    planned_results,
    stack_info,
)
from ...protocols.messages.manifest import RunManifest, StackPlan
from ...protocols.steps import Notice, Online, Output, Progress, Result, SeriesContext
from ...protocols.steps.base import view_key
from ..core.outputs import Task
from .runner import StepRunner
from .stack import StackAnalysis

__all__ = [
    "Notice",
    "Output",
    "Pipeline",
    "PlannedStack",
    "Progress",
    "Result",
    "StackAnalysis",
    "Task",
]


@dataclass(frozen=True)
class PlannedStack:
    """A stack of frames for the pipeline.

    Parameters
    ----------
    plan : StackPlan
        The stack and the results planned for it.
    shape : tuple of int
        Rows and columns of a frame.
    pixel_nm : float
        Sampling of a frame.
    marked_value : float, optional
        Value by which the detector marks a pixel that it did not measure, less the offset of the
        file.
    """

    plan: StackPlan
    shape: tuple[int, int]
    pixel_nm: float
    marked_value: float | None = None


class Pipeline:
    """The steps of a recipe, for every stack of frames of a run.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The recipe's pipeline.
    stacks : sequence of PlannedStack
        The stacks of frames; those without planned results are left out.
    value_offset : int
        What was added to every pixel before it was recorded.
    run_results : sequence of ResultPlan
        Results planned for the run as a whole.
    known : sequence of object
        What steps find in their context from the start, such as `References` of the detector.

    Attributes
    ----------
    online : Online or None
        What tells the steps how much waits, in the pipeline of a run that goes on.
    """

    def __init__(
        self,
        steps: Sequence[AnalysisStep],
        stacks: Sequence[PlannedStack],
        value_offset: int = 0,
        run_results: Sequence[ResultPlan] = (),
        known: Sequence[object] = (),
    ) -> None:
        self._steps = steps
        self.online: Online | None = None
        context = SeriesContext()
        for value in known:
            context.put(value)
        made = (_stack_of(steps, stack, value_offset, run_results, context) for stack in stacks)
        self.stacks = {stack.plan.name: stack for stack in made if stack is not None}

    @classmethod
    def of(cls, manifest: RunManifest) -> Pipeline:
        """Make the pipeline of a run.

        Raises
        ------
        ValidationError
            If a step of the run is not installed here.
        """
        steps = [AnalysisStep.model_validate(step) for step in manifest.analysis]
        beam = manifest.beam
        marked = manifest.marked_value
        if marked is not None:
            marked -= manifest.value_offset
        stacks = [PlannedStack(plan, beam.frame, beam.pixel_nm, marked) for plan in manifest.stacks]
        pipeline = cls(
            steps, stacks, manifest.value_offset, manifest.run_results, known=[online := Online()]
        )
        pipeline.online = online
        return pipeline

    @property
    def view_bytes(self) -> int:
        """Memory of one view that waits for its turn; 0 if nothing is done with views."""
        return max((stack.view_bytes for stack in self.stacks.values()), default=0)

    def warm_up(self) -> None:
        """Import and compile what the steps need, which takes seconds the first time."""
        _rehearse(self._steps)
        done: set[str] = set()
        for stack in self.stacks.values():
            for step in stack.steps:
                if step.name not in done:
                    done.add(step.name)
                    step.warm_up()

    def unfinished(self) -> list[str]:
        """Tell what an end of the run now would leave undone."""
        return [text for stack in self.stacks.values() if (text := stack.unfinished)]


def _stack_of(
    steps: Sequence[AnalysisStep],
    stack: PlannedStack,
    value_offset: int,
    run_results: Sequence[ResultPlan],
    context: SeriesContext,
) -> StackAnalysis | None:
    """The analysis of one stack; None if no step has anything to give for it."""
    plan = stack.plan
    views = len({view_key(angle) for angle in plan.tilt_deg})
    info = stack_info(
        steps, plan.kind, plan.tilt_deg, stack.shape, stack.pixel_nm, name=plan.name, views=views
    )
    plans = {result.name: result for result in (*run_results, *plan.results)}
    shapes = {**info.shapes, **{name: result.shape for name, result in plans.items()}}
    info = replace(
        info, shapes=shapes, marked_value=stack.marked_value, tilt_axis_deg=plan.tilt_axis_deg
    )
    at_work = [
        step.step_class(step.settings, info, context)
        for step in steps
        if any(spec.name in plans and plan.kind in spec.stacks for spec in step.outputs)
    ]
    if not at_work:
        return None
    return StackAnalysis(plan, StepRunner(info, at_work, plans), value_offset)


def _rehearse(steps: Sequence[AnalysisStep]) -> None:
    """Run the steps that can be tried quickly on a tiny series of a ball."""
    side, tilt_deg = 32, (-30.0, 0.0, 30.0)
    quick = [
        step.model_copy(update={"settings": settings})
        for step in steps
        if (settings := step.step_class.rehearsal(step.settings)) is not None
    ]
    results = tuple(planned_results(quick, "series", len(tilt_deg), (side, side), 1.0))
    plan = StackPlan(
        name="warm-up", kind="series", frames=len(tilt_deg), tilt_deg=tilt_deg, results=results
    )
    stacks = Pipeline(quick, [PlannedStack(plan, (side, side), 1.0)]).stacks
    if plan.name not in stacks:
        return
    stack = stacks[plan.name]
    away = np.hypot(*(np.indices((side, side)) - side / 2))
    ball = np.sqrt(np.maximum(64.0 - away**2, 0.0)).astype(np.float32)
    for index, tilt in enumerate(tilt_deg):
        deque(stack.frame(index, ball, tilt), 0)
    for task in stack.take_tasks():
        deque(task.outputs, 0)
