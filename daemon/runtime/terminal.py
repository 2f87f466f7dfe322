"""Write to a terminal without ever waiting for it: a blocked terminal must not delay a run.

A terminal stopped with Ctrl-S, or a remote session that hangs, blocks the writing thread.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import threading
import time
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.console import Console

# Texts that wait; a terminal that is blocked for longer loses the later ones.
MOST_WAITING = 1000


class Terminal(io.TextIOBase):
    """A text stream whose text is written to a file descriptor by a thread of its own.

    Parameters
    ----------
    fd : int
        File descriptor, such as 2 for standard error; it may be closed already.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._queue: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    def write(self, s: str, /) -> int:
        """Queue a text; it is lost when too many wait already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_queued, name="terminal", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(s.encode(errors="replace"))
        return len(s)

    def _write_queued(self) -> None:
        while True:
            raw = self._queue.get()
            with contextlib.suppress(OSError):  # the terminal may be gone
                while raw:
                    raw = raw[os.write(self._fd, raw) :]
            self._queue.task_done()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return os.isatty(self._fd)
        except OSError:
            return False

    def fileno(self) -> int:
        """The descriptor, of which rich requests the size."""
        return self._fd

    def console(self) -> Console:
        """A console that writes here."""
        from rich.console import Console

        return Console(file=cast(IO[str], self))

    def drain(self, timeout_s: float = 0.5) -> None:
        """Wait, at most `timeout_s` wall seconds, until everything is written."""
        end = time.monotonic() + timeout_s
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.002)
