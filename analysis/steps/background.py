"""The step ``background``: the level under the particle, from the border of its mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...protocols.core.units import LengthNm
from ...protocols.steps import (
    VIEWS,
    Notice,
    Output,
    Parameters,
    ResultSpec,
    Series,
    SeriesContext,
    StackInfo,
    Step,
    StepSettings,
    View,
)

if TYPE_CHECKING:
    from ..views.background import Background


class BackgroundSettings(StepSettings):
    """How the background of each view is found.

    `smoothing` is that of the view before its threshold, `grow` by how much the mask reaches
    beyond it. `mask` is a file (.npy, .npz, .mrc, .tif) in the shape of a frame in which everything
    but 0 belongs to the particle, in every view.
    """

    method: Literal["laplace"] = "laplace"
    smoothing_nm: Annotated[LengthNm, Field(gt=0)] = Field(default=0.15, alias="smoothing")
    grow_nm: Annotated[LengthNm, Field(ge=0)] = Field(default=0.15, alias="grow")
    mask: Annotated[str, Field(min_length=1)] | None = None


class BackgroundStep(Step[BackgroundSettings]):
    """Subtract from each view the background that Laplace's equation gives under the particle.

    Gives ``background``, the level under the particle in each view (NaN beside it), and
    ``particle_mask``. The views are 0 beside the mask. Counts for a fit by likelihood keep their
    background: it carries noise that must be known.
    """

    name = "background"
    summary = "background under a particle by Laplace's equation, subtracted"
    Settings: ClassVar = BackgroundSettings
    inputs = (VIEWS,)
    after = ("denoised", "merged")

    def __init__(
        self, settings: BackgroundSettings, stack: StackInfo, context: SeriesContext
    ) -> None:
        super().__init__(settings, stack, context)
        self._given: np.ndarray | None = None

    @classmethod
    def outputs(cls, settings: BackgroundSettings) -> tuple[ResultSpec, ...]:
        """Declare the background and the mask of each view."""
        del settings
        views = ("view", "y", "x")
        return (ResultSpec("background", views), ResultSpec("particle_mask", views, "uint8"))

    @classmethod
    def check(cls, settings: BackgroundSettings, shape: tuple[int, int]) -> None:
        """Read the mask that the settings name."""
        if settings.mask is None:
            return
        from ..detector.references import read_reference

        found = read_reference(Path(settings.mask).expanduser()).shape
        if found != shape:
            raise ValueError(
                f"mask: {settings.mask} has {found[0]} x {found[1]} pixels; the frames have "
                f"{shape[0]} x {shape[1]}"
            )

    @classmethod
    def rehearsal(cls, settings: BackgroundSettings) -> BackgroundSettings:
        """Return settings for a tiny series in which a pixel is 1 nm; a mask has another shape."""
        return settings.model_copy(update={"mask": None, "smoothing_nm": 1.0, "grow_nm": 1.0})

    def view(self, view: View) -> Iterator[Output]:
        """Subtract the background from a view, for the live results."""
        try:
            view.image = self._found(view.image).image
        except ValueError as error:
            view.usable = False
            text = f"{self.stack.name} at {view.tilt_deg:g} deg: no background: {error}"
            yield Notice("warning", text)

    def series(self, series: Series) -> Iterator[Output]:
        """Subtract the background from every view."""
        levels = np.full(self.shape("background"), np.nan, np.float32)
        masks = np.zeros(self.shape("particle_mask"), np.uint8)
        thresholds: list[float] = []
        for number, view in enumerate(series.view_indices):
            try:
                found = self._found(series.images[number])
            except ValueError as error:
                tilt_deg = series.tilt_deg[number]
                yield Notice(
                    "error",
                    f"{self.stack.name} at {tilt_deg:g} deg keeps its background: {error}",
                )
                continue
            series.images[number] = found.image
            levels[view], masks[view] = found.level, found.mask
            thresholds.append(found.threshold)
        if not thresholds:
            return
        more: Parameters = {
            "level_mean": float(np.nanmean(levels)),
            "mask_share": float(masks[list(series.view_indices)].mean()),
        }
        if np.isfinite(thresholds).any():
            more["threshold_median"] = float(np.nanmedian(thresholds))
        yield self.result("background", levels, more)
        yield self.result("particle_mask", masks, more)

    def _found(self, image: np.ndarray) -> Background:
        from ..views.background import laplace_background

        settings, pixel_nm = self.settings, self.stack.pixel_nm
        return laplace_background(
            image,
            self._mask(),
            smoothing_px=settings.smoothing_nm / pixel_nm,
            grow_px=round(settings.grow_nm / pixel_nm),
        )

    def _mask(self) -> np.ndarray | None:
        """The mask that the settings name, binned as the views are."""
        if self.settings.mask is None:
            return None
        if self._given is None:
            from ..core.arrays import binned
            from ..detector.references import read_reference

            whole = read_reference(Path(self.settings.mask).expanduser()) != 0
            self._given = binned(whole.astype(np.float32), self.stack.binning) > 0
        return self._given
