"""Progress through a plan: the operation under way, its number, and the time that is left."""

from __future__ import annotations

from command_line import TINY
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.daemon.acquisition.plan_progress import PlanProgress
from pyrotome.daemon.schedule.plan import Plan, make_plan
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.config.rig import simulated_rig
from pyrotome.protocols.core.clock import ExperimentClock

STEPS = [
    {"heat": {"to": "200 degC", "hold": "60 s"}},
    {"reference": {"frames": 3}},
    {"ramp": {"to": "300 degC", "rate": "10 degC/s"}},
    {"ramp": {"to": "400 degC", "rate": "10 degC/s", "frame_every": "5 s"}},
]
HEAT, REFERENCE, RAMP, RAMP_WITH_FRAMES = range(4)


def plan() -> Plan:
    recipe = Recipe.model_validate({"title": "Progress", **TINY, "limits": {}, "steps": STEPS})
    return make_plan(recipe, simulated_rig())


def test_it_begins_before_the_first_operation_and_ends_after_the_last() -> None:
    progress = PlanProgress(plan(), ExperimentClock())
    assert (progress.operation, progress.step_number) == (None, 0)
    progress.begin(HEAT)
    assert progress.step_number == 1
    progress.begin(RAMP_WITH_FRAMES)
    assert progress.step_number == 4
    progress.finish()
    assert (progress.operation, progress.operation_index, progress.step_number) == (None, 4, 4)
    assert progress.remaining_s == 0.0


def test_frames_are_taken_in_stacks_and_in_ramps_with_frames() -> None:
    progress = PlanProgress(plan(), ExperimentClock())
    taking = []
    for index in range(4):
        progress.begin(index)
        taking.append(progress.takes_frames)
    assert taking == [False, True, False, True]


@given(elapsed_s=st.floats(0, 200), done_s=st.floats(0, 60))
def test_the_time_left_is_what_the_plan_says_less_what_has_passed(
    elapsed_s: float, done_s: float
) -> None:
    now_ns = 0
    the_plan = plan()
    progress = PlanProgress(the_plan, ExperimentClock(monotonic_ns=lambda: now_ns))
    progress.begin(HEAT, done_s)
    now_ns = int(elapsed_s * 1e9)
    first_s, *others_s = the_plan.durations_s
    expected_s = max(0.0, first_s - done_s - elapsed_s) + sum(others_s)
    assert abs(progress.remaining_s - expected_s) < 1e-6


def test_waiting_for_credit_ends_also_by_an_error() -> None:
    progress = PlanProgress(plan(), ExperimentClock())
    try:
        with progress.waiting():
            assert progress.waiting_for_credit
            raise RuntimeError
    except RuntimeError:
        assert not progress.waiting_for_credit
