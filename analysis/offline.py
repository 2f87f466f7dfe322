"""``pyrotome process``: the analysis pipeline offline, by the same code as online.

Frames are fed from the file in the order of their exposure. Results gather in a file of their own
and go into new NXprocess groups of the run file when their stack is done: whatever stops the
computation leaves the run file as it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import __version__
from ..protocols import layout
from ..protocols.control import EXIT_DONE, EXIT_FAILED
from ..protocols.loading import BadInput, Strict, load_model, read_text
from ..protocols.manifest import StackPlan
from ..protocols.pipeline import AnalysisStep, check_order, planned_results
from ..protocols.timebase import iso_utc
from .commands import new_file, run_command, stop_if_asked, uninterrupted
from .pipeline import BadFrame, Notice, Output, Pipeline, StackAnalysis
from .runfiles import RunReader, Scratch, Stack, add_results

SOFTWARE = f"pyrotome {__version__}"
_BLOCK = "analysis"


class PipelineFile(Strict):
    """The block ``analysis`` of a recipe, alone or among the rest of it."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    analysis: list[AnalysisStep] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _in_order(self) -> PipelineFile:
        check_order(self.analysis)
        return self


def steps_of(run: RunReader, pipeline: Path | None) -> Sequence[AnalysisStep]:
    """Pipeline of a YAML file, or that of the recipe in the run file.

    Raises
    ------
    BadInput
        If there is none, or a step does not exist or does not follow from those before it.
    """
    if pipeline is not None:
        text = read_text(pipeline)
        return load_model(PipelineFile, text, str(pipeline), list_is=_BLOCK).analysis
    text = run.text(layout.RECIPE_TEXT)
    if f"{_BLOCK}:" not in text:
        raise BadInput(
            str(run.path), "its recipe has no block 'analysis'; name one with --pipeline P.yaml"
        )
    return load_model(PipelineFile, text, f"{run.path}: its recipe", list_is=_BLOCK).analysis


def plan_of(run: RunReader, stack: Stack, steps: Sequence[AnalysisStep]) -> StackPlan:
    """What the pipeline will leave for a stack, in process groups after those that are there."""
    planned = planned_results(
        steps, stack.kind, stack.frames, stack.shape, stack.pixel_nm, len(stack.views_deg)
    )
    last = run.last_process(stack)
    results = tuple(r.model_copy(update={"process": r.process + last}) for r in planned)
    return StackPlan(
        name=stack.name, kind=stack.kind, frames=stack.frames, tilt_deg=stack.asked_deg,
        results=results,
    )  # fmt: skip


@dataclass
class StackOutcome:
    """What became of one stack: results made, and what the operator should know."""

    name: str
    results: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    failed: bool = False


def outputs_of(run: RunReader, stack: Stack, analysis: StackAnalysis) -> Iterator[Output | None]:
    """Feed the frames of a stack and finish it; yields None after each frame."""
    for index in range(stack.frames):
        try:
            if not stack.there[index]:
                yield from analysis.lost(index)
            else:
                tilt = stack.tilt_deg[index]
                values = run.values(stack, index)
                yield from analysis.frame(index, values, float(tilt) if np.isfinite(tilt) else None)
        except BadFrame as error:
            yield Notice("error", str(error))
        yield None
    if analysis.take_complete():
        try:
            yield from analysis.finish()
        except Exception as error:  # one bad series must not end the analysis
            yield Notice("error", f"{stack.name} cannot be analysed as a whole: {error!r}")


