"""Wait for what the analysis measures, and decide by it how a cycle goes on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ...protocols.config.steering import LIVE, Adaptive, Quantity, SeriesUntil
from ...protocols.messages.journal import Chosen, Measured
from ...protocols.messages.manifest import HoldPlan
from ..schedule.hold_timing import HoldTiming
from ..schedule.operations import ChooseHold, Decide
from ..schedule.plan import Plan
from ..schedule.steering_history import SteeringHistory
from .hold_choice import (
    HoldBounds,
    HoldChoice,
    choose,
    discrepancy,
    fit,
    outcomes_of,
)
from .kinetics import NoFit, Priors
from .quantities import Floats, Measurement, measure, measured_entry, measurement_of
from .thermal_history import Dwell, HoldShape, ThermalHistory


class Tell(Protocol):
    """How an event is sent; see `engine.Outgoing.event`."""

    def __call__(self, level: str, source: str, message: str, **more: Any) -> None:
        """Send it."""
        ...


@dataclass(frozen=True)
class _Knowledge:
    """All that one choice rests on; taken before the fit, which runs in a thread."""

    measurements: list[Measurement]
    dwells: list[Dwell]
    shape: HoldShape | None
    longest_s: float


class Steering:
    """What was measured of each series, and the decisions made from it.

    Parameters
    ----------
    plan : Plan
        Its decisions and choices say which quantities count.
    event : callable
        Takes the decisions as events, with what they rest on.
    record : callable
        Takes each row of the table of adaptive holds.
    """

    def __init__(self, plan: Plan, event: Tell, record: Callable[[dict[str, Any]], None]) -> None:
        self._event, self._record = event, record
        self._wanted: set[Quantity] = set()
        self._after_last: dict[str, Adaptive] = {}
        for operation in plan.operations:
            if isinstance(operation, Decide):
                self._wanted.add(operation.until.quantity)
            elif isinstance(operation, ChooseHold):
                self._wanted.add(operation.adaptive.quantity)
                if operation.last:
                    self._after_last[operation.following] = operation.adaptive
        self._columns = {
            result.name: result.columns for stack in plan.stacks for result in stack.results
        }
        self._measured: dict[tuple[str, Quantity], Measurement] = {}
        # Figures of the newest live result of each name, by series.
        self._live: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._news = asyncio.Event()
        self._series_ns: dict[str, int] = {}
        self._heat = ThermalHistory()
        self._shape: HoldShape | None = None
        self._last_hold: tuple[float, float] | None = None
        self._longest_s = 0.0

    # --- what is told to it ---------------------------------------------------------------------

    def heated(self, t_ns: int, temperature_c: float) -> None:
        """Take in a reading of the heater."""
        if self._wanted:
            self._heat.add(t_ns, temperature_c)

    def series_begins(self, series: str, t_ns: int) -> None:
        """Note when a tilt series began: the heat before this moment made what it shows."""
        self._series_ns.setdefault(series, t_ns)

    def held(self, hold: HoldPlan, timing: HoldTiming) -> None:
        """Note a hold that was carried out."""
        up_ns, down_ns = timing.crossed_up_ns, timing.crossed_down_ns
        shape = self._heat.hold_shape(up_ns, down_ns, hold.standby_c, hold.target_c)
        if shape is not None and (self._shape is None or shape.time_s[-1] > self._shape.time_s[-1]):
            self._shape = shape
        self._last_hold = hold.requested_s, hold.target_c
        self._longest_s = max(self._longest_s, timing.achieved_s)

    def note_result(self, name: str, series: str, data: Floats | None) -> list[Measured]:
        """Take in a result of the analysis.

        Parameters
        ----------
        name, series : str
            Of the result.
        data : ndarray or None
            A table of shape (rows, columns) or a scalar; None for what is neither.

        Returns
        -------
        list of Measured
            What was taken out of it, for the journal.
        """
        entries: list[Measured] = []
        for quantity in self._wanted:
            if quantity.result != name:
                continue
            columns = self._columns.get(name, ())
            found = (
                Measurement(series, None, None, {}, 0)
                if data is None
                else measure(series, data, columns, quantity.column, quantity.statistic)
            )
            self._note(quantity, found)
            entries.append(measured_entry(quantity, found))
        return entries

    def note_live(self, name: str, series: str, figures: object) -> None:
        """Take in the figures of what the analysis publishes between the tilts of a series."""
        if name.endswith(LIVE) and isinstance(figures, Mapping):
            self._live[series, name] = cast(Mapping[str, Any], figures)

    def _note(self, quantity: Quantity, found: Measurement) -> None:
        self._measured[found.series, quantity] = found
        adaptive = self._after_last.get(found.series)
        if adaptive is not None and adaptive.quantity == quantity:
            self._record(_row(adaptive, found))
        self._news.set()

    def restore(self, history: SteeringHistory) -> None:
        """Begin with what was known before the run was interrupted."""
        for entry in history.measured:
            quantity = Quantity.of(entry.quantity, entry.statistic)
            self._measured[entry.series, quantity] = measurement_of(entry)
        self._series_ns.update(history.series_ns)
        if self._wanted:
            # Readings of this session may have come already; those of the file are older.
            self._heat = ThermalHistory.of(history.heater_ns, history.heater_c, self._heat)
        for hold, timing in history.holds:
            self.held(hold, timing)

    # --- whether a series goes on ---------------------------------------------------------------

    def is_known_well(self, series: str, until: SeriesUntil) -> bool:
        """Whether a series may end here, by the newest result; an event says so. Never waits."""
        figures = self._settled_figures(series, until)
        value = figures.get(until.figure)
        if not isinstance(value, int | float) or not 0 < value < until.below_nm:
            return False
        views = figures.get("views")
        self._event(
            "info",
            "steering",
            f"{series} ends here: the median of {until.quantity} is {value * 1000:.1f} pm"
            f"{f' by {views} views' if isinstance(views, int) else ''}, below "
            f"{until.below_nm * 1000:g} pm",
            value=value,
        )
        return True

    def next_tilt_deg(self, series: str, until: SeriesUntil) -> float | None:
        """The tilt that would tell most about the specimen; None: the next one as written."""
        told = self._settled_figures(series, until).get("next_tilt_deg")
        return float(told) if until.chooses_tilts and isinstance(told, int | float) else None

    def _settled_figures(self, series: str, until: SeriesUntil) -> Mapping[str, Any]:
        """Figures of the newest live result; none of a model that has not settled."""
        figures = self._live.get((series, until.live_result), {})
        return figures if figures.get("settled", True) else {}

    # --- whether a cycle goes on ----------------------------------------------------------------

    async def go_on(self, decision: Decide) -> bool:
        """Whether the cycle goes on; waits for the measurement, but not longer than agreed."""
        until, quantity = decision.until, decision.until.quantity
        compared = until.growth_bound is not None
        if compared and decision.before is None:
            self._event("info", "steering", f"{decision.series} is the first: the cycle goes on")
            return True
        series = [decision.series]
        if compared and decision.before is not None:
            series.insert(0, decision.before)
        found = await self._known(quantity, series, until.timeout_s)
        values = [None if one is None else one.value for one in found]
        if any(value is None for value in values) or (compared and not values[0]):
            goes_on = until.otherwise == "continue"
            self._event(
                "warning",
                "steering",
                f"{quantity.text} of {' and '.join(series)} was not known within "
                f"{until.timeout_s:g} s: the cycle {'goes on' if goes_on else 'ends'}, "
                "as the recipe says",
            )
        else:
            goes_on = self._compared(decision, [one for one in found if one is not None])
        latest = found[-1]
        if not goes_on and decision.adaptive is not None and latest is not None:
            self._record(_row(decision.adaptive, latest))
        return goes_on

    def _compared(self, decision: Decide, found: list[Measurement]) -> bool:
        """Decide by values that are all known, and say what was compared."""
        until, now = decision.until, found[-1]
        assert now.value is not None
        text = until.quantity.text
        if (bound := until.growth_bound) is not None:
            before = found[0]
            assert before.value
            growth = now.value / before.value - 1.0
            goes_on = growth >= bound
            said = (
                f"{text} grew by {growth:.2%} from {before.text} to {now.text}; "
                f"the bound is {bound:.2%}"
            )
            more = {"growth": growth}
        else:
            level = until.above if until.above is not None else until.below
            assert level is not None
            ends = now.value > level if until.above is not None else now.value < level
            goes_on = not ends
            side = "above" if until.above is not None else "below"
            said = f"{text} is {now.text}; the cycle ends {side} {level:g}"
            more = {"value": now.value}
        result = "goes on" if goes_on else "ends"
        self._event("info", "steering", f"{said}: the cycle {result}", **more)
        return goes_on

    async def _known(
        self, quantity: Quantity, series: list[str], timeout_s: float
    ) -> list[Measurement | None]:
        """Measurements of some series; None for one that does not come within a wall time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not all((name, quantity) in self._measured for name in series):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return [self._measured.get((name, quantity)) for name in series]

    # --- how long the next hold is --------------------------------------------------------------

    async def choose(self, operation: ChooseHold) -> Chosen:
        """Choose the next hold of an adaptive cycle; waits for the latest measurement first."""
        adaptive, hold = operation.adaptive, operation.hold
        quantity = adaptive.quantity
        latest = None
        if operation.series is not None:
            (latest,) = await self._known(quantity, [operation.series], adaptive.timeout_s)
        problem = ""
        if operation.series is not None and latest is None:
            problem = (
                f"{quantity.text} of {operation.series} was not known within "
                f"{adaptive.timeout_s:g} s"
            )
        elif latest is not None and latest.value is None:
            problem = f"{quantity.text} of {operation.series} could not be measured"
        known = self._knowledge(quantity)
        if not problem and len(known.measurements) >= 2:
            try:
                choice = await asyncio.to_thread(_choice, adaptive, hold, known)
            except NoFit as error:
                problem = f"the growth of {quantity.text} cannot be predicted: {error}"
            else:
                self._tell_choice(operation, choice, latest)
                return _chosen(hold, choice.hold_s, choice.temperature_c)
        hold_s, at_c = self._fallback(adaptive, hold, bool(problem))
        if problem:
            self._event(
                "warning",
                "steering",
                f"{problem}: hold {hold.index} is the {adaptive.otherwise} one, {hold_s:.3g} s at "
                f"{at_c:g} °C, as the recipe says",
            )
        else:
            why = "growth is not known yet"
            self._event(
                "info", "steering", f"hold {hold.index}: {hold_s:.3g} s at {at_c:g} °C; {why}"
            )
        chosen = _chosen(hold, hold_s, at_c)
        row = _row(adaptive, latest or Measurement(operation.series or "", None, None, {}, 0))
        by = "fallback" if problem else "first"
        self._record(row | chosen.model_dump(exclude={"kind"}) | {"chosen_by": by})
        return chosen

    def _fallback(self, adaptive: Adaptive, hold: HoldPlan, failed: bool) -> tuple[float, float]:
        """The hold that is taken where the model does not choose."""
        low_c, high_c = adaptive.temperature_c or (hold.target_c, hold.target_c)
        if failed and adaptive.otherwise == "last" and self._last_hold is not None:
            hold_s, at_c = self._last_hold
            return min(max(hold_s, adaptive.min_s), adaptive.max_s), min(max(at_c, low_c), high_c)
        return adaptive.first_s, hold.target_c

    def _knowledge(self, quantity: Quantity) -> _Knowledge:
        """Everything measured so far, with the heat between."""
        measurements: list[Measurement] = []
        dwells: list[Dwell] = []
        before_ns = 0
        for series, began_ns in self._series_ns.items():
            found = self._measured.get((series, quantity))
            if found is None or found.value is None:
                continue
            measurements.append(found)
            dwells.append(self._heat.dwell(before_ns or began_ns, began_ns))
            before_ns = began_ns
        return _Knowledge(measurements, dwells, self._shape, self._longest_s)

    def _tell_choice(
        self, operation: ChooseHold, choice: HoldChoice, latest: Measurement | None
    ) -> None:
        """Say what was chosen and why, in an event and in the table."""
        adaptive, hold = operation.adaptive, operation.hold
        level, advance = choice.level.value, choice.prediction.advance
        sd = math.hypot(choice.level.sd, choice.prediction.sd)
        low, high = level + advance - sd, level + advance + sd
        expected = (
            f"{adaptive.quantity.text} should go from {level:.4g} to {level + advance:.4g} "
            f"(68 %: {low:.4g} to {high:.4g})"
        )
        model = (
            f"n {choice.exponent.value:.2g} ± {choice.exponent.sd:.1g}, "
            f"Q {choice.activation_j_per_mol.value / 1e3:.0f} ± "
            f"{choice.activation_j_per_mol.sd / 1e3:.0f} kJ/mol, {choice.pairs} followed"
        )
        what = f"hold {hold.index}: {choice.hold_s:.3g} s at {choice.temperature_c:g} °C"
        short = "" if choice.reached else f"; a step of {adaptive.step:g} is out of reach"
        level_of_event = "info" if choice.reached else "warning"
        self._event(level_of_event, "steering", f"{what}; {expected}{short}; {model}")
        found = latest or Measurement(operation.series or "", None, None, {}, 0)
        chosen = _chosen(hold, choice.hold_s, choice.temperature_c)
        self._record(
            _row(adaptive, found)
            | chosen.model_dump(exclude={"kind"})
            | {
                "fitted": level,
                "predicted": level + advance,
                "predicted_low": low,
                "predicted_high": high,
                "exponent": choice.exponent.value,
                "exponent_sd": choice.exponent.sd,
                "activation_j_per_mol": choice.activation_j_per_mol.value,
                "activation_sd_j_per_mol": choice.activation_j_per_mol.sd,
                "pairs": choice.pairs,
                "chosen_by": "model",
            }
        )


