"""The manifest of a run: what recorder and analysis must know before the first frame."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, field_validator

from ..config.pipeline import RUN_RESULTS, ResultPlan
from ..config.recipe import BeamSettings, Sample
from ..core.documents import Strict
from ..steps import StackKind

FrameDtype = Literal["uint8", "uint16", "uint32"]


class StackPlan(Strict):
    """One group of frames in the file, such as ``series_001``.

    `tilt_deg` are the requested angles of its frames, in the order of exposure; `tilt_axis_deg` is
    the direction of the tilt axis as the rig tells it.
    """

    name: str
    kind: StackKind
    frames: int
    tilt_deg: tuple[float, ...]
    results: tuple[ResultPlan, ...] = ()
    tilt_axis_deg: float | None = None

    @property
    def is_dark(self) -> bool:
        """Whether its frames are taken with the beam blanked, without dose."""
        return self.kind == "dark"


class HoldPlan(Strict):
    """One hold at processing temperature; `index` counts from 1."""

    index: int
    standby_c: float
    target_c: float
    requested_s: float


class Interruption(Strict):
    """A time in which the experiment was not controlled; UTC nanoseconds on its clock.

    `hot_s` is how long the specimen was at processing temperature in it, unrecorded. `number`
    counts the interruptions in the journal of the run, from 1. If a resumed run is killed before
    its journal records the resume, the next resume overwrites that interruption.
    """

    from_ns: int
    until_ns: int
    hot_s: float = 0.0
    reason: str = ""
    number: int | None = None


class ShiftMatrix(Strict):
    """What the beam deflectors do to the image, from a `ShiftCalibration`.

    `matrix_nm` holds shifts (y, x) of the image for one `unit` of each deflector, `covariance_nm2`
    that of its elements row by row, `date` when it was measured, `largest_nm` the largest shift
    tried.
    """

    unit: str
    matrix_nm: tuple[tuple[float, float], tuple[float, float]]
    covariance_nm2: tuple[tuple[float, ...], ...]
    date: str
    largest_nm: float


class ScoutGrid(Strict):
    """Positions of a scan that the file has room for: so many rows and columns of `pixel_nm`."""

    name: str
    kind: Literal["scout", "wide"]
    shape: tuple[int, int]
    pixel_nm: float


class ScoutsPlan(Strict):
    """Scouts that a run may take: for which series, or calibrations, and in which grids."""

    accounts: tuple[str, ...]
    grids: Annotated[tuple[ScoutGrid, ...], Field(min_length=1)]


class TrackingPlan(Strict):
    """How the specimen of a run is kept in the frame and in focus.

    `settings` are those of the recipe, by names such as ``track.by``; `lost_beyond_nm` is the
    offset beyond which a frame counts as off; `calibration` is that of the beam shift. `scouts` is
    None for a run that takes none.
    """

    settings: dict[str, str | float | None]
    lost_beyond_nm: float
    calibration: ShiftMatrix | None = None
    scouts: ScoutsPlan | None = None


class RunManifest(Strict):
    """Everything that is fixed when a run starts.

    `telemetry` maps device to channel to unit. `holds_before` gives for each stack how many holds
    precede it. `rig_file` is the file of the rig, for the paths in it. `analysis` holds the steps
    of the pipeline as they are written in a recipe: only the analysis needs their classes.
    `run_results` are the results of the run as a whole. `marked_value` is the number by which the
    detector marks a pixel that it has not measured. The `adaptive_holds` are chosen as the run goes
    on; what `holds` says of them is the longest.
    `tracking` is None for a run that does not track.
    """

    run: str
    title: str
    software: str
    started_ns: int
    speed: float
    simulated: bool
    recipe_text: str
    rig_text: str
    rig_name: str
    rig_file: str | None = None
    sample: Sample
    beam: BeamSettings
    detector: str
    instruments: dict[str, str] = Field(default_factory=dict)
    value_offset: int = 0
    frame_dtype: FrameDtype = "uint16"
    marked_value: int | None = None
    stacks: tuple[StackPlan, ...]
    holds: tuple[HoldPlan, ...]
    holds_before: dict[str, int]
    telemetry: dict[str, dict[str, str]]
    analysis: tuple[dict[str, Any], ...] = ()
    run_results: tuple[ResultPlan, ...] = ()
    adaptive_holds: tuple[int, ...] = ()
    tracking: TrackingPlan | None = None

    @field_validator("analysis", mode="before")
    @classmethod
    def _steps_as_data(cls, steps: object) -> object:
        if not isinstance(steps, list | tuple):
            return steps
        items = cast(list[object], steps)
        return tuple(s.model_dump() if isinstance(s, BaseModel) else s for s in items)

    @property
    def whole_run(self) -> StackPlan:
        """The results of the run as a whole, in the form of a stack without frames."""
        return StackPlan(
            name=RUN_RESULTS, kind="series", frames=0, tilt_deg=(), results=self.run_results
        )
