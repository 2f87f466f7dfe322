"""What each rule of the supervisor looks at: observations in, findings out; no I/O, no clock.

A judge remembers what it needs of earlier observations and says of the present one whether
something is wrong. For how long that has to last is not its business (`supervisor.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from ...drivers.base import BeamState, HeaterSample, StagePosition
from ...protocols.config.rig import HeaterLimits
from ...protocols.config.supervision import SupervisorRig
from .learned_curve import Relation

ABSOLUTE_ZERO_C, HOTTEST_C = -273.15, 4000.0
OPEN_CIRCUIT_OHM = 1e6
# A reading that is no newer than the last counts as stale; wall seconds that must pass as well.
STALE_WALL_S = 2.0
# More of a silence than this between two looks is the daemon's own, not the instrument's.
_OWN_PAUSE_S = 0.3
# Measured channels that must all repeat before a reading counts as repeated.
_REPEATING_CHANNELS = 2
STILL_C = 0.5  # setpoints nearer than this are the same
SETTLING_S = 1.0
RATE_WINDOW_S = 1.0
RATE_FACTOR, RATE_EXTRA_C_PER_S = 2.5, 5.0
PROGRESS_C = 2.0
# Power that is so many times what belongs to the temperature, for so long, heats something else.
POWER_FACTOR, POWER_S, POWER_RISE_C = 3.0, 2.5, 5.0
NEGATIVE_POWER_W = 1e-3


@dataclass(frozen=True)
class Seen:
    """An observation: when it came, on the experiment clock and on the wall's."""

    now_ns: int
    wall_s: float


@dataclass(frozen=True)
class Tick(Seen):
    """Time has passed."""


@dataclass(frozen=True)
class Reading(Seen):
    """A reading of the heater has come."""

    sample: HeaterSample


@dataclass(frozen=True)
class BeamSeen(Seen):
    """The column was asked.

    `may_be_open`: an exposure was under way, or the beam is not pyrotome's yet. `wanted`: frames
    are being taken, for which electrons have to come.
    """

    state: BeamState
    may_be_open: bool
    wanted: bool


@dataclass(frozen=True)
class StageSeen(Seen):
    """Where the stage was before frames were exposed, and where it was found after them."""

    before: StagePosition
    after: StagePosition
    frames: str


Observation = Tick | Reading | BeamSeen | StageSeen


@dataclass(frozen=True)
class Finding:
    """Something is wrong.

    Attributes
    ----------
    value, bound : float
        What was found and what it must not pass, in the rule's unit.
    text : str
        The same in words.
    at_once : bool
        Whether there is nothing to wait for.
    since_ns : int or None
        Moment from which on it counts, where that is later than when it was first found.
    unit : str or None
        Of value and bound, where it is another than the rule's.
    """

    value: float
    bound: float
    text: str
    at_once: bool = False
    since_ns: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Terms:
    """What a judge goes by."""

    bound: float
    limits: HeaterLimits
    rig: SupervisorRig


class Course:
    """What follows from the setpoints: when they moved, and what excess over them is legitimate.

    `excess_c` is what the chip's own controller may add after a step upwards; it decays.
    """

    def __init__(self, limits: HeaterLimits, rig: SupervisorRig) -> None:
        self._limits, self._rig = limits, rig
        self.limit_c: float | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew with the next reading."""
        self.excess_c = 0.0
        self.moved_ns = 0
        self._setpoint_c: float | None = None
        self._still_c = math.nan
        self._t_ns = 0

    def follow(self, sample: HeaterSample) -> None:
        """Take in the setpoint of a reading."""
        before_c, setpoint_c = self._setpoint_c, sample.setpoint_c
        if not math.isfinite(setpoint_c):
            return
        if before_c is None:
            before_c = min(setpoint_c, self._limits.safe_c)
        passed_s = max(0, sample.t_ns - self._t_ns) * 1e-9
        self.excess_c *= math.exp(-min(passed_s / self._rig.overshoot_decay_s, 700.0))
        if setpoint_c > before_c:
            highest_c = self._rig.overshoot * (self._limits.temperature_c - self._limits.safe_c)
            added_c = self._rig.overshoot * (setpoint_c - before_c)
            self.excess_c = min(self.excess_c + added_c, max(0.0, highest_c))
        if not abs(setpoint_c - self._still_c) <= STILL_C:
            self._still_c, self.moved_ns = setpoint_c, sample.t_ns
        self._setpoint_c, self._t_ns = setpoint_c, sample.t_ns

    @property
    def decay_c_per_s(self) -> float:
        """How fast the excess may go away."""
        return 2.0 * self.excess_c / self._rig.overshoot_decay_s


class Judge(ABC):
    """One rule's eyes."""

    takes: ClassVar[tuple[type[Observation], ...]] = (Reading,)

    def __init__(self, terms: Terms, course: Course) -> None:
        self.terms, self.course = terms, course

    @abstractmethod
    def judge(self, seen: Observation) -> Finding | None:
        """Say what is wrong, of an observation of a kind that it takes."""

    def forget(self) -> None:  # noqa: B027 (many remember nothing)
        """The heater was connected anew: what was remembered of its readings counts no more."""


