"""The guardian process from its start to its exit code; what it is for: see the package."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from ....protocols.messages.parent_pipe import announce, fail
from ...runtime.terminal import Terminal
from .heartbeat import DaemonHeartbeat
from .messages import EXIT_ACTED, EXIT_ENDED, EXIT_NOT_STARTED, EXIT_UNCONFIRMED
from .safe_state import make_safe

_errors = Terminal(2)


def report(text: str) -> None:
    """Write a line to standard error; never waits, and never fails."""
    _errors.write(f"guardian: {text}\n")


def note(journal: str | None, content: dict[str, Any]) -> None:
    """Append a line to the journal of the run under way, and flush it to the disk."""
    if journal is None:
        return
    try:
        # It is not created: a journal that is gone is no longer needed.
        file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, json.dumps(content).encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        report(f"the journal {journal} cannot be written: {error.strerror}")


def main() -> int:
    """Run the process; returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    daemon = DaemonHeartbeat()
    # Drivers, and all that they need, take longer to import than everything above.
    from . import devices

    devices.preload(sys.argv[1:])
    first = daemon.read_line()
    if not first:
        return EXIT_ENDED
    try:
        guarded = devices.configured(first)
    except ValueError as error:
        fail(str(error))
        return EXIT_NOT_STARTED
    announce()
    reason = daemon.wait_for_failure(guarded.timeout_s)
    if reason is None:
        return EXIT_ENDED
    noticed_ns = guarded.clock.now_ns()
    if daemon.handed_over:
        if os.fork():  # the daemon waits for this process; the new one has time
            return EXIT_ENDED
        os.dup2(2, 1)  # standard output is a pipe of the daemon, which waits for its end
    elif guarded.kill:
        daemon.kill()
    report(f"{reason}; blanking the beam, heater to its safe level")
    done = asyncio.run(make_safe(guarded.beam, guarded.heater, report))
    note(daemon.journal, {"kind": "guardian", "t_ns": noticed_ns, "reason": reason, **done})
    if None in done.values():
        report("beam or heater NOT confirmed safe: look at them now")
        return EXIT_UNCONFIRMED
    return EXIT_ACTED


if __name__ == "__main__":
    code = main()
    _errors.drain()
    sys.exit(code)
