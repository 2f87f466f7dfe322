"""Frames of one angle gathered to a view, and views gathered to a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...protocols.steps import Frame, Series, SingleFrames
from ..core.arrays import Floats, binned
from ..core.offsets import Offset

_UNKNOWN = ((np.nan, np.nan), (np.nan, np.nan))


@dataclass
class GatheredView:
    """Binned frames of one nominal angle, summed up as they arrive."""

    index: int
    awaited: int
    total: Floats | None = None
    recorded: Floats | None = None
    weights: Floats | None = None
    tilt_sum_deg: float = 0.0
    count: int = 0
    frames: list[int] = field(default_factory=list[int])
    single: list[OneFrame] = field(default_factory=list["OneFrame"])

    def mean(self) -> MeanView:
        """The view, when all of its frames have come; its memory is free then."""
        share = np.float32(1 / self.count)
        images = (self.total, self.recorded, self.weights)
        image, recorded, weights = (None if i is None else i * share for i in images)
        assert image is not None
        self.total = self.recorded = self.weights = None
        if weights is not None and weights.min() >= 1:
            weights = None
        tilt_deg = self.tilt_sum_deg / self.count
        single, self.single = _stacked_frames(self.single), []
        return MeanView(self.index, image, tilt_deg, recorded, weights, tuple(self.frames), single)


@dataclass(frozen=True)
class MeanView:
    """One view: its image, that of the frames as recorded if it is kept, weights and frames."""

    index: int
    image: Floats
    tilt_deg: float
    recorded: Floats | None
    weights: Floats | None
    frames: tuple[int, ...]
    single: SingleFrames | None


@dataclass(frozen=True)
class OneFrame:
    """One binned frame of a view, for steps that take the single frames."""

    index: int
    counts: Floats
    tilt_deg: float
    image: Floats | None
    weights: Floats | None
    time_s: float | None
    exposure_s: float | None


def one_frame(frame: Frame, tilt_deg: float, binning: int) -> OneFrame:
    """Keep a frame by itself, binned; its counts are summed."""
    treated = frame.image is not frame.recorded
    return OneFrame(
        frame.index,
        binned(frame.recorded, binning) * np.float32(binning**2),
        tilt_deg,
        binned(frame.image, binning) if treated else None,
        None if frame.mask is None else binned(~frame.mask, binning),
        frame.time_s,
        frame.exposure_s,
    )


def _stacked_frames(single: list[OneFrame]) -> SingleFrames | None:
    """The frames of a view in the order of their exposure; None if they are not kept."""
    if not single:
        return None
    ordered = sorted(single, key=lambda one: one.index)
    first = ordered[0]
    images = [one.counts if one.image is None else one.image for one in ordered]
    weights = [np.ones_like(o.counts) if o.weights is None else o.weights for o in ordered]
    times = [one.time_s for one in ordered]
    return SingleFrames(
        np.stack([one.counts for one in ordered]),
        np.array([one.tilt_deg for one in ordered]),
        None if first.image is None else np.stack(images),
        None if all(one.weights is None for one in ordered) else np.stack(weights),
        time_s=None if None in times else np.array(times, np.float64),
        exposure_s=first.exposure_s,
    )


@dataclass
class GatheredSeries:
    """The views of a series so far."""

    images: list[Floats] = field(default_factory=list[Floats])
    recorded: list[Floats] = field(default_factory=list[Floats])
    tilt_deg: list[float] = field(default_factory=list[float])
    indices: list[int] = field(default_factory=list[int])
    weights: list[Floats | None] = field(default_factory=list[Floats | None])
    frames: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    single: list[SingleFrames] = field(default_factory=list[SingleFrames])

    def add(self, view: MeanView, *, keeps_recorded: bool) -> None:
        """Add a view."""
        self.images.append(view.image)
        if keeps_recorded:
            self.recorded.append(view.image if view.recorded is None else view.recorded)
        self.tilt_deg.append(view.tilt_deg)
        self.indices.append(view.index)
        self.weights.append(view.weights)
        self.frames.append(view.frames)

    def stacked(self, offsets: FrameOffsets) -> Series:
        """The whole series, for the steps."""
        images = np.stack(self.images) if self.images else np.empty((0, 0, 0), np.float32)
        weights: Floats | None = None
        if any(shares is not None for shares in self.weights):
            weights = np.ones(images.shape, np.float32)
            for number, shares in enumerate(self.weights):
                if shares is not None:
                    weights[number] = shares
        places = [offsets.of(frames) for frames in self.frames]
        known = any(place is not None for place in places)
        rows = [_UNKNOWN if place is None else (place.place, place.sd) for place in places]
        return Series(
            images,
            np.array(self.tilt_deg, np.float64),
            tuple(self.indices),
            np.stack(self.recorded) if self.recorded else None,
            weights=weights,
            offsets_nm=np.array([place for place, _ in rows]) if known else None,
            offsets_sd_nm=np.array([sd for _, sd in rows]) if known else None,
            frames=tuple(self.single) if self.single else None,
        )


class FrameOffsets:
    """Where the specimen was measured to be in the frames of a stack, as far as it is known."""

    def __init__(self) -> None:
        self._by_frame: dict[int, Offset] = {}

    def note(self, index: int, offset: Offset) -> None:
        """Take the offset of a frame in nm; it replaces one that came before."""
        self._by_frame[index] = offset

    def of(self, frames: Sequence[int]) -> Offset | None:
        """Mean over the frames of a view; None if that of one of them is not known."""
        known = [self._by_frame.get(index) for index in frames]
        offsets = [offset for offset in known if offset is not None]
        if not offsets or len(offsets) < len(known):
            return None
        sd = np.sqrt((np.array([o.sd for o in offsets]) ** 2).sum(axis=0)) / len(offsets)
        return Offset.of(np.mean([o.place for o in offsets], axis=0), sd)
