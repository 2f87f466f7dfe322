"""The analysis pipeline as data: its steps, their order, and which results they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ..core.documents import Strict
from ..core.errors import Misplaced

Effort = Literal["full", "quick"]
NoiseType = Literal["white", "gw", "g0", "g1", "g2", "g3", "g4"]


class Denoise(Strict):
    """Per frame: remove noise. `variance` is on the scale where the frame's maximum is 255.

    With noise "auto" both are chosen by the reference frames of the run. Effort "quick" keeps up
    with frames of 1024 x 1024 a second on two cores.
    """

    method: Literal["bm3d", "fast"] = "fast"
    noise: NoiseType | Literal["auto"] = "white"
    variance: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    effort: Effort = "full"

    @model_validator(mode="after")
    def _chosen_together(self) -> Denoise:
        if self.noise == "auto" and self.variance != "auto":
            raise ValueError(
                "noise 'auto' is chosen together with the variance; leave 'variance' out, or name "
                "the noise"
            )
        if self.effort != "full" and self.method != "fast":
            raise ValueError(f"effort '{self.effort}' is known to the method 'fast' only")
        return self


class Align(Strict):
    """Per series: register neighbouring tilts and find the tilt axis."""

    method: Literal["mutual-information", "phase-correlation", "centre-of-mass"] = (
        "mutual-information"
    )


class Reconstruct(Strict):
    """Per series: a volume from the tilt series, binned by `binning` in every direction.

    With thickness "auto" total-variation minimisation leaves vacuum far above and below the
    specimen, whose thickness the alignment has found; with "full" it asks the images.
    """

    method: Literal["sirt", "tv", "wbp"] = "sirt"
    iterations: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 30
    binning: Annotated[int, Field(ge=1, le=64, strict=True)] = 4
    thickness: Literal["auto", "full"] = "auto"


class Segment(Strict):
    """Per series: particles in the volume."""

    method: Literal["otsu"] = "otsu"


class Measure(Strict):
    """Per series: figures of the particles."""

    what: Literal["necks"] = "necks"


class AnalysisStep(Strict):
    """One step of the pipeline: a mapping with exactly one of these keys."""

    denoise: Denoise | None = None
    align: Align | None = None
    reconstruct: Reconstruct | None = None
    segment: Segment | None = None
    measure: Measure | None = None

    @field_validator("measure", mode="before")
    @classmethod
    def _word_is_enough(cls, value: object) -> object:
        return {"what": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> AnalysisStep:
        given = [k for k in type(self).model_fields if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                "an analysis step is a mapping with exactly one of "
                f"{', '.join(type(self).model_fields)}; this one has {', '.join(given) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        """Which step this is."""
        return next(k for k in type(self).model_fields if getattr(self, k) is not None)

    @property
    def settings(self) -> Denoise | Align | Reconstruct | Segment | Measure:
        """The settings of the step that this is."""
        return getattr(self, self.kind)


_ORDER = ("denoise", "align", "reconstruct", "segment", "measure")
_NEEDS = {"segment": "reconstruct", "measure": "segment"}


def check_order(steps: Sequence[AnalysisStep]) -> None:
    """Refuse a pipeline whose steps do not follow from one another.

    Raises
    ------
    Misplaced
        If a step comes twice, too early, or without the step that it works on.
    """
    kinds = [step.kind for step in steps]
    for position, kind in enumerate(kinds):
        earlier = kinds[:position]
        if kind in earlier:
            raise Misplaced(f"step '{kind}' is written twice", "analysis", position)
        late = [k for k in earlier if _ORDER.index(k) > _ORDER.index(kind)]
        if late:
            problem = f"step '{kind}' must come before '{late[0]}'"
            raise Misplaced(problem, "analysis", position)
        needed = _NEEDS.get(kind)
        if needed is not None and needed not in earlier:
            problem = f"step '{kind}' needs the step '{needed}' before it"
            raise Misplaced(problem, "analysis", position)


class ResultPlan(Strict):
    """One dataset that the analysis will leave for one stack of frames.

    `shape` is the full shape; `per_frame` results fill their first axis as frames arrive.
    `axes` name the axes in order, `pixel_nm` is the sampling along the spatial ones. A table names
    its `columns`, with units in the names; `unit` is that of every value of any other result, and
    empty where there is none.
    """

    name: str
    step: str
    process: int
    parameters: dict[str, str | int | float]
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]
    pixel_nm: float
    per_frame: bool = False
    columns: tuple[str, ...] = ()
    unit: str = ""

    def __eq__(self, other: object) -> bool:
        """Whether both describe the same room in a file.

        Names of columns and unit do not count: manifests of version 0.1.0 have neither, and their
        runs can be resumed.
        """
        return isinstance(other, ResultPlan) and self._room() == other._room()

    def __hash__(self) -> int:
        """Hash of what decides equality, in part."""
        return hash((self.name, self.process, self.shape))

    def _room(self) -> dict[str, object]:
        return self.model_dump(exclude={"columns", "unit"})


# Rows of a table of necks, and its columns (units in their names).
MAX_NECKS = 256
NECK_COLUMNS = (
    "particle_a",
    "particle_b",
    "neck_radius_nm",
    "particle_radius_nm",
    "distance_nm",
    "distance_xy_nm",
    "distance_z_nm",
    "aspect",
    "neck_to_particle",
    "distance_to_diameter",
)
# Frames without which the denoiser cannot be tuned.
FEWEST_REFERENCES = 3
# Rows of the table of settings that the denoiser was tried with, and its columns.
MAX_TRIALS = 64
TRIAL_COLUMNS = ("noise", "variance", "psnr_db")
_OTHERS = {"y": "zx", "z": "yx", "x": "yz"}


def tunes(steps: Sequence[AnalysisStep]) -> bool:
    """Whether the denoiser's settings are to be chosen by reference frames."""
    return any(step.denoise is not None and step.denoise.noise == "auto" for step in steps)


