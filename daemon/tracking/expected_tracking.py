"""What `check` says of tracking: for each series what to expect, beside what rig and beam allow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...protocols.config.rig import Rig
from ...protocols.config.tracking import Track
from ...protocols.core.errors import BadInput
from ...protocols.messages.manifest import StackPlan
from ...protocols.messages.tracking_expectation import (
    ExpectedSeries,
    StageFigures,
    depth_of_focus_nm,
    expected_series,
    stage_of,
)
from ...protocols.messages.tracking_rules import TrackingLimits, limits_of
from ..schedule.focus_scans import focus_series_e_per_nm2
from ..schedule.plan import AcquireStack, Plan
from ..schedule.scout_scans import BeamOnTimes, scout_dose_e_per_nm2, scout_for
from ..schedule.switching import SWITCHING_S
from ..schedule.tilt_angles import arrivals

_MOST_BYTES = 64 << 20


def expected_tracking(plan: Plan, rig: Rig) -> dict[str, Any] | None:
    """What tracking is to be expected to achieve; None for a recipe that does not track.

    Parameters
    ----------
    plan : Plan
        Of the recipe.
    rig : Rig
        With absolute paths.

    Returns
    -------
    dict or None
        As ``check --json`` prints it under ``tracking``; lengths in nm.

    Raises
    ------
    BadInput
        If the rig's goniometer file is there and cannot be used.
    """
    recipe, shift = plan.recipe, rig.beam.shift
    if not recipe.tracked:
        return None
    rig_limits = TrackingLimits()
    if shift is not None:
        rig_limits = replace(
            rig_limits, shift_limit_nm=shift.limit_nm, hand_over_nm=shift.hand_over_nm
        )
    stage, basis = _stage(rig)
    focus = rig.beam.focus
    cone = None if focus is None else focus.convergence_mrad
    depth_nm = None if cone is None else depth_of_focus_nm(recipe.beam.voltage_kv, cone)
    tracks_focus = recipe.focus.by != "none" and focus is not None
    series, rests = list[dict[str, Any]](), list[str]()
    before: dict[tuple[float, ...], int] = {}
    held = 0
    acquired = (op for op in plan.operations if isinstance(op, AcquireStack))
    for number, op in enumerate(op for op in acquired if op.stack.kind == "series"):
        stack = op.stack
        angles = tuple(sorted(stack.tilt_deg))
        holds = plan.holds_before.get(stack.name, 0)
        # Another schedule of angles shares no course, but its place is known too.
        seen = before.get(angles, 0)
        after_hold, held = holds > held, holds
        before[angles] = seen + 1
        if op.track is None:
            rests.append(stack.name)
            continue
        limits = limits_of(op.track, rig_limits)
        found = expected_series(
            stack.tilt_deg, limits, stage, max(seen, min(number, 1)), after_hold=after_hold
        )
        row = _row(stack, found, depth_nm if tracks_focus else None, tracks_focus)
        series.append(row | _scouts(found, stack.tilt_deg, limits, plan))
    return {
        "basis": basis,
        "jitter_nm": round(stage.jitter_nm, 1),
        "lost_beyond_nm": round((recipe.track or Track()).lost_beyond * recipe.beam.field_nm, 1),
        "shift_limit_nm": round(rig_limits.shift_limit_nm, 1),
        "series": series,
        "not_tracked": rests,
    }


def _row(
    stack: StackPlan, found: ExpectedSeries, depth_nm: float | None, tracks_focus: bool
) -> dict[str, Any]:
    return {
        "name": stack.name,
        "expected_rms_nm": round(found.rms_nm, 1),
        "first_frame_sd_nm": round(found.frame_sd_nm[0], 1) if found.frame_sd_nm else None,
        "largest_shift_nm": round(found.shift_nm),
        "beyond_shift_limit": found.beyond_shift_limit,
        "focus_sd_nm": round(found.focus_sd_nm) if tracks_focus else None,
        "depth_of_focus_nm": None if depth_nm is None else round(depth_nm),
    }


def _scouts(
    found: ExpectedSeries, tilt_deg: tuple[float, ...], limits: TrackingLimits, plan: Plan
) -> dict[str, Any]:
    """How many scouts and focus series a tilt series takes at most, and their dose."""
    beam, budget = plan.recipe.beam, limits.scouts_e_per_nm2
    arrives = arrivals(tilt_deg)
    frames = sum(arrives) if limits.keep_within_nm == 0 else 1
    scan = scout_for(beam, frames, budget, BeamOnTimes())
    dose = scout_dose_e_per_nm2(beam, scan, BeamOnTimes())
    wanted = sum(
        sd > limits.keep_within_nm
        for sd, comes in zip(found.frame_sd_nm, arrives, strict=True)
        if comes
    )
    most = min(wanted, int(budget / dose * (1 + 1e-9)))
    planned = plan.recipe.focus_e_per_nm2
    parked = beam.parked_dose_e_per_nm2(SWITCHING_S)
    return {
        "scouts": most,
        "scouts_dose_e_per_nm2": round(most * dose, 4),
        "focus_series": int(planned / focus_series_e_per_nm2(beam, parked) * (1 + 1e-9)),
        "focus_dose_e_per_nm2": planned,
    }


def _stage(rig: Rig) -> tuple[StageFigures, str]:
    """How the stage errs, and by what that is known."""
    path = None if rig.goniometer_file is None else Path(rig.goniometer_file)
    if path is None or not path.exists():
        return StageFigures(), "assumptions"
    try:
        with path.open("rb") as file:
            return stage_of(file.read(_MOST_BYTES)), "goniometer_file"
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise BadInput(str(path), f"is no goniometer file: {error}; move it away") from None