def process_file(
    path: Path,
    steps: Sequence[AnalysisStep],
    only: int | None = None,
    say: Callable[[str, str], None] = lambda level, message: None,
    advance: Callable[[str, int], None] = lambda name, frames: None,
) -> list[StackOutcome]:
    """Carry out a pipeline on the frames of a run file and add the results to it.

    Parameters
    ----------
    path : Path
        The run file; results that it holds are left alone.
    steps : sequence of AnalysisStep
        The pipeline.
    only : int, optional
        Number of the one tilt series to process; else every stack of frames, as online.
    say : callable
        Told level and text of what the operator should know.
    advance : callable
        Told the stack and its number of frames, after every frame.

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
    with RunReader(path) as run:
        chosen = list(run.stacks.values()) if only is None else [run.series(only)]
        plans = {stack.name: plan_of(run, stack, steps) for stack in chosen}
        pipeline = Pipeline(steps, list(plans.values()))
    if not pipeline.stacks:
        kinds = ", ".join(step.kind for step in steps)
        names = ", ".join(plans) or "a file without frames"
        raise BadInput("the pipeline", f"its steps ({kinds}) leave nothing for {names}")
    outcomes: list[StackOutcome] = []
    for name, analysis in pipeline.stacks.items():
        outcome = StackOutcome(name)
        outcomes.append(outcome)

        def tell(notice: Notice, outcome: StackOutcome = outcome) -> None:
            outcome.notes.append(f"{notice.level}: {notice.message}")
            outcome.failed = outcome.failed or notice.level == "error"
            say(notice.level, notice.message)

        # On the same disk, whose room is what counts in the end.
        with tempfile.TemporaryDirectory(prefix=".pyrotome-", dir=path.parent) as folder:
            scratch = Scratch(Path(folder) / "results.h5", plans[name].results)
            try:
                # Opened anew for every stack: results are added to the file in between.
                with RunReader(path) as run:
                    stack = run.stacks[name]
                    for output in outputs_of(run, stack, analysis):
                        stop_if_asked()
                        if output is None:
                            advance(name, stack.frames)
                        elif isinstance(output, Notice):
                            tell(output)
                        else:
                            scratch.put(output.name, output.index, output.data, output.parameters)
                outcome.results = scratch.names()
                if outcome.results:
                    date = iso_utc(time.time_ns())
                    with uninterrupted():
                        add_results(path, SOFTWARE, plans[name], scratch, date, outcome.notes)
                else:
                    tell(Notice("error", f"{name}: nothing came of it; nothing is written"))
            finally:
                scratch.close()
    return outcomes


@contextmanager
def _progress() -> Iterator[tuple[Console, Progress]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        yield console, progress


def _body(arguments: Any) -> int:
    source: Path = arguments.file
    output: Path | None = arguments.output
    with RunReader(source) as run:
        steps = steps_of(run, arguments.pipeline)
        if arguments.series is not None:
            run.series(arguments.series)
    if output is None and not (os.access(source, os.W_OK) and os.access(source.parent, os.W_OK)):
        raise BadInput(str(source), "must not be written, or its folder not; name a copy with -o")
    tasks: dict[str, Any] = {}
    with ExitStack() as stack:
        target = source
        if output is not None:
            target = stack.enter_context(new_file(output))
            shutil.copyfile(source, target)
        console, progress = stack.enter_context(_progress())

        def say(level: str, message: str) -> None:
            colour = {"error": "red", "warning": "yellow"}.get(level, "default")
            console.print(
                f"[{colour}]{level}[/]", message.replace("[", r"\["), soft_wrap=True,
                highlight=False,
            )  # fmt: skip

        def advance(name: str, frames: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=frames)
            progress.advance(tasks[name])
            if progress.tasks[tasks[name]].finished:
                progress.update(tasks[name], description=f"{name}, now as a whole")

        outcomes = process_file(target, steps, arguments.series, say, advance)
    for outcome in outcomes:
        made = ", ".join(name for name in outcome.results if not name.startswith("slice_"))
        print(f"{outcome.name}: {made or 'nothing'}{' (with errors)' if outcome.failed else ''}")
    return EXIT_FAILED if any(outcome.failed for outcome in outcomes) else EXIT_DONE


def main() -> None:
    """Carry out ``pyrotome process``."""
    parser = argparse.ArgumentParser("pyrotome process", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--series", type=int)
    parser.add_argument("--pipeline", type=Path)
    parser.add_argument("--output", type=Path)
    run_command(parser, _body)


if __name__ == "__main__":
    main()
