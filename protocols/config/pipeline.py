"""The analysis pipeline as data: its steps, their order, and which results they leave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pydantic import SerializeAsAny, ValidationError, model_serializer, model_validator

from ..core.documents import InvalidPart, Strict
from ..core.errors import BadInput, Misplaced
from ..steps import ResultSpec, StackInfo, StackKind, Step, StepSettings
from ..steps.base import PROVIDED
from ..steps.registry import UnknownStep, givers, installed, step_class
from ..steps.tables import MAX_NECKS, MAX_TRIALS, NECK_COLUMNS, TRIAL_COLUMNS

__all__ = [
    "CORRECTION",
    "MAX_NECKS",
    "MAX_TRIALS",
    "NECK_COLUMNS",
    "RUN_RESULTS",
    "TRIAL_COLUMNS",
    "AnalysisStep",
    "ResultPlan",
    "binning_of",
    "check_order",
    "complete_pipeline",
    "fewest_reference_frames",
    "planned_results",
    "planned_run_results",
    "stack_info",
]

# Group of the file, and `series` of a message, for results of the whole run.
RUN_RESULTS = "entry"
# The step that every pipeline with images begins with, unless it is turned off.
CORRECTION = "correct"


class AnalysisStep(Strict):
    """One step of the pipeline, written as a mapping with one key: ``{name: settings}``.

    Attributes
    ----------
    kind : str
        Name of the step.
    settings : StepSettings
        Of the class that the step declares.
    """

    kind: str
    settings: SerializeAsAny[StepSettings]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if isinstance(value, AnalysisStep):
            return value
        known = ", ".join(installed())
        if not isinstance(value, Mapping):
            raise ValueError(
                f"should be a mapping with one or more of the keys {known}, not {value!r}"
            )
        # Manifests of version 0.1.0 name all steps, with null for those that are not meant.
        written = {
            str(key): given
            for key, given in cast(Mapping[object, object], value).items()
            if given is not None
        }
        for kind in written:
            try:
                step_class(kind)
            except UnknownStep as error:
                raise Misplaced(str(error), kind) from None
        if len(written) != 1:
            raise ValueError(
                f"an analysis step is a mapping with exactly one of {known}; this one has "
                f"{', '.join(written) or 'none'}"
            )
        ((kind, settings),) = written.items()
        model = step_class(kind).Settings
        try:
            return {"kind": kind, "settings": model.model_validate(settings)}
        except ValidationError as error:
            raise InvalidPart(model, error, kind) from None

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {self.kind: self.settings.model_dump(mode="json", by_alias=True)}

    @property
    def step_class(self) -> type[Step[Any]]:
        """Class of the step."""
        return step_class(self.kind)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the step cannot work without, with its settings."""
        return tuple(self.step_class.needs(self.settings))

    @property
    def outputs(self) -> tuple[ResultSpec, ...]:
        """Results that the step declares with its settings.

        Raises
        ------
        ValueError
            If the step, of another package, fails to declare them.
        """
        try:
            return tuple(self.step_class.outputs(self.settings))
        except Exception as error:
            raise ValueError(f"step '{self.kind}' cannot declare its results: {error}") from error


def complete_pipeline(steps: Sequence[AnalysisStep]) -> list[AnalysisStep]:
    """Check a pipeline, and put the step ``correct`` first where it treats images without it.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        As they are written.

    Returns
    -------
    list of AnalysisStep
        ``correct: off`` is kept as it is written.

    Raises
    ------
    Misplaced
        As :func:`check_order`.
    """
    treats_images = any(
        step.step_class.frame is not Step.frame or set(PROVIDED) & set(step.needs) for step in steps
    )
    if not treats_images or any(step.kind == CORRECTION for step in steps):
        check_order(steps)
        return list(steps)
    whole = [AnalysisStep.model_validate({CORRECTION: {}}), *steps]
    check_order(whole, first=-1)
    return whole


