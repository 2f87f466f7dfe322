"""What the guardian process knows of the daemon: its heartbeat, its journal, whether it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from pathlib import Path

from .messages import parse_line

# After so many timeouts a daemon that did not get a processor counts as blocked as well.
TIMEOUTS_WITHOUT_CPU = 5.0
# Wall seconds that a killed daemon has to disappear.
_KILL_TIMEOUT_S = 5.0
_STEP_S = 0.1
# A wait that took longer than this was a pause of the computer, which stopped the daemon as well.
_LONGEST_STEP_S = 0.2


class CpuUsage:
    """How much of the time that passes a process could use, by what the scheduler gave it.

    A process that waits for a processor is not blocked. The figures come from Linux's ``/proc``;
    where that is absent, all time counts.

    Parameters
    ----------
    pid : int
        The process.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._ran_s, self._waited_s, _ = self._read()

    def usable_s(self, passed_s: float) -> float:
        """How much of the `passed_s` seconds since the last call the process could have used."""
        ran_s, waited_s, state = self._read()
        ran, waited = ran_s - self._ran_s, waited_s - self._waited_s
        self._ran_s, self._waited_s = ran_s, waited_s
        return max(0.0, min(passed_s, ran) if state == "R" else passed_s - waited)

    def _read(self) -> tuple[float, float, str]:
        """Seconds on a processor, seconds of waiting for one, and the state's letter."""
        try:
            ran_ns, waited_ns, _ = (self._folder / "schedstat").read_text().split()
            state = (self._folder / "stat").read_text().rpartition(")")[2].split()[0]
            return int(ran_ns) * 1e-9, int(waited_ns) * 1e-9, state
        except (OSError, ValueError):
            return 0.0, 0.0, ""


class DaemonHeartbeat:
    """The daemon, as its guardian sees it on standard input.

    Attributes
    ----------
    pid : int
        Process of the daemon, the parent of this one.
    journal : str or None
        Path of the journal of the run under way.
    handed_over : bool
        Whether the daemon has ended and left beam and heater to the guardian.
    """

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.journal: str | None = None
        self.handed_over = False
        self._locked: int | None = None
        self._raw = bytearray()
        # Before the first heartbeat the guardian is responsible for nothing.
        self._orderly = True

    def read_line(self) -> bytes:
        """The next line; empty if standard input ends first."""
        while b"\n" not in self._raw:
            raw = os.read(0, 65_536)
            if not raw:
                return b""
            self._raw += raw
        line, _, self._raw = self._raw.partition(b"\n")
        return bytes(line)

    def wait_for_failure(self, timeout_s: float) -> str | None:
        """Wait until the daemon fails or ends.

        Parameters
        ----------
        timeout_s : float
            Wall seconds without a heartbeat after which the daemon counts as blocked.

        Returns
        -------
        str or None
            What went wrong; None after an orderly end.
        """
        silent_s = wall_s = 0.0
        usage = CpuUsage(self.pid)
        while silent_s <= timeout_s and wall_s <= TIMEOUTS_WITHOUT_CPU * timeout_s:
            self._read_lines()
            began_s = time.monotonic()
            if select.select([0], [], [], _STEP_S)[0]:
                silent_s = wall_s = 0.0
                raw = os.read(0, 65_536)
                if not raw:
                    if self.handed_over:
                        return (
                            "the daemon ended before beam and heater confirmed that they are safe"
                        )
                    return None if self._orderly else "the daemon died"
                self._raw += raw
            else:
                passed_s = min(time.monotonic() - began_s, _LONGEST_STEP_S)
                silent_s += usage.usable_s(passed_s)
                wall_s += passed_s
        return f"no heartbeat from the daemon for {timeout_s:g} s"

    def _read_lines(self) -> None:
        *lines, rest = bytes(self._raw).split(b"\n")
        self._raw[:] = rest
        for line in lines:
            content = parse_line(line)
            self._orderly = bool(content.get("end"))
            if "journal" in content:
                self._lock_journal(content["journal"])
            self.handed_over = self.handed_over or bool(content.get("unsafe"))

    def _lock_journal(self, journal: str | None) -> None:
        """Lock the journal of the run: resuming the run waits until the lock is released."""
        self.journal = journal
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None
        if journal is not None:
            with contextlib.suppress(OSError):
                self._locked = os.open(journal, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(self._locked, fcntl.LOCK_SH)

    def kill(self) -> None:
        """Kill the daemon if it still lives, and wait until it is gone."""
        if os.getppid() != self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        end = time.monotonic() + _KILL_TIMEOUT_S
        while os.getppid() == self.pid and time.monotonic() < end:
            time.sleep(0.005)
