"""``pyrotome process``: the analysis pipeline offline, by the same code as online.

Frames are fed from the file in the order of their exposure. Results gather in a file of their own
and go into new NXprocess groups of the run file when their stack is done: whatever stops the
computation leaves the run file as it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field

from ... import __version__
from ...protocols.config.pipeline import (
    RUN_RESULTS,
    AnalysisStep,
    ResultPlan,
    check_steps,
    complete_pipeline,
    fewest_reference_frames,
    planned_results,
    planned_run_results,
)
from ...protocols.core.clock import iso_utc
from ...protocols.core.documents import Strict, load_model, read_text
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import EXIT_DONE, EXIT_FAILED
from ...protocols.messages.manifest import StackPlan
from ...protocols.runfile.reader import Floats, Run, Stack, open_run
from ..io.result_writer import ResultScratch, add_results
from ..io.safe_output import new_file
from ..pipeline.pipeline import (
    Notice,
    Output,
    Pipeline,
    PlannedStack,
    Progress,
    Result,
    StackAnalysis,
)
from ..report.tables import NECKS, TUNING, write_beside
from .interrupts import notify, stop_if_interrupted, uninterrupted
from .process_display import ProcessWatcher, ProgressDisplay
from .stack_references import references_of

SOFTWARE = f"pyrotome {__version__}"
_BLOCK = "analysis"


class PipelineFile(Strict):
    """The block ``analysis`` of a recipe, alone or among the rest of it."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    analysis: Annotated[list[AnalysisStep], AfterValidator(complete_pipeline)] = Field(
        min_length=1, max_length=50
    )


def steps_of(run: Run, pipeline: Path | None) -> Sequence[AnalysisStep]:
    """Pipeline of a YAML file, or that of the recipe in the run file.

    Raises
    ------
    BadInput
        If there is none, or a step does not exist or does not follow from those before it.
    """
    if pipeline is not None:
        text = read_text(pipeline)
        return load_model(PipelineFile, text, str(pipeline), list_is=_BLOCK).analysis
    text = run.recipe_text or ""
    if f"{_BLOCK}:" not in text:
        raise BadInput(
            str(run.path),
            "its recipe has no block 'analysis'; name a file of steps with --pipeline P.yaml",
        )
    return load_model(PipelineFile, text, f"{run.path}: its recipe", list_is=_BLOCK).analysis


def plan_of(stack: Stack, steps: Sequence[AnalysisStep]) -> StackPlan:
    """What the pipeline will leave for a stack, in process groups after those that are there."""
    planned = planned_results(
        steps,
        stack.kind,
        stack.frame_count,
        stack.frame_shape,
        stack.pixel_nm,
        len(stack.views_deg),
    )
    last = stack.last_process
    results = tuple(r.model_copy(update={"process": r.process + last}) for r in planned)
    return StackPlan(
        name=stack.name,
        kind=stack.kind,
        frames=stack.frame_count,
        tilt_deg=tuple(float(angle) for angle in stack.nominal_tilt_deg),
        tilt_axis_deg=stack.tilt_axis_deg,
        results=results,
    )


def run_plan_of(run: Run, stacks: Sequence[Stack], steps: Sequence[AnalysisStep]) -> StackPlan:
    """What the pipeline will leave for the run as a whole, after the process groups there are."""
    series = [stack for stack in stacks if stack.kind == "series"]
    results: tuple[ResultPlan, ...] = ()
    if series:
        first, last = series[0], run.last_process
        planned = planned_run_results(steps, len(series), first.frame_shape, first.pixel_nm)
        results = tuple(r.model_copy(update={"process": r.process + last}) for r in planned)
    return StackPlan(name=RUN_RESULTS, kind="series", frames=0, tilt_deg=(), results=results)


@dataclass
class StackOutcome:
    """Outcome of one image stack: its results, and notes for the operator."""

    name: str
    results: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    failed: bool = False


