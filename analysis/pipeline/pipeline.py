"""The analysis pipeline: what is computed from which frame, and what comes out of it.

No process, no socket, no file: the online worker and offline processing feed frames in and take
results out. What one frame needs (denoising) is done at once; what concerns its whole series comes
as tasks, to be done in their order whenever no frame waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.pipeline import AnalysisStep, Denoise, ResultPlan
from ...protocols.messages.manifest import RunManifest, StackPlan
from ..core.arrays import Floats, binned
from ..core.outputs import Notice, Output, Progress, Result, Task
from ..denoise.frame import denoise_frame, warm_up
from ..denoise.reference_frames import ReferenceFrames, denoising_settings
from .tilt_series import Memory, SeriesAnalysis, SeriesSteps, warm_up_series

__all__ = ["Notice", "Output", "Pipeline", "Progress", "Result", "StackAnalysis", "Task"]

# Frames whose asked angles differ by less are one view, exposed several times.
_SAME_VIEW_DEG = 1e-6


class BadFrame(ValueError):
    """A frame that does not belong where it says, or cannot be used."""


@dataclass
class _View:
    """Binned frames of one asked angle, summed up as they arrive."""

    place: int
    awaited: int
    total: Floats | None = None
    recorded: Floats | None = None
    tilt_sum_deg: float = 0.0
    count: int = 0


@dataclass
class StackAnalysis:
    """The pipeline at work on one stack of frames.

    Parameters
    ----------
    plan : StackPlan
        The stack and the results planned for it.
    denoise : Denoise or None
        What to do with each frame.
    steps : SeriesSteps
        What to do with the whole stack.
    value_offset : int
        What was added to every pixel before it was recorded; taken off first.
    memory : Memory
        Shared by the series of one run.
    """

    plan: StackPlan
    denoise: Denoise | None
    steps: SeriesSteps = field(default_factory=SeriesSteps)
    value_offset: int = 0
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self._seen: set[int] = set()
        self._tasks: list[Task] = []
        planned = {result.name: result for result in self.plan.results}
        # Whether something is to be done with the whole stack.
        self._gathers = "aligned" in planned or "volume" in planned
        frames = Counter(_view_of(angle) for angle in self.plan.tilt_deg)
        self._views = {
            key: _View(place, count) for place, (key, count) in enumerate(frames.items())
        }
        self._series = SeriesAnalysis(
            self.plan.name, self.steps, planned, self.memory, len(self._views)
        )
        self._tuning = (
            ReferenceFrames(planned["tuning"], self.denoise)
            if "tuning" in planned and self.denoise is not None
            else None
        )

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

    def result(self, name: str) -> ResultPlan | None:
        """Find a planned result."""
        return next((r for r in self.plan.results if r.name == name), None)

    def take_tasks(self) -> list[Task]:
        """Hand over the tasks that have arisen since this was last asked."""
        tasks, self._tasks = self._tasks, []
        return tasks

    def lost(self, index: int) -> Iterator[Output]:
        """Take note of a frame that will not come."""
        try:
            self._claim(index)
        except BadFrame as error:
            yield Notice("error", str(error))
            return
        angle = f"{self.plan.tilt_deg[index]:g} deg"
        yield Notice(
            "warning", f"{self.plan.name} frame {index} ({angle}) is lost; analysed without it"
        )
        self._settle(index)
        yield from self._tuned()

    def frame(self, index: int, data: NDArray[Any], tilt_deg: float | None) -> Iterator[Output]:
        """Do with one frame all that can be done with it alone.

        Parameters
        ----------
        index : int
            Position in the stack, from 0.
        data : ndarray
            The frame as recorded, shape (rows, columns).
        tilt_deg : float or None
            Angle read back; the asked one stands in for it.

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
            yield from self._single(index, data, tilt_deg)
        except BadFrame as error:
            yield Notice("error", str(error))
        finally:
            self._settle(index)
        yield from self._tuned()

    def _single(self, index: int, data: NDArray[Any], tilt_deg: float | None) -> Iterator[Output]:
        where = f"{self.plan.name} frame {index}"
        started = time.perf_counter()
        if data.ndim != 2:
            raise BadFrame(f"{where} has shape {data.shape}; rows and columns were expected")
        values = np.subtract(data, self.value_offset, dtype=np.float32)
        if not np.isfinite(values).all():
            raise BadFrame(f"{where} holds NaN or infinity; it is left out of the analysis")
        dark = bool(values.min() == values.max())
        if dark:
            yield Notice(
                "warning",
                f"{where} is {float(values[0, 0]):g} everywhere (beam blanked, detector off?): "
                "passed through as it is, and left out of any volume",
            )
        elif self._tuning is not None:
            self._tuning.add_frame(values)
        planned, recorded = self.result("denoised"), values
        if self.denoise is not None and planned is not None:
            if values.shape != planned.shape[1:]:
                raise BadFrame(f"{where} has shape {values.shape}, {planned.shape[1:]} was planned")
            noise, asked = denoising_settings(self.denoise, self.memory.choice)
            try:
                values, variance = denoise_frame(
                    values, self.denoise.method, noise, asked, self.denoise.effort
                )
            except ValueError as error:
                raise BadFrame(f"{where} cannot be denoised: {error}") from error
            more = {"noise_used": noise, "variance_used": round(variance, 4)}
            parameters = {**planned.parameters, **more}
            elapsed_s = time.perf_counter() - started
            yield Result(planned.name, self.plan.name, values, index, elapsed_s, parameters)
        if dark or not self._gathers:
            return
        if tilt_deg is None or not np.isfinite(tilt_deg):
            tilt_deg = self.plan.tilt_deg[index]
            yield Notice("warning", f"{where}: no tilt was read back, {tilt_deg:g} deg assumed")
        image = binned(values, self.steps.binning)
        if image.shape != self._planned_view():
            raise BadFrame(
                f"{where} is {image.shape} when binned by {self.steps.binning}, "
                f"{self._planned_view()} was planned"
            )
        view = self._views[_view_of(self.plan.tilt_deg[index])]
        view.total = image if view.total is None else view.total + image
        if self.steps.measure is not None and recorded is not values:
            plain = binned(recorded, self.steps.binning)
            view.recorded = plain if view.recorded is None else view.recorded + plain
        view.tilt_sum_deg += tilt_deg
        view.count += 1

    def _planned_view(self) -> tuple[int, ...]:
        """Shape of a binned frame, from the results planned for it."""
        aligned, volume = self.result("aligned"), self.result("volume")
        if aligned is not None:
            return aligned.shape[1:]
        return (volume.shape[0], volume.shape[2]) if volume is not None else ()

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
        if not self._gathers:
            return
        view = self._views[_view_of(self.plan.tilt_deg[index])]
        view.awaited -= 1
        if view.awaited == 0 and view.total is not None:
            share, tilt_deg = np.float32(1 / view.count), view.tilt_sum_deg / view.count
            recorded = view.recorded * share if view.recorded is not None else None
            self._add(self._series.take(view.place, view.total * share, tilt_deg, recorded))
            view.total = view.recorded = None
        if self.complete:
            self._add(self._series.finish())

    def _add(self, pieces: Iterator[Output]) -> None:
        self._tasks.append(Task(self.plan.name, pieces))

    def _tuned(self) -> Iterator[Output]:
        """Choose the denoiser's settings by the stack that has just become complete.

        At once, for the frames that come next are denoised by them.
        """
        if self._tuning is not None and self.complete:
            self.memory.choice = yield from self._tuning.finish(self.plan.name)


