"""What the offline commands share: exit codes, one message instead of a traceback, safe outputs."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ...protocols.core.errors import BadInput
from ...protocols.messages.control import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED


def run_command(parser: argparse.ArgumentParser, body: Callable[[Any], int]) -> NoReturn:
    """Carry out a command and leave with its exit code.

    Parameters
    ----------
    parser : ArgumentParser
        Of the command; ``--debug`` is added.
    body : callable
        Takes the parsed arguments, returns the exit code.
    """
    parser.add_argument("--debug", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, _note)
    sys.unraisablehook = _unraisable
    try:
        code = body(arguments)
    except (Exception, KeyboardInterrupt) as error:
        if arguments.debug:
            traceback.print_exc()
        code = EXIT_FAILED
        if isinstance(error, KeyboardInterrupt):
            code, message = EXIT_INTERRUPTED, "interrupted"
        elif isinstance(error, BadInput):
            code, message = EXIT_BAD_INPUT, str(error)
        elif isinstance(error, OSError):
            message = str(error)
        else:
            message = f"unexpected {type(error).__name__}: {error} (run again with --debug)"
        say(message)
    sys.exit(code)


_asked: list[int] = []


def _note(number: int, frame: object) -> NoReturn:
    """Take Ctrl-C as usual, and remember it: libraries have been seen to swallow it."""
    _asked.append(number)
    raise KeyboardInterrupt


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Be quiet about Ctrl-C in a destructor, where it cannot go on; it is remembered."""
    if what.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(what)


def stop_if_asked() -> None:
    """Stop here if Ctrl-C came before and got lost on its way."""
    if _asked:
        raise KeyboardInterrupt


def say(message: str) -> None:
    """Tell the person something, on standard error."""
    sys.stderr.write(f"pyrotome: {message}\n")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end of this block."""
    before = signal.signal(signal.SIGINT, lambda number, _: _asked.append(number))
    try:
        stop_if_asked()
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    stop_if_asked()
