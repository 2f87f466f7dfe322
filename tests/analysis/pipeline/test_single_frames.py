"""Single frames of each view: in order, binned to sums, with times, masks and what a step makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyrotome.analysis.pipeline.runner import StepRunner
from pyrotome.analysis.pipeline.stack import StackAnalysis
from pyrotome.protocols.config.pipeline import ResultPlan
from pyrotome.protocols.messages.manifest import StackPlan
from pyrotome.protocols.steps import (
    SINGLE_FRAMES,
    VIEWS,
    Frame,
    Output,
    Result,
    ResultSpec,
    Series,
    SeriesContext,
    SingleFrames,
    StackInfo,
    Step,
    StepSettings,
    View,
)

TILTS = (0.0, 0.0, 10.0, 10.0)
SHAPE = (4, 6)
SPEC = ResultSpec.scalar("frames_seen")


class Watching(Step[StepSettings]):
    """Masks a pixel of the second frame, and keeps what it is given."""

    name = "watching"
    inputs = (VIEWS, SINGLE_FRAMES)
    views: list[SingleFrames]
    whole: tuple[SingleFrames, ...] | None = None

    @classmethod
    def outputs(cls, settings: StepSettings) -> tuple[ResultSpec, ...]:
        return (SPEC,)

    def frame(self, frame: Frame) -> Iterator[Output]:
        if frame.index == 1:
            frame.mask = np.zeros(SHAPE, np.bool_)
            frame.mask[0, 0] = True
        if frame.index >= 2:
            frame.image = frame.image * 2
        return iter(())

    def view(self, view: View) -> Iterator[Output]:
        assert view.frames is not None
        self.views = [*getattr(self, "views", []), view.frames]
        if view.index == 1:
            view.frames = replace(view.frames, counts=view.frames.counts[:1] * 0, merged=2)
        return iter(())

    def series(self, series: Series) -> Iterator[Output]:
        self.whole = series.frames
        yield self.result("frames_seen", float(len(series.frames or ())))


class Plain(Watching):
    """Takes views only."""

    inputs = (VIEWS,)

    def view(self, view: View) -> Iterator[Output]:
        assert view.frames is None
        return iter(())


def stack(cls: type[Watching]) -> tuple[StackAnalysis, Watching]:
    info = StackInfo("series_001", "series", TILTS, 2, SHAPE, 1.0, 2, {SPEC.name: ()})
    plan = ResultPlan(
        name=SPEC.name, step="watching", process=1, parameters={}, shape=(), dtype="float64",
        axes=(), pixel_nm=1.0,
    )  # fmt: skip
    step = cls(StepSettings(), info, SeriesContext())
    planned = StackPlan(name="series_001", kind="series", frames=4, tilt_deg=TILTS, results=(plan,))
    return StackAnalysis(planned, StepRunner(info, [step], {SPEC.name: plan})), step


def fed(analysis: StackAnalysis, order: tuple[int, ...] = (0, 1, 2, 3)) -> list[Any]:
    outputs: list[Any] = []
    for index in order:
        values = np.arange(24).reshape(SHAPE) + 100 * index
        outputs += analysis.frame(index, values, TILTS[index] + 0.1 * index, 5.0 + index, 0.5)
        for task in analysis.take_tasks():
            outputs += task.outputs
    return outputs


def test_frames_come_one_by_one_with_sums_times_and_masks() -> None:
    analysis, step = stack(Watching)
    outputs = fed(analysis, (1, 0, 3, 2))
    first, second = step.views
    squares = np.arange(24).reshape(SHAPE).reshape(2, 2, 3, 2).sum(axis=(1, 3))
    assert first.counts[0] == pytest.approx(squares)
    assert first.counts[1] == pytest.approx(squares + 400)
    assert first.tilt_deg == pytest.approx([0.0, 0.1])
    assert first.time_s == pytest.approx([5.0, 6.0])
    assert first.exposure_s == 0.5
    assert first.images is None
    assert first.weights is not None
    assert first.weights[0].min() == 1
    assert first.weights[1, 0, 0] == 0.75
    assert second.images is not None
    assert second.images[0] == pytest.approx(2 * second.counts[0] / 4)
    # What a step leaves of a view is what the series holds.
    assert step.whole is not None
    assert [one.merged for one in step.whole] == [1, 2]
    assert not step.whole[1].counts.any()
    (found,) = (out for out in outputs if isinstance(out, Result))
    assert found.data == 2


def test_they_are_kept_only_where_a_step_takes_them() -> None:
    analysis, step = stack(Plain)
    fed(analysis)
    assert step.whole is None
    assert analysis.view_bytes < stack(Watching)[0].view_bytes


def test_a_frame_that_was_given_up_is_no_loss() -> None:
    analysis, _ = stack(Watching)
    outputs = fed(analysis, (0, 1))
    for index in (2, 3):
        outputs += analysis.lost(index, told=False)
        for task in analysis.take_tasks():
            outputs += task.outputs
    said = [getattr(out, "message", "") for out in outputs]
    assert not any("is lost" in text for text in said)
    assert analysis.complete
