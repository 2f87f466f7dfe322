"""The guardian: a process that makes beam and heater safe when the daemon cannot any more.

``python -m pyrotome.daemon.safety.guardian``, started by the daemon, reads a `GuardianConfig` and
then heartbeats from standard input. When that ends without an orderly end the daemon has died, or
leaves behind what it could not make safe; when nothing comes for the rig's ``guardian.timeout`` it
stands still, and is killed first, so that it cannot wake up and heat again. Then the beam is
blanked and the heater brought to its safe level, each over a connection of its own, again and again
until it has confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ...drivers.base import Beam, Heater
from ...drivers.registry import make_device
from ...protocols.messages.process import GuardianConfig, announce, fail
from ..runtime.terminal import Terminal
from .deadlines import SAFING_STEP_TIMEOUT_S, heater_timeout_s

EXIT_ENDED, EXIT_ACTED, EXIT_UNCONFIRMED, EXIT_NOT_STARTED = 0, 10, 11, 12
GIVE_UP_S = 60.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.05, 2.0
# Timeouts after which a daemon that did not have its turn has to go as well.
MOST_TIMEOUTS = 5.0
_STEP_S = 0.1
# A wait that took longer than this was the computer's pause, and the daemon's as well.
_LONGEST_STEP_S = 0.2


class Turns:
    """Whether a process had its turn on a processor: one that waits for it does not stand still.

    From Linux's ``/proc``; where there is none, every silence counts in full.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._ran_s, self._waited_s, _ = self._read()

    def silent_s(self, passed_s: float) -> float:
        """How much of the time since the last look the process could have used."""
        ran_s, waited_s, state = self._read()
        ran, waited = ran_s - self._ran_s, waited_s - self._waited_s
        self._ran_s, self._waited_s = ran_s, waited_s
        return max(0.0, min(passed_s, ran) if state == "R" else passed_s - waited)

    def _read(self) -> tuple[float, float, str]:
        try:
            ran_ns, waited_ns, _ = (self._folder / "schedstat").read_text().split()
            state = (self._folder / "stat").read_text().rpartition(")")[2].split()[0]
            return int(ran_ns) * 1e-9, int(waited_ns) * 1e-9, state
        except (OSError, ValueError):
            return 0.0, 0.0, ""


class Daemon:
    """What is heard of the daemon on standard input."""

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.journal: str | None = None
        self._kept: int | None = None
        self._raw = bytearray()
        self.handed_over = False
        # Before the first heartbeat nothing has been entrusted to this process.
        self._orderly = True

    def line(self) -> bytes:
        """The next line, or nothing if standard input ends before."""
        while b"\n" not in self._raw:
            raw = os.read(0, 65_536)
            if not raw:
                return b""
            self._raw += raw
        line, _, self._raw = self._raw.partition(b"\n")
        return bytes(line)

    def watch(self, timeout_s: float) -> str | None:
        """Wait until something is wrong, and say what; None when the end is orderly."""
        silent_s = wall_s = 0.0
        turns = Turns(self.pid)
        while silent_s <= timeout_s and wall_s <= MOST_TIMEOUTS * timeout_s:
            self._take_in()
            began_s = time.monotonic()
            if select.select([0], [], [], _STEP_S)[0]:
                silent_s = wall_s = 0.0
                raw = os.read(0, 65_536)
                if not raw:
                    if self.handed_over:
                        return "the daemon ends, and beam or heater has not confirmed"
                    return None if self._orderly else "the daemon died"
                self._raw += raw
            else:
                passed_s = min(time.monotonic() - began_s, _LONGEST_STEP_S)
                silent_s += turns.silent_s(passed_s)
                wall_s += passed_s
        return f"no heartbeat of the daemon for {timeout_s:g} s"

    def _take_in(self) -> None:
        *lines, rest = bytes(self._raw).split(b"\n")
        self._raw[:] = rest
        for line in lines:
            self._orderly = False
            with contextlib.suppress(ValueError):
                told: Any = json.loads(line or b"{}")
                self._orderly = bool(told.get("end"))
                if "journal" in told:
                    self._keep(told["journal"])
                self.handed_over = self.handed_over or bool(told.get("unsafe"))

    def _keep(self, journal: str | None) -> None:
        """Hold the journal of the run: who takes the run up again waits until it is let go."""
        self.journal = journal
        if self._kept is not None:
            self._kept = os.close(self._kept)
        if journal is not None:
            with contextlib.suppress(OSError):
                self._kept = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(self._kept, fcntl.LOCK_SH)

    def kill(self) -> None:
        """Kill it, if it is still there, and wait until it is gone."""
        if os.getppid() != self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        end = time.monotonic() + 5.0
        while os.getppid() == self.pid and time.monotonic() < end:
            time.sleep(0.005)


