"""One stack of frames in the pipeline: frames come in, views and the series become tasks.

What a frame needs is done at once; what concerns its view or its whole series is a task, done when
no frame waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.messages.manifest import StackPlan
from ...protocols.steps import RECORDED_VIEWS, SINGLE_FRAMES, Frame, Notice, Output, View
from ...protocols.steps.base import PROVIDED, view_key
from ..core.arrays import binned
from ..core.offsets import Offset
from ..core.outputs import Task
from .gathering import FrameOffsets, GatheredSeries, GatheredView, MeanView, one_frame
from .runner import AnyStep, StepRunner

# A frame of which less is measured shows nothing.
_LEAST_MEASURED = 0.5


class BadFrame(ValueError):
    """A frame that does not belong where it says, or cannot be used."""


class StackAnalysis:
    """The pipeline at work on one stack of frames.

    Parameters
    ----------
    plan : StackPlan
        The stack.
    runner : StepRunner
        Its steps.
    value_offset : int
        What was added to every pixel before it was recorded; subtracted first.
    """

    def __init__(self, plan: StackPlan, runner: StepRunner, value_offset: int = 0) -> None:
        self.plan = plan
        self._runner, self._value_offset = runner, value_offset
        self._seen: set[int] = set()
        self._tasks: list[Task] = []
        self._gathers = plan.kind == "series" and any(runner.takes(name) for name in PROVIDED)
        self._keeps_frames = self._gathers and runner.takes(SINGLE_FRAMES)
        self._keeps_recorded = self._gathers and runner.takes(RECORDED_VIEWS)
        frames = Counter(view_key(angle) for angle in plan.tilt_deg)
        self._views = {
            key: GatheredView(index, count) for index, (key, count) in enumerate(frames.items())
        }
        self._series = GatheredSeries()
        self._offsets = FrameOffsets()

    @property
    def complete(self) -> bool:
        """Whether every frame has come or is known to be lost."""
        return len(self._seen) >= self.plan.frames

    @property
    def unfinished(self) -> str:
        """What an end of the run would leave undone; empty if nothing."""
        if not self._gathers or self.complete or not self._seen:
            return ""
        return f"{self.plan.name}: only {len(self._seen)} of {self.plan.frames} frames came"

    @property
    def view_bytes(self) -> int:
        """Memory of one view that waits; 0 if nothing is done with views."""
        stack = self._runner.stack
        rows, columns = stack.image_shape
        images = 1 + (-(-stack.frames // max(1, stack.views)) if self._keeps_frames else 0)
        return 4 * rows * columns * images if self._gathers else 0

    @property
    def steps(self) -> Sequence[AnyStep]:
        """The steps at work."""
        return self._runner.steps

    def take_tasks(self) -> list[Task]:
        """Hand over the tasks that have arisen since the last call."""
        tasks, self._tasks = self._tasks, []
        return tasks

    def note_offset(self, index: int, offset_nm: Sequence[float], sd_nm: Sequence[float]) -> None:
        """Note where the specimen was measured to be in a frame.

        It may be told before the frame comes or after; what is known when the view is treated, and
        at the latest when the series is, serves as the start of its registration. May be called
        from any thread.

        Parameters
        ----------
        index : int
            Of the frame in the stack, from 0.
        offset_nm : sequence of float
            Place of the specimen (y, x), positive towards higher rows and columns.
        sd_nm : sequence of float
            Standard deviation of both. With a number that is not finite nothing is noted.
        """
        offset = Offset.of(np.asarray(offset_nm, float), np.asarray(sd_nm, float))
        if offset is not None and 0 <= index < self.plan.frames:
            self._offsets.note(index, offset)

    def lost(self, index: int, *, told: bool = True) -> Iterator[Output]:
        """Note that a frame will not come; `told` false: it was given up, which is no loss."""
        try:
            self._claim(index)
        except BadFrame as error:
            yield Notice("error", str(error))
            return
        if told:
            angle = f"{self.plan.tilt_deg[index]:g} deg"
            yield Notice(
                "warning", f"{self.plan.name} frame {index} ({angle}) is lost; analysed without it"
            )
        self._settle(index)
        yield from self._conclude()

    def frame(
        self,
        index: int,
        data: NDArray[Any],
        tilt_deg: float | None,
        time_s: float | None = None,
        exposure_s: float | None = None,
    ) -> Iterator[Output]:
        """Do with one frame all that can be done with it alone.

        Parameters
        ----------
        index : int
            In the stack, from 0.
        data : ndarray
            The frame as recorded, shape (rows, columns).
        tilt_deg : float or None
            Angle read back; without it the nominal angle is taken.
        time_s, exposure_s : float, optional
            Middle of the exposure on the clock of the run, and its duration.

        Yields
        ------
        Result or Notice
            An error for a frame that belongs elsewhere, came before, or cannot be used; the
            series is finished without it.
        """
        try:
            self._claim(index)
        except BadFrame as error:
            yield Notice("error", str(error))
            return
        try:
            yield from self._treat(index, data, tilt_deg, time_s, exposure_s)
        except BadFrame as error:
            yield Notice("error", str(error))
        finally:
            self._settle(index)
        yield from self._conclude()

    def _treat(
        self,
        index: int,
        data: NDArray[Any],
        tilt_deg: float | None,
        time_s: float | None,
        exposure_s: float | None,
    ) -> Iterator[Output]:
        where = f"{self.plan.name} frame {index}"
        planned = self._runner.stack.frame_shape
        if data.shape != planned:
            raise BadFrame(f"{where} has shape {data.shape}; {planned} was planned")
        values = np.subtract(data, self._value_offset, dtype=np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            self._check_gaps(where, float(finite.mean()))
        dark = bool(values.min() == values.max())
        if dark and not self.plan.is_dark:
            yield Notice(
                "warning",
                f"{where} is {float(values[0, 0]):g} everywhere (beam blanked, detector off?): "
                "passed through as it is, and left out of any volume",
            )
        frame = Frame(index, values, values, tilt_deg, dark, time_s=time_s, exposure_s=exposure_s)
        yield from self._runner.frame(frame)
        if dark or not frame.usable or not self._gathers:
            return
        if tilt_deg is None or not np.isfinite(tilt_deg):
            tilt_deg = self.plan.tilt_deg[index]
            yield Notice("warning", f"{where}: no tilt was read back, {tilt_deg:g} deg assumed")
        self._add_to_view(frame, tilt_deg)

    def _check_gaps(self, where: str, measured: float) -> None:
        """Refuse a frame with NaN, unless the first step fills what is missing."""
        if not any(step.takes_gaps for step in self.steps[:1]):
            raise BadFrame(f"{where} holds NaN or infinity; it is left out of the analysis")
        if measured < _LEAST_MEASURED:
            raise BadFrame(
                f"{where} holds NaN or infinity in {1 - measured:.0%} of its pixels; it is left "
                "out of the analysis"
            )

    def _add_to_view(self, frame: Frame, tilt_deg: float) -> None:
        binning = self._runner.stack.binning
        image = binned(frame.image, binning)
        view = self._views[view_key(self.plan.tilt_deg[frame.index])]
        view.total = image if view.total is None else view.total + image
        if self._keeps_recorded and frame.recorded is not frame.image:
            plain = binned(frame.recorded, binning)
            view.recorded = plain if view.recorded is None else view.recorded + plain
        self._add_weights(view, frame, binning)
        if self._keeps_frames:
            view.single.append(one_frame(frame, tilt_deg, binning))
        view.tilt_sum_deg += tilt_deg
        view.count += 1
        view.frames.append(frame.index)

    def _add_weights(self, view: GatheredView, frame: Frame, binning: int) -> None:
        """Add what was measured of a frame; views without gaps have no weights."""
        if frame.mask is None and view.weights is None:
            return
        shape = self._runner.stack.image_shape
        if view.weights is None:
            view.weights = np.full(shape, view.count, np.float32)
        if frame.mask is None:
            view.weights += np.float32(1)
        else:
            view.weights += binned(~frame.mask, binning)

    def _claim(self, index: int) -> None:
        if not 0 <= index < self.plan.frames:
            raise BadFrame(
                f"{self.plan.name} has {self.plan.frames} frames; none has index {index}"
            )
        if index in self._seen:
            raise BadFrame(f"{self.plan.name} frame {index} came twice; the second is ignored")
        self._seen.add(index)

    def _settle(self, index: int) -> None:
        """Make tasks of what is complete after this frame: its view, its series."""
        if self._gathers:
            view = self._views[view_key(self.plan.tilt_deg[index])]
            view.awaited -= 1
            if view.awaited == 0 and view.total is not None:
                self._add(self._view(view.mean()))
        if self.complete and self._runner.treats_series:
            self._add(self._whole())

    def _conclude(self) -> Iterator[Output]:
        """Conclude the frames when all have come; the frames of the next stack may depend on it."""
        if self.complete:
            yield from self._runner.after_frames()

    def _add(self, pieces: Iterator[Output]) -> None:
        self._tasks.append(Task(self.plan.name, pieces))

    def _view(self, view: MeanView) -> Iterator[Output]:
        """Treat one view."""
        self._series.add(view, keeps_recorded=self._keeps_recorded)
        offset = self._offsets.of(view.frames)
        shown = View(
            view.index,
            view.image,
            view.tilt_deg,
            weights=view.weights,
            offset_nm=None if offset is None else offset.place,
            offset_sd_nm=None if offset is None else offset.sd,
            frames=view.single,
        )
        yield from self._runner.view(shown)
        if shown.frames is not None:
            self._series.single.append(shown.frames)

    def _whole(self) -> Iterator[Output]:
        """Treat the whole series."""
        views = len(self._series.images)
        has_views = views >= 2 or not self._gathers
        if not has_views:
            yield Notice(
                "error",
                f"{self.plan.name}: {views} usable view(s) of {len(self._views)}; a volume needs "
                "two or more (see the messages above for what is wrong with the others)",
            )
        else:
            yield from self._runner.after_views()
        gathered, self._series = self._series, GatheredSeries()
        series = gathered.stacked(self._offsets)
        del gathered
        yield from self._runner.series(series, has_views=has_views)
