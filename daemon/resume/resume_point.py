"""From the journal of an interrupted run and what its file holds: where and with what it goes on.

Pure. `History` is what the journal says, `Recorded` what the file says, `resume_point` concludes.
The rules are those of decision 11.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...protocols.core.errors import BadInput
from ...protocols.messages.journal import Carried, Exposed
from ...protocols.messages.manifest import HoldPlan, Interruption
from ..schedule.hold_timing import HoldTiming
from ..schedule.plan import HeatTo, HoldAt, Operation, Plan, RampTo
from .journal_history import History
from .remaining import ALL, FramesLeft, HeatLeft, Now, Recorded, Rest


@dataclass(frozen=True)
class Held:
    """A hold that is over."""

    hold: HoldPlan
    timing: HoldTiming
    achieved_s: float


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes
    ----------
    resumed : int
        The how-many-th time.
    index : int
        Operation with which it goes on; the number of operations when all are done.
    rest : mapping
        What is left of operations of which a part is done, by index.
    start_c : float or None
        Temperature to which the specimen is brought first; None where nothing was heated before,
        or nothing is left that needs it.
    rate_c_per_s : float or None
        At which it is heated there, if the recipe names one.
    retakes : tuple
        Stacks that are done but lack frames: index of the operation, and places to take again.
    untold : tuple of Held
        Holds of which the file does not know yet.
    charged : mapping
        Electrons per nm^2 that each stack has cost.
    cut_off : Exposed or None
        The end of a trigger that was cut off, which the journal does not know yet.
    missing : mapping
        Frames that will not be taken any more, by stack.
    carried : Carried
        What was done of the operation `index`, for the journal.
    interruption : Interruption
        For the file.
    problems : tuple of str
        What a person should know.
    """

    resumed: int
    index: int
    rest: Mapping[int, Rest]
    start_c: float | None
    rate_c_per_s: float | None
    retakes: tuple[tuple[int, tuple[int, ...]], ...]
    untold: tuple[Held, ...]
    charged: Mapping[str, float]
    cut_off: Exposed | None
    missing: Mapping[str, tuple[int, ...]]
    necks: Mapping[str, float | None]
    carried: Carried
    interruption: Interruption
    problems: tuple[str, ...]


def resume_point(
    plan: Plan, history: History, recorded: Recorded, now: Now, why: str = ""
) -> ResumePoint:
    """Conclude where an interrupted run goes on.

    Parameters
    ----------
    plan : Plan
        The whole plan of the run.
    history : History
        From its journal.
    recorded : Recorded
        From its file.
    now : Now
        When it goes on, and how hot the specimen is.
    why : str
        Why it was interrupted, for the file.

    Raises
    ------
    BadInput
        If the journal speaks of operations that the plan does not have.
    """
    operations, index = plan.operations, history.index
    if index > len(operations) or any(i >= len(operations) for i in history.visited):
        raise BadInput(
            "journal", f"speaks of operation {index + 1}, the plan has {len(operations)}"
        )
    heat = HeatLeft(plan, history, recorded, now)
    done_s, rest = heat.rest()
    heated = done_s > 0 or (
        history.begun and (isinstance(operations[index], HeatTo) or bool(history.moments))
    )
    frames = FramesLeft(
        plan, history, recorded, {} if rest is ALL or index == len(operations) else {index: rest}
    )
    if index < len(operations):
        frames.under_way(index, done_s, now.tolerance_c)
    frames.taken(index, heated)
    charged, cut_off = _charged(plan, history)
    frames.afford(charged)
    start_c = _start_c(operations, index)
    if index == len(operations) and not frames.again:
        start_c = None
    elif index < len(operations) and isinstance(ramp := operations[index], RampTo) and done_s > 0:
        gone_c = math.copysign(ramp.rate_c_per_s * done_s, ramp.to_c - ramp.from_c)
        start_c = ramp.from_c + gone_c
    since_ns = int(recorded.heater_ns[-1]) if recorded.heater_ns.size else recorded.last_ns
    return ResumePoint(
        resumed=history.resumed + 1,
        index=index,
        rest=frames.rest,
        start_c=start_c,
        rate_c_per_s=_rate(operations[:index]),
        retakes=tuple(sorted((i, tuple(sorted(places))) for i, places in frames.again.items())),
        untold=tuple(
            Held(operation.hold, timing, achieved_s)
            for i, (timing, achieved_s) in sorted(history.held.items())
            if isinstance(operation := operations[i], HoldAt)
            and operation.hold.index not in recorded.holds
        ),
        charged=charged,
        cut_off=cut_off,
        missing={name: tuple(sorted(places)) for name, places in frames.given_up.items()},
        necks=history.necks,
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


def _start_c(operations: Sequence[Operation], index: int) -> float | None:
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
    """The rate at which the recipe last said that the specimen should be heated."""
    rates = (op.rate_c_per_s for op in reversed(before) if isinstance(op, HeatTo))
    return next((rate for rate in rates if rate is not None), None)


def _charged(plan: Plan, history: History) -> tuple[dict[str, float], Exposed | None]:
    """What every stack has cost, and how a trigger ended that was cut off."""
    charged, trigger = dict(history.charged), history.open
    if trigger is None:
        return charged, None
    beam, dose = plan.recipe.beam, trigger.dose_e_per_nm2
    if history.beam_blanked_ns is not None:
        on_s = (history.beam_blanked_ns - history.open_ns) * 1e-9
        dose = max(dose, beam.dose_per_frame_e_per_nm2 / beam.exposure_s * on_s)
    charged[trigger.stack] += dose - trigger.dose_e_per_nm2
    return charged, Exposed(stack=trigger.stack, dose_e_per_nm2=dose)
