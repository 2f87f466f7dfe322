"""The step ``segment``: particles in the volume, numbered alike from series to series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...protocols.steps import Output, ResultSpec, Series, Step, StepSettings
from ..core.outputs import with_progress

if TYPE_CHECKING:
    from ..particles.segmentation import Labels


class SegmentSettings(StepSettings):
    """How particles are told from vacuum."""

    method: Literal["otsu"] = "otsu"


@dataclass(frozen=True)
class LabelsBefore:
    """Labels of the newest series that has any, and the first number that is free."""

    labels: Labels
    first_new: int


class SegmentStep(Step[SegmentSettings]):
    """Find the particles; each keeps the number that it had in the series before.

    Gives ``labels``: 0 for vacuum, else the number of the particle.
    """

    name = "segment"
    summary = "particles by Otsu's threshold and watershed, tracked from series to series"
    Settings: ClassVar = SegmentSettings
    inputs = ("volume",)

    @classmethod
    def outputs(cls, settings: SegmentSettings) -> tuple[ResultSpec, ...]:
        """Declare the labels."""
        del settings
        return (ResultSpec("labels", ("y", "z", "x"), "uint16"),)

    @classmethod
    def rehearsal(cls, settings: SegmentSettings) -> SegmentSettings:
        """Return the settings: a tiny volume is segmented quickly."""
        return settings

    def series(self, series: Series) -> Iterator[Output]:
        """Segment the volume and number the particles as in the series before."""
        from ..particles.segmentation import iter_segment
        from ..particles.tracking import track

        labels = yield from with_progress("segmenting", iter_segment(series.results["volume"]))
        before = self.context.get(LabelsBefore)
        if before is not None:
            labels = track(before.labels, labels, first_new=before.first_new)
        if labels.any():
            first_new = max(before.first_new if before else 1, int(labels.max()) + 1)
            self.context.put(LabelsBefore(labels, first_new))
        particles = len(np.unique(labels[labels > 0]))
        yield self.result("labels", labels.astype(np.uint16), {"particles": particles})
