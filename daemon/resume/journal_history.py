"""What the journal of a run says has been done, read entry by entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...protocols.messages.journal import (
    Begun,
    Carried,
    Decision,
    Ended,
    Exposed,
    MadeSafe,
    Moment,
    MomentName,
    Necks,
    Noted,
    RunLine,
    Trigger,
)
from ..schedule.hold_timing import HoldTiming


@dataclass
class History:
    """What the journal says has been done."""

    run: str = ""
    resumed: int = 0
    index: int = 0
    begun: bool = False
    begun_ns: int = 0
    last_ns: int = 0
    visited: set[int] = field(default_factory=set[int])
    carried: Carried = field(default_factory=lambda: Carried(index=0))
    # Of the operation under way, since the run was last resumed.
    moments: dict[MomentName, int] = field(default_factory=dict[MomentName, int])
    held: dict[int, tuple[HoldTiming, float]] = field(
        default_factory=dict[int, tuple[HoldTiming, float]]
    )
    decisions: dict[int, bool] = field(default_factory=dict[int, bool])
    necks: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    exposed: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    charged: dict[str, float] = field(default_factory=dict[str, float])
    # A trigger whose end was not noted, and when it began; its dose is charged already.
    open: Trigger | None = None
    open_ns: int = 0
    beam_blanked_ns: int | None = None
    heater_off_ns: int | None = None

    @classmethod
    def of(cls, entries: Iterable[Noted]) -> History:
        """Read a journal from its beginning."""
        history = cls()
        for noted in entries:
            history.take(noted)
        return history

    def take(self, noted: Noted) -> None:
        """Take in the next entry."""
        self.last_ns = max(self.last_ns, noted.t_ns)
        match noted.entry:
            case RunLine() as line:
                self.run, self.resumed = line.run, line.resumed
                if line.carried is not None:
                    self.index, self.carried = line.carried.index, line.carried
                self.begun, self.moments, self.open = False, {}, None
                self.beam_blanked_ns = self.heater_off_ns = None
            case Begun(index=index):
                self._go_to(index)
                self.begun, self.begun_ns, self.moments = True, noted.t_ns, {}
                self.visited.add(index)
            case Ended(index=index, next=following):
                self.visited.add(index)
                if index == self.index and (timing := self.timing()) is not None:
                    self.held[index] = timing
                self._go_to(following)
                self.begun, self.moments = False, {}
            case Moment(what=what, at_ns=at_ns):
                self.moments[what] = at_ns
            case Trigger() as trigger:
                places = range(trigger.first, trigger.first + min(trigger.count, 100_000))
                self.exposed.setdefault(trigger.stack, set()).update(places)
                self._charge(trigger.stack, trigger.dose_e_per_nm2)
                self.open, self.open_ns = trigger, noted.t_ns
            case Exposed(stack=stack, dose_e_per_nm2=dose):
                if dose is not None and self.open is not None and self.open.stack == stack:
                    self._charge(stack, max(0.0, dose - self.open.dose_e_per_nm2))
                self.open = None
            case Decision(index=index, goes_on=goes_on):
                self.decisions[index] = goes_on
            case Necks(series=series, ratio=ratio):
                self.necks[series] = ratio
            case MadeSafe() as safe:
                self.beam_blanked_ns = self.beam_blanked_ns or safe.beam_blanked_ns
                off_ns = safe.heater_commanded_ns or safe.heater_safe_ns
                self.heater_off_ns = self.heater_off_ns or off_ns
            case _:
                pass

    def _go_to(self, index: int) -> None:
        if index != self.carried.index:
            self.carried = Carried(index=index)
        self.index = index

    def _charge(self, stack: str, dose: float) -> None:
        self.charged[stack] = self.charged.get(stack, 0.0) + dose

    def moment(self, what: MomentName) -> int | None:
        """When something happened to the operation under way, by the latest session."""
        return self.moments.get(what)

    def timing(self) -> tuple[HoldTiming, float] | None:
        """Moments and achieved time of the hold under way, if it is over."""
        try:
            up, crossed, down, cooled = (self.moments[what] for what in HOLD_MOMENTS)
        except KeyError:
            return None
        first = HoldTiming(
            first_of(self.carried.commanded_up_ns, up),
            first_of(self.carried.crossed_up_ns, crossed),
            down,
            cooled,
        )
        return first, self.carried.done_s + (cooled - crossed) * 1e-9


HOLD_MOMENTS: tuple[MomentName, ...] = (
    "commanded_up", "crossed_up", "commanded_down", "crossed_down",
)  # fmt: skip


def first_of(known: int | None, otherwise: int) -> int:
    """The moment that is known already, else the other one."""
    return otherwise if known is None else known
