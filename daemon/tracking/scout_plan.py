"""Room for the scouts of a run in its file."""

from __future__ import annotations

from ...protocols.config.rig import Rig
from ...protocols.messages.manifest import ScoutsPlan
from ..schedule.operations import CalibrateHeight
from ..schedule.plan import Plan
from ..schedule.scout_scans import scout_grids


def scouts_plan(plan: Plan, rig: Rig) -> ScoutsPlan | None:
    """Which scouts a run may take; None for a run without.

    Parameters
    ----------
    plan : Plan
        Each of its series, and each calibration of the height, may take some.
    rig : Rig
        Its detector limits the grids of positions.
    """
    heights = [op.name for op in plan.operations if isinstance(op, CalibrateHeight)]
    accounts = (*heights, *(stack.name for stack in plan.stacks if stack.kind == "series"))
    # Also without a dose for scouts: where a person points out the specimen, one looks there.
    if not plan.recipe.tracked or not accounts:
        return None
    return ScoutsPlan(
        accounts=accounts, grids=scout_grids(plan.recipe.beam, rig.detector.limits.frame)
    )