def check_order(steps: Sequence[AnalysisStep], first: int = 0) -> None:
    """Refuse a pipeline whose steps do not follow from one another.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The pipeline.
    first : int
        Position of the first step where they are written.

    Raises
    ------
    Misplaced
        If a step comes twice, too early, or without the step that it works on; if two steps give
        the same result or want different binnings.
    """
    gives: dict[str, str] = {}
    binned_by = ""
    for position, step in enumerate(steps):
        problem = _problem(step, steps[:position], gives)
        if not problem and step.step_class.binning(step.settings) is not None:
            if binned_by:
                problem = f"steps '{binned_by}' and '{step.kind}' both bin the images; use one"
            binned_by = step.kind
        if problem:
            raise Misplaced(problem, position + first)
        gives |= {spec.name: step.kind for spec in step.outputs}


def _problem(
    step: AnalysisStep, earlier: Sequence[AnalysisStep], gives: Mapping[str, str]
) -> str | None:
    """What is wrong with a step after those before it, which give so many results."""
    kind = step.kind
    if kind in [before.kind for before in earlier]:
        return f"step '{kind}' is written twice"
    if kind == CORRECTION and earlier:
        return f"step '{kind}' must come before '{earlier[0].kind}': it must be the first"
    try:
        outputs = {spec.name for spec in step.outputs}
    except ValueError as error:
        return str(error)
    for before in earlier:
        if outputs & {*before.needs, *before.step_class.after}:
            return f"step '{kind}' must come before '{before.kind}'"
    for name in sorted(outputs & gives.keys()):
        return f"steps '{gives[name]}' and '{kind}' both give the result '{name}'; use one"
    for name in step.needs:
        if name in PROVIDED or name in gives:
            continue
        found = givers(name)
        if not found:
            return f"step '{kind}' needs the result '{name}', which no installed step gives"
        given_by = " or ".join(f"'{giver}'" for giver in found)
        return f"step '{kind}' needs the step {given_by} before it, which gives '{name}'"
    return None


def check_steps(steps: Sequence[AnalysisStep], shape: tuple[int, int], name: str) -> None:
    """Let each step check its settings, and the files that they name, before a run.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The pipeline.
    shape : tuple of int
        Rows and columns of a frame.
    name : str
        Where the pipeline is written, for messages.

    Raises
    ------
    BadInput
        Naming the step.
    """
    for step in steps:
        try:
            step.step_class.check(step.settings, shape)
        except ValueError as error:
            raise BadInput(f"{name}: analysis: {step.kind}", str(error)) from None


def fewest_reference_frames(steps: Sequence[AnalysisStep]) -> tuple[int, str]:
    """Reference frames that the pipeline needs, and the step that needs them (0, "" for none)."""
    needed = [(step.step_class.fewest_reference_frames(step.settings), step.kind) for step in steps]
    return max(needed, default=(0, ""), key=lambda need: need[0])


