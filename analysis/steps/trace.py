"""The step ``trace``: the atoms of a particle, from its counts or from its volume."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ...protocols.core.units import AngleDeg, DurationS, LengthNm
from ...protocols.steps import (
    SINGLE_FRAMES,
    VIEWS,
    Notice,
    Online,
    Output,
    Parameters,
    ResultSpec,
    Series,
    Step,
    StepSettings,
    View,
)
from ...protocols.steps.tables import (
    ATOM_COLUMNS,
    ATOM_VIEW_COLUMNS,
    LIVE_ATOM_COLUMNS,
    MAX_ATOM_VIEWS,
)
from ..core.outputs import with_progress

if TYPE_CHECKING:
    from ..atoms import AtomFit, LikelihoodSettings
    from ..views.counts import CountSeries
    from .live_trace import LiveTrace

_ANGSTROM = 10.0  # in a nanometre
# What a registration of whole views leaves, in pixels; without one only the stage's errors stay.
_ALIGNED_PX = 0.5
# Counts that were negative are worth a word from this share of the pixels on.
_RAISED_TOLD = 1e-3
_UNSURE = 0.95


class TraceSettings(StepSettings):
    """How atoms are found.

    Method "likelihood" fits atoms and alignment to the counts as recorded; "paper" traces the
    peaks of the volume that a step before has made. `frames: single` fits each frame of a tilt as
    an image of its own, "sum" their sum. `bond` is the length of the bond between neighbours, by
    which the size of a pixel is checked; `nearest` a little less than the shortest one.
    `shift_error`, `tilt_error` and `axis_error` say how well the alignment is known; 0 holds it.
    While a run goes on, a coarse model is made after each tilt within `live_time`; none with 0.
    """

    method: Literal["likelihood", "paper"] = "likelihood"
    species: Annotated[str, Field(pattern=r"^[A-Z][a-z]?$")] = "X"
    bond_nm: Annotated[LengthNm, Field(gt=0)] | None = Field(default=None, alias="bond")
    nearest_nm: Annotated[LengthNm, Field(gt=0)] = Field(default=0.2, alias="nearest")
    frames: Literal["sum", "single"] = "sum"
    counts_per_electron: Annotated[float, Field(gt=0)] = 1.0
    shift_error_nm: Annotated[LengthNm, Field(ge=0)] | None = Field(
        default=None, alias="shift_error"
    )
    tilt_error_deg: Annotated[AngleDeg, Field(ge=0)] = Field(default=0.1, alias="tilt_error")
    axis_error_deg: Annotated[AngleDeg, Field(ge=0)] = Field(default=0.3, alias="axis_error")
    rounds: Annotated[int, Field(ge=1, le=100, strict=True)] = 6
    most_atoms: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 32_768
    live_time_s: Annotated[DurationS, Field(ge=0)] = Field(default=5.0, alias="live_time")
    seed: Annotated[int, Field(ge=0, strict=True)] = 0

    @model_validator(mode="after")
    def _settings_are_of_the_method(self) -> TraceSettings:
        if self.method == "paper" and self.frames != "sum":
            raise ValueError("'frames' is known to the method 'likelihood'; 'paper' takes a volume")
        return self


class TraceStep(Step[TraceSettings]):
    """Find the atoms of a particle, each with its error.

    Gives ``atoms``, a row an atom, and by the method "likelihood" ``atom_views``, the alignment
    that was fitted with them, a row an image. While a run goes on it publishes ``atoms_live`` after
    each tilt: a coarse model, with the errors that are expected at the end of the series. The
    result at the end does not depend on it.
    """

    name = "trace"
    summary = "atoms with their errors: by likelihood from the counts, or the paper's way"
    Settings: ClassVar = TraceSettings
    inputs = (VIEWS, SINGLE_FRAMES)
    after = ("merged", "background", "aligned", "volume")
    _live: LiveTrace | None = None

    @classmethod
    def needs(cls, settings: TraceSettings) -> tuple[str, ...]:
        """Return the counts, or the volume."""
        return (VIEWS, "volume") if settings.method == "paper" else cls.inputs

    @classmethod
    def outputs(cls, settings: TraceSettings) -> tuple[ResultSpec, ...]:
        """Declare the tables."""
        atoms = ResultSpec.table("atoms", ATOM_COLUMNS, settings.most_atoms, row="atom")
        if settings.method == "paper":
            return (atoms,)
        return (
            atoms,
            ResultSpec.table("atom_views", ATOM_VIEW_COLUMNS, MAX_ATOM_VIEWS, row="image"),
            ResultSpec(
                "atoms_live",
                ("atom", "column"),
                "float64",
                columns=LIVE_ATOM_COLUMNS,
                sizes={"atom": settings.most_atoms},
                recorded=False,
            ),
        )

    def warm_up(self) -> None:
        """Compile the fit, of which a tiny series of a ball would find no atoms."""
        from .atom_warm_up import warm_up_atoms

        warm_up_atoms(self.settings.method)

    def view(self, view: View) -> Iterator[Output]:
        """Add up the frames, and publish a coarse model of the views so far if somebody watches."""
        online = self.context.get(Online)
        settings = self.settings
        if view.frames is not None and settings.frames == "sum":
            from ..views.counts import added_frames

            view.frames = added_frames(view.frames)
        if online is None or settings.method != "likelihood" or settings.live_time_s == 0:
            return
        if self._live is None:
            self._live = self._new_live(online, view)
        made = yield from self._live.after_view(view)
        if made is not None:
            rows, more = made
            yield self.result("atoms_live", rows, more)

    def _new_live(self, online: Online, view: View) -> LiveTrace:
        """Begin the coarse model; direction of the axis and shifts as the views are shown."""
        from ..live.coarse_atoms import CoarseAtoms
        from .live_trace import LiveTrace

        settings, stack = self.settings, self.stack
        planned = dict.fromkeys(round(tilt, 6) for tilt in stack.tilt_deg)
        coarse = CoarseAtoms(
            _ANGSTROM * stack.pixel_nm,
            list(planned),
            (stack.tilt_axis_deg or 0.0) if view.axis_deg is None else view.axis_deg,
            self._settings(0.0 if view.shift_px is None else _ALIGNED_PX),
            settings.live_time_s,
        )
        return LiveTrace(coarse, online, stack.name, settings.counts_per_electron)

    def series(self, series: Series) -> Iterator[Output]:
        """Find the atoms of the whole series."""
        self._live = None
        if self.settings.method == "paper":
            yield from self._trace(series)
        else:
            yield from self._fit(series)

    def _trace(self, series: Series) -> Iterator[Output]:
        from ..atoms import trace_volume
        from .atom_rows import traced_rows

        settings, pixel_nm = self.settings, self.stack.pixel_nm
        found = trace_volume(
            series.results["volume"],
            _ANGSTROM * pixel_nm,
            nearest_a=_ANGSTROM * settings.nearest_nm,
        )
        rows = traced_rows(found, pixel_nm)
        if not len(rows):
            yield Notice("warning", f"{self.stack.name}: no atom stands out of the volume")
        yield self.result("atoms", rows, {"atoms": len(rows)})

    def _fit(self, series: Series) -> Iterator[Output]:
        from .atom_rows import atom_rows, view_rows

        found = yield from self._fitted(series)
        if found is None:
            return
        fit, data = found
        for doubt in fit.doubts:
            yield Notice("warning", f"{self.stack.name}: {doubt}")
        more = _figures(fit, self.stack.pixel_nm)
        yield Notice("info", f"{self.stack.name}: {_summary(more)}")
        yield self.result("atoms", atom_rows(fit), more)
        views = np.array(series.view_indices, np.intp)[data.view]
        yield self.result("atom_views", view_rows(fit, views), more)

    def _fitted(
        self, series: Series
    ) -> Generator[Output, None, tuple[AtomFit, CountSeries] | None]:
        """Fit atoms to the counts; None, and an error, if there are none."""
        from ..alignment import TiltAxis
        from ..atoms.fit import iter_fit_atoms
        from ..views.counts import count_series

        settings, name = self.settings, self.stack.name
        data = count_series(
            series.frames or (),
            single=settings.frames == "single",
            counts_per_electron=settings.counts_per_electron,
        )
        if data.raised > _RAISED_TOLD:
            yield Notice(
                "warning",
                f"{name}: {data.raised:.1%} of the counts are below 0 and taken as 0; the detector "
                "adds noise, or its pedestal is too high: the errors of the atoms are too small",
            )
        aligned = series.shifts_px is not None
        rotation_deg = series.axis_rotation_deg if aligned else (self.stack.tilt_axis_deg or 0.0)
        offset_px = series.axis_offset_px if aligned else 0.0
        shifts = None if series.shifts_px is None else series.shifts_px[data.view]
        try:
            fit = yield from with_progress(
                "fitting atoms",
                iter_fit_atoms(
                    data.counts,
                    data.tilt_deg,
                    _ANGSTROM * self.stack.pixel_nm,
                    axis=TiltAxis(offset_px, rotation_deg),
                    shifts_px=shifts,
                    known=data.known,
                    settings=self._settings(_shift_sd_px(series)),
                    seed=settings.seed,
                ),
            )
        except ValueError as error:
            yield Notice("error", f"{name}: atoms are not found: {error}")
            return None
        return fit, data

    def _settings(self, shift_sd_px: float) -> LikelihoodSettings:
        """Settings of the fit; alignment is known to so many pixels unless the recipe tells it."""
        from ..atoms import LikelihoodSettings

        settings, plain = self.settings, LikelihoodSettings()
        shift_a = max(plain.shift_sd_a, shift_sd_px * _ANGSTROM * self.stack.pixel_nm)
        if settings.shift_error_nm is not None:
            shift_a = _ANGSTROM * settings.shift_error_nm
        return LikelihoodSettings(
            nearest_a=_ANGSTROM * settings.nearest_nm,
            shift_sd_a=shift_a,
            tilt_sd_deg=settings.tilt_error_deg,
            rotation_sd_deg=settings.axis_error_deg,
            rounds=settings.rounds,
            bond_a=None if settings.bond_nm is None else _ANGSTROM * settings.bond_nm,
        )


def _shift_sd_px(series: Series) -> float:
    """How well the shifts of a series are known; 0 where nothing has aligned it."""
    if series.shifts_px is None:
        return 0.0
    if series.shift_sd_px is None:
        return _ALIGNED_PX
    return max(_ALIGNED_PX, float(np.sqrt(np.mean(series.shift_sd_px**2))))


def _figures(fit: AtomFit, pixel_nm: float) -> Parameters:
    """What a fit has found, for the file."""
    error_nm = np.sqrt(np.trace(fit.covariance_a2, axis1=1, axis2=2)) / _ANGSTROM
    more: Parameters = {
        "atoms": len(error_nm),
        "position_error_median_nm": float(np.median(error_nm)),
        "unsure_atoms": int((fit.probability < _UNSURE).sum()),
        "chi_squared_median": float(np.median(fit.chi_squared)),
        "peak_width_nm": fit.width_a / _ANGSTROM,
        "tail": fit.tail,
        "tail_width_nm": fit.tail_width_a / _ANGSTROM,
        "axis_offset_nm": fit.axis_offset_px * pixel_nm,
        "axis_offset_sd_nm": fit.axis_offset_sd_px * pixel_nm,
        "axis_rotation_deg": fit.rotation_deg,
        "axis_rotation_sd_deg": fit.rotation_sd_deg,
    }
    for axis, value in zip("xyz", fit.origin_a, strict=True):
        more[f"origin_{axis}_nm"] = float(value) / _ANGSTROM
    if fit.doubts:
        more["doubts"] = "; ".join(fit.doubts)
    return more


def _summary(more: Parameters) -> str:
    """The figures in one sentence."""
    error_pm = 1000 * float(more["position_error_median_nm"])
    return (
        f"{more['atoms']} atoms, position error {error_pm:.1f} pm (median); {more['unsure_atoms']} "
        f"with a probability below {_UNSURE:.0%}"
    )