def outputs_of(stack: Stack, analysis: StackAnalysis) -> Iterator[Output | None]:
    """Feed the frames of a stack, with all that follows from them; None after each frame."""
    recorded, tilt_deg = stack.recorded, stack.tilt_deg
    time_s, exposure_s = stack.time_s, stack.exposure_s
    if (tracking := stack.tracking) is not None:
        for index in range(stack.frame_count):
            if (found := tracking.measured_nm(index)) is not None:
                analysis.note_offset(index, *found)
    for index in range(stack.frame_count):
        if not recorded[index]:
            yield from analysis.lost(index)
        else:
            values = stack.frame_values(index)
            told = (_known(column, index) for column in (tilt_deg, time_s, exposure_s))
            yield from analysis.frame(index, values, *told)
        yield None
        for task in analysis.take_tasks():
            try:
                yield from task.outputs
            except Exception as error:  # one bad series must not end the analysis
                yield Notice("error", f"{stack.name} cannot be analysed as a whole: {error!r}")


def _known(column: Floats, index: int) -> float | None:
    """A value of a column; None where it is not known or the column is absent."""
    return float(column[index]) if column.size and np.isfinite(column[index]) else None


def process_file(
    path: Path,
    steps: Sequence[AnalysisStep],
    only: int | None = None,
    watcher: ProcessWatcher | None = None,
) -> list[StackOutcome]:
    """Carry out a pipeline on the frames of a run file and add the results to it.

    Parameters
    ----------
    path : Path
        The run file; results that it holds are left alone.
    steps : sequence of AnalysisStep
        The pipeline.
    only : int, optional
        Number of the one tilt series to process (with the reference frames, if the denoiser is
        tuned by them); else every stack of frames, as online.
    watcher : ProcessWatcher, optional
        Is called with what happens.

    Returns
    -------
    list of StackOutcome
        One for each stack for which something is planned.

    Raises
    ------
    BadInput
        If the file cannot be used, or nothing is planned for it.
    OSError
        If the disk is full.
    """
    watcher = watcher or ProcessWatcher()
    with open_run(path) as run:
        chosen = _chosen_stacks(run, steps, only, watcher)
        for stack in chosen[:1]:
            check_steps(steps, stack.frame_shape, str(run.path))
        plans = {stack.name: plan_of(stack, steps) for stack in chosen}
        run_plan = run_plan_of(run, chosen, steps)
        stacks = [
            PlannedStack(plans[s.name], s.frame_shape, s.pixel_nm, s.marked_value) for s in chosen
        ]
        known = references_of(chosen)
        pipeline = Pipeline(steps, stacks, run_results=run_plan.results, known=known)
    if not pipeline.stacks:
        kinds = ", ".join(step.kind for step in steps)
        names = ", ".join(plans) or "a file without frames"
        raise BadInput("the pipeline", f"its steps ({kinds}) give no result for {names}")
    run_results: dict[str, Result] = {}
    outcomes = [
        _process_stack(path, plans[name], analysis, watcher, run_results)
        for name, analysis in pipeline.stacks.items()
    ]
    _add_run_results(path, run_plan, run_results)
    return outcomes


def _chosen_stacks(
    run: Run, steps: Sequence[AnalysisStep], only: int | None, watcher: ProcessWatcher
) -> list[Stack]:
    """Image stacks to process, in the order of their exposure."""
    chosen = sorted(run.stacks.values(), key=lambda stack: stack.started_s)
    is_tuned = fewest_reference_frames(steps)[0] > 0
    if only is not None:
        wanted = run.one_series(only)
        before = [s for s in chosen if s.kind == "dark" and s.started_s < wanted.started_s]
        chosen = [
            s
            for s in chosen
            if s is wanted or s in before[-1:] or (s.kind == "reference" and is_tuned)
        ]
    if is_tuned and not any(stack.kind == "reference" for stack in chosen):
        watcher.notice(
            "warning",
            f"{run.path} holds no reference frames to tune the denoiser by: frames are denoised "
            "as white noise of their own variance",
        )
    return chosen