def _choice(adaptive: Adaptive, hold: HoldPlan, known: _Knowledge) -> HoldChoice:
    """Fit and choose; pure, and fast enough to be waited for in a thread."""
    statistic = adaptive.quantity.statistic
    priors = Priors(
        activation_j_per_mol=adaptive.activation_energy_j_per_mol,
        activation_sd_j_per_mol=adaptive.activation_energy_sd_j_per_mol,
    )
    low_c, high_c = adaptive.temperature_c or (hold.target_c, hold.target_c)
    bounds = HoldBounds(
        adaptive.step, adaptive.min_s, adaptive.max_s, hold.target_c, low_c, high_c, hold.standby_c
    )
    series = known.measurements, known.dwells, statistic, hold.target_c, priors
    missed = discrepancy(outcomes_of(*series))
    longest_s = known.longest_s or adaptive.first_s
    return choose(fit(*series), known.shape, bounds, longest_s, missed)


def _chosen(hold: HoldPlan, hold_s: float, temperature_c: float) -> Chosen:
    """As the journal has it; durations to the microsecond."""
    return Chosen(hold=hold.index, hold_s=round(hold_s, 6), temperature_c=round(temperature_c, 3))


def _row(adaptive: Adaptive, found: Measurement) -> dict[str, Any]:
    """What is known of a series without a choice: the row of the last one of a cycle."""
    return {
        "hold": 0,
        "series": found.series,
        "quantity": adaptive.quantity.name,
        "statistic": adaptive.quantity.statistic,
        "measured": found.value,
        "measured_error": found.error,
        "chosen_by": "none",
    }
