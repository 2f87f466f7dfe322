"""The recipe: what an experiment does, never on which hardware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from ..core.documents import Strict, load_model, read_text
from ..core.errors import Misplaced
from ..core.units import (
    AngleDeg,
    CurrentPa,
    DurationS,
    FluenceEPerNm2,
    LengthNm,
    RateCPerS,
    TemperatureC,
    VoltageKv,
    fluence_e_per_nm2,
)
from .pipeline import (
    AnalysisStep,
    complete_pipeline,
    fewest_reference_frames,
    planned_results,
)
from .steering import (
    NECK_RATIO,
    Adaptive,
    AdaptiveHolds,
    SeriesUntil,
    Until,
    check_quantity,
    check_series,
    holds_of,
    quantities,
)
from .tracking import Focus, Settle, Track

TiltOrder = Literal["ascending", "descending", "bidirectional", "dose-symmetric"]
Count = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Pixels = Annotated[int, Field(ge=8, le=16_384, strict=True)]
MOST_FRAMES = 100_000
NonNegativeDuration = Annotated[DurationS, Field(ge=0)]


class Sample(Strict):
    """What is on the chip."""

    name: str = Field(min_length=1, max_length=200)
    elements: list[Annotated[str, Field(pattern=r"^[A-Z][a-z]?$")]] = Field(default_factory=list)


class BeamSettings(Strict):
    """Probe and scan: every frame of the experiment is taken with these."""

    voltage_kv: VoltageKv = Field(alias="voltage", gt=0, le=1500)
    current_pa: CurrentPa = Field(alias="current", gt=0)
    dwell_s: DurationS = Field(alias="dwell", gt=0)
    frame: tuple[Pixels, Pixels]
    pixel_nm: LengthNm = Field(alias="pixel_size", gt=0)

    @property
    def field_nm(self) -> float:
        """Width of the field of a frame."""
        return self.pixel_nm * self.frame[1]

    @property
    def exposure_s(self) -> float:
        """Time of one frame: dwell time times pixels."""
        return self.dwell_s * self.frame[0] * self.frame[1]

    @property
    def dose_per_frame_e_per_nm2(self) -> float:
        """Fluence of one frame."""
        return fluence_e_per_nm2(self.current_pa, self.dwell_s, self.pixel_nm**2)

    def parked_dose_e_per_nm2(self, time_s: float) -> float:
        """Fluence, averaged over the field, while the beam is on without a scan."""
        return self.dose_per_frame_e_per_nm2 / self.exposure_s * time_s


class Limits(Strict):
    """What this specimen may suffer; a plan beyond it is refused."""

    temperature_c: TemperatureC | None = Field(default=None, alias="temperature")
    dose_per_series_e_per_nm2: FluenceEPerNm2 | None = Field(
        default=None, alias="dose_per_series", gt=0
    )
    dose_e_per_nm2: FluenceEPerNm2 | None = Field(default=None, alias="dose", gt=0)


class Heat(Strict):
    """Go to a temperature and stay there with the beam blanked."""

    to_c: TemperatureC = Field(alias="to")
    hold_s: NonNegativeDuration = Field(default=0.0, alias="hold")
    rate_c_per_s: RateCPerS | None = Field(default=None, alias="rate", gt=0)


class Reference(Strict):
    """Frames of one view, for tuning the denoiser."""

    frames: Count


class Dark(Strict):
    """Frames with the beam blanked: what the detector shows without an electron."""

    frames: Count


class TiltSeries(Strict):
    """One low-dose tilt series.

    `frames_per_tilt` frames are recorded one after the other at each angle, each by itself; `track`
    holds what is other than in the recipe's `track` (`Recipe.track_of`).
    """

    from_deg: AngleDeg = Field(alias="from")
    to_deg: AngleDeg = Field(alias="to")
    step_deg: AngleDeg = Field(alias="step", gt=0)
    order: TiltOrder = "ascending"
    frames_per_tilt: Count = 1
    track: Track | None = None
    until: SeriesUntil | None = None

    @model_validator(mode="after")
    def _angles_make_sense(self) -> TiltSeries:
        span = abs(self.to_deg - self.from_deg)
        if span > 360 or span / self.step_deg > 10_000:
            raise ValueError("more than 360 deg or 10000 angles in one tilt series")
        if abs(span / self.step_deg - round(span / self.step_deg)) > 1e-6:
            raise ValueError(
                f"step {self.step_deg:g} deg does not divide the {span:g} deg from "
                f"{self.from_deg:g} to {self.to_deg:g}"
            )
        angles = round(span / self.step_deg) + 1
        if angles * self.frames_per_tilt > MOST_FRAMES:
            raise ValueError(
                f"{self.frames_per_tilt} frames at each of {angles} angles are "
                f"{angles * self.frames_per_tilt} in one tilt series; at most {MOST_FRAMES}"
            )
        return self


class CycleStep(Strict):
    """What follows each hold of a cycle: exactly one kind of step."""

    tilt_series: TiltSeries | None = None
    reference: Reference | None = None
    dark: Dark | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> CycleStep:
        _one_kind(self)
        return self


class Cycle(Strict):
    """Standby, processing, standby, then steps at standby; once for every hold."""

    standby_c: TemperatureC = Field(alias="standby")
    processing_c: TemperatureC = Field(alias="processing")
    holds: Annotated[list[float] | AdaptiveHolds, PlainValidator(holds_of)]
    then: list[CycleStep] = Field(default_factory=list)
    until: Until | None = None

    @property
    def holds_s(self) -> list[float]:
        """Holds as they are written; none where they are adaptive."""
        return [] if isinstance(self.holds, AdaptiveHolds) else self.holds

    @property
    def adaptive(self) -> Adaptive | None:
        """How holds are chosen, where they are."""
        return self.holds.adaptive if isinstance(self.holds, AdaptiveHolds) else None

    @property
    def all_holds_s(self) -> list[float]:
        """Every hold that may come: the last one written is repeated, adaptive ones are longest."""
        if self.adaptive is not None:
            return [self.adaptive.max_s] * self.adaptive.max_holds
        if self.until is None or self.until.max_holds is None:
            return self.holds_s
        missing = self.until.max_holds - len(self.holds_s)
        return [*self.holds_s, *([self.holds_s[-1]] * missing)]

    @model_validator(mode="after")
    def _until_can_be_decided(self) -> Cycle:
        measures = any(step.tilt_series is not None for step in self.then)
        if self.adaptive is not None and not measures:
            raise ValueError("adaptive holds are chosen by tilt series, but 'then' has none")
        if self.until is None:
            return self
        if self.adaptive is not None:
            if self.until.max_holds not in (None, self.adaptive.max_holds):
                raise ValueError(
                    f"until.max_holds is {self.until.max_holds}, max_holds of the adaptive holds "
                    f"is {self.adaptive.max_holds}; leave out the first"
                )
        elif self.until.max_holds is None:
            raise Misplaced("required key is missing", "until", "max_holds")
        elif len(self.holds_s) > self.until.max_holds:
            raise ValueError(
                f"{len(self.holds_s)} holds are written, until.max_holds is {self.until.max_holds}"
            )
        if not measures:
            raise ValueError("'until' measures tilt series, but 'then' has none")
        return self

    @model_validator(mode="after")
    def _processing_is_hotter(self) -> Cycle:
        if self.processing_c <= self.standby_c:
            raise ValueError(
                f"processing ({self.processing_c:g} degC) must be hotter than standby "
                f"({self.standby_c:g} degC)"
            )
        if self.adaptive is not None and self.adaptive.temperature_c is not None:
            low_c, high_c = self.adaptive.temperature_c
            if not self.standby_c < low_c <= self.processing_c <= high_c:
                raise Misplaced(
                    f"{low_c:g} to {high_c:g} degC must lie above standby "
                    f"({self.standby_c:g} degC) and hold processing ({self.processing_c:g} degC)",
                    "holds",
                    "adaptive",
                    "temperature",
                )
        return self


class Ramp(Strict):
    """A linear change of temperature, with a frame every so often."""

    to_c: TemperatureC = Field(alias="to")
    rate_c_per_s: RateCPerS = Field(alias="rate", gt=0)
    frame_every_s: DurationS | None = Field(default=None, alias="frame_every", gt=0)


class RecipeStep(Strict):
    """One step of the recipe: a mapping with exactly one of these keys.

    Attributes
    ----------
    calibrate : str or None
        ``height``: measure by scouts how high the specimen stands over the tilt axis, and let the
        stage bring it there. ``shifts``: measure by sparse scans what the beam shift does to the
        image, and write it into the rig's `beam.shift.calibration_file`. ``pixel``: measure on
        silicon along [110] what a pixel is worth, and write it into the rig's
        `beam.pixel_calibration_file`.
    """

    heat: Heat | None = None
    reference: Reference | None = None
    dark: Dark | None = None
    tilt_series: TiltSeries | None = None
    cycle: Cycle | None = None
    ramp: Ramp | None = None
    calibrate: Literal["height", "shifts", "pixel"] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> RecipeStep:
        _one_kind(self)
        return self


class Recipe(Strict):
    """A whole experiment.

    Attributes
    ----------
    track : Track or None
        How the specimen is kept in the frame, where a series says nothing else; None: it is not.
    focus : Focus
        How it is kept in focus, where it is tracked.
    settle : Settle or None
        Whether a tracked series waits for the drift after a hold to die down.
    """

    title: str = Field(min_length=1, max_length=500)
    sample: Sample
    beam: BeamSettings
    limits: Limits = Limits()
    track: Track | None = None
    focus: Focus = Focus()
    settle: Settle | None = None
    steps: list[RecipeStep] = Field(min_length=1, max_length=1000)
    analysis: Annotated[list[AnalysisStep], AfterValidator(complete_pipeline)] = Field(
        default_factory=list, max_length=50
    )

    @model_validator(mode="after")
    def _pipeline_in_order(self) -> Recipe:
        self._check_quantities()
        inner = [step for s in self.steps if s.cycle is not None for step in s.cycle.then]
        references = [s.reference.frames for s in [*self.steps, *inner] if s.reference is not None]
        fewest, kind = fewest_reference_frames(self.analysis)
        if max(references, default=0) < fewest:
            raise ValueError(
                f"analysis step '{kind}' is tuned by reference frames: add a step "
                f"'reference: {{frames: 50}}' ({fewest} are the fewest), or choose settings that "
                "need none"
            )
        return self

    def tilt_series(self) -> Iterator[tuple[str, TiltSeries]]:
        """Every tilt series that is written, with its place in the recipe, in order."""
        for number, step in enumerate(self.steps):
            if step.tilt_series is not None:
                yield f"steps[{number}].tilt_series", step.tilt_series
            for place, inner in enumerate(step.cycle.then if step.cycle is not None else ()):
                if inner.tilt_series is not None:
                    yield f"steps[{number}].cycle.then[{place}].tilt_series", inner.tilt_series

    def track_of(self, series: TiltSeries) -> Track | None:
        """How the specimen is kept in the frame in a series; None: it is not."""
        track = self.track if series.track is None else series.track.over(self.track)
        return track if track is not None and track.by != "none" else None

    @property
    def tracked(self) -> bool:
        """Whether the specimen is kept in the frame, at least in one series."""
        own = self.track is not None and self.track.by != "none"
        return own or any(self.track_of(series) is not None for _, series in self.tilt_series())

    @property
    def scouts_e_per_nm2(self) -> float:
        """Most fluence that the scouts of a series may take that says nothing else."""
        track = self.track
        return track.scouts_e_per_nm2 if track is not None and track.by != "none" else 0.0

    @property
    def focus_e_per_nm2(self) -> float:
        """Fluence that is planned for the focus series of a tilt series."""
        return self.focus.dose_e_per_nm2 if self.tracked and self.focus.takes_series else 0.0

    @model_validator(mode="after")
    def _only_where_tracked(self) -> Recipe:
        """Refuse keys that mean nothing without tracking."""
        if self.settle is not None and not self.tracked:
            raise Misplaced("needs the drift that tracking finds: add 'track: model'", "settle")
        if self.focus.takes_series and not self.tracked:
            raise Misplaced("needs the height that tracking finds: add 'track: model'", "focus")
        for number, step in enumerate(self.steps):
            if step.calibrate == "height" and not self.scouts_e_per_nm2:
                raise Misplaced(
                    "needs tracking with scouts: add 'track: {by: model, scouts: 1 e/nm^2}'",
                    "steps", number, "calibrate",
                )  # fmt: skip
        return self

    def _check_quantities(self) -> None:
        """Refuse cycles and series that are steered by what no step of the analysis gives."""
        check_series(self.steps, self.analysis)
        for number, step in enumerate(self.steps):
            cycle = step.cycle
            if cycle is None or (cycle.until is None and cycle.adaptive is None):
                continue
            planned = planned_results(self.analysis, "series", 2, (64, 64), self.beam.pixel_nm)
            for path, rule in (
                (("until",), cycle.until),
                (("holds", "adaptive"), cycle.adaptive),
            ):
                if rule is None:
                    continue
                if rule.quantity.name == NECK_RATIO and NECK_RATIO not in quantities(planned):
                    what = "'until'" if path == ("until",) else "adaptive holds"
                    raise Misplaced(
                        f"a cycle with {what} needs the analysis step 'measure: necks' to decide "
                        f"by {NECK_RATIO}, or another 'quantity'",
                        "steps",
                        number,
                        "cycle",
                        *path,
                    )
                try:
                    check_quantity(rule.quantity.name, rule.statistic, planned)
                except ValueError as error:
                    where = ("steps", number, "cycle", *path, "quantity")
                    raise Misplaced(str(error), *where) from None


def _one_kind(step: Strict) -> None:
    kinds = list(type(step).model_fields)
    given = [kind for kind in kinds if getattr(step, kind) is not None]
    if len(given) != 1:
        raise ValueError(
            f"a step is a mapping with exactly one of {', '.join(kinds)}; "
            f"this one has {', '.join(given) or 'none'}"
        )


def load_recipe(path: Path) -> tuple[Recipe, str]:
    """Recipe of a YAML file and its text.

    Raises
    ------
    BadInput
        If the file cannot be read or is not a valid recipe.
    """
    text = read_text(path)
    return load_model(Recipe, text, str(path)), text