def _process_stack(
    path: Path,
    plan: StackPlan,
    analysis: StackAnalysis,
    watcher: ProcessWatcher,
    run_results: dict[str, Result],
) -> StackOutcome:
    """Process one image stack and add its results to the file.

    Results of the run as a whole replace those of the stacks before in `run_results`.
    """
    name = plan.name
    given = dict[str, Result]()
    outcome = StackOutcome(name)

    def notice(notice: Notice) -> None:
        outcome.notes.append(f"{notice.level}: {notice.message}")
        outcome.failed = outcome.failed or notice.level == "error"
        watcher.notice(notice.level, notice.message)

    # On the same disk as the run file: its free space is what counts in the end.
    with tempfile.TemporaryDirectory(prefix=".pyrotome-", dir=path.parent) as folder:
        scratch = ResultScratch(Path(folder) / "results.h5", plan.results)
        try:
            # Opened for each stack: results are added to the file in between.
            with open_run(path) as run:
                stack = run.stacks[name]
                for output in outputs_of(stack, analysis):
                    stop_if_interrupted()
                    match output:
                        case None:
                            watcher.frame_done(name, stack.frame_count)
                        case Notice():
                            notice(output)
                        case Progress():
                            watcher.progress(name, output)
                        case Result() if output.series == RUN_RESULTS:
                            given[output.name] = output
                        case Result() if output.record:
                            scratch.put(output.name, output.index, output.data, output.parameters)
                        case Result():
                            pass  # a preview
            outcome.results = scratch.names()
            if outcome.results:
                date = iso_utc(time.time_ns())
                with uninterrupted():
                    add_results(path, SOFTWARE, plan, scratch, date, outcome.notes)
            elif not outcome.failed and not given and stack.kind == "series":
                notice(Notice("error", f"{name}: no step gave a result; nothing is written"))
        finally:
            scratch.close()
    run_results.update(given)
    watcher.stack_done(name)
    return outcome


def _add_run_results(path: Path, plan: StackPlan, results: Mapping[str, Result]) -> None:
    """Write the newest results of the run as a whole."""
    if not results:
        return
    with tempfile.TemporaryDirectory(prefix=".pyrotome-", dir=path.parent) as folder:
        scratch = ResultScratch(Path(folder) / "results.h5", plan.results)
        try:
            for result in results.values():
                scratch.put(result.name, None, result.data, result.parameters)
            with uninterrupted():
                add_results(path, SOFTWARE, plan, scratch, iso_utc(time.time_ns()), ())
        finally:
            scratch.close()


def process_command(
    source: Path,
    series: int | None,
    pipeline: Path | None,
    output: Path | None,
    tables: Path | None,
    write_tables: bool,
) -> int:
    """Carry out ``pyrotome process``.

    Parameters
    ----------
    source : Path
        The run file.
    series : int or None
        Number of the one tilt series to process; None for all.
    pipeline : Path or None
        YAML file of the steps; None for those of the recipe.
    output : Path or None
        A copy that takes the results instead of `source`.
    tables : Path or None
        Folder for table and plots; None for that of the run file.
    write_tables : bool
        Whether to write them.

    Returns
    -------
    int
        The exit code.
    """
    with open_run(source) as run:
        steps = steps_of(run, pipeline)
        if series is not None:
            run.one_series(series)
    if output is None and not (os.access(source, os.W_OK) and os.access(source.parent, os.W_OK)):
        raise BadInput(str(source), "it or its folder is write-protected; name a copy with -o")
    result = source if output is None else output
    if tables is not None and not (tables.is_dir() and os.access(tables, os.W_OK)):
        raise BadInput("--tables", f"{tables} is not a folder that can be written")
    with ExitStack() as stack:
        target = source
        if output is not None:
            target = stack.enter_context(new_file(output))
            shutil.copyfile(source, target)
        display = ProgressDisplay()
        stack.enter_context(display.bars)
        outcomes = process_file(target, steps, series, display)
    failed = any(outcome.failed for outcome in outcomes)
    measured: list[str] = []
    for outcome in outcomes:
        made = ", ".join(name for name in outcome.results if not name.startswith("slice_"))
        errors = " (with errors)" if outcome.failed else ""
        print(f"{outcome.name}: {made or 'nothing written'}{errors}")
        if NECKS in outcome.results or TUNING in outcome.results:
            measured.append(outcome.name)
    if measured and write_tables:
        failed |= not _tables_written(result, measured, tables or result.parent)
    return EXIT_FAILED if failed else EXIT_DONE


def _tables_written(path: Path, measured: Sequence[str], folder: Path) -> bool:
    try:
        with open_run(path) as run:
            written = write_beside(run, measured, folder, notify)
    except (OSError, BadInput) as error:
        notify(
            f"the results are in {path}, but their table or plots could not be written: {error}; "
            f"`pyrotome export {path} --what {NECKS} --to FILE.csv` tries again"
        )
        return False
    for file in written:
        print(file)
    return True
