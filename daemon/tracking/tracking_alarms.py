"""What a person is told of tracking, each thing once, and the pause where the specimen is lost."""

from __future__ import annotations

from collections.abc import Callable

from ...protocols.config.tracking import Track
from ...protocols.messages.tracking import OffsetMeasured, Table
from ...protocols.messages.tracking_rules import (
    GROWING_FRAMES,
    TrackingLimits,
    beyond_shift_limit,
    is_lost,
    not_found_running,
)


class TrackingAlarms:
    """Warnings, losses and pauses of one run.

    Parameters
    ----------
    track : Track
        Says whether a loss pauses the run.
    event : callable
        Takes level, source and message.
    pause : callable
        Requests a pause at the next standby.

    Attributes
    ----------
    why_lost : str
        Why the specimen counts as lost, until it is seen again; empty if it does not.
    """

    def __init__(
        self, track: Track, event: Callable[[str, str, str], None], pause: Callable[[], None]
    ) -> None:
        self._track, self._event, self._pause = track, event, pause
        self._recent: list[OffsetMeasured] = []
        self._said: set[str] = set()
        self._distrusted = False
        self.why_lost = ""

    def use(self, track: Track) -> None:
        """Pause or go on as these settings say, from now on."""
        self._track = track

    def series_begins(self) -> None:
        """A tilt series begins: everything is told anew."""
        self._said, self._recent, self.why_lost = set(), [], ""

    def place_told(self) -> None:
        """A person has said where the specimen stands: what was before no longer counts."""
        self._recent, self._distrusted = [], False

    def calibrated(self) -> None:
        """The beam shift was calibrated: it can be trusted again."""
        self._distrusted = False

    @property
    def latest(self) -> OffsetMeasured | None:
        """What the latest frame of the series has shown."""
        return self._recent[-1] if self._recent else None

    def warn(self, text: str) -> None:
        """Warn."""
        self._event("warning", "tracker", text)

    def warn_once(self, key: str, text: str) -> None:
        """Warn, once in a series of each kind."""
        if key not in self._said:
            self._said.add(key)
            self.warn(text)

    def lost(self, why: str) -> None:
        """Tell that the specimen is not where a frame would show it; pause if the recipe says so.

        Parameters
        ----------
        why : str
            Which frame, and what was seen.
        """
        self.why_lost = why
        if self._track.when_lost == "pause":
            text = (
                f"{why}; the run pauses: look at the last frame, centre the specimen, then resume "
                "or abort"
            )
            self._event("error", "tracker", text)
            self._pause()
        else:
            self.warn(f"{why}; the run goes on, as the recipe says")

    def note_table(self, table: Table, limits: TrackingLimits) -> None:
        """Tell what a new table warns of; pause where the corrections have made things worse."""
        for note in table.notes:
            self.warn_once(note, note)
        if not table.trusted and not self._distrusted:
            self._distrusted = True
            if self._track.when_lost == "pause":
                self._pause()
        if far := beyond_shift_limit(table.rows, limits):
            angles = ", ".join(f"{angle:g}" for angle in far[:5])
            self.warn_once(
                "limit",
                f"{table.series}: the beam shift will probably pass its limit of "
                f"{limits.shift_limit_nm:.0f} nm at {angles} deg; bring the specimen closer "
                "to the tilt axis",
            )

    def note_frame(self, found: OffsetMeasured, field_nm: float, limits: TrackingLimits) -> None:
        """Tell of a frame that is off or shows nothing; after some running the specimen is lost."""
        why = is_lost(found, field_nm, limits)
        self._recent = [*self._recent, found][-GROWING_FRAMES:]
        if not why:
            self.why_lost = ""
            return
        where = f"{found.series} frame {found.index} at {found.tilt_deg:g} deg"
        self.warn(f"{where}: {why}")
        if not_found_running(self._recent):
            self._recent = []
            self.lost(f"{where}: {GROWING_FRAMES} frames in a row do not show the specimen")