class Stale(Judge):
    """No new reading: none at all, none with a later time, or the same numbers again and again."""

    takes = (Reading, Tick)

    def __init__(self, terms: Terms, course: Course) -> None:
        super().__init__(terms, course)
        self._last: HeaterSample | None = None
        self._looked: tuple[int, float] | None = None
        self._silent_s = self._silent_wall_s = 0.0
        self._repeats = False

    def judge(self, seen: Observation) -> Finding | None:
        """Add up for how long nothing new has come."""
        if self._looked is not None:
            passed_s = max(0, seen.now_ns - self._looked[0]) * 1e-9
            wall_s = max(0.0, seen.wall_s - self._looked[1])
            share = min(1.0, _OWN_PAUSE_S / wall_s) if wall_s > 0 else 1.0
            self._silent_s += passed_s * share
            self._silent_wall_s += wall_s * share
        self._looked = seen.now_ns, seen.wall_s
        if isinstance(seen, Reading):
            self._repeats = self._is_repeated(seen.sample)
            if not self._repeats:
                self._silent_s = self._silent_wall_s = 0.0
            self._last = seen.sample
        bound_s = self.terms.bound
        if self._silent_s <= bound_s or self._silent_wall_s <= STALE_WALL_S:
            return None
        what = "readings repeat" if self._repeats else "no reading has come"
        return Finding(self._silent_s, bound_s, f"{what}, for {self._silent_s:.1f} s now")

    def _is_repeated(self, sample: HeaterSample) -> bool:
        last = self._last
        if last is None:
            return False
        if sample.t_ns <= last.t_ns:
            return True
        if sample.temperature_c != last.temperature_c or sample.setpoint_c != last.setpoint_c:
            return False
        values = sample.values
        # A heater that is off has nothing to measure.
        off = not any(values.get(name) for name in ("power_w", "current_a"))
        return not off and len(values) >= _REPEATING_CHANNELS and values == last.values


class Implausible(Judge):
    """Resistance, power and temperature that cannot belong to one chip."""

    LEARN_EVERY_NS = 100_000_000
    QUIET_C = 1.0
    BEYOND = 0.15  # of the way beyond what was learned is granted

    def __init__(self, terms: Terms, course: Course) -> None:
        super().__init__(terms, course)
        self.forget()

    def forget(self) -> None:
        """Begin to learn anew."""
        self._resistance, self._power = Relation(), Relation()
        self._mark_c = math.nan
        self._mark_ns = 0
        self._too_much: tuple[int, float] | None = None

    def judge(self, seen: Observation) -> Finding | None:
        """Compare with what cannot be, and with what was learned."""
        assert isinstance(seen, Reading)
        sample = seen.sample
        read_c = sample.temperature_c
        resistance, power_w = (sample.values.get(k) for k in ("resistance_ohm", "power_w"))
        found = self._cannot_be(read_c, resistance, power_w)
        if found is not None:
            return found
        found = self._resistance_does_not_fit(read_c, resistance)
        if found is not None:
            return found
        found = self._heats_something_else(sample.t_ns, read_c, power_w)
        if found is not None:
            return found
        if sample.t_ns - self._mark_ns >= self.LEARN_EVERY_NS:
            # What changes fast may have been measured at different moments.
            quiet = abs(read_c - self._mark_c) < self.QUIET_C and self._too_much is None
            self._mark_ns, self._mark_c = sample.t_ns, read_c
            if quiet and resistance is not None:
                self._resistance.learn(read_c, resistance)
            if quiet and power_w is not None:
                self._power.learn(read_c, power_w)
        return None

    def _cannot_be(
        self, read_c: float, resistance: float | None, power_w: float | None
    ) -> Finding | None:
        if not ABSOLUTE_ZERO_C <= read_c <= HOTTEST_C:
            text = f"a temperature of {read_c:g} degC"
            return Finding(read_c, HOTTEST_C, text, at_once=True, unit="degC")
        if resistance is not None and not 0.0 < resistance < OPEN_CIRCUIT_OHM:
            text = f"a resistance of {resistance:g} ohm: the circuit is open or shorted"
            return Finding(resistance, OPEN_CIRCUIT_OHM, text, unit="ohm")
        if power_w is not None and not -NEGATIVE_POWER_W <= power_w < math.inf:
            return Finding(power_w, -NEGATIVE_POWER_W, f"a power of {power_w:g} W", unit="W")
        return None

    def _resistance_does_not_fit(self, read_c: float, resistance: float | None) -> Finding | None:
        relation = self._resistance
        if resistance is None or not relation.armed:
            return None
        expected, beyond_c = relation.expected(read_c)
        slope = relation.slope
        if abs(slope) * 100.0 < 0.02 * abs(expected):
            return None  # this resistance hardly tells temperatures apart
        off_c = abs((resistance - expected) / slope)
        bound_c = self.terms.bound + self.BEYOND * beyond_c
        if off_c <= bound_c:
            return None
        return Finding(
            off_c,
            bound_c,
            f"{resistance:.4g} ohm at {read_c:.1f} degC, where {expected:.4g} ohm were seen "
            f"before: {off_c:.0f} K off",
        )

    def _heats_something_else(
        self, t_ns: int, read_c: float, power_w: float | None
    ) -> Finding | None:
        relation = self._power
        if power_w is None or not relation.largest > NEGATIVE_POWER_W:
            return None
        # Less was enough for more: that can be told from one temperature already.
        expected = relation.expected(read_c)[0] if relation.armed else relation.above(read_c)
        if expected is None:
            return None
        largest = POWER_FACTOR * max(0.0, expected) + 0.1 * relation.largest
        if power_w <= largest:
            self._too_much = None
            return None
        if self._too_much is None or read_c - self._too_much[1] > POWER_RISE_C:
            self._too_much = t_ns, read_c
        if (t_ns - self._too_much[0]) * 1e-9 < POWER_S:
            return None
        return Finding(
            power_w,
            largest,
            f"{power_w:.3g} W do not heat it beyond {read_c:.1f} degC, where {expected:.3g} W were "
            "enough before: has the sensor fallen off?",
            unit="W",
        )