def planned_results(
    steps: Sequence[AnalysisStep],
    kind: Literal["series", "reference", "ramp"],
    frames: int,
    shape: tuple[int, int],
    pixel_nm: float,
    views: int | None = None,
) -> list[ResultPlan]:
    """Results that a pipeline leaves for a stack of frames.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The pipeline.
    kind : str
        Kind of stack; only tilt series are aligned and reconstructed.
    frames, shape, pixel_nm
        Number of frames, their shape (rows, columns), and the sampling.
    views : int, optional
        Number of different angles, where some are exposed more than once; as many as frames
        without it.

    Returns
    -------
    list of ResultPlan
        In the order of the pipeline; `process` numbers the NXprocess groups from 1.
    """
    binning = next((s.reconstruct.binning for s in steps if s.reconstruct is not None), 1)
    rows, columns = (max(1, side // binning) for side in shape)
    sides = {"y": rows, "z": columns, "x": columns, "view": views or frames}
    results: list[ResultPlan] = []
    process = 0

    def plan(
        name: str,
        axes: Sequence[str],
        dtype: str = "float32",
        columns: tuple[str, ...] = (),
        **more: int,
    ) -> None:
        known = {**sides, "column": len(columns), **more}
        results.append(
            ResultPlan(
                name=name,
                step=step.kind,
                process=process,
                parameters=step.settings.model_dump(),
                shape=tuple(known[axis] for axis in axes),
                dtype=dtype,
                axes=tuple(axes),
                pixel_nm=pixel_nm * binning,
                columns=columns,
            )
        )

    for step in steps:
        if kind != "series" and step.kind != "denoise":
            continue
        process += 1
        match step.kind:
            case "denoise" if kind == "reference" and tunes([step]):
                plan("tuning", ("trial", "column"), "float64", TRIAL_COLUMNS, trial=MAX_TRIALS)
            case "denoise":
                results.append(
                    ResultPlan(
                        name="denoised", step="denoise", process=process,
                        parameters=step.settings.model_dump(), shape=(frames, *shape),
                        dtype="float32", axes=("frame", "y", "x"), pixel_nm=pixel_nm,
                        per_frame=True,
                    )
                )  # fmt: skip
            case "align":
                # Images are aligned as they are reconstructed, binned; shifts are in full pixels.
                plan("aligned", ("view", "y", "x"))
                plan("shifts", ("view", "direction"), "float64", direction=2)
            case "reconstruct":
                # The volume, and its central slices across each axis, which viewers show at once.
                plan("volume", "yzx")
                for axis in "yzx":
                    plan(f"slice_{axis}", _OTHERS[axis])
            case "segment":
                plan("labels", "yzx", "uint16")
            case "measure":
                plan("necks", ("pair", "column"), "float64", NECK_COLUMNS, pair=MAX_NECKS)
            case _:
                pass
    return results
