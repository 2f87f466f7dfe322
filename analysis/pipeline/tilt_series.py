"""What is done with a tilt series: align, reconstruct, segment, measure; and its memory.

Pure: images in, results out. `pipeline.py` gathers the images, online and offline alike. A rough
alignment and a growing volume follow every view; the last one starts the thorough work, which
begins where they have got to.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocols.config.pipeline import (
    MAX_NECKS,
    NECK_COLUMNS,
    Align,
    AnalysisStep,
    Measure,
    Reconstruct,
    ResultPlan,
    Segment,
    planned_results,
)
from ..alignment.align import iter_align_series
from ..alignment.coarse import NO_DISPLACEMENT, CoarseAlignment, Displacement, KnownAlignment
from ..alignment.resampling import apply_alignment
from ..core.arrays import Floats
from ..core.outputs import Notice, Output, Parameters, Progress, Result, with_progress
from ..denoise.parameter_search import Choice
from ..particles.necks import iter_measure_necks, warm_up_necks
from ..particles.segmentation import Labels, iter_segment, track
from ..tomography.back_projection import wbp
from ..tomography.image_levels import vacuum_level
from ..tomography.iterative import sirt
from ..tomography.live_reconstruction import LiveReconstruction
from ..tomography.reconstruction import central_slices

# Total-variation minimisation works in a slab so many times as thick as the specimen.
_SLAB = 1.6
_SMALL = Reconstruct(iterations=6, binning=1)


@dataclass
class Memory:
    """What a stack leaves for the next: settings, volume, alignment, which particle is which."""

    volume: Floats | None = None
    alignment: KnownAlignment | None = None
    choice: Choice | None = None
    labels: Labels | None = None
    first_new: int = 1


@dataclass(frozen=True)
class SeriesSteps:
    """The steps of a pipeline that need a whole series; None for those that it has not."""

    align: Align | None = None
    reconstruct: Reconstruct | None = None
    segment: Segment | None = None
    measure: Measure | None = None

    @property
    def binning(self) -> int:
        """Binning of the images before anything is done with them."""
        return self.reconstruct.binning if self.reconstruct is not None else 1


class SeriesAnalysis:
    """One series on its way through the steps: view by view, then as a whole.

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
    views : int
        Number of different angles asked for.
    """

    def __init__(
        self,
        name: str,
        steps: SeriesSteps,
        planned: Mapping[str, ResultPlan],
        memory: Memory,
        views: int,
    ) -> None:
        self.name, self.steps, self.planned, self.memory = name, steps, planned, memory
        self._expected = views
        self._images: list[Floats] = []
        self._tilts: list[float] = []
        self._places: list[int] = []
        self._recorded: list[Floats] = []
        self._coarse: CoarseAlignment | None = None
        self._volume: LiveReconstruction | None = None

    def take(
        self, place: int, image: Floats, tilt_deg: float, recorded: Floats | None = None
    ) -> Iterator[Output]:
        """Take in one view and let the volume grow by it.

        Parameters
        ----------
        place : int
            Place among the asked angles; those that never come are missing.
        image : ndarray
            Shape (rows, columns), binned.
        tilt_deg : float
            Angle read back.
        recorded : ndarray, optional
            The view as it was recorded, binned alike; the image itself without it. Necks are
            measured in it, for what takes the noise away fills the crevice beside a neck.

        Yields
        ------
        Result, Notice or Progress
            Central slices of the volume so far are results that are shown and not recorded.
        """
        started = time.perf_counter()
        self._images.append(image)
        self._recorded.append(image if recorded is None else recorded)
        self._tilts.append(tilt_deg)
        self._places.append(place)
        if self.steps.align is not None:
            if self._coarse is None:
                self._coarse = CoarseAlignment(self.steps.align.method, self.memory.alignment)
            try:
                image = self._coarse.add_view(len(self._images) - 1, place, image, tilt_deg)
            except ValueError as error:
                text = f"{self.name} at {tilt_deg:g} deg cannot be registered yet: {error}"
                yield Notice("warning", text)
                return
        if self.steps.reconstruct is None or "volume" not in self.planned:
            return
        if self._volume is None:
            self._volume = self._new_volume(self.steps.reconstruct)
        for fraction in self._volume.add_view(image, tilt_deg):
            yield Progress(f"taking in {tilt_deg:.1f} deg", fraction)
        for axis, plane in self._volume.central_slices.items():
            yield self._preview(f"preview_{axis}", plane, started)

    def finish(self) -> Iterator[Output]:
        """Carry out every step on the whole series.

        Yields
        ------
        Result, Notice or Progress
            The volume as it has grown comes first, as the result ``preview``, which is shown and
            not recorded.
        """
        if len(self._images) < 2:
            yield Notice(
                "error",
                f"{self.name}: {len(self._images)} usable view(s) of {self._expected}; a volume "
                "needs two or more (what was wrong with the others is told above)",
            )
            return
        if self._volume is not None:
            started = time.perf_counter()
            yield self._preview("preview", self._volume.volume, started)
        images, tilts = np.stack(self._images), np.array(self._tilts)
        recorded = np.stack(self._recorded)
        self._images, self._recorded = [], []
        images, recorded, displacement = yield from self._align(images, recorded, tilts)
        volume = yield from self._reconstruct(images, tilts, displacement)
        if volume is None:
            return
        labels = yield from self._segment(volume)
        if labels is not None:
            yield from self._measure(volume, labels, recorded, tilts)

    def _new_volume(self, step: Reconstruct) -> LiveReconstruction:
        y, z, x = self.planned["volume"].shape
        before, iterations = None, 0
        if step.method == "tv":
            # The volume of the series before is nearly this one.
            before, iterations = self.memory.volume, step.iterations
            before = before if before is not None and before.shape == (y, z, x) else None
        return LiveReconstruction(
            (y, z, x), self._expected, iterations, before, self._thickness(step)
        )

    def _thickness(self, step: Reconstruct) -> int | None:
        """Voxels that are worth while along z: the specimen as the alignment found it, and more."""
        known = self.memory.alignment.thickness_px if self.memory.alignment is not None else None
        if step.thickness == "full" or known is None:
            return None
        return math.ceil(_SLAB * known)

    def _preview(self, name: str, data: Floats, started: float) -> Result:
        more: Parameters = {"views": len(self._tilts), "binning": self.steps.binning}
        elapsed_s = time.perf_counter() - started
        return Result(name, self.name, data, None, elapsed_s, more, record=False)

    def _result(
        self, name: str, data: NDArray[Any], started: float, more: Parameters | None = None
    ) -> Result:
        parameters: Parameters = {**self.planned[name].parameters, **(more or {})}
        elapsed_s = time.perf_counter() - started
        return Result(name, self.name, data, None, elapsed_s, parameters)

    def _align(
        self, images: Floats, recorded: Floats, tilt_deg: NDArray[np.float64]
    ) -> Generator[Output, None, tuple[Floats, Floats, Displacement]]:
        """Aligned images, the recorded ones aligned alike, and where the specimen is now.

        The last is told as a displacement from where the rough alignment had it.
        """
        step, planned = self.steps.align, self.planned.get("aligned")
        if step is None or planned is None or self._coarse is None:
            return images, recorded, NO_DISPLACEMENT
        started = time.perf_counter()
        before = self.memory.alignment
        try:
            found = yield from with_progress(
                "aligning",
                iter_align_series(
                    images,
                    tilt_deg,
                    step.method,
                    pair_shifts=self._coarse.registration.pair_shifts(range(len(images))),
                    start_axis=before.axis if before is not None else None,
                ),
            )
        except ValueError as error:
            yield Notice("error", f"{self.name} is not aligned: {error}")
            return images, recorded, NO_DISPLACEMENT
        for text in found.notes:
            yield Notice("warning", f"{self.name}: {text}")
        aligned = np.full(planned.shape, np.nan, np.float32)
        aligned[self._places] = found.images
        shifts = np.full(self.planned["shifts"].shape, np.nan)
        binning = self.steps.binning
        shifts[self._places] = found.shifts_px * binning
        more: Parameters = {
            "axis_offset_px": found.axis_offset_px * binning,
            "axis_rotation_deg": found.rotation_deg,
            "misfit": found.residual_after,
            "thickness_px": found.thickness_px * binning,
            "correlation_min": float(np.nanmin(found.correlation)),
        }
        yield self._result("aligned", aligned, started, more)
        yield self._result("shifts", shifts, started, more)
        displacement = self._coarse.displacement_to(found.shifts_px, found.axis)
        self.memory.alignment = KnownAlignment(
            found.axis,
            dict(zip(self._places, found.shifts_px, strict=True)),
            found.thickness_px,
        )
        if self.steps.measure is not None:
            recorded = apply_alignment(recorded, found.shifts_px, found.axis)
        return found.images, recorded, displacement

    def _reconstruct(
        self, images: Floats, tilt_deg: NDArray[np.float64], displacement: Displacement
    ) -> Generator[Output, None, Floats | None]:
        step, planned = self.steps.reconstruct, self.planned.get("volume")
        growing, self._volume = self._volume, None
        if step is None or planned is None or growing is None:
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
            more["misfit"] = float(made.residual[-1])
        else:
            # Counts beside the specimen would be smeared over the whole volume.
            levels = np.array([vacuum_level(image) for image in images], np.float32)
            if not growing.serves_as_start:
                growing, displacement = self._new_volume(step), NO_DISPLACEMENT
            thickness = self._thickness(step)
            early = growing.iterations
            yield from with_progress(
                "minimising the total variation",
                growing.finish(
                    images - levels[:, None, None],
                    tilt_deg,
                    step.iterations,
                    displacement,
                    thickness,
                ),
            )
            volume = self.memory.volume = growing.volume
            more |= {
                "misfit": growing.residual,
                "iterations_before_the_last_view": early,
                "thickness_voxels": thickness or planned.shape[1],
            }
        del growing
        yield self._result("volume", volume, started, more)
        for axis, plane in central_slices(volume).items():
            yield self._result(f"slice_{axis}", plane, started, more)
        return volume

    def _segment(self, volume: Floats) -> Generator[Output, None, Labels | None]:
        planned = self.planned.get("labels")
        if self.steps.segment is None or planned is None:
            return None
        started = time.perf_counter()
        labels = yield from with_progress("segmenting", iter_segment(volume))
        if self.memory.labels is not None:
            labels = track(self.memory.labels, labels, first_new=self.memory.first_new)
        if labels.any():
            self.memory.labels = labels
            self.memory.first_new = max(self.memory.first_new, int(labels.max()) + 1)
        numbers = np.unique(labels[labels > 0])
        more: Parameters = {"particles": len(numbers)}
        yield self._result("labels", labels.astype(np.uint16), started, more)
        return labels

    def _measure(
        self, volume: Floats, labels: Labels, recorded: Floats, tilt_deg: NDArray[np.float64]
    ) -> Iterator[Output]:
        planned = self.planned.get("necks")
        if self.steps.measure is None or planned is None:
            return
        started = time.perf_counter()
        voxel_nm = self.planned["volume"].pixel_nm
        necks = yield from with_progress(
            "measuring",
            iter_measure_necks(volume, labels, voxel_nm, images=recorded, tilt_deg=tilt_deg),
        )
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


def warm_up_series(steps: SeriesSteps) -> None:
    """Import and compile what the steps need, by a series that is very small."""
    side, tilts = 32, np.array([-30.0, 0.0, 30.0])
    shape = (side, side)
    written = [
        AnalysisStep.model_validate({kind: settings})
        for kind, settings in (
            ("align", steps.align),
            ("reconstruct", steps.reconstruct and _SMALL.model_copy(
                update={"method": steps.reconstruct.method}
            )),
            ("segment", steps.segment),
            ("measure", steps.measure),
        )
        if settings is not None
    ]  # fmt: skip
    if not written:
        return
    planned = {r.name: r for r in planned_results(written, "series", len(tilts), shape, 1.0)}
    small = SeriesSteps(**{step.kind: step.settings for step in written})  # pyright: ignore
    series = SeriesAnalysis("warm-up", small, planned, Memory(), len(tilts))
    away = np.hypot(*(np.indices(shape) - side / 2))
    ball = np.sqrt(np.maximum(64.0 - away**2, 0.0)).astype(np.float32)
    for place, tilt in enumerate(tilts):
        deque(series.take(place, ball, float(tilt)), 0)
    deque(series.finish(), 0)
    if steps.measure is not None:
        warm_up_necks()
