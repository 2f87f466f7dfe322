"""The step ``measure``: figures of the particles; so far the necks between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from ...protocols.steps import (
    RECORDED_VIEWS,
    Output,
    Parameters,
    ResultSpec,
    Series,
    Step,
    StepSettings,
)
from ...protocols.steps.tables import MAX_NECKS, NECK_COLUMNS
from ..core.outputs import with_progress


class MeasureSettings(StepSettings):
    """What is measured. In a recipe the word alone is enough: ``measure: necks``."""

    what: Literal["necks"] = "necks"

    @model_validator(mode="before")
    @classmethod
    def _word_is_enough(cls, value: object) -> object:
        return {"what": value} if isinstance(value, str) else value


class MeasureStep(Step[MeasureSettings]):
    """Measure the necks between touching particles, in the images as they were recorded.

    Noise that is taken away would fill the crevice beside a neck. Gives ``necks``, a row a pair.
    """

    name = "measure"
    summary = "necks between particles: radii, distances, and their ratios"
    Settings: ClassVar = MeasureSettings
    inputs = ("labels", "volume", RECORDED_VIEWS)

    @classmethod
    def outputs(cls, settings: MeasureSettings) -> tuple[ResultSpec, ...]:
        """Declare the table of necks."""
        del settings
        return (ResultSpec.table("necks", NECK_COLUMNS, MAX_NECKS, row="pair"),)

    @classmethod
    def rehearsal(cls, settings: MeasureSettings) -> MeasureSettings:
        """Return the settings: a tiny volume is measured quickly."""
        return settings

    def warm_up(self) -> None:
        """Compile the fit of a neck, of which a tiny series has none."""
        from ..particles.necks import warm_up_necks

        warm_up_necks()

    def series(self, series: Series) -> Iterator[Output]:
        """Measure every pair of particles that touch."""
        from ..particles.necks import iter_measure_necks

        necks = yield from with_progress(
            "measuring",
            iter_measure_necks(
                series.results["volume"],
                series.results["labels"].astype(np.int32),
                self.stack.pixel_nm,
                images=series.recorded,
                tilt_deg=series.tilt_deg,
                weights=series.weights,
            ),
        )
        table = np.empty((len(necks), len(NECK_COLUMNS)))
        for row, neck in enumerate(necks):
            table[row] = [asdict(neck)[column] for column in NECK_COLUMNS]
        more: Parameters = {"pairs": len(necks)}
        if necks:
            more["neck_ratio_median"] = float(np.median([neck.neck_to_particle for neck in necks]))
        yield self.result("necks", table, more)