# A setting of a step that is None, as the file holds it.
_NOT_SET = "null"


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

        Names of columns, unit and settings that are not set do not count: manifests of version
        0.1.0 do not have them, and their runs can be resumed.
        """
        return isinstance(other, ResultPlan) and self._room() == other._room()

    def __hash__(self) -> int:
        """Hash of what decides equality, in part."""
        return hash((self.name, self.process, self.shape))

    def _room(self) -> dict[str, object]:
        room = self.model_dump(exclude={"columns", "unit", "parameters"})
        room["parameters"] = {
            key: value for key, value in self.parameters.items() if value != _NOT_SET
        }
        return room


def binning_of(steps: Sequence[AnalysisStep]) -> int:
    """Binning of the images of a series: that of the one step which decides it, or 1."""
    wanted = (step.step_class.binning(step.settings) for step in steps)
    return next((binning for binning in wanted if binning is not None), 1)


def stack_info(
    steps: Sequence[AnalysisStep],
    kind: StackKind,
    tilt_deg: Sequence[float],
    shape: tuple[int, int],
    pixel_nm: float,
    *,
    name: str = "",
    views: int | None = None,
) -> StackInfo:
    """Describe a stack of frames to the steps of a pipeline, with the shapes of their results.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The pipeline.
    kind : str
        Kind of stack.
    tilt_deg : sequence of float
        Nominal angle of each frame.
    shape, pixel_nm
        Shape of a frame (rows, columns), and its sampling.
    name : str
        Of the stack.
    views : int, optional
        Number of different angles; as many as frames without it.
    """
    info = StackInfo(
        name,
        kind,
        tuple(tilt_deg),
        len(tilt_deg) if views is None else views,
        shape,
        pixel_nm,
        binning_of(steps),
    )
    rows, columns = info.image_shape
    series = {"view": info.views, "y": rows, "z": columns, "x": columns}
    series |= {"frame_y": shape[0], "frame_x": shape[1]}
    frame = {"frame": info.frames, "y": shape[0], "x": shape[1]}
    shapes = {
        spec.name: spec.shape(frame if spec.per == "frame" else series)
        for step in steps
        for spec in step.outputs
        if kind in spec.stacks and spec.per != "run"
    }
    return replace(info, shapes=shapes)


def planned_results(
    steps: Sequence[AnalysisStep],
    kind: StackKind,
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
        Kind of stack; a step declares which kinds have its results.
    frames, shape, pixel_nm
        Number of frames, their shape (rows, columns), and the sampling.
    views : int, optional
        Number of different angles, where some are exposed more than once; as many as frames
        without it.

    Returns
    -------
    list of ResultPlan
        In the order of the pipeline; `process` numbers the NXprocess groups from 1. The correction
        of the counts comes last here: the other steps keep their numbers with and without it.
    """
    info = stack_info(steps, kind, (0.0,) * frames, shape, pixel_nm, views=views)
    results: list[ResultPlan] = []
    process = 0
    for step in sorted(steps, key=lambda step: step.kind == CORRECTION):
        specs = [
            spec
            for spec in step.outputs
            if spec.recorded and spec.per != "run" and kind in spec.stacks
        ]
        process += bool(specs)
        for spec in specs:
            in_frame = spec.per == "frame" or "frame_x" in spec.axes
            sampling = pixel_nm if in_frame else info.pixel_nm
            results.append(_plan(step, spec, process, info.shapes[spec.name], sampling))
    # Frames that no other step looks at need no correction; dark frames are for the correction.
    if kind != "dark" and len(steps) > 1 and all(result.step == CORRECTION for result in results):
        return []
    return results


def planned_run_results(
    steps: Sequence[AnalysisStep], series: int, shape: tuple[int, int], pixel_nm: float
) -> list[ResultPlan]:
    """Results that a pipeline leaves for the run as a whole.

    Parameters
    ----------
    steps : sequence of AnalysisStep
        The pipeline.
    series : int
        Number of tilt series that the run may have.
    shape, pixel_nm
        Shape of a frame (rows, columns), and its sampling.
    """
    binning = binning_of(steps)
    rows, columns = (max(1, side // binning) for side in shape)
    lengths = {"series": series, "y": rows, "z": columns, "x": columns}
    results: list[ResultPlan] = []
    process = 0
    for step in steps:
        specs = [spec for spec in step.outputs if spec.recorded and spec.per == "run"]
        process += bool(specs)
        results += [
            _plan(step, spec, process, spec.shape(lengths), pixel_nm * binning) for spec in specs
        ]
    return results


def _plan(
    step: AnalysisStep, spec: ResultSpec, process: int, shape: tuple[int, ...], pixel_nm: float
) -> ResultPlan:
    return ResultPlan(
        name=spec.name,
        step=step.kind,
        process=process,
        parameters=_parameters(step.settings),
        shape=shape,
        dtype=spec.dtype,
        axes=spec.axes,
        pixel_nm=pixel_nm,
        per_frame=spec.per == "frame",
        columns=spec.columns,
        unit=spec.unit,
    )


def _parameters(settings: StepSettings) -> dict[str, str | int | float]:
    """Settings as the file holds them: numbers and text; anything else as JSON text.

    Not as a recipe writes them: the unit of a number stands in the name of its field.
    """
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value, default=str)
        for name, value in values.items()
    }
