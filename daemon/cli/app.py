"""The command line: ``pyrotome COMMAND``; every error becomes one message and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from ... import __version__
from ...protocols.core.errors import BadInput
from ...protocols.messages.control import (
    EXIT_BAD_INPUT,
    EXIT_DEVICE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    BadRequest,
)
from . import calibrate, files, installed, remote, run
from .keys import keys
from .plugins import add_commands

app = typer.Typer(
    name="pyrotome",
    help="Live in-situ heating experiments in electron microscopes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _warn(text: str) -> None:
    # A process without standard error has None there.
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr.write(text)


for _group in (run, calibrate, remote, files, installed):
    app.registered_commands += _group.commands.registered_commands
add_commands(app, _warn)
app.add_typer(keys)


def _version(requested: bool) -> None:
    if requested:
        sys.stdout.write(f"pyrotome {__version__}\n")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Live in-situ heating experiments in electron microscopes."""


def exit_code_and_message(error: BaseException) -> tuple[int, str]:
    """Exit code, and the message on standard error, for an error that ends a command.

    Parameters
    ----------
    error : BaseException
        What the command raised.

    Returns
    -------
    int, str
        2 for bad input, 3 for a device, 130 for Ctrl-C, 1 for the rest.
    """
    from ...drivers.base import DeviceError
    from ..runtime.processes import ChildFailed

    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, (BadInput, BadRequest)):
        return EXIT_BAD_INPUT, str(error)
    if isinstance(error, DeviceError):
        return EXIT_DEVICE, str(error)
    if isinstance(error, (ChildFailed, OSError)) and str(error):
        return EXIT_FAILED, str(error)
    text = f"unexpected {type(error).__name__}: {error} (run again with --debug)"
    return EXIT_FAILED, text


def main() -> None:
    """Entry point of the command ``pyrotome``."""
    # `--debug` works wherever it is written.
    debug = "--debug" in sys.argv[1:]
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(args=arguments, standalone_mode=True)
    except SystemExit as leaving:
        raise SystemExit(leaving.code) from None
    except BrokenPipeError:
        raise SystemExit(EXIT_FAILED) from None
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, message = exit_code_and_message(error)
        sys.stderr.write(f"pyrotome: {message}\n")
        raise SystemExit(code) from None
