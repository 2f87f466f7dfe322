"""The step ``merge``: the frames of one tilt added up where the specimen was in each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...protocols.steps import (
    SINGLE_FRAMES,
    VIEWS,
    Notice,
    Output,
    Parameters,
    ResultSpec,
    Series,
    SeriesContext,
    SingleFrames,
    StackInfo,
    Step,
    StepSettings,
    View,
)
from ...protocols.steps.tables import DRIFT_COLUMNS
from ..core.arrays import Floats

if TYPE_CHECKING:
    from ..views.drift import FrameDrift
    from ..views.merge import MergedFrames


class MergeSettings(StepSettings):
    """How the frames of one tilt are merged; there is one way so far."""

    method: Literal["cross-correlation"] = "cross-correlation"


@dataclass(frozen=True)
class _Merged:
    """What has become of a view."""

    image: Floats
    weights: Floats | None


class MergeStep(Step[MergeSettings]):
    """Find the drift between the frames of one tilt, and add them up without it.

    Gives ``merged``, the sum of counts of each view, ``merged_variance``, the variance of each of
    its pixels, and ``drift``, a row a view. The steps that follow see the merged views; as counts
    they are one frame a view.
    """

    name = "merge"
    summary = "frames of one tilt, free of drift, added up; the drift and its error"
    Settings: ClassVar = MergeSettings
    inputs = (VIEWS, SINGLE_FRAMES)
    after = ("denoised",)

    def __init__(self, settings: MergeSettings, stack: StackInfo, context: SeriesContext) -> None:
        super().__init__(settings, stack, context)
        self._merged: dict[int, _Merged] = {}
        self._table = np.full((stack.views, len(DRIFT_COLUMNS)), np.nan)

    @classmethod
    def outputs(cls, settings: MergeSettings) -> tuple[ResultSpec, ...]:
        """Declare the sums, their variance, and the drift."""
        del settings
        views = ("view", "y", "x")
        return (
            ResultSpec("merged", views, unit="counts"),
            ResultSpec("merged_variance", views),
            ResultSpec("drift", ("view", "column"), "float64", columns=DRIFT_COLUMNS),
        )

    @classmethod
    def rehearsal(cls, settings: MergeSettings) -> MergeSettings:
        """Return the settings: a tiny series is merged quickly."""
        return settings

    def view(self, view: View) -> Iterator[Output]:
        """Merge the frames of a view."""
        from ..views.drift import frame_drift
        from ..views.merge import merge_frames

        frames = view.frames
        if frames is None:
            return
        count = len(frames.counts)
        self._table[view.index, 0] = count
        where = f"{self.stack.name} at {view.tilt_deg:g} deg"
        if count == 1:
            frames.merged = 1
            return
        drift = frame_drift(frames.counts, *_times(frames))
        if not drift.believed:
            yield Notice(
                "warning",
                f"{where}: the {count} frames show too little in common to tell a drift; they are "
                "added up as they are",
            )
        elif not drift.steady:
            yield Notice(
                "warning",
                f"{where}: the drift over the {count} frames is not steady; each is placed by "
                "itself, and the drift within a frame is less well known",
            )
        self._note(view.index, drift, timed=frames.time_s is not None)
        merged = merge_frames(frames.counts, drift, frames.weights)
        weights = None if float(merged.weights.min()) >= 1 else merged.weights
        image = self._image(frames, drift, merged)
        self._merged[view.index] = _Merged(image, weights)
        view.image, view.weights = image, weights
        view.frames = SingleFrames(
            merged.total[None],
            np.array([float(frames.tilt_deg.mean())]),
            weights=None if weights is None else weights[None],
            variance=merged.variance[None],
            merged=count,
        )

    def _image(self, frames: SingleFrames, drift: FrameDrift, merged: MergedFrames) -> Floats:
        """The view as the steps before have treated its frames: a mean, as all views are."""
        from ..views.merge import merge_frames

        count = len(frames.counts)
        if frames.images is None:
            return merged.total / np.float32(count * self.stack.binning**2)
        return merge_frames(frames.images, drift, frames.weights).total / np.float32(count)

    def _note(self, view: int, drift: FrameDrift, *, timed: bool) -> None:
        """Fill in the row of a view."""
        pixel_nm = self.stack.pixel_nm
        if not drift.believed:
            return
        interval = float(np.diff(drift.time).mean())
        y, x = drift.velocity_px * pixel_nm
        sd = float(np.sqrt(np.mean(drift.velocity_sd_px**2))) * pixel_nm
        speed = math.hypot(y, x)
        direction_sd = math.degrees(min(math.pi, sd / speed)) if speed > 0 else 180.0
        self._table[view, 1:] = (
            y * interval, x * interval, sd * interval,
            speed if timed else math.nan, sd if timed else math.nan,
            math.degrees(math.atan2(y, x)), direction_sd, float(drift.steady),
        )  # fmt: skip

    def series(self, series: Series) -> Iterator[Output]:
        """Put the merged views in the place of the plain means, and tell the drift."""
        merged, self._merged = self._merged, {}
        if any(one.weights is not None for one in merged.values()) and series.weights is None:
            series.weights = np.ones(series.images.shape, np.float32)
        for number, view in enumerate(series.view_indices):
            found = merged.get(view)
            if found is None:
                continue
            series.images[number] = found.image
            if series.weights is not None:
                series.weights[number] = 1 if found.weights is None else found.weights
        yield from self._results(series)

    def _results(self, series: Series) -> Iterator[Output]:
        shape = self.shape("merged")
        totals, variance = (np.full(shape, np.nan, np.float32) for _ in range(2))
        pairs = zip(series.view_indices, series.frames or (), strict=False)
        for number, (view, frames) in enumerate(pairs):
            totals[view] = frames.counts.sum(axis=0)
            spread = frames.counts if frames.variance is None else frames.variance
            variance[view] = spread.sum(axis=0)
            if series.recorded is not None:
                share = np.float32(1 / (frames.merged * len(frames.counts)))
                series.recorded[number] = totals[view] * share / np.float32(self.stack.binning**2)
        table = self._table
        more: Parameters = {"views_merged": int((table[:, 0] > 1).sum())}
        for name in ("drift_sd_nm_per_frame", "speed_nm_per_s", "speed_sd_nm_per_s"):
            column = table[:, DRIFT_COLUMNS.index(name)]
            if np.isfinite(column).any():
                more[f"{name}_median"] = float(np.nanmedian(column))
        yield self.result("merged", totals, more)
        yield self.result("merged_variance", variance, more)
        yield self.result("drift", table, more)


def _times(frames: SingleFrames) -> tuple[np.ndarray | None, float | None]:
    """Times of the frames; without them they follow each other without a pause."""
    times = frames.time_s
    if times is None or not (np.diff(times) > 0).all():
        frames.time_s = None
        return None, None
    return times, frames.exposure_s
