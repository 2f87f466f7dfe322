"""The engine's states and the one table of transitions between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum


class State(StrEnum):
    """What the engine is doing."""

    IDLE = "idle"
    PREPARING = "preparing"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    SAFING = "safing"
    PANICKED = "panicked"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.IDLE: frozenset({State.PREPARING, State.SAFING}),
    State.PREPARING: frozenset({State.RUNNING, State.SAFING}),
    State.RUNNING: frozenset({State.PAUSED, State.FINISHING, State.SAFING}),
    State.PAUSED: frozenset({State.RUNNING, State.SAFING}),
    State.FINISHING: frozenset({State.IDLE, State.SAFING}),
    State.SAFING: frozenset({State.IDLE, State.PANICKED}),
    # A person's word, and nothing else, takes it back (`Daemon.clear`).
    State.PANICKED: frozenset({State.IDLE}),
}


class IllegalTransition(RuntimeError):
    """A step that the table does not hold."""


class StateMachine:
    """The current state; every change goes through the table and is told to `changed`."""

    def __init__(self, changed: Callable[[State, State], None]) -> None:
        self._state = State.IDLE
        self._changed = changed

    @property
    def state(self) -> State:
        """Where the engine is."""
        return self._state

    def to(self, new: State) -> None:
        """Go to another state.

        Raises
        ------
        IllegalTransition
            If the table does not allow it; the state stays.
        """
        old = self._state
        if new not in TRANSITIONS[old]:
            raise IllegalTransition(f"the engine cannot go from {old} to {new}")
        self._state = new
        self._changed(old, new)
