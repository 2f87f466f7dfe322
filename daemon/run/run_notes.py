"""The journal of a run from the engine's side: entries before it is open go nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...protocols.core.clock import ExperimentClock
from ...protocols.messages.journal import Entry, RunLine
from ..resume.resume_point import ResumePoint
from ..resume.run_journal import RunJournal, journal_path


class JournalFailed(Exception):
    """The journal of a run cannot be created."""


class RunNotes:
    """Takes the entries of a run from its preparation to its end; see `RunJournal`.

    The journal file is opened when the run file is there, and closed when that is closed; an entry
    before or after is dropped, because there is no run whose journal it could belong to.

    Parameters
    ----------
    run_file : Path
        The run file; the journal is beside it.
    clock : ExperimentClock
        Time of the entries.
    notify : callable
        Called with level and text when the journal cannot be written, and when it can again.
    """

    def __init__(
        self, run_file: Path, clock: ExperimentClock, notify: Callable[[str, str], None]
    ) -> None:
        self._run_file, self._clock, self._notify = run_file, clock, notify
        self._journal: RunJournal | None = None

    def open(self, run: str, resumed: ResumePoint | None = None) -> None:
        """Create the journal, or append to that of a resumed run.

        Parameters
        ----------
        run : str
            Identifier of the run.
        resumed : ResumePoint, optional
            Where a resumed run continues.

        Raises
        ------
        JournalFailed
            If the disk refuses.
        """
        try:
            journal = RunJournal(self._run_file, self._clock, self._notify, resumed is not None)
        except OSError as error:
            raise JournalFailed(
                f"{journal_path(self._run_file)} cannot be written: {error.strerror}; without it "
                "the run could not be resumed"
            ) from None
        self._journal = journal
        if resumed is None:
            journal.note(RunLine(run=run))
            return
        if resumed.interrupted_trigger is not None:
            journal.note(resumed.interrupted_trigger)
        journal.note(RunLine(run=run, resumed=resumed.resumed, carried=resumed.carried))

    def note(self, entry: Entry) -> None:
        """Write an entry."""
        if self._journal is not None:
            self._journal.note(entry)

    async def caught_up(self) -> None:
        """Wait until every entry is written; returns at once unless the disk refuses."""
        if self._journal is not None:
            await self._journal.caught_up()

    def save(self) -> None:
        """Bring what is written to the disk, without waiting for it."""
        if self._journal is not None:
            self._journal.save()

    async def close(self, remove: bool) -> None:
        """Close the journal, and remove it if the run is complete; harmless when called again."""
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.close(remove)
