"""Write to a terminal without ever waiting for it: one that stands still must not hold a run up.

A terminal stopped with Ctrl-S, or a remote session that hangs, blocks whoever writes to it.
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

# What nobody has read: a terminal that takes nothing more loses what comes then.
MOST_WAITING = 1000


class Terminal(io.TextIOBase):
    """A text stream whose lines a thread of its own hands to a file descriptor.

    Parameters
    ----------
    fd : int
        Such as 2, standard error; it may be closed already.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._queue: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    def write(self, s: str, /) -> int:
        """Take a text over; it is lost when too much waits already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._hand_over, name="terminal", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(s.encode(errors="replace"))
        return len(s)

    def _hand_over(self) -> None:
        while True:
            raw = self._queue.get()
            with contextlib.suppress(OSError):  # nobody may be there any more
                while raw:
                    raw = raw[os.write(self._fd, raw) :]
            self._queue.task_done()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        try:
            return os.isatty(self._fd)
        except OSError:
            return False

    def fileno(self) -> int:
        """The descriptor, of which others ask the size."""
        return self._fd

    def console(self) -> Console:
        """A console that writes here."""
        from rich.console import Console

        return Console(file=cast(IO[str], self))

    def settle(self, timeout_s: float = 0.5) -> None:
        """Wait a little until everything is handed over."""
        end = time.monotonic() + timeout_s
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.002)
