"""Commands for run files: `inspect` and `recover`."""

from __future__ import annotations

import typer

from .options import JsonOption, RunFileArgument, error_console, output_console, print_json

commands = typer.Typer()


@commands.command(epilog="Example: `pyrotome inspect demo.nxs --json`")
def inspect(file: RunFileArgument, as_json: JsonOption = False) -> None:
    """Say what a run file holds, also while it grows."""
    from ...protocols.runfile.summary import inspect_file
    from .describe import describe_file

    if as_json:
        print_json(inspect_file(file))
    else:
        output_console().print(describe_file(file))


@commands.command(epilog="Example: `pyrotome recover killed.nxs`")
def recover(file: RunFileArgument, as_json: JsonOption = False) -> None:
    """Make the file of a killed run readable and say what it holds.

    A healthy file is not touched. What is done can be interrupted and repeated at any moment.
    """
    from ..recording.recovery import recover as recover_file
    from .describe import describe_file

    found = recover_file(file)
    done, lost = list(found.done), list(found.lost)
    if as_json:
        recovered = {"repaired": found.repaired, "done": done, "lost": lost}
        print_json({**found.report, "recovered": recovered})
        return
    for line in done or ["there is nothing to do"]:
        output_console().print(f"{file}: {line}", soft_wrap=True, highlight=False, markup=False)
    for line in lost:
        error_console().print(
            f"{file}: lost: {line}", soft_wrap=True, highlight=False, markup=False
        )
    output_console().print(describe_file(file))
