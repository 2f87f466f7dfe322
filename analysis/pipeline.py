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
from ..protocols.pipeline import (
    AVAILABLE,
    AnalysisStep,
    Denoise,
    Reconstruct,
    ResultPlan,
    unavailable,
)
from .denoise import denoise_bm3d
from .project import Floats
from .reconstruct import binned, central_slices, sirt

Parameters = dict[str, str | int | float]
# Frames whose asked angles differ by less are one view, exposed several times.
_SAME_VIEW_DEG = 1e-6


@dataclass(frozen=True)
class Result:
    """Something computed.

    Attributes
    ----------
    name, series : str
        Which result of which stack of frames.
    data : ndarray
        Contiguous, little-endian.
    index : int or None
        Position of the frame in its stack, for results of single frames.
    elapsed_s : float
        Wall time that it took.
    parameters : dict
        What it was computed with.
    """

    name: str
    series: str
    data: NDArray[Any]
    index: int | None
    elapsed_s: float
    parameters: Parameters


@dataclass(frozen=True)
class Notice:
    """Something that the operator should know."""

    level: Literal["info", "warning", "error"]
    message: str


Output = Result | Notice


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
    denoise, reconstruct : settings or None
        The steps to carry out.
    value_offset : int
        What was added to every pixel before it was recorded; taken off first.
    """

    plan: StackPlan
    denoise: Denoise | None
    reconstruct: Reconstruct | None
    value_offset: int = 0
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
        if self.reconstruct is None or self.complete or not self._seen:
            return ""
        return f"{self.plan.name}: only {len(self._seen)} of {self.plan.frames} frames came"

    def result(self, step: str) -> ResultPlan | None:
        """Find the result planned for a step of the pipeline."""
        return next((r for r in self.plan.results if r.step == step), None)

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
        planned = self.result("denoise")
        if self.denoise is not None and planned is not None:
            if values.shape != planned.shape[1:]:
                raise BadFrame(f"{where} has shape {values.shape}, {planned.shape[1:]} was planned")
            try:
                values, variance = denoise_bm3d(values, self.denoise.noise, self.denoise.variance)
            except ValueError as error:
                raise BadFrame(f"{where} cannot be denoised: {error}") from error
            parameters = {**planned.parameters, "variance_used": round(variance, 4)}
            elapsed_s = time.perf_counter() - started
            yield Result(planned.name, self.plan.name, values, index, elapsed_s, parameters)
        planned = self.result("reconstruct")
        if self.reconstruct is None or planned is None or dark:
            return
        if tilt_deg is None or not np.isfinite(tilt_deg):
            tilt_deg = self.plan.tilt_deg[index]
            yield Notice("warning", f"{where}: no tilt was read back, {tilt_deg:g} deg assumed")
        image = binned(values, self.reconstruct.binning)
        slices, _, width = planned.shape
        if image.shape != (slices, width):
            raise BadFrame(
                f"{where} is {image.shape} when binned by {self.reconstruct.binning}, "
                f"{(slices, width)} was planned"
            )
        self._add_view(index, image, tilt_deg)

    def finish(self) -> Iterator[Output]:
        """Do what needs the whole series; without effect on other stacks.

        Yields
        ------
        Result or Notice
        """
        planned = self.result("reconstruct")
        if self.reconstruct is None or planned is None:
            return
        name, views = self.plan.name, list(self._views.values())
        self._views = {}
        if len(views) < 2:
            yield Notice(
                "error",
                f"{name}: {len(views)} usable view(s); a volume needs two or more",
            )
            return
        started = time.perf_counter()
        images = np.stack([view.total / view.count for view in views])
        tilts = np.array([view.tilt_sum_deg / view.count for view in views])
        _, height, width = planned.shape
        made = sirt(images, tilts, self.reconstruct.iterations, slice_shape=(height, width))
        parameters: Parameters = {
            **planned.parameters,
            "views": len(views),
            "tilt_min_deg": float(tilts.min()),
            "tilt_max_deg": float(tilts.max()),
            "misfit": float(made.misfit[-1]),
        }
        elapsed_s = time.perf_counter() - started
        yield Result(planned.name, name, made.volume, None, elapsed_s, parameters)
        for axis, plane in central_slices(made.volume).items():
            yield Result(f"slice_{axis}", name, plane, None, elapsed_s, parameters)

    def _claim(self, index: int) -> None:
        if not 0 <= index < self.plan.frames:
            raise BadFrame(
                f"{self.plan.name} has {self.plan.frames} frames; none has index {index}"
            )
        if index in self._seen:
            raise BadFrame(f"{self.plan.name} frame {index} came twice; the second is ignored")
        self._seen.add(index)

    def _add_view(self, index: int, image: Floats, tilt_deg: float) -> None:
        key = round(self.plan.tilt_deg[index] / _SAME_VIEW_DEG)
        view = self._views.get(key)
        if view is None:
            self._views[key] = _View(image, tilt_deg)
        else:
            view.total += image
            view.tilt_sum_deg += tilt_deg
            view.count += 1


class Pipeline:
    """The steps of a recipe, for every stack of frames of a run.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The recipe's pipeline; steps that this version cannot do are left out (`skipped`).
    stacks : sequence of StackPlan
        The stacks of frames and their planned results.
    value_offset : int
        What was added to every pixel before it was recorded.
    """

    def __init__(
        self, steps: Sequence[AnalysisStep], stacks: Sequence[StackPlan], value_offset: int = 0
    ) -> None:
        self.skipped = unavailable(steps)
        denoise: Denoise | None = None
        reconstruct: Reconstruct | None = None
        for step in steps:
            settings = step.settings
            if getattr(settings, "method", None) not in AVAILABLE.get(step.kind, ()):
                continue
            if isinstance(settings, Denoise):
                denoise = settings
            elif isinstance(settings, Reconstruct):
                reconstruct = settings
        self.uses_bm3d = denoise is not None
        self.uses_projector = reconstruct is not None
        self.stacks = {
            stack.name: StackAnalysis(
                stack, denoise, reconstruct if stack.kind == "series" else None, value_offset
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