_errors = Terminal(2)


def say(text: str) -> None:
    """Tell whoever reads standard error, if there still is somebody who does."""
    _errors.write(f"guardian: {text}\n")


async def confirmed(
    what: str, act: Callable[[], Awaitable[object]], timeout_s: float, give_up_s: float
) -> bool:
    """Do something again and again until it has confirmed, or there is no time left."""
    retry_s, said = FIRST_RETRY_S, ""
    end = time.monotonic() + give_up_s
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                await act()
        except Exception as error:
            problem = str(error) or "not confirmed in time"
            if problem != said:
                said = problem
                say(f"NOT {what}: {problem}")
        else:
            return True
        if time.monotonic() + retry_s > end:
            return False
        await asyncio.sleep(retry_s)
        retry_s = min(2.0 * retry_s, LONGEST_RETRY_S)


async def make_safe(beam: Beam, heater: Heater) -> dict[str, int | None]:
    """Blank the beam and bring the heater to its safe level, both at once.

    Returns
    -------
    dict
        Moments on the experiment clock; None for what did not confirm.
    """
    clock = heater.clock

    async def one(what: str, act: Callable[[], Awaitable[object]], timeout_s: float) -> int | None:
        give_up_s = GIVE_UP_S + timeout_s - SAFING_STEP_TIMEOUT_S
        if not await confirmed(what, act, timeout_s, give_up_s):
            return None
        say(what)
        return clock.now_ns()

    began_ns = clock.now_ns()
    blanked_ns, safe_ns = await asyncio.gather(
        one("beam blanked", beam.make_safe, SAFING_STEP_TIMEOUT_S),
        one("heater at its safe level", heater.make_safe, heater_timeout_s(heater)),
    )
    sent_ns = heater.safe_sent_ns or (None if safe_ns is None else began_ns)
    await asyncio.gather(beam.disconnect(), heater.disconnect(), return_exceptions=True)
    return {
        "beam_blanked_ns": blanked_ns,
        "heater_commanded_ns": sent_ns,
        "heater_safe_ns": safe_ns,
    }


def note(journal: str | None, what: dict[str, Any]) -> None:
    """Add a line to the journal of the run under way, and see that it is on the disk."""
    if journal is None:
        return
    try:
        # Not created: one that is gone has served.
        file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(file, json.dumps(what).encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        say(f"the journal {journal} cannot be written: {error.strerror}")


def main() -> int:
    """Run the process; returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    daemon = Daemon()
    first = daemon.line()
    if not first:
        return EXIT_ENDED
    try:
        config = GuardianConfig.model_validate_json(first)
        clock = config.clock.clock()
        beam = make_device(config.rig, "beam", clock)
        heater = make_device(config.rig, "heater", clock)
    except ValueError as error:
        fail(str(error))
        return EXIT_NOT_STARTED
    announce()
    reason = daemon.watch(config.rig.guardian.timeout_s)
    if reason is None:
        return EXIT_ENDED
    noticed_ns = clock.now_ns()
    if daemon.handed_over:
        if os.fork():  # the daemon waits for this process; the other one has time
            return EXIT_ENDED
        os.dup2(2, 1)  # a pipe of the daemon's, which waits for its end
    elif config.kill:
        daemon.kill()
    say(f"{reason}; blanking the beam, heater to its safe level")
    done = asyncio.run(make_safe(beam, heater))
    note(daemon.journal, {"kind": "guardian", "t_ns": noticed_ns, "reason": reason, **done})
    if None in done.values():
        say("beam or heater NOT confirmed safe: look at them now")
        return EXIT_UNCONFIRMED
    return EXIT_ACTED


if __name__ == "__main__":
    code = main()
    _errors.settle()
    sys.exit(code)
