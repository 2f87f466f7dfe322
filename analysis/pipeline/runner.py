"""Run the steps of one stack of frames, check what they give, and contain what fails.

A step of another package is not trusted: an exception, or a result that does not match its
declaration, becomes an error notice that names the step. The other steps go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.pipeline import RUN_RESULTS, ResultPlan
from ...protocols.steps import (
    Frame,
    Notice,
    Output,
    Parameters,
    Result,
    ResultSpec,
    Series,
    StackInfo,
    Step,
    View,
)
from ...protocols.steps.base import PROVIDED

AnyStep = Step[Any]


class BadResult(ValueError):
    """A result that does not match what its step has declared."""


@dataclass
class StepRunner:
    """The steps at work on one stack, in their order.

    Parameters
    ----------
    stack : StackInfo
        The frames.
    steps : sequence of Step
        Those that have something to give for this stack.
    plans : mapping
        Results that the file has room for, by name; those of the run among them.
    """

    stack: StackInfo
    steps: Sequence[AnyStep]
    plans: Mapping[str, ResultPlan]
    _specs: dict[str, dict[str, ResultSpec]] = field(init=False)
    _needs: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self._specs = {
            step.name: {spec.name: spec for spec in step.outputs(step.settings)}
            for step in self.steps
        }
        self._needs = {step.name: step.needs(step.settings) for step in self.steps}
        self._wanted = {name for needed in self._needs.values() for name in needed}
        named = self._wanted | {name for step in self.steps for name in step.after}
        # Steps on whose results others depend.
        self._givers = {name for name, specs in self._specs.items() if named & specs.keys()}

    def takes(self, provided: str) -> bool:
        """Whether any step takes one of the inputs that the pipeline gives."""
        return provided in self._wanted

    @property
    def treats_series(self) -> bool:
        """Whether any step has something to do when the whole stack is there."""
        plain = (Step.series, Step.after_views)
        return any(
            method not in plain
            for step in self.steps
            for method in (type(step).series, type(step).after_views)
        )

    def frame(self, frame: Frame) -> Iterator[Output]:
        """Treat one frame by every step; `frame` is changed by them."""
        where = f"{self.stack.name} frame {frame.index}"
        for step in self.steps:
            before = frame.image
            done = yield from self._contained(step, where, step.frame, frame, index=frame.index)
            if frame.image.shape != before.shape:
                shape, frame.image, done = frame.image.shape, before, False
                yield Notice(
                    "error",
                    f"{where}: step '{step.name}' left an image of shape {shape}; "
                    f"{before.shape} is needed",
                )
            if not done and step.name in self._givers:
                frame.usable = False  # a series of which some frames are treated shows neither
            if not frame.usable:
                return

    def after_frames(self) -> Iterator[Output]:
        """Let every step conclude the frames of the stack."""
        for step in self.steps:
            yield from self._contained(step, self.stack.name, step.after_frames)

    def view(self, view: View) -> Iterator[Output]:
        """Treat one view by every step; `view` is changed by them."""
        where = f"{self.stack.name} at {view.tilt_deg:g} deg"
        for step in self.steps:
            done = yield from self._contained(step, where, step.view, view)
            if not view.usable or (not done and step.name in self._givers):
                return

    def after_views(self) -> Iterator[Output]:
        """Let every step publish what the views have given."""
        for step in self.steps:
            yield from self._contained(step, self.stack.name, step.after_views)

    def series(self, series: Series, *, has_views: bool = True) -> Iterator[Output]:
        """Treat the whole series by every step that has its inputs.

        Parameters
        ----------
        series : Series
            Is changed by the steps.
        has_views : bool
            Whether there are enough views for the steps that take them.
        """
        for step in self.steps:
            needed = set(self._needs[step.name])
            if not has_views and set(PROVIDED) & needed:
                continue
            missing = needed - set(PROVIDED) - series.results.keys()
            if missing and has_views:
                text = f"step '{step.name}' is left out: there is no '{min(missing)}'"
                yield Notice("warning", f"{self.stack.name}: {text}")
            if not missing:
                yield from self._contained(
                    step, self.stack.name, step.series, series, results=series.results
                )

    def _contained(
        self,
        step: AnyStep,
        where: str,
        work: Callable[..., Iterator[Output]],
        *arguments: Any,
        index: int | None = None,
        results: dict[str, NDArray[Any]] | None = None,
    ) -> Generator[Output, None, bool]:
        """Run a generator of a step; whether it came to its end."""
        started = time.perf_counter()
        try:
            for output in work(*arguments):
                if not isinstance(output, Result):
                    yield output
                    continue
                try:
                    complete = self._complete(step, output, index, started)
                except BadResult as error:
                    yield Notice("error", f"{where}: step '{step.name}' {error}; it is left out")
                    continue
                if isinstance(complete, _Cut):
                    yield Notice("warning", f"{self.stack.name}: {complete.text}")
                    complete = complete.result
                if results is not None and complete.name in self._wanted:
                    results[complete.name] = complete.data
                yield complete
        except Exception as error:  # one step must not end the others
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            yield Notice(
                "error", f"{where}: step '{step.name}' failed ({problem}); the other steps go on"
            )
            return False
        return True

    def _complete(
        self, step: AnyStep, result: Result, index: int | None, started: float
    ) -> Result | _Cut:
        """Check a result and add what the pipeline knows of it."""
        spec = self._specs[step.name].get(result.name)
        if spec is None or (spec.per != "run" and self.stack.kind not in spec.stacks):
            raise BadResult(
                f"gave the result '{result.name}', which it does not declare for a stack of the "
                f"kind '{self.stack.kind}'"
            )
        if (spec.per == "frame") != (index is not None):
            raise BadResult(f"gave '{spec.name}', declared per {spec.per}, at the wrong time")
        shape = self._shape(spec)
        data, dropped = _as_declared(result.data, spec, shape)
        plan = self.plans.get(spec.name)
        made = replace(
            result,
            series=RUN_RESULTS if spec.per == "run" else self.stack.name,
            data=data,
            index=index,
            elapsed_s=time.perf_counter() - started,
            parameters=_parameters(plan, result.parameters),
            record=spec.recorded and plan is not None,
        )
        if not dropped:
            return made
        rows = f"{len(data) + dropped} {spec.axes[0]}s, {len(data)} are recorded"
        return _Cut(made, rows)

    def _shape(self, spec: ResultSpec) -> tuple[int, ...]:
        if spec.per == "run":
            plan = self.plans.get(spec.name)
            if plan is None:
                raise BadResult(f"gave '{spec.name}', for which the file has no room")
            return plan.shape
        shape = self.stack.shapes[spec.name]
        return shape[1:] if spec.per == "frame" else shape


@dataclass(frozen=True)
class _Cut:
    """A table with more rows than the file has room for, cut to those."""

    result: Result
    text: str


def _as_declared(data: Any, spec: ResultSpec, shape: tuple[int, ...]) -> tuple[NDArray[Any], int]:
    """Data of the declared shape and type, rows of a table filled up or cut; and rows cut off."""
    if not isinstance(data, np.ndarray):
        try:
            data = np.asarray(data, spec.dtype)
        except (TypeError, ValueError) as error:
            raise BadResult(f"gave '{spec.name}' as {type(data).__name__}: {error}") from None
    dropped = 0
    if spec.columns and data.ndim == 2 and data.shape[1] == shape[1] and len(data) != shape[0]:
        dropped = max(0, len(data) - shape[0])
        table = np.full(shape, np.nan if data.dtype.kind == "f" else 0, data.dtype)
        table[: len(data)] = data[: shape[0]]
        data = table
    if data.shape != shape or data.dtype != np.dtype(spec.dtype):
        raise BadResult(
            f"gave '{spec.name}' with shape {data.shape} and dtype {data.dtype}, but declares "
            f"{shape} and {spec.dtype}"
        )
    return data, dropped


def _parameters(plan: ResultPlan | None, more: Parameters) -> Parameters:
    """Settings of the step and the figures that it adds, as plain numbers and text."""
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in more.items()
    }
    wrong = [name for name, value in plain.items() if not isinstance(value, str | int | float)]
    if wrong:
        raise BadResult(f"gave the parameter '{wrong[0]}', which is not a number or text")
    return {**(plan.parameters if plan is not None else {}), **plain}
