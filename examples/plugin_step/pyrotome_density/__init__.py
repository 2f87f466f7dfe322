"""Grain sizes and densification: a step of another package, with results of every kind.

In a recipe, after ``segment``: ``- density: {smallest: 10 nm}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from pyrotome.protocols.core.units import LengthNm
from pyrotome.protocols.steps import (
    Frame,
    Notice,
    Output,
    Progress,
    ResultSpec,
    Series,
    Step,
    StepSettings,
)


class DensitySettings(StepSettings):
    """`smallest` is the radius below which a particle is not counted."""

    smallest_nm: LengthNm = Field(default=0.0, alias="smallest", ge=0)


@dataclass(frozen=True)
class Fractions:
    """Solid fraction of each series so far."""

    values: tuple[float, ...] = ()


class DensityStep(Step[DensitySettings]):
    """Measure the sharpness of frames, the sizes of grains, and how dense they are packed.

    The solid fraction is the volume of all particles over that of their convex hull.
    """

    name = "density"
    summary = "sharpness of frames; sizes of grains and their packing"
    Settings: ClassVar = DensitySettings
    inputs = ("labels",)

    @classmethod
    def outputs(cls, settings: DensitySettings) -> tuple[ResultSpec, ...]:
        """Declare the results: a number a frame, a table and a number a series, a curve a run."""
        return (
            ResultSpec.scalar("sharpness", per="frame"),
            ResultSpec.table("grains", ("particle", "volume_nm3", "radius_nm"), 256, row="grain"),
            ResultSpec.scalar("solid_fraction", unit="percent"),
            ResultSpec("densification", ("series",), "float64", per="run", unit="percent"),
        )

    def frame(self, frame: Frame) -> Iterator[Output]:
        """Measure how sharp a frame is: the mean squared gradient over the squared mean."""
        down, along = np.gradient(frame.recorded)
        power, mean = float(np.mean(down**2 + along**2)), float(frame.recorded.mean())
        yield self.result("sharpness", power / mean**2 if mean else 0.0)

    def series(self, series: Series) -> Iterator[Output]:
        """Measure the grains, and their packing."""
        from scipy.spatial import ConvexHull  # not at the top: the daemon loads this module

        labels, voxel_nm = series.results["labels"], self.stack.pixel_nm
        numbers, voxels = np.unique(labels[labels > 0], return_counts=True)
        volume_nm3 = voxels * voxel_nm**3
        radius_nm = (3 * volume_nm3 / (4 * np.pi)) ** (1 / 3)
        large = radius_nm >= self.settings.smallest_nm
        table = np.column_stack([numbers, volume_nm3, radius_nm])[large].astype(np.float64)
        yield self.result("grains", table, {"grains": int(large.sum())})
        yield Progress("measuring the packing", 0.5)
        solid = np.isin(labels, numbers[large])
        if not solid.any():
            yield Notice("warning", f"{self.stack.name}: no particle is large enough")
            return
        fraction = 100.0 * float(solid.sum() / ConvexHull(np.argwhere(solid)).volume)
        yield self.result("solid_fraction", fraction)
        before = self.context.get(Fractions) or Fractions()
        self.context.put(Fractions((*before.values, fraction)))
        curve = np.full(self.shape("densification"), np.nan)
        curve[: len(before.values) + 1] = (*before.values, fraction)
        yield self.result("densification", curve)
