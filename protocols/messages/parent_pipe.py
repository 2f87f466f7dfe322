"""How the daemon and the processes that it starts talk: standard input, output, parent death.

A child reads one line of JSON from standard input (its configuration), writes one line of JSON to
standard output when it is ready, and takes the end of standard input for the death of its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")


def dump_config(config: BaseModel) -> str:
    """The line that a child reads."""
    return config.model_dump_json(by_alias=True) + "\n"


def read_config(model: type[Model]) -> Model:
    """Configuration from the first line of standard input; leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return model.model_validate_json(sys.stdin.readline())


def announce(**body: Any) -> None:
    """Tell the parent, in one line, that this process is ready."""
    try:
        sys.stdout.write(json.dumps(body) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The parent has died, as the end of standard input shows too. The rest is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str) -> None:
    """Tell the parent, in one line, why this process cannot start."""
    announce(error=message)


def watch_parent(gone: Callable[[], None], on_line: Callable[[str], None] | None = None) -> None:
    """Call `gone` when standard input ends, and `on_line` with each line before; from a thread."""

    def wait() -> None:
        while line := sys.stdin.readline():
            if on_line is not None and line.strip():
                on_line(line)
        gone()

    threading.Thread(target=wait, name="parent watch", daemon=True).start()
