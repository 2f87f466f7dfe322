"""Resume an interrupted run: find where it continues, and restore what is known of it."""

from __future__ import annotations

from ...protocols.core.errors import BadInput
from ..acquisition.heater_watch import PROGRESS_TIMEOUT_S
from ..resume.interrupted_run import InterruptedRun
from ..resume.remaining import Conditions
from ..resume.resume_point import ResumePoint
from ..schedule.dose import DoseLedger
from ..schedule.plan import Plan
from .context import RunContext
from .engine import Engine


async def find_resume_point(
    interrupted: InterruptedRun, plan: Plan, context: RunContext
) -> ResumePoint:
    """Where a run continues, from its journal, its file and the present temperature.

    Parameters
    ----------
    interrupted : InterruptedRun
        The run, as journal and file have it.
    plan : Plan
        Its whole plan.
    context : RunContext
        The devices with which it continues.

    Raises
    ------
    BadInput
        If the detector now sends another pixel type, or the journal does not fit the plan.
    DeviceLost
        If the heater sends no reading.
    """
    dtype, recorded = context.devices.detector.dtype, interrupted.manifest.frame_dtype
    if dtype != recorded:
        raise BadInput(
            str(interrupted.path), f"has frames of {recorded}, the detector now sends {dtype}"
        )
    now_ns, limits = context.clock.now_ns(), context.rig.heater.limits
    deadline_ns = now_ns + int(PROGRESS_TIMEOUT_S * 1e9)
    sample = await context.watch.next_sample(now_ns, "its first reading", deadline_ns)
    now = Conditions(sample.t_ns, sample.temperature_c, limits.tolerance_c, limits.rate_c_per_s)
    return interrupted.point(plan, now)


def restore(
    interrupted: InterruptedRun,
    point: ResumePoint,
    plan: Plan,
    context: RunContext,
    engine: Engine,
    ledger: DoseLedger,
) -> None:
    """Restore dose, measurements and progress of a run, and say where it continues."""
    event, progress, gap = context.bus.event, engine.progress, point.interruption
    ledger.restore(point.charged)
    engine.restore(point.steering)
    progress.expect(point.index)
    progress.frames_lost = sum(map(len, point.missing.values()))
    operation = progress.operation
    event(
        "warning",
        "engine",
        f"resumed after {(gap.until_ns - gap.from_ns) * 1e-9:.1f} s ({gap.reason}); "
        f"{interrupted.frames} of {plan.frames} frames are recorded, continues with "
        f"{operation.label if operation is not None else 'the end'}",
        resumed=point.resumed,
        interruption=gap.model_dump(),
    )
    for problem in (*interrupted.problems, *point.problems):
        event("warning", "engine", problem)
