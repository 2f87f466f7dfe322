"""Write and read the journal of a run, the file beside its run file.

Its lines are described in `protocols/messages/journal.py`.

Lines are written one by one without a buffer: what was noted survives the death of the process.
A crash of the whole computer may lose the lines since the end of the last operation, when the file
was last flushed to the disk (fsync).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import Entry, Noted, line_of, parse_journal

RETRY_S = 1.0


def journal_path(run_file: Path) -> Path:
    """Path of the journal of a run file."""
    return run_file.with_name(run_file.name + ".journal")


def read_journal(run_file: Path) -> tuple[list[Noted], list[str]]:
    """Entries of a run's journal, and what cannot be read of it; raises OSError."""
    return parse_journal(journal_path(run_file).read_bytes())


def is_guarded(run_file: Path) -> bool:
    """Whether the guardian of a run still lives and may add to the journal."""
    with contextlib.suppress(OSError), journal_path(run_file).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Journal(Protocol):
    """Takes notes of what the specimen goes through; see `RunJournal`."""

    def note(self, entry: Entry) -> None:
        """Write an entry; never fails."""

    async def caught_up(self) -> None:
        """Wait until everything noted is written; returns at once unless the disk refuses."""

    def save(self) -> None:
        """Flush what is written to the disk, without waiting for it."""


class RunJournal:
    """The journal of a run under way.

    Parameters
    ----------
    run_file : Path
        The run file; the journal is beside it.
    clock : ExperimentClock
        Time of the entries.
    notify : callable
        Called with level and text when the journal cannot be written, and when it can again.
    resumed : bool
        Whether to continue a journal that is there.

    Raises
    ------
    OSError
        If it cannot be created, or is there already and `resumed` is false.
    """

    def __init__(
        self,
        run_file: Path,
        clock: ExperimentClock,
        notify: Callable[[str, str], None],
        resumed: bool = False,
    ) -> None:
        self.path = journal_path(run_file)
        self._clock, self._notify = clock, notify
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self.path, flags if resumed else flags | os.O_EXCL, 0o644)
        # What is not written yet. After an incomplete line, a new line begins.
        self._pending = b"" if _ends_well(self.path) else b"\n"
        self._refused = False
        self._saving: asyncio.Task[None] | None = None
        self._save_again = False

    def note(self, entry: Entry) -> None:
        """Write an entry; what cannot be written is kept and tried again."""
        self._pending += line_of(self._clock.now_ns(), entry)
        self._write()

    def _write(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._file, self._pending) :]
        except OSError as error:
            if not self._refused:
                self._refused = True
                self._notify(
                    "error",
                    f"{self.path} cannot be written: {error.strerror}. No data is lost: the "
                    "schedule waits at standby. Make room on the disk",
                )
        else:
            if self._refused:
                self._refused = False
                self._notify("warning", f"{self.path} can be written again")

    async def caught_up(self) -> None:
        """Wait until everything noted is written, trying again every second."""
        while self._pending:
            await asyncio.sleep(RETRY_S)
            self._write()

    def save(self) -> None:
        """Flush what is written to the disk, in a thread: it may take long."""
        if self._saving is not None and not self._saving.done():
            self._save_again = True
            return
        self._saving = asyncio.create_task(self._save(), name="save journal")

    async def _save(self) -> None:
        self._save_again = True
        while self._save_again:
            self._save_again = False
            try:
                await asyncio.to_thread(os.fsync, self._file)
            except OSError as error:
                self._notify("error", f"{self.path} cannot be saved: {error.strerror}")
                return

    async def close(self, remove: bool) -> None:
        """Write and save the rest, close the file, and remove it if it is no longer needed."""
        if self._saving is not None:
            await asyncio.gather(self._saving, return_exceptions=True)
        self._write()
        if not remove:
            await self._save()
        os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)


def _ends_well(path: Path) -> bool:
    """Whether a file is empty or ends with a whole line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"
