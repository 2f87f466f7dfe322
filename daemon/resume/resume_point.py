"""Where an interrupted run resumes, from its journal and its file.

Pure. `History` is what the journal says, `Recorded` what the file says.
The rules are those of decision record 0011.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...protocols.core.errors import BadInput
from ...protocols.messages.journal import Carried, Exposed
from ...protocols.messages.manifest import HoldPlan, Interruption
from ..schedule.hold_timing import HoldTiming
from ..schedule.plan import AcquireStack, HeatTo, HoldAt, Operation, Plan, RampTo
from ..schedule.steering_history import SteeringHistory
from ..schedule.switching import SWITCHING_S
from .journal_history import History
from .remaining import NOTHING_DONE, Conditions, Recorded, RemainingWork
from .remaining_frames import RemainingFrames
from .remaining_heat import RemainingHeat


@dataclass(frozen=True)
class FinishedHold:
    """A hold that is over, with its moments and the seconds achieved."""

    hold: HoldPlan
    timing: HoldTiming
    achieved_s: float


@dataclass(frozen=True)
class ResumePoint:
    """Where and with what a run resumes.

    Attributes
    ----------
    resumed : int
        How often the run has been resumed, this time included.
    index : int
        Operation with which it continues; the number of operations when all are done.
    remaining : mapping
        What remains of operations that are partly done, by index.
    start_c : float or None
        Temperature to which the specimen is brought first; None where nothing was heated before,
        or where nothing remains that needs it.
    rate_c_per_s : float or None
        Rate at which it is heated there, if the recipe names one.
    retakes : tuple
        Stacks that are done but lack frames: index of the operation, and frame indices to retake.
    unreported : tuple of FinishedHold
        Holds that are over but not in the file.
    charged : mapping
        Electrons per nm^2 that each stack has received.
    interrupted_trigger : Exposed or None
        End of a trigger that was interrupted, for the journal.
    missing : mapping
        Frame indices that stay missing, by stack.
    steering : SteeringHistory
        What the steering knew.
    carried : Carried
        What is done of the operation `index`, for the journal.
    interruption : Interruption
        For the file.
    problems : tuple of str
        What the operator should know.
    """

    resumed: int
    index: int
    remaining: Mapping[int, RemainingWork]
    start_c: float | None
    rate_c_per_s: float | None
    retakes: tuple[tuple[int, tuple[int, ...]], ...]
    unreported: tuple[FinishedHold, ...]
    charged: Mapping[str, float]
    interrupted_trigger: Exposed | None
    missing: Mapping[str, tuple[int, ...]]
    steering: SteeringHistory
    carried: Carried
    interruption: Interruption
    problems: tuple[str, ...]


def resume_point(
    plan: Plan, history: History, recorded: Recorded, now: Conditions, why: str = ""
) -> ResumePoint:
    """Where an interrupted run resumes.

    Parameters
    ----------
    plan : Plan
        The whole plan of the run.
    history : History
        From its journal.
    recorded : Recorded
        From its file.
    now : Conditions
        When it resumes, and how hot the specimen is.
    why : str
        Why it was interrupted, for the file.

    Raises
    ------
    BadInput
        If the journal names operations that the plan does not have.
    """
    for chosen in history.chosen.values():
        plan = plan.with_hold(chosen.hold, chosen.hold_s, chosen.temperature_c)
    operations, index = plan.operations, history.index
    if index > len(operations) or any(i >= len(operations) for i in history.visited):
        raise BadInput(
            "journal",
            f"names operation {index + 1}, but the plan has {len(operations)}: it belongs to "
            "another recipe",
        )
    heat = RemainingHeat(plan, history, recorded, now)
    done_s, rest = heat.rest()
    heated = done_s > 0 or (
        history.begun and (isinstance(operations[index], HeatTo) or bool(history.moments))
    )
    frames = RemainingFrames(
        plan,
        history,
        recorded,
        {} if rest is NOTHING_DONE or index == len(operations) else {index: rest},
    )
    if index < len(operations):
        frames.plan_current_stack(index, done_s, now.tolerance_c)
    frames.plan_earlier_stacks(index, heated)
    charged, interrupted_trigger = _charged(plan, history)
    frames.apply_dose_budgets(charged)
    since_ns = int(recorded.heater_ns[-1]) if recorded.heater_ns.size else recorded.last_ns
    return ResumePoint(
        resumed=history.resumed + 1,
        index=index,
        remaining=frames.remaining,
        start_c=_start_c(operations, index, done_s, retakes=bool(frames.retakes)),
        rate_c_per_s=_rate(operations[:index]),
        retakes=tuple(sorted((i, tuple(sorted(indices))) for i, indices in frames.retakes.items())),
        unreported=_unreported(operations, history, recorded),
        charged=charged,
        interrupted_trigger=interrupted_trigger,
        missing={name: tuple(sorted(indices)) for name, indices in frames.missing.items()},
        steering=_steering(plan, history, recorded),
        carried=Carried(
            index=index,
            done_s=done_s,
            commanded_up_ns=rest.commanded_up_ns,
            crossed_up_ns=rest.crossed_up_ns,
        ),
        interruption=Interruption(
            from_ns=min(since_ns, now.t_ns),
            until_ns=now.t_ns,
            hot_s=heat.unrecorded_s(),
            reason=why,
            number=history.resumed + 1,
        ),
        problems=(*heat.problems, *frames.problems),
    )


def _steering(plan: Plan, history: History, recorded: Recorded) -> SteeringHistory:
    """What the steering knew, from journal and file."""
    began = sorted(history.first_begun_ns.items())
    operations = plan.operations
    return SteeringHistory(
        measured=tuple(history.measured),
        chosen=tuple(history.chosen.values()),
        series_ns={
            operation.stack.name: t_ns
            for index, t_ns in began
            if isinstance(operation := operations[index], AcquireStack)
            and operation.stack.kind == "series"
        },
        holds=tuple(
            (operation.hold, timing)
            for index, (timing, _) in sorted(history.held.items())
            if isinstance(operation := operations[index], HoldAt)
        ),
        heater_ns=recorded.heater_ns,
        heater_c=recorded.heater_c,
    )


def _unreported(
    operations: Sequence[Operation], history: History, recorded: Recorded
) -> tuple[FinishedHold, ...]:
    """Holds that are over in the journal, but not in the file; the one under way reports itself."""
    return tuple(
        FinishedHold(operation.hold, timing, achieved_s)
        for i, (timing, achieved_s) in sorted(history.held.items())
        if isinstance(operation := operations[i], HoldAt)
        and i != history.index
        and operation.hold.index not in recorded.holds
    )


def _start_c(
    operations: Sequence[Operation], index: int, done_s: float, retakes: bool
) -> float | None:
    """Temperature to which the specimen is brought first; None if that is not needed."""
    if index == len(operations) and not retakes:
        return None
    if index < len(operations) and isinstance(ramp := operations[index], RampTo) and done_s > 0:
        gone_c = math.copysign(ramp.rate_c_per_s * done_s, ramp.to_c - ramp.from_c)
        return ramp.from_c + gone_c
    return _temperature_before_c(operations, index)


def _temperature_before_c(operations: Sequence[Operation], index: int) -> float | None:
    """Temperature at which an operation begins; None if nothing was heated before."""
    for operation in reversed(operations[:index]):
        match operation:
            case HeatTo(to_c=to_c) | RampTo(to_c=to_c):
                return to_c
            case HoldAt(hold=hold):
                return hold.standby_c
            case _:
                continue
    return None


def _rate(before: Sequence[Operation]) -> float | None:
    """The rate that the recipe last named for heating."""
    rates = (op.rate_c_per_s for op in reversed(before) if isinstance(op, HeatTo))
    return next((rate for rate in rates if rate is not None), None)


def _charged(plan: Plan, history: History) -> tuple[dict[str, float], Exposed | None]:
    """Dose that every stack has received, and the end of a trigger that was interrupted."""
    charged, trigger = dict(history.charged), history.open
    if trigger is None:
        return charged, None
    beam, dose = plan.recipe.beam, trigger.dose_e_per_nm2
    # Calibrations have an account without a stack.
    dark = {stack.name for stack in plan.stacks if stack.is_dark}
    if trigger.stack not in dark:
        # What the blanker let through besides was not noted any more.
        dose += beam.parked_dose_e_per_nm2(SWITCHING_S)
        if history.beam_blanked_ns is not None:
            on_s = (history.beam_blanked_ns - history.open_ns) * 1e-9
            dose = max(dose, beam.parked_dose_e_per_nm2(on_s))
    charged[trigger.stack] += dose - trigger.dose_e_per_nm2
    return charged, Exposed(stack=trigger.stack, dose_e_per_nm2=dose)
