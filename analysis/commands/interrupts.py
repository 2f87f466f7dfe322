"""Ctrl-C in the offline commands, and what they tell the user on standard error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ...protocols.messages.control import EXIT_INTERRUPTED


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. Where Python's own exception leaves `exec`, a process ends by the signal."""


# Signals that came: libraries have been seen to swallow the exception.
_received: list[int] = []


def _interrupt(number: int, frame: object) -> NoReturn:
    _received.append(number)
    raise Interrupted


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    """Print nothing about Ctrl-C in a destructor, where it goes no further; it is remembered."""
    if not issubclass(what.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(what)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the command within: one line on standard error, exit code 130."""
    _received.clear()
    handler, hook = signal.signal(signal.SIGINT, _interrupt), sys.unraisablehook
    sys.unraisablehook = _unraisable
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        # A library may have made another error of Ctrl-C.
        if not _received and not isinstance(error, KeyboardInterrupt):
            raise
        notify("interrupted")
        raise SystemExit(EXIT_INTERRUPTED) from error
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook


def stop_if_interrupted() -> None:
    """Stop here if Ctrl-C came before and a library swallowed it.

    Raises
    ------
    KeyboardInterrupt
        If it came.
    """
    if _received:
        raise Interrupted


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the end of this block."""
    before = signal.signal(signal.SIGINT, lambda number, _: _received.append(number))
    try:
        stop_if_interrupted()
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    stop_if_interrupted()


def notify(message: str) -> None:
    """Print a message for the user on standard error."""
    sys.stderr.write(f"pyrotome: {message}\n")
