"""The step ``reconstruct``: a volume from a tilt series, which grows while the series is taken."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ...protocols.steps import (
    VIEWS,
    Notice,
    Output,
    Parameters,
    Progress,
    ResultSpec,
    Series,
    Step,
    StepSettings,
    View,
)
from ..core.arrays import Floats
from ..core.outputs import with_progress

if TYPE_CHECKING:
    from ..tomography.live_reconstruction import LiveReconstruction

# Total-variation minimisation works in a slab so many times as thick as the specimen.
_SLAB = 1.6
# A larger part of the volume that too few views have seen is worth a word.
_UNSEEN_TOLD = 0.05
_NOWHERE = (0.0, 0.0, 0.0)
# Axes of the plane across each axis of the volume.
_PLANES = {"y": ("z", "x"), "z": ("y", "x"), "x": ("y", "z")}


class ReconstructSettings(StepSettings):
    """Method of reconstruction. The images are binned by `binning` in both directions.

    With thickness "auto" total-variation minimisation leaves vacuum far above and below the
    specimen, whose thickness the alignment has found; with "full" it works in the whole cube.
    RESIRE takes images without background and gives no voxel below 0; its `step`, 1 where it is not
    set, is between 0 and 2.
    """

    method: Literal["sirt", "tv", "wbp", "resire"] = "sirt"
    iterations: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 30
    binning: Annotated[int, Field(ge=1, le=64, strict=True)] = 4
    thickness: Literal["auto", "full"] = "auto"
    step: Annotated[float, Field(gt=0, lt=2)] | None = None

    @model_validator(mode="after")
    def _step_is_of_resire(self) -> ReconstructSettings:
        if self.step is not None and self.method != "resire":
            raise ValueError(f"'step' is known to the method 'resire', not to '{self.method}'")
        return self


@dataclass(frozen=True)
class VolumeBefore:
    """Volume of the series before, from which total-variation minimisation starts."""

    volume: Floats


class ReconstructStep(Step[ReconstructSettings]):
    """Reconstruct a volume: live while the views come, and thoroughly when all are there.

    Gives ``volume`` (y, z, x) and its central planes ``slice_y``, ``slice_z``, ``slice_x``;
    publishes ``preview_y``, ``preview_z``, ``preview_x`` after each view and ``preview``, the live
    volume, after the last.
    """

    name = "reconstruct"
    summary = "volume by SIRT, RESIRE, total variation or weighted backprojection; live meanwhile"
    Settings: ClassVar = ReconstructSettings
    inputs = (VIEWS,)
    after = ("denoised", "merged", "background", "aligned")
    _live: LiveReconstruction | None = None
    _views = 0

    @classmethod
    def outputs(cls, settings: ReconstructSettings) -> tuple[ResultSpec, ...]:
        """Declare the volume, its central planes, and the previews of both."""
        del settings
        cube = ("y", "z", "x")
        return (
            ResultSpec("volume", cube),
            *(ResultSpec(f"slice_{axis}", axes) for axis, axes in _PLANES.items()),
            ResultSpec("preview", cube, recorded=False),
            *(
                ResultSpec(f"preview_{axis}", axes, recorded=False)
                for axis, axes in _PLANES.items()
            ),
        )

    @classmethod
    def binning(cls, settings: ReconstructSettings) -> int:
        """Return the binning of the images."""
        return settings.binning

    @classmethod
    def rehearsal(cls, settings: ReconstructSettings) -> ReconstructSettings:
        """Return settings that are quick."""
        return ReconstructSettings(method=settings.method, iterations=6, binning=1)

    def view(self, view: View) -> Iterator[Output]:
        """Let the live volume grow by a view."""
        if self._live is None:
            self._live = self._new_volume()
        self._views += 1
        for fraction in self._live.add_view(view.image, view.tilt_deg, view.weights):
            yield Progress(f"adding the view at {view.tilt_deg:.1f} deg", fraction)
        for axis, plane in self._live.central_slices.items():
            yield self.result(f"preview_{axis}", plane, self._about_preview())

    def after_views(self) -> Iterator[Output]:
        """Publish the live volume."""
        if self._live is not None:
            yield self.result("preview", self._live.volume, self._about_preview())

    def _about_preview(self) -> Parameters:
        return {"views": self._views, "binning": self.settings.binning}

    def _new_volume(self) -> LiveReconstruction:
        from ..tomography.live_reconstruction import LiveReconstruction

        y, z, x = self.shape("volume")
        before, iterations = None, 0
        if self.settings.method == "tv":
            # The volume of the series before is nearly this one.
            iterations, kept = self.settings.iterations, self.context.get(VolumeBefore)
            before = kept.volume if kept is not None and kept.volume.shape == (y, z, x) else None
        return LiveReconstruction(
            (y, z, x), self.stack.views, iterations, before, self._thickness()
        )

    def _thickness(self) -> int | None:
        """Voxels along z in which there may be something: the specimen's thickness, and more."""
        from ..alignment.coarse import KnownAlignment

        alignment = self.context.get(KnownAlignment)
        known = alignment.thickness_px if alignment is not None else None
        if self.settings.thickness == "full" or known is None:
            return None
        return math.ceil(_SLAB * known)

    def series(self, series: Series) -> Iterator[Output]:
        """Reconstruct the volume from the aligned images."""
        from ..tomography.back_projection import wbp
        from ..tomography.image_levels import without_vacuum
        from ..tomography.iterative import sirt
        from ..tomography.reconstruction import central_slices, without_unseen

        live, self._live = self._live, None
        if live is None:
            return
        images, tilts = without_vacuum(series.images, series.weights), series.tilt_deg
        more: Parameters = {
            "views": len(images),
            "tilt_min_deg": float(tilts.min()),
            "tilt_max_deg": float(tilts.max()),
        }
        _, z, x = self.shape("volume")
        if self.settings.method == "wbp":
            volume = wbp(images, tilts, slice_shape=(z, x), weights=series.weights)
        elif self.settings.method == "sirt":
            made = sirt(
                images,
                tilts,
                self.settings.iterations,
                slice_shape=(z, x),
                weights=series.weights,
            )
            volume = made.volume
            more["misfit"] = float(made.residual[-1])
        elif self.settings.method == "resire":
            volume, about = yield from self._resire(images, series)
            more |= about
        else:
            volume, about = yield from self._minimise(live, series, images)
            more |= about
        del live
        if series.weights is not None:
            volume, unseen = without_unseen(volume, series.weights, tilts)
            more["unseen_share"] = unseen
            if unseen > _UNSEEN_TOLD:
                yield Notice(
                    "warning",
                    f"{self.stack.name}: {unseen:.0%} of the volume lay in the field in fewer than "
                    "half of the views; it is left empty. Particles at its border are cut off",
                )
        yield self.result("volume", volume, more)
        for axis, plane in central_slices(volume).items():
            yield self.result(f"slice_{axis}", plane, more)

    def _resire(
        self, images: Floats, series: Series
    ) -> Generator[Output, None, tuple[Floats, Parameters]]:
        """Reconstruct by RESIRE, some slices at a time."""
        from ..core.weights import filled_series
        from ..tomography.projected_gradient import iter_resire
        from ..tomography.projector import project

        if series.weights is not None:
            images = filled_series(images, series.weights)
        _, z, x = self.shape("volume")
        made = yield from with_progress(
            "reconstructing by RESIRE",
            iter_resire(
                images,
                series.tilt_deg,
                self.settings.iterations,
                step=1.0 if self.settings.step is None else self.settings.step,
                slice_shape=(z, x),
            ),
        )
        left = project(made.volume, series.tilt_deg, images.shape[2]) - images
        per_view = abs(left).sum(axis=(1, 2)) / abs(images).sum(axis=(1, 2))
        return made.volume, {
            "misfit": float(made.residual[-1]),
            "r_factor": float(per_view.mean()),
        }

    def _minimise(
        self, live: LiveReconstruction, series: Series, images: Floats
    ) -> Generator[Output, None, tuple[Floats, Parameters]]:
        """Minimise the total variation, from the live volume if that serves."""
        from ..alignment.coarse import KnownAlignment

        alignment = self.context.get(KnownAlignment)
        # Views shown about another axis have made another object.
        other_object = alignment is not None and not alignment.as_previewed
        displacement = series.displacement_px
        if not live.serves_as_start or other_object:
            live, displacement = self._new_volume(), _NOWHERE
        thickness, early = self._thickness(), live.iterations
        yield from with_progress(
            "minimising the total variation",
            live.finish(
                images,
                series.tilt_deg,
                self.settings.iterations,
                displacement,
                thickness,
                series.weights,
            ),
        )
        volume = live.volume
        self.context.put(VolumeBefore(volume))
        return volume, {
            "misfit": live.residual,
            "iterations_before_the_last_view": early,
            "thickness_voxels": thickness or self.shape("volume")[1],
        }
