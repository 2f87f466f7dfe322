"""The analysis pipeline: what is computed from which frame, and what comes out of it.

No process, no socket, no file: the online worker and offline processing feed frames in and take
results out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..protocols.manifest import RunManifest, StackPlan
from ..protocols.pipeline import AnalysisStep, Denoise, ResultPlan
from .denoise import denoise_frame
from .project import Floats
from .reconstruct import binned
from .series import Memory, Notice, Output, Result, SeriesAnalysis, SeriesSteps

# Frames whose asked angles differ by less are one view, exposed several times.
_SAME_VIEW_DEG = 1e-6


class BadFrame(ValueError):
    """A frame that does not belong where it says, or cannot be used."""


@dataclass
class _View:
    """Binned frames of one asked angle, summed up as they arrive."""

    total: Floats
    tilt_sum_deg: float
    count: int = 1


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
    _seen: set[int] = field(default_factory=set[int])
    _finished: bool = False
    _views: dict[int, _View] = field(default_factory=dict[int, _View])

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

    @property
    def _gathers(self) -> bool:
        """Whether something is to be done with the whole stack."""
        return any(r.name in ("aligned", "volume") for r in self.plan.results)

    def _planned_view(self) -> tuple[int, ...]:
        """Shape of a binned frame, from the results planned for it."""
        aligned, volume = self.result("aligned"), self.result("volume")
        if aligned is not None:
            return aligned.shape[1:]
        return (volume.shape[0], volume.shape[2]) if volume is not None else ()

    @property
    def _binning(self) -> int:
        return self.steps.reconstruct.binning if self.steps.reconstruct is not None else 1

    def take_complete(self) -> bool:
        """Whether the stack has just become complete; true once."""
        if self._finished or not self.complete:
            return False
        self._finished = True
        return True

    def lost(self, index: int) -> Iterator[Output]:
        """Take note of a frame that will not come."""
        self._claim(index)
        yield Notice("warning", f"{self.plan.name} frame {index} is lost; analysed without it")

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

        Raises
        ------
        BadFrame
            If it belongs elsewhere, came before, or cannot be used. It counts as come, so that
            the series can be finished without it.
        """
        self._claim(index)
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
        planned = self.result("denoised")
        if self.denoise is not None and planned is not None:
            if values.shape != planned.shape[1:]:
                raise BadFrame(f"{where} has shape {values.shape}, {planned.shape[1:]} was planned")
            try:
                settings = self.denoise
                values, variance = denoise_frame(
                    values, settings.method, settings.noise, settings.variance
                )
            except ValueError as error:
                raise BadFrame(f"{where} cannot be denoised: {error}") from error
            parameters = {**planned.parameters, "variance_used": round(variance, 4)}
            elapsed_s = time.perf_counter() - started
            yield Result(planned.name, self.plan.name, values, index, elapsed_s, parameters)
        if dark or not self._gathers:
            return
        if tilt_deg is None or not np.isfinite(tilt_deg):
            tilt_deg = self.plan.tilt_deg[index]
            yield Notice("warning", f"{where}: no tilt was read back, {tilt_deg:g} deg assumed")
        image = binned(values, self._binning)
        if image.shape != self._planned_view():
            raise BadFrame(
                f"{where} is {image.shape} when binned by {self._binning}, "
                f"{self._planned_view()} was planned"
            )
        self._add_view(index, image, tilt_deg)

    def finish(self) -> Iterator[Output]:
        """Do what needs the whole series; without effect on other stacks.

        Yields
        ------
        Result or Notice
        """
        if not self._gathers:
            return
        name, views = self.plan.name, self._views
        self._views = {}
        if len(views) < 2:
            yield Notice(
                "error",
                f"{name}: {len(views)} usable view(s); a volume needs two or more",
            )
            return
        asked = list(dict.fromkeys(_view_of(angle) for angle in self.plan.tilt_deg))
        images = np.stack([view.total / np.float32(view.count) for view in views.values()])
        tilts = np.array([view.tilt_sum_deg / view.count for view in views.values()])
        places = np.array([asked.index(key) for key in views])
        planned = {result.name: result for result in self.plan.results}
        yield from SeriesAnalysis(name, self.steps, planned, self.memory).run(images, tilts, places)

    def _claim(self, index: int) -> None:
        if not 0 <= index < self.plan.frames:
            raise BadFrame(
                f"{self.plan.name} has {self.plan.frames} frames; none has index {index}"
            )
        if index in self._seen:
            raise BadFrame(f"{self.plan.name} frame {index} came twice; the second is ignored")
        self._seen.add(index)

    def _add_view(self, index: int, image: Floats, tilt_deg: float) -> None:
        key = _view_of(self.plan.tilt_deg[index])
        view = self._views.get(key)
        if view is None:
            self._views[key] = _View(image, tilt_deg)
        else:
            view.total += image
            view.tilt_sum_deg += tilt_deg
            view.count += 1


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
        denoise: Any = known.pop("denoise", None)
        series_steps = SeriesSteps(**known)  # pyright: ignore[reportArgumentType]
        memory = Memory()
        self.denoiser: Literal["bm3d", "fast"] | None = denoise.method if denoise else None
        self.uses_projector = series_steps.align is not None or series_steps.reconstruct is not None
        self.stacks = {
            stack.name: StackAnalysis(
                stack,
                denoise,
                series_steps if stack.kind == "series" else SeriesSteps(),
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

    def unfinished(self) -> list[str]:
        """Tell what an end of the run now would leave undone."""
        return [text for stack in self.stacks.values() if (text := stack.unfinished)]