def _view_of(angle_deg: float) -> int:
    """Key of an asked angle; the same for frames of one view."""
    return round(angle_deg / _SAME_VIEW_DEG)


class Pipeline:
    """The steps of a recipe, for every stack of frames of a run.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The recipe's pipeline.
    stacks : sequence of StackPlan
        The stacks of frames and their planned results.
    value_offset : int
        What was added to every pixel before it was recorded.
    """

    def __init__(
        self, steps: Sequence[AnalysisStep], stacks: Sequence[StackPlan], value_offset: int = 0
    ) -> None:
        known = {step.kind: step.settings for step in steps}
        self._denoise: Denoise | None = known.pop("denoise", None)  # pyright: ignore
        self._steps = SeriesSteps(**known)  # pyright: ignore[reportArgumentType]
        memory = Memory()
        self.stacks = {
            stack.name: StackAnalysis(
                stack,
                self._denoise,
                self._steps if stack.kind == "series" else SeriesSteps(),
                value_offset,
                memory,
            )
            for stack in stacks
            if stack.results
        }

    @classmethod
    def of(cls, manifest: RunManifest) -> Pipeline:
        """Make the pipeline of a run."""
        return cls(manifest.analysis, manifest.stacks, manifest.value_offset)

    @property
    def view_bytes(self) -> int:
        """Memory of one view that waits to be taken in; 0 if nothing is done with whole series."""
        shapes = [
            result.shape[1:] if result.name == "aligned" else (result.shape[0], result.shape[2])
            for stack in self.stacks.values()
            for result in stack.plan.results
            if result.name in ("aligned", "volume")
        ]
        return max((4 * rows * columns for rows, columns in shapes), default=0)

    def warm_up(self) -> None:
        """Import and compile what the steps need, which takes seconds the first time."""
        if self._denoise is not None:
            warm_up(self._denoise.method)
        warm_up_series(self._steps)

    def unfinished(self) -> list[str]:
        """Tell what an end of the run now would leave undone."""
        return [text for stack in self.stacks.values() if (text := stack.unfinished)]