class OverTemperature(Judge):
    """Hotter than the rig allows, or the recipe while it runs."""

    def __init__(self, terms: Terms, course: Course) -> None:
        super().__init__(terms, course)
        self._recipe_c: float | None = None
        self._engaged = False

    def judge(self, seen: Observation) -> Finding | None:
        """Compare with the limit, and with what the controller may add to a setpoint within it."""
        assert isinstance(seen, Reading)
        read_c, course, limits = seen.sample.temperature_c, self.course, self.terms.limits
        if self._recipe_c != course.limit_c:
            self._recipe_c, self._engaged = course.limit_c, False
        # A chip that still cools from an earlier run is hotter than a colder recipe allows.
        self._engaged = self._engaged or (self._recipe_c is not None and read_c <= self._recipe_c)
        limit_c, whose = limits.temperature_c, "rig"
        if self._engaged and self._recipe_c is not None and self._recipe_c < limit_c:
            limit_c, whose = self._recipe_c, "recipe"
        granted_c = min(seen.sample.setpoint_c, limit_c) + course.excess_c
        bound_c = max(limit_c, granted_c) + self.terms.bound
        if not read_c > bound_c:
            return None
        highest_c = limits.temperature_c + self.terms.rig.overshoot * (
            limits.temperature_c - limits.safe_c
        )
        return Finding(
            read_c,
            bound_c,
            f"heater reads {read_c:.1f} degC, the {whose} allows {limit_c:g} degC",
            at_once=read_c > highest_c + self.terms.bound,
        )


