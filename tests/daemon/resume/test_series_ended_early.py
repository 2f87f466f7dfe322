"""A run that is resumed does not take what a series had given up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from command_line import TINY

from pyrotome.daemon.resume.journal_history import History
from pyrotome.daemon.resume.remaining import Conditions, Recorded
from pyrotome.daemon.resume.resume_point import resume_point
from pyrotome.daemon.schedule.plan import make_plan
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.messages.journal import (
    Begun,
    Decision,
    Ended,
    Entry,
    Exposed,
    Noted,
    RunLine,
    Trigger,
)

SERIES: dict[str, Any] = {
    "tilt_series": {"from": "0 deg", "to": "40 deg", "step": "10 deg", "until": {"below": "25 pm"}}
}
RECIPE: dict[str, Any] = {
    "title": "t", **TINY, "limits": {}, "steps": [SERIES, {"reference": {"frames": 1}}],
    "analysis": [{"trace": {}}],
}  # fmt: skip
PLAN = make_plan(Recipe.model_validate(RECIPE), simulated_rig())


def entries(ended: bool) -> list[Entry]:
    made: list[Entry] = [RunLine(run="r", resumed=0), Begun(index=0)]
    for frame in range(3):
        made.append(Trigger(stack="series_001", first=frame, count=1, dose_e_per_nm2=1.0))
        made.append(Exposed(stack="series_001"))
    made.append(Decision(index=0, goes_on=False))
    return [*made, Ended(index=0, next=1), Begun(index=1)] if ended else made


@pytest.mark.parametrize("ended", [False, True])
def test_frames_that_were_given_up_stay_missing(ended: bool) -> None:
    history = History.of(Noted(n + 1, entry) for n, entry in enumerate(entries(ended)))
    there = {stack.name: np.zeros(stack.frames, np.bool_) for stack in PLAN.stacks}
    there["series_001"][[0, 2]] = True  # the second one was exposed, and lost with the process
    recorded = Recorded(there, np.empty(0, np.int64), np.empty(0), frozenset(), 100)
    point = resume_point(PLAN, history, recorded, Conditions(200))
    assert not {3, 4} & {i for _, indices in point.retakes for i in indices}
    assert {3, 4} <= set(point.missing["series_001"])
    if ended:
        assert point.index == 1
        assert point.retakes == ((0, (1,)),)
    else:
        assert point.index == 0
        assert point.remaining[0].frame_indices == ()
    assert any("had ended early" in problem for problem in point.problems)
