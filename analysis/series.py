"""What is done with a whole tilt series: align, reconstruct, segment, measure; and its memory.

Pure: images in, results out. `pipeline.py` gathers the images, online and offline alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..protocols.pipeline import (
    MAX_NECKS,
    NECK_COLUMNS,
    Align,
    Measure,
    Reconstruct,
    ResultPlan,
    Segment,
)
from .align import align_series
from .necks import measure_necks
from .project import Floats
from .reconstruct import central_slices, sirt
from .segment import Labels, segment, track
from .total_variation import tv, vacuum_level
from .wbp import wbp

Parameters = dict[str, str | int | float]


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


@dataclass
class Memory:
    """What one series leaves for the next: its volume, and which particle is which."""

    volume: Floats | None = None
    labels: Labels | None = None
    first_new: int = 1


@dataclass(frozen=True)
class SeriesSteps:
    """The steps of a pipeline that need a whole series; None for those that it has not."""

    align: Align | None = None
    reconstruct: Reconstruct | None = None
    segment: Segment | None = None
    measure: Measure | None = None


@dataclass
class SeriesAnalysis:
    """One series on its way through the steps.

    Parameters
    ----------
    name : str
        Of the series.
    steps : SeriesSteps
        What to do.
    planned : dict
        Results with a place in the file, by name.
    memory : Memory
        Shared by the series of one run, in their order.
    """

    name: str
    steps: SeriesSteps
    planned: dict[str, ResultPlan]
    memory: Memory = field(default_factory=Memory)

    def run(
        self, images: Floats, tilt_deg: NDArray[np.float64], views: NDArray[np.intp]
    ) -> Iterator[Output]:
        """Carry out every step.

        Parameters
        ----------
        images : ndarray
            Shape (n, rows, columns), binned.
        tilt_deg : ndarray
            Angles read back, shape (n,).
        views : ndarray of int
            Place of each image among the asked angles, shape (n,); the others are missing.

        Yields
        ------
        Result or Notice
        """
        images = yield from self._align(images, tilt_deg, views)
        volume = yield from self._reconstruct(images, tilt_deg)
        if volume is None:
            return
        labels = yield from self._segment(volume)
        if labels is not None:
            yield from self._measure(volume, labels)

    def _result(
        self, name: str, data: NDArray[Any], started: float, more: Parameters | None = None
    ) -> Result:
        parameters: Parameters = {**self.planned[name].parameters, **(more or {})}
        elapsed_s = time.perf_counter() - started
        return Result(name, self.name, data, None, elapsed_s, parameters)

    def _align(
        self, images: Floats, tilt_deg: NDArray[np.float64], views: NDArray[np.intp]
    ) -> Iterator[Output]:
        step, planned = self.steps.align, self.planned.get("aligned")
        if step is None or planned is None:
            return images
        started = time.perf_counter()
        try:
            found = align_series(images, tilt_deg, step.method)
        except ValueError as error:
            yield Notice("error", f"{self.name} is not aligned: {error}")
            return images
        for text in found.notes:
            yield Notice("warning", f"{self.name}: {text}")
        aligned = np.full(planned.shape, np.nan, np.float32)
        aligned[views] = found.images
        shifts = np.full(self.planned["shifts"].shape, np.nan)
        binning = self.steps.reconstruct.binning if self.steps.reconstruct is not None else 1
        shifts[views] = found.shifts_px * binning
        more: Parameters = {
            "axis_offset_px": found.axis_offset_px * binning,
            "axis_rotation_deg": found.rotation_deg,
            "misfit": found.misfit_after,
            "correlation_min": float(np.nanmin(found.correlation)),
        }
        yield self._result("aligned", aligned, started, more)
        yield self._result("shifts", shifts, started, more)
        return found.images

    def _reconstruct(self, images: Floats, tilt_deg: NDArray[np.float64]) -> Iterator[Output]:
        step, planned = self.steps.reconstruct, self.planned.get("volume")
        if step is None or planned is None:
            return None
        started = time.perf_counter()
        slice_shape = (planned.shape[1], planned.shape[2])
        more: Parameters = {
            "views": len(images),
            "tilt_min_deg": float(tilt_deg.min()),
            "tilt_max_deg": float(tilt_deg.max()),
        }
        if step.method == "wbp":
            volume = wbp(images, tilt_deg, slice_shape=slice_shape)
        elif step.method == "sirt":
            made = sirt(images, tilt_deg, step.iterations, slice_shape=slice_shape)
            volume = made.volume
            more["misfit"] = float(made.misfit[-1])
        else:
            # Counts beside the specimen would be smeared over the whole volume; the volume of
            # the series before is nearly this one.
            levels = np.array([vacuum_level(image) for image in images], np.float32)
            before = self.memory.volume
            made = tv(
                images - levels[:, None, None],
                tilt_deg,
                step.iterations,
                slice_shape=slice_shape,
                initial=before if before is not None and before.shape == planned.shape else None,
            )
            volume = self.memory.volume = made.volume
            more["misfit"] = float(made.misfit[-1])
        yield self._result("volume", volume, started, more)
        for axis, plane in central_slices(volume).items():
            yield self._result(f"slice_{axis}", plane, started, more)
        return volume

    def _segment(self, volume: Floats) -> Iterator[Output]:
        planned = self.planned.get("labels")
        if self.steps.segment is None or planned is None:
            return None
        started = time.perf_counter()
        labels = segment(volume)
        if self.memory.labels is not None:
            labels = track(self.memory.labels, labels, first_new=self.memory.first_new)
        if labels.any():
            self.memory.labels = labels
            self.memory.first_new = max(self.memory.first_new, int(labels.max()) + 1)
        numbers = np.unique(labels[labels > 0])
        more: Parameters = {"particles": len(numbers)}
        yield self._result("labels", labels.astype(np.uint16), started, more)
        return labels

    def _measure(self, volume: Floats, labels: Labels) -> Iterator[Output]:
        planned = self.planned.get("necks")
        if self.steps.measure is None or planned is None:
            return
        started = time.perf_counter()
        necks = measure_necks(volume, labels, self.planned["volume"].pixel_nm)
        if len(necks) > MAX_NECKS:
            yield Notice("warning", f"{self.name}: {len(necks)} pairs, {MAX_NECKS} are recorded")
        table = np.full(planned.shape, np.nan)
        for row, neck in enumerate(necks[:MAX_NECKS]):
            table[row] = [asdict(neck)[column] for column in NECK_COLUMNS]
        ratios = [neck.neck_to_particle for neck in necks]
        more: Parameters = {"pairs": len(necks)}
        if ratios:
            more["neck_ratio_median"] = float(np.median(ratios))
        yield self._result("necks", table, started, more)
