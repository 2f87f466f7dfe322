"""The engine's states: the table, and nothing beside it."""

import pytest

from pyrotome.daemon.schedule.states import (
    TRANSITIONS,
    IllegalTransition,
    State,
    StateChange,
    StateMachine,
)


def test_a_run_goes_through_the_table_and_is_told() -> None:
    told: list[StateChange] = []
    machine = StateMachine(told.append)
    way = [State.PREPARING, State.RUNNING, State.PAUSED, State.RUNNING, State.FINISHING, State.IDLE]
    for state in way:
        machine.to(state)
    assert [change.new for change in told] == way


def test_safing_is_reachable_from_everywhere_and_panic_absorbs() -> None:
    for state, following in TRANSITIONS.items():
        if state is State.PANICKED:
            assert following == {State.IDLE}, "by a person's word, `Safing.clear`"
        elif state is not State.SAFING:
            assert State.SAFING in following


def test_what_the_table_does_not_hold_is_refused() -> None:
    machine = StateMachine(lambda _: None)
    with pytest.raises(IllegalTransition):
        machine.to(State.RUNNING)
    assert machine.state is State.IDLE