class Rate(Judge):
    """Faster than the rig's rate, or than a setpoint that stands still explains."""

    def __init__(self, terms: Terms, course: Course) -> None:
        super().__init__(terms, course)
        self._recent: deque[tuple[int, float, float]] = deque()

    def forget(self) -> None:
        """Begin anew."""
        self._recent.clear()

    def judge(self, seen: Observation) -> Finding | None:
        """Compare with a reading of a second ago."""
        assert isinstance(seen, Reading)
        sample, recent = seen.sample, self._recent
        if recent and sample.t_ns <= recent[-1][0]:
            return None
        recent.append((sample.t_ns, sample.temperature_c, sample.setpoint_c))
        window_ns = int(RATE_WINDOW_S * 1e9)
        while len(recent) > 2 and sample.t_ns - recent[1][0] >= window_ns:
            recent.popleft()
        then_ns, then_c, setpoint_c = recent[0]
        passed_s = (sample.t_ns - then_ns) * 1e-9
        if passed_s < RATE_WINDOW_S:
            return None
        course, rate = self.course, self.terms.limits.rate_c_per_s
        read_c = sample.temperature_c
        if rate is not None:
            found = abs(read_c - then_c) / passed_s
            bound = RATE_FACTOR * rate + RATE_EXTRA_C_PER_S + course.decay_c_per_s
            if found > bound:
                text = f"heater changes by {found:.0f} K/s, the rig allows {rate:g} K/s"
                return Finding(found, bound, text)
        settled = then_ns >= course.moved_ns + int(SETTLING_S * 1e9)
        arrived_c = self.terms.bound * RATE_WINDOW_S + course.excess_c
        if not settled or abs(then_c - setpoint_c) > arrived_c:
            return None
        # Only what leads away: an excess that goes back to the setpoint may do so at any speed.
        above, before = read_c - setpoint_c, then_c - setpoint_c
        away_c = abs(above) if above * before < 0 else abs(above) - abs(before)
        found, bound = away_c / passed_s, self.terms.bound + course.decay_c_per_s
        if not found > bound:
            return None
        text = f"heater changes by {found:.0f} K/s while the setpoint stands still at "
        return Finding(found, bound, f"{text}{setpoint_c:g} degC")


class Progress(Judge):
    """Away from the setpoint, and not on the way to it."""

    def __init__(self, terms: Terms, course: Course) -> None:
        super().__init__(terms, course)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._since: tuple[int, float] | None = None
        self._setpoint_c = math.nan

    def judge(self, seen: Observation) -> Finding | None:
        """Compare with the setpoint, and with where it was when it last came nearer."""
        assert isinstance(seen, Reading)
        sample, bound_c = seen.sample, self.terms.bound
        stepped = abs(sample.setpoint_c - self._setpoint_c) > bound_c
        self._setpoint_c = sample.setpoint_c
        above_c = sample.temperature_c - sample.setpoint_c
        allowed_c = bound_c + (self.course.excess_c if above_c > 0 else 0.0)
        if abs(above_c) <= allowed_c:
            self._since = None
            return None
        if self._since is None or stepped:
            self._since = sample.t_ns, sample.temperature_c
        came_c = (self._since[1] - sample.temperature_c) * math.copysign(1.0, above_c)
        if came_c > max(PROGRESS_C, 0.05 * abs(above_c)):
            self._since = sample.t_ns, sample.temperature_c
        return Finding(
            abs(above_c),
            allowed_c,
            f"heater reads {sample.temperature_c:.1f} degC at a setpoint of "
            f"{sample.setpoint_c:.1f} degC and does not come nearer",
            # On its own way from the setpoint it would be far by the time that a delay is over.
            at_once=-came_c > bound_c,
            since_ns=self._since[0],
        )


class Unblanked(Judge):
    """The beam is on where nothing is exposed."""

    takes = (BeamSeen,)

    def judge(self, seen: Observation) -> Finding | None:
        """Compare with what the engine does."""
        assert isinstance(seen, BeamSeen)
        if seen.state.blanked or seen.may_be_open:
            return None
        return Finding(1.0, 0.0, "the beam is on outside an exposure")


class Moving(Judge):
    """The stage has moved while frames were exposed."""

    takes = (StageSeen,)

    def judge(self, seen: Observation) -> Finding | None:
        """Compare where it was with where it is."""
        assert isinstance(seen, StageSeen)
        before, after = seen.before, seen.after
        tilt_deg = abs(after.tilt_deg - before.tilt_deg)
        if tilt_deg > self.terms.bound:
            text = f"the stage has moved by {tilt_deg:.3f} deg during {seen.frames}"
            return Finding(tilt_deg, self.terms.bound, text)
        way_nm = math.dist(
            (before.x_nm, before.y_nm, before.z_nm), (after.x_nm, after.y_nm, after.z_nm)
        )
        if way_nm > self.terms.rig.moving.distance_nm:
            text = f"the stage has moved by {way_nm:.0f} nm during {seen.frames}"
            return Finding(tilt_deg, self.terms.bound, text)
        return None


class Vacuum(Judge):
    """Closed valves where electrons are wanted, or a vacuum that is not ready."""

    takes = (BeamSeen,)

    def judge(self, seen: Observation) -> Finding | None:
        """Look at what the microscope tells."""
        assert isinstance(seen, BeamSeen)
        if seen.state.vacuum_ok is False:
            return Finding(1.0, 0.0, "the microscope's vacuum is not ready")
        if seen.wanted and seen.state.valves_open is False:
            return Finding(1.0, 0.0, "the column valves are closed while frames are taken")
        return None
