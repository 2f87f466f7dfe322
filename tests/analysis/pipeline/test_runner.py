"""Steps of other packages: what they give is checked, and what fails is named and contained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from pyrotome.analysis.pipeline.runner import StepRunner
from pyrotome.protocols.config.pipeline import ResultPlan
from pyrotome.protocols.steps import (
    VIEWS,
    Frame,
    Notice,
    Output,
    Result,
    ResultSpec,
    Series,
    SeriesContext,
    StackInfo,
    Step,
    StepSettings,
    View,
)

ROWS, COLUMNS, VIEW_COUNT = 6, 8, 3
LENGTHS = {"frame": VIEW_COUNT, "view": VIEW_COUNT, "y": ROWS, "z": COLUMNS, "x": COLUMNS}


class Sizes(Step[StepSettings]):
    """Gives a table, a number and a mean image."""

    name = "sizes"
    inputs = (VIEWS,)
    specs: ClassVar = (
        ResultSpec.table("sizes", ("grain", "radius_nm"), 4, row="grain"),
        ResultSpec.scalar("largest", "nm"),
        ResultSpec("mean", ("y", "x")),
        ResultSpec.scalar("brightness", per="frame"),
        ResultSpec.scalar("trend", per="run"),
    )
    give: Callable[[Any], Iterator[Output]] | None = None

    @classmethod
    def outputs(cls, settings: StepSettings) -> tuple[ResultSpec, ...]:
        return cls.specs

    def series(self, series: Series) -> Iterator[Output]:
        assert self.give is not None
        yield from self.give(self)


class Doubled(Sizes):
    """Needs the mean image of `Sizes`."""

    name = "doubled"
    inputs = ("mean",)
    specs: ClassVar = (ResultSpec("doubled", ("y", "x")),)

    def series(self, series: Series) -> Iterator[Output]:
        yield self.result("doubled", 2 * series.results["mean"])


def runner(*classes: type[Sizes], kind: Any = "series") -> StepRunner:
    specs = [spec for cls in classes for spec in cls.specs]
    shapes = {spec.name: spec.shape(LENGTHS) for spec in specs}
    stack = StackInfo(
        "series_001", kind, (0.0,) * VIEW_COUNT, VIEW_COUNT, (ROWS, COLUMNS), 2.0, 1, shapes
    )
    plans = {
        spec.name: ResultPlan(
            name=spec.name, step="sizes", process=1, parameters={"setting": 7},
            shape=shapes[spec.name], dtype=spec.dtype, axes=spec.axes, pixel_nm=2.0,
        )
        for spec in specs
    }  # fmt: skip
    context = SeriesContext()
    return StepRunner(stack, [cls(StepSettings(), stack, context) for cls in classes], plans)


def a_series() -> Series:
    images = np.ones((VIEW_COUNT, ROWS, COLUMNS), np.float32)
    return Series(images, np.zeros(VIEW_COUNT), (0, 1, 2))


def outputs(give: Callable[[Sizes], Iterator[Output]], *classes: type[Sizes]) -> list[Output]:
    steps = runner(*(classes or (Sizes,)))
    first = steps.steps[0]
    assert isinstance(first, Sizes)
    first.give = give
    return list(steps.series(a_series()))


def only(found: list[Output]) -> Result:
    (result,) = found
    assert isinstance(result, Result)
    return result


def test_a_short_table_is_filled_up_and_a_long_one_cut() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    result = only(outputs(lambda step: iter([step.result("sizes", rows[:3], {"grains": 3})])))
    assert result.data.shape == (4, 2)
    assert np.array_equal(result.data[:3], rows[:3])
    assert np.isnan(result.data[3]).all()
    assert result.parameters == {"setting": 7, "grains": 3}
    assert result.record
    notice, result = outputs(lambda step: iter([step.result("sizes", rows)]))
    assert notice == Notice("warning", "series_001: 6 grains, 4 are recorded")
    assert isinstance(result, Result)
    assert np.array_equal(result.data, rows[:4])


def test_a_plain_number_is_a_scalar_and_a_result_of_the_run_belongs_to_the_entry() -> None:
    result = only(outputs(lambda step: iter([step.result("largest", 3)])))
    assert (result.data.shape, result.data.dtype, float(result.data)) == ((), np.float64, 3.0)
    assert result.series == "series_001"
    assert only(outputs(lambda step: iter([step.result("trend", 1.5)]))).series == "entry"
    more = only(outputs(lambda s: iter([s.result("largest", 3.0, {"n": np.int64(4)})])))  # type: ignore[dict-item]
    assert type(more.parameters["n"]) is int


WRONG: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "another shape": ("mean", np.zeros((2, 2), np.float32), {}, r"shape \(2, 2\).*s \(6, 8\)"),
    "another type": ("mean", np.zeros((ROWS, COLUMNS)), {}, "dtype float64, but .* float32"),
    "not declared": ("median", 1.0, {}, "gave the result 'median', which it does not declare"),
    "no number": ("largest", "many", {}, "gave 'largest' as str"),
    "columns missing": ("sizes", np.zeros((3, 1)), {}, r"shape \(3, 1\)"),
    "per frame": ("brightness", 1.0, {}, "declared per frame, at the wrong time"),
    "parameter": ("largest", 1.0, {"list": [1]}, "parameter 'list', which is not a number or text"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_result_that_was_not_declared_so_is_left_out(
    wrong: tuple[str, Any, dict[str, Any], str],
) -> None:
    name, data, parameters, said = wrong

    def give(step: Sizes) -> Iterator[Output]:
        yield step.result(name, data, parameters)
        yield step.result("largest", 2.0)

    notice, result = outputs(give)
    assert isinstance(notice, Notice)
    assert notice.level == "error"
    assert notice.message.startswith("series_001: step 'sizes' ")
    assert re.search(said, notice.message)
    assert isinstance(result, Result)
    assert result.name == "largest"


def test_a_step_that_fails_ends_neither_the_others_nor_those_that_do_not_need_it() -> None:
    def give(step: Sizes) -> Iterator[Output]:
        yield step.result("mean", np.ones((ROWS, COLUMNS), np.float32))
        raise KeyError("grain")

    mean, failed, doubled = outputs(give, Sizes, Doubled)
    assert isinstance(failed, Notice)
    assert failed.message == (
        "series_001: step 'sizes' failed (KeyError: 'grain'); the other steps go on"
    )
    assert isinstance(mean, Result)
    assert isinstance(doubled, Result)
    assert np.array_equal(doubled.data, 2 * mean.data)
    (missing,) = outputs(lambda step: iter(()), Sizes, Doubled)
    assert missing == Notice(
        "warning", "series_001: step 'doubled' is left out: there is no 'mean'"
    )


class Changing(Sizes):
    """Changes frames and views, as the test says."""

    name = "changing"
    specs: ClassVar = (ResultSpec("changed", ("frame", "y", "x"), per="frame"),)
    image: ClassVar[np.ndarray[Any, Any] | None] = None

    def frame(self, frame: Frame) -> Iterator[Output]:
        if self.image is None:
            raise RuntimeError("on purpose")
        frame.image = self.image
        yield self.result("changed", frame.image)

    def view(self, view: View) -> Iterator[Output]:
        view.usable = False
        yield Notice("info", "not this one")


class Following(Sizes):
    """Counts the frames and views that reach it."""

    name = "following"
    after = ("changed",)
    reached: ClassVar[list[Any]] = []

    def frame(self, frame: Frame) -> Iterator[Output]:
        self.reached.append(frame.image)
        yield self.result("brightness", frame.image.mean())

    def view(self, view: View) -> Iterator[Output]:
        self.reached.append(view)
        return iter(())


def test_a_frame_that_could_not_be_treated_is_kept_from_the_steps_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Following, "reached", [])
    steps = runner(Changing, Following)
    before = np.zeros((ROWS, COLUMNS), np.float32)
    frame = Frame(1, before, before)
    (notice,) = steps.frame(frame)
    assert isinstance(notice, Notice)
    assert notice.message.startswith("series_001 frame 1: step 'changing' failed")
    assert not frame.usable
    monkeypatch.setattr(Changing, "image", np.ones((2, 2), np.float32))
    *_, notice = steps.frame(frame := Frame(2, before, before))
    assert isinstance(notice, Notice)
    assert "left an image of shape (2, 2); (6, 8) is needed" in notice.message
    assert not frame.usable
    assert not Following.reached
    monkeypatch.setattr(Changing, "image", np.ones((ROWS, COLUMNS), np.float32))
    changed, brightness = steps.frame(frame := Frame(0, before, before))
    assert isinstance(changed, Result)
    assert isinstance(brightness, Result)
    assert (brightness.index, float(brightness.data)) == (0, 1.0)
    assert frame.usable
    assert frame.recorded is before
    list(steps.view(View(0, before, 0.0)))
    assert len(Following.reached) == 1, "the view goes no further"
