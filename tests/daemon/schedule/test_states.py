"""The engine's states: the table, and nothing beside it."""

import pytest

from pyrotome.daemon.schedule.states import TRANSITIONS, IllegalTransition, State, StateMachine


def test_a_run_goes_through_the_table_and_is_told() -> None:
    told: list[tuple[State, State]] = []
    machine = StateMachine(lambda old, new: told.append((old, new)))
    way = [State.PREPARING, State.RUNNING, State.PAUSED, State.RUNNING, State.FINISHING, State.IDLE]
    for state in way:
        machine.to(state)
    assert [new for _, new in told] == way


def test_safing_is_reachable_from_everywhere_and_panic_absorbs() -> None:
    for state, following in TRANSITIONS.items():
        if state is State.PANICKED:
            assert following == {State.IDLE}, "by a person's word, `Daemon.clear`"
        elif state is not State.SAFING:
            assert State.SAFING in following


def test_what_the_table_does_not_hold_is_refused() -> None:
    machine = StateMachine(lambda _old, _new: None)
    with pytest.raises(IllegalTransition):
        machine.to(State.RUNNING)
    assert machine.state is State.IDLE
