"""What the commands share: options stated once, consoles, JSON output, the rig of a command."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ...protocols.core.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from ...protocols.config.recipe import Recipe
    from ...protocols.config.rig import Rig

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The experiment, a YAML file.")
]
RigOption = Annotated[
    Path | None,
    typer.Option("--rig", metavar="RIG", help="The instrument, a YAML file; else simulated."),
]
SpeedOption = Annotated[
    float, typer.Option(metavar="X", help="Run simulated time this much faster.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A run file.")]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        envvar="PYROTOME_KEY",
        help="Your key, for a daemon that requires one.",
    ),
]


def output_console() -> Console:
    """Console on standard output."""
    from rich.console import Console

    return Console()


def error_console() -> Console:
    """Console on standard error."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(data: Any) -> None:
    """Write data as JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def fail(message: str, code: int) -> NoReturn:
    """End the command with a message on standard error and an exit code."""
    sys.stderr.write(f"pyrotome: {message}\n")
    raise typer.Exit(code)


def check_speed(speed: float) -> float:
    """The speed, if it is one; BadInput otherwise."""
    if not (math.isfinite(speed) and 0 < speed <= 1000):
        raise BadInput("--speed", f"{speed:g} is not between 0 and 1000")
    return speed


def refuse_existing(path: Path | None) -> None:
    """Raise BadInput if there is something at a path that is to be written."""
    if path is not None and path.exists():
        raise BadInput(str(path), "exists already; nothing is overwritten, name another file")


def rig_of(path: Path | None, recipe: Recipe | None = None) -> tuple[Rig, str]:
    """Rig and its text: the one named, or the simulated microscope.

    Parameters
    ----------
    path : Path or None
        The rig file; None for the simulated microscope.
    recipe : Recipe or None
        Its high tension is that of the simulated microscope. For a recipe that tracks, that has the
        errors of a real one.

    Raises
    ------
    BadInput
        If the rig is not valid, or names drivers, options, endpoints or files that cannot be.
    """
    from ...protocols.config.realistic_rig import realistic_rig
    from ...protocols.config.rig import load_rig, simulated_rig
    from ...protocols.core.documents import located
    from ..service.rig_check import rig_problems

    if path is not None:
        rig, text = load_rig(path)
    else:
        tracks = recipe is not None and recipe.tracked
        rig = realistic_rig() if tracks else simulated_rig()
        if recipe is not None and rig.simulator is not None:
            column = rig.simulator.column.model_copy(update={"voltage_kv": recipe.beam.voltage_kv})
            simulator = rig.simulator.model_copy(update={"column": column})
            rig = rig.model_copy(update={"simulator": simulator})
        text = "# the built-in simulated microscope\n" + rig.model_dump_json(
            by_alias=True, indent=1
        )
    problems = rig_problems(rig)
    if problems:
        name = str(path or "built-in rig")
        lines = [f"{located(text, name, error.where)}: {error.problem}" for error in problems]
        raise BadInput("", "\n".join(lines))
    return rig, text
