"""The history of a run from its journal, entry by entry. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...protocols.config.steering import NECK_RATIO
from ...protocols.messages.journal import (
    Begun,
    Carried,
    Chosen,
    Decision,
    Deflectors,
    Ended,
    Exposed,
    MadeSafe,
    Measured,
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
    """What a run has done, as its journal says.

    Attributes
    ----------
    run : str
        Identifier of the run.
    resumed : int
        How often it was resumed.
    index : int
        Operation under way, or the next one.
    begun : bool
        Whether that operation has begun since the run was last resumed.
    begun_ns, last_ns : int
        When it began, and the time of the last entry.
    visited : set of int
        Operations that have begun.
    carried : Carried
        What was done of the operation before the run was last resumed.
    moments : dict
        Moments of the operation under way, since the run was last resumed.
    held : dict
        Moments, and seconds achieved, of the holds that are over, by operation.
    decisions : dict
        What was decided, by operation.
    necks : dict
        Neck growth by series.
    exposed : dict
        Frame indices that were exposed, by stack.
    charged : dict
        Electrons per nm^2 by stack.
    open, open_ns : Trigger or None, int
        A trigger whose end was not noted, and when it began; its dose is charged already.
    deflectors : tuple of float or None
        Where the beam deflectors stood before a calibration that is not over.
    beam_blanked_ns, heater_off_ns : int or None
        When beam and heater were made safe after the run ended.
    """

    run: str = ""
    resumed: int = 0
    index: int = 0
    begun: bool = False
    begun_ns: int = 0
    last_ns: int = 0
    visited: set[int] = field(default_factory=set[int])
    carried: Carried = field(default_factory=lambda: Carried(index=0))
    moments: dict[MomentName, int] = field(default_factory=dict[MomentName, int])
    held: dict[int, tuple[HoldTiming, float]] = field(
        default_factory=dict[int, tuple[HoldTiming, float]]
    )
    decisions: dict[int, bool] = field(default_factory=dict[int, bool])
    measured: list[Measured] = field(default_factory=list[Measured])
    chosen: dict[int, Chosen] = field(default_factory=dict[int, Chosen])
    # When each operation began first.
    first_begun_ns: dict[int, int] = field(default_factory=dict[int, int])
    exposed: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    charged: dict[str, float] = field(default_factory=dict[str, float])
    open: Trigger | None = None
    open_ns: int = 0
    deflectors: tuple[float, float] | None = None
    beam_blanked_ns: int | None = None
    heater_off_ns: int | None = None

    @classmethod
    def of(cls, entries: Iterable[Noted]) -> History:
        """Read a journal from its beginning."""
        history = cls()
        for noted in entries:
            history.add(noted)
        return history

    def add(self, noted: Noted) -> None:
        """Add the next entry."""
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
                self.first_begun_ns.setdefault(index, noted.t_ns)
            case Ended(index=index, next=following, held=held):
                self.visited.add(index)
                if held is not None:
                    moments = held.model_dump(exclude={"achieved_s"})
                    self.held[index] = HoldTiming(**moments), held.achieved_s
                elif index == self.index and (timing := self.timing()) is not None:
                    self.held[index] = timing
                self._go_to(following)
                self.begun, self.moments, self.deflectors = False, {}, None
            case Moment(what=what, at_ns=at_ns):
                self.moments[what] = at_ns
            case Trigger() as trigger:
                frames = range(trigger.first, trigger.first + min(trigger.count, 100_000))
                self.exposed.setdefault(trigger.stack, set()).update(frames)
                self._charge(trigger.stack, trigger.dose_e_per_nm2)
                self.open, self.open_ns = trigger, noted.t_ns
            case Exposed(stack=stack, dose_e_per_nm2=dose):
                if dose is not None and self.open is not None and self.open.stack == stack:
                    self._charge(stack, max(0.0, dose - self.open.dose_e_per_nm2))
                self.open = None
            case Deflectors(units=units):
                # A calibration that is tried again has found them elsewhere.
                self.deflectors = self.deflectors or units
            case Decision(index=index, goes_on=goes_on):
                self.decisions[index] = goes_on
            case Necks(series=series, ratio=ratio):
                self.measured.append(Measured(series=series, quantity=NECK_RATIO, value=ratio))
            case Measured() as measured:
                self.measured.append(measured)
            case Chosen() as chosen:
                self.chosen[chosen.hold] = chosen
            case MadeSafe() as safe:
                self.beam_blanked_ns = self.beam_blanked_ns or safe.beam_blanked_ns
                off_ns = safe.heater_commanded_ns or safe.heater_safe_ns
                self.heater_off_ns = self.heater_off_ns or off_ns
            case _:
                pass

    def _go_to(self, index: int) -> None:
        if index != self.carried.index:
            self.carried = Carried(index=index)
        if index != self.index:
            self.deflectors = None
        self.index = index

    def _charge(self, stack: str, dose: float) -> None:
        self.charged[stack] = self.charged.get(stack, 0.0) + dose

    def moment(self, what: MomentName) -> int | None:
        """Time of a moment of the operation under way; None if it has not come."""
        return self.moments.get(what)

    def timing(self) -> tuple[HoldTiming, float] | None:
        """Moments, and seconds achieved, of the hold under way; None if it is not over."""
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
    """The time that is known, else the other one."""
    return otherwise if known is None else known
