"""The recipe: what an experiment does, never on which hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..core.documents import Strict, load_model, read_text
from ..core.units import (
    AngleDeg,
    CurrentPa,
    DurationS,
    FluenceEPerNm2,
    Fraction,
    LengthNm,
    RateCPerS,
    TemperatureC,
    VoltageKv,
    fluence_e_per_nm2,
)
from .pipeline import AnalysisStep, check_order, fewest_reference_frames

TiltOrder = Literal["ascending", "descending", "bidirectional", "dose-symmetric"]
Count = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Pixels = Annotated[int, Field(ge=8, le=16_384, strict=True)]
NonNegativeDuration = Annotated[DurationS, Field(ge=0)]
PositiveDuration = Annotated[DurationS, Field(gt=0)]


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
    def exposure_s(self) -> float:
        """Time of one frame: dwell time times pixels."""
        return self.dwell_s * self.frame[0] * self.frame[1]

    @property
    def dose_per_frame_e_per_nm2(self) -> float:
        """Fluence of one frame."""
        return fluence_e_per_nm2(self.current_pa, self.dwell_s, self.pixel_nm**2)


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


class TiltSeries(Strict):
    """One low-dose tilt series."""

    from_deg: AngleDeg = Field(alias="from")
    to_deg: AngleDeg = Field(alias="to")
    step_deg: AngleDeg = Field(alias="step", gt=0)
    order: TiltOrder = "ascending"
    frames_per_tilt: Count = 1

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
        return self


class CycleStep(Strict):
    """What follows each hold of a cycle: exactly one kind of step."""

    tilt_series: TiltSeries | None = None
    reference: Reference | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> CycleStep:
        _one_kind(self)
        return self


class Until(Strict):
    """End a cycle by what the analysis has just measured, or after a number of holds.

    After each series the median ratio of neck to particle radius is compared with that of the
    series before. If it is not known within `timeout_s` of wall time, the cycle goes on or stops
    as `otherwise` says.
    """

    neck_growth_below: Annotated[Fraction, Field(gt=0, lt=1)]
    max_holds: Annotated[int, Field(ge=1, le=10_000, strict=True)]
    timeout_s: DurationS = Field(default=120.0, alias="timeout", gt=0)
    otherwise: Literal["continue", "stop"] = "continue"


class Cycle(Strict):
    """Standby, processing, standby, then steps at standby; once for every hold."""

    standby_c: TemperatureC = Field(alias="standby")
    processing_c: TemperatureC = Field(alias="processing")
    holds_s: list[PositiveDuration] = Field(alias="holds", min_length=1, max_length=10_000)
    then: list[CycleStep] = Field(default_factory=list)
    until: Until | None = None

    @model_validator(mode="after")
    def _until_can_be_decided(self) -> Cycle:
        if self.until is None:
            return self
        if len(self.holds_s) > self.until.max_holds:
            raise ValueError(
                f"{len(self.holds_s)} holds are written, until.max_holds is {self.until.max_holds}"
            )
        if not any(step.tilt_series is not None for step in self.then):
            raise ValueError("'until' measures tilt series, but 'then' has none")
        return self

    @property
    def all_holds_s(self) -> list[float]:
        """Every hold that may come: with `until`, the last one written is repeated."""
        if self.until is None:
            return self.holds_s
        missing = self.until.max_holds - len(self.holds_s)
        return [*self.holds_s, *([self.holds_s[-1]] * missing)]

    @model_validator(mode="after")
    def _processing_is_hotter(self) -> Cycle:
        if self.processing_c <= self.standby_c:
            raise ValueError(
                f"processing ({self.processing_c:g} degC) must be hotter than standby "
                f"({self.standby_c:g} degC)"
            )
        return self


class Ramp(Strict):
    """A linear change of temperature, with a frame every so often."""

    to_c: TemperatureC = Field(alias="to")
    rate_c_per_s: RateCPerS = Field(alias="rate", gt=0)
    frame_every_s: DurationS | None = Field(default=None, alias="frame_every", gt=0)


class Step(Strict):
    """One step of the recipe: a mapping with exactly one of these keys."""

    heat: Heat | None = None
    reference: Reference | None = None
    tilt_series: TiltSeries | None = None
    cycle: Cycle | None = None
    ramp: Ramp | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Step:
        _one_kind(self)
        return self


class Recipe(Strict):
    """A whole experiment."""

    title: str = Field(min_length=1, max_length=500)
    sample: Sample
    beam: BeamSettings
    limits: Limits = Limits()
    steps: list[Step] = Field(min_length=1, max_length=1000)
    analysis: list[AnalysisStep] = Field(default_factory=list, max_length=50)

    @model_validator(mode="after")
    def _pipeline_in_order(self) -> Recipe:
        check_order(self.analysis)
        steered = [s for s in self.steps if s.cycle is not None and s.cycle.until is not None]
        if steered and not any(step.kind == "measure" for step in self.analysis):
            raise ValueError(
                "a cycle with 'until' needs the analysis step 'measure: necks' to decide by"
            )
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
        If the file cannot be read or is no valid recipe.
    """
    text = read_text(path)
    return load_model(Recipe, text, str(path)), text
