"""Commands that run something on this machine: `run`, `check`, `serve`, `simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...protocols.config.faults import FAULTS, parse_fault
from ...protocols.core.errors import BadInput
from .options import (
    JsonOption,
    RecipeArgument,
    RigOption,
    SpeedOption,
    check_speed,
    error_console,
    output_console,
    print_json,
    refuse_existing,
    rig_of,
)

if TYPE_CHECKING:
    from ...protocols.config.rig import Rig
    from ..resume.interrupted_run import InterruptedRun
    from .foreground import ForegroundRun

commands = typer.Typer()


@commands.command(
    epilog="Examples: `pyrotome run examples/recipes/quickstart.yaml -o demo.nxs`, "
    "`pyrotome run --resume demo.nxs`"
)
def run(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="The experiment, a YAML file; with --resume a run file."
        ),
    ],
    rig: RigOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Run file; never overwritten."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(metavar="X", help="Run simulated time this much faster; else 1."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run of a file that is not complete.")
    ] = False,
    simulator_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Let the simulated world write its own log there."),
    ] = None,
    simulator_fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE:FAULT[@START]",
            help="Let a simulated instrument misbehave, as `pyrotome simulate --fault` does.",
        ),
    ] = None,
) -> None:
    """Run one experiment from start to end in the foreground.

    With --resume, a run that was killed, aborted or failed continues: it acquires the frames that
    are missing, holds for the time that is left, and counts the dose that was given before.
    """
    import asyncio

    from ..resume.interrupted_run import is_run_file
    from .foreground import run_foreground

    if speed is not None:
        check_speed(speed)
    faults = [parse_fault(text, "--simulator-fault") for text in simulator_fault or ()]
    refuse_existing(simulator_log)
    if resume:
        experiment = _resumed_experiment(recipe, rig, output, speed)
    elif is_run_file(recipe):
        raise BadInput(str(recipe), "is not text but a run file; to resume its run, add --resume")
    else:
        experiment = _new_experiment(recipe, rig, output, speed)
    raise typer.Exit(asyncio.run(run_foreground(experiment, simulator_log, faults)))


def _new_experiment(
    recipe: Path, rig: Path | None, output: Path | None, speed: float | None
) -> ForegroundRun:
    """What to run for a recipe."""
    from ...protocols.config.recipe import load_recipe
    from ..run.run_file_plan import new_output
    from ..schedule.plan import make_new_plan
    from .foreground import ForegroundRun

    recipe_model, recipe_text = load_recipe(recipe)
    rig_model, rig_text = rig_of(rig, recipe_model)
    plan = make_new_plan(recipe_model, rig_model, str(recipe), recipe_text)
    return ForegroundRun(
        plan=plan,
        recipe_text=recipe_text,
        rig=rig_model,
        rig_text=rig_text,
        rig_file=_absolute(rig),
        output=new_output(output, recipe_model.title),
        speed=1.0 if speed is None else speed,
    )


def _resumed_experiment(
    target: Path, rig: Path | None, output: Path | None, speed: float | None
) -> ForegroundRun:
    """What to run so that an interrupted run continues."""
    from ..resume.interrupted_run import check_fit, recipe_of
    from ..schedule.plan import make_plan
    from .foreground import ForegroundRun

    interrupted = _interrupted_run(target, output)
    manifest, name = interrupted.manifest, str(interrupted.path)
    recipe_model = recipe_of(interrupted)
    rig_model, rig_text = _rig_of_run(rig, interrupted)
    plan = make_plan(recipe_model, rig_model, name)
    check_fit(interrupted, rig_model, plan)
    if speed is None:
        speed = manifest.speed if rig_model.simulator is not None else 1.0
    return ForegroundRun(
        plan=plan,
        recipe_text=manifest.recipe_text,
        rig=rig_model,
        rig_text=rig_text,
        rig_file=_absolute(rig),
        output=interrupted.path,
        speed=speed,
        resumed=interrupted,
    )


def _absolute(rig: Path | None) -> str | None:
    return None if rig is None else str(rig.absolute())


def _interrupted_run(target: Path, output: Path | None) -> InterruptedRun:
    """The run to resume, named by its file, or by its recipe and file."""
    from ...protocols.core.documents import read_text
    from ..resume.interrupted_run import is_run_file, read_interrupted, same_recipe

    def notify(text: str) -> None:
        error_console().print(text, style="dim", highlight=False, soft_wrap=True)

    if not target.exists():
        raise BadInput(str(target), "no such file; name the file of the interrupted run")
    if is_run_file(target):
        if output is not None:
            raise BadInput("-o", f"a resumed run continues in its own file, {target}; leave -o out")
        return read_interrupted(target, notify)
    text = read_text(target)
    if output is None:
        raise BadInput(
            str(target),
            "is not a run file; name the file of the interrupted run, or add it with -o",
        )
    if not is_run_file(output):
        problem = "is not a run file" if output.exists() else "no such file"
        raise BadInput(str(output), f"{problem}; name the file of the interrupted run")
    interrupted = read_interrupted(output, notify)
    same_recipe(interrupted, text, str(target))
    return interrupted


def _rig_of_run(path: Path | None, interrupted: InterruptedRun) -> tuple[Rig, str]:
    """The rig named, or that in the file of an interrupted run."""
    from ...drivers.registry import check_drivers
    from ..resume.interrupted_run import rig_of_run

    if path is not None:
        return rig_of(path)
    rig, text = rig_of_run(interrupted)
    check_drivers(rig)
    return rig, text


@commands.command(epilog="Example: `pyrotome check examples/recipes/cu_sintering.yaml`")
def check(recipe: RecipeArgument, rig: RigOption = None, as_json: JsonOption = False) -> None:
    """Validate a recipe and print its plan; touches no hardware."""
    from ...protocols.config.recipe import load_recipe
    from ..schedule.plan import make_new_plan
    from ..tracking.expected_tracking import expected_tracking
    from .progress import plan_table, tracking_table

    recipe_model, text = load_recipe(recipe)
    rig_model, _ = rig_of(rig, recipe_model)
    plan = make_new_plan(recipe_model, rig_model, str(recipe), text)
    tracking = expected_tracking(plan, rig_model)
    if as_json:
        told = {"tracking": tracking, "warnings": list(plan.warnings(rig_model))}
        print_json(plan.summary() | told)
        return
    output_console().print(plan_table(plan))
    if tracking is not None:
        output_console().print(tracking_table(tracking))
    for text in plan.warnings(rig_model):
        output_console().print(f"Warning: {text}", style="yellow", markup=False)


@commands.command(epilog="Example: `pyrotome serve --rig examples/rigs/simulated.yaml`")
def serve(
    rig: Annotated[Path, typer.Option("--rig", metavar="RIG", help="The instrument, a YAML file.")],
    speed: SpeedOption = 1.0,
) -> None:
    """Run the daemon alone, waiting for control."""
    import asyncio

    from .foreground import serve_until_stopped

    check_speed(speed)
    rig_model, rig_text = rig_of(rig)
    raise typer.Exit(asyncio.run(serve_until_stopped(rig_model, rig_text, speed)))


@commands.command(
    epilog="Examples: `pyrotome simulate --rig examples/rigs/simulated.yaml`, "
    "`pyrotome simulate --fault detector:hang@20s+5s --fault 'stage:slow=200 ms'`, "
    "`pyrotome simulate --fault heater:errorx2`"
)
def simulate(
    rig: RigOption = None,
    speed: SpeedOption = 1.0,
    simulator_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The simulated world's own log.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE:FAULT[=SIZE][xTIMES][@START][+DURATION]",
            help=f"Let a wire misbehave: {', '.join(FAULTS)}. May be given several times.",
        ),
    ] = None,
) -> None:
    """Run only the simulators; prints each wire's endpoint.

    A wire misbehaves from START on (experiment time since the wires are open), for DURATION or
    until it has done so TIMES times. Lines typed while the simulators run switch faults in the same
    way: `heater:hang`, and `heater:none` to clear all faults of that wire.
    """
    import asyncio

    from .foreground import simulate_until_stopped

    check_speed(speed)
    faults = [parse_fault(text) for text in fault or ()]
    rig_model, _ = rig_of(rig)
    if rig_model.simulator is None:
        raise BadInput(f"{rig}", "has no key 'simulator': there is nothing to simulate")
    refuse_existing(simulator_log)
    raise typer.Exit(asyncio.run(simulate_until_stopped(rig_model, speed, simulator_log, faults)))
