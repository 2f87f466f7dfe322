"""The step ``align``: register the views of a tilt series and find the tilt axis."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...protocols.core.units import AngleDeg
from ...protocols.steps import (
    SINGLE_FRAMES,
    VIEWS,
    Notice,
    Output,
    Parameters,
    ResultSpec,
    Series,
    Step,
    StepSettings,
    View,
)
from ..core.offsets import Offset
from ..core.outputs import with_progress

if TYPE_CHECKING:
    from ..alignment.align import Alignment
    from ..alignment.axis_choice import ToldAxis
    from ..alignment.coarse import CoarseAlignment
    from ..alignment.resampling import TiltAxis

Floats64 = NDArray[np.float64]


class AlignSettings(StepSettings):
    """How neighbouring tilts are registered, and the direction of the tilt axis where it is known.

    `axis_deg` is the rotation angle of SerialEM and IMOD: from the vertical to the axis,
    counter-clockwise with the first row at the bottom. It goes before that of the file and the
    rig, and is refined within 5 deg unless `refine_axis` is false.

    Method "common-lines" is that of particles which lie within the field in every view: along the
    axis the sums across it are compared, across the axis the centre of mass is put on it. It takes
    the direction as told, vertical where it is not, and does not refine it.
    """

    method: Literal["mutual-information", "phase-correlation", "centre-of-mass", "common-lines"] = (
        "mutual-information"
    )
    axis_deg: Annotated[AngleDeg, Field(ge=-360, le=360)] | None = Field(default=None, alias="axis")
    refine_axis: bool | None = None


class AlignStep(Step[AlignSettings]):
    """Register the views of a series: coarsely as they come, thoroughly when all are there.

    Gives ``aligned``, the binned images, and ``shifts`` in pixels of the frame.
    """

    name = "align"
    summary = "shifts between tilts and the tilt axis, refined by projection matching"
    Settings: ClassVar = AlignSettings
    inputs = (VIEWS,)
    after = ("denoised", "merged", "background")
    _coarse: CoarseAlignment | None = None
    _views = 0

    @classmethod
    def needs(cls, settings: AlignSettings) -> tuple[str, ...]:
        """Return the views; common lines are found in their counts."""
        return (VIEWS, SINGLE_FRAMES) if settings.method == "common-lines" else cls.inputs

    @classmethod
    def outputs(cls, settings: AlignSettings) -> tuple[ResultSpec, ...]:
        """Declare the aligned images and their shifts."""
        del settings
        return (
            ResultSpec("aligned", ("view", "y", "x")),
            ResultSpec("shifts", ("view", "direction"), "float64", sizes={"direction": 2}),
        )

    @classmethod
    def rehearsal(cls, settings: AlignSettings) -> AlignSettings:
        """Return the settings: a tiny series is aligned quickly."""
        return settings

    def view(self, view: View) -> Iterator[Output]:
        """Put a view where the views before it are."""
        if self.settings.method == "common-lines":
            yield from self._centred(view)
            return
        from ..alignment.coarse import CoarseAlignment, KnownAlignment

        if self._coarse is None:
            known = self.context.get(KnownAlignment)
            self._coarse = CoarseAlignment(self.settings.method, known, self._told_axis())
        number, self._views = self._views, self._views + 1
        offset = None
        if view.offset_nm is not None and view.offset_sd_nm is not None:
            offset = Offset(view.offset_nm, view.offset_sd_nm).scaled(1 / self.stack.pixel_nm)
        try:
            view.image, view.weights = self._coarse.add_view(
                number, view.index, view.image, view.tilt_deg, view.weights, offset
            )
        except ValueError as error:
            view.usable = False
            name, tilt_deg = self.stack.name, view.tilt_deg
            yield Notice("warning", f"{name} at {tilt_deg:g} deg cannot be registered yet: {error}")
            return
        axis = self._coarse.axis
        view.shift_px = _place(self._coarse.shifts_px[-1], axis)
        view.axis_deg = None if axis is None else axis.rotation_deg

    def _centred(self, view: View) -> Iterator[Output]:
        """Put the centre of mass of a view on the axis."""
        from .common_lines import centred_view

        try:
            centred_view(view, self._told_rotation_deg())
        except ValueError as error:
            view.usable = False
            where = f"{self.stack.name} at {view.tilt_deg:g} deg"
            yield Notice("warning", f"{where} cannot be aligned yet: {error}")

    def _told_rotation_deg(self) -> float:
        """Direction of the axis for the methods that do not look for it."""
        told = self._told_axis()
        return 0.0 if told is None else told.rotation_deg

    def _by_common_lines(self, series: Series) -> Iterator[Output]:
        """Align the whole series by common lines and centres of mass."""
        from ..alignment.coarse import KnownAlignment
        from .common_lines import align_series

        name = self.stack.name
        if self._told_axis() is None:
            yield Notice(
                "info",
                f"{name}: the tilt axis is taken as vertical in the images; tell another direction "
                "by `axis` of the step, in the rig or by `import --tilt-axis`",
            )
        try:
            found = align_series(series, self._told_rotation_deg())
        except ValueError as error:
            yield Notice("error", f"{name} is not aligned: {error}")
            return
        shifts = dict(zip(series.view_indices, found.shifts_px, strict=True))
        self.context.put(KnownAlignment(found.axis, shifts))
        binning = self.stack.binning
        more: Parameters = {
            "axis_offset_px": 0.0,
            "axis_rotation_deg": found.axis.rotation_deg,
            "axis_source": "assumed" if self._told_axis() is None else "told",
            "shift_sd_median_px": float(np.median(found.sd_px)) * binning,
        }
        yield from self._given(series, found.shifts_px, more)

    def _told_axis(self) -> ToldAxis | None:
        """The direction that the recipe tells, else the file or the rig."""
        from ..alignment.axis_choice import ToldAxis

        told_deg = self.settings.axis_deg
        if told_deg is None:
            told_deg = self.stack.tilt_axis_deg
        refine = self.settings.refine_axis is not False
        return None if told_deg is None else ToldAxis(told_deg, refine)

    def series(self, series: Series) -> Iterator[Output]:
        """Align the whole series, from the registrations of its views and the axis before."""
        if self.settings.method == "common-lines":
            yield from self._by_common_lines(series)
            return
        from ..alignment.align import iter_align_series
        from ..alignment.coarse import KnownAlignment
        from ..alignment.resampling import apply_alignment

        coarse, self._coarse = self._coarse, None
        if coarse is None:
            return
        before = self.context.get(KnownAlignment)
        try:
            offsets = self._offsets(series)
            pairs = coarse.pair_shifts(len(series.images), offsets)
            found = yield from with_progress(
                "aligning",
                iter_align_series(
                    series.images,
                    series.tilt_deg,
                    self.settings.method,
                    pair_shifts=pairs,
                    start_axis=before.axis if before is not None else None,
                    weights=series.weights,
                    told_axis=self._told_axis(),
                    offsets=offsets,
                ),
            )
        except ValueError as error:
            yield Notice("error", f"{self.stack.name} is not aligned: {error}")
            return
        for text in found.notes:
            yield Notice("warning", f"{self.stack.name}: {text}")
        if not coarse.shows(found.axis):
            yield Notice(
                "info",
                f"{self.stack.name}: any preview was made about another direction than the tilt "
                f"axis of {found.rotation_deg:.1f} deg that was found at the end; only the final "
                "volume is right. Tell the axis in the recipe or the rig to have both right",
            )
        series.displacement_px = coarse.displacement_to(found.shifts_px, found.axis)
        shifts_px = dict(zip(series.view_indices, found.shifts_px, strict=True))
        as_previewed = coarse.shows(found.axis)
        places = dict(zip(series.view_indices, offsets or (), strict=False))
        known = {index: place for index, place in places.items() if place is not None}
        self.context.put(
            KnownAlignment(found.axis, shifts_px, found.thickness_px, as_previewed, known)
        )
        series.images, series.weights = found.images, found.weights
        yield from self._results(found, series)
        series.shifts_px = found.shifts_px
        series.axis_offset_px = found.axis.offset_px
        series.axis_rotation_deg = found.axis.rotation_deg
        if series.recorded is not None:
            shape = (series.images.shape[1], series.images.shape[2])
            series.recorded = apply_alignment(
                series.recorded, found.shifts_px, found.axis, shape=shape
            )

    def _offsets(self, series: Series) -> list[Offset | None] | None:
        """Where the specimen was measured to be in each view, in pixels."""
        places, sds = series.offsets_nm, series.offsets_sd_nm
        if places is None or sds is None:
            return None
        offsets = (Offset.of(*pair) for pair in zip(places, sds, strict=True))
        factor = 1 / self.stack.pixel_nm
        return [None if offset is None else offset.scaled(factor) for offset in offsets]

    def _results(self, found: Alignment, series: Series) -> Iterator[Output]:
        """Give the images and shifts, and what describes them."""
        binning = self.stack.binning
        more: Parameters = {
            "axis_offset_px": found.axis_offset_px * binning,
            "axis_rotation_deg": found.rotation_deg,
            "axis_source": found.axis_source,
            "misfit": found.residual_after,
            "thickness_px": found.thickness_px * binning,
            "correlation_min": float(np.nanmin(found.correlation)),
            "correlation_median": float(np.nanmedian(found.correlation)),
            "last_move_px": found.last_move_px * binning,
        }
        if found.notes:
            more["doubts"] = "; ".join(found.notes)
        yield from self._given(series, found.shifts_px, more)

    def _given(self, series: Series, shifts_px: Floats64, more: Parameters) -> Iterator[Output]:
        """Give aligned images and shifts; those of views that never came are NaN."""
        places = list(series.view_indices)
        aligned = np.full(self.shape("aligned"), np.nan, np.float32)
        aligned[places] = series.images
        shifts = np.full(self.shape("shifts"), np.nan)
        shifts[places] = shifts_px * self.stack.binning
        yield self.result("aligned", aligned, more)
        yield self.result("shifts", shifts, more)


def _place(shift_px: Floats64, axis: TiltAxis | None) -> tuple[float, float]:
    """Where the axis shows the specimen's centre in a view."""
    offset_px, turn = (0.0, 0.0) if axis is None else (axis.offset_px, axis.rotation_deg)
    turn = math.radians(turn)
    y, x = shift_px + offset_px * np.array([math.sin(turn), math.cos(turn)])
    return float(y), float(x)
