"""The states of the daemon and the table of transitions between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """State of the daemon and its engine."""

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
    # Only a person clears it (`Safing.clear`).
    State.PANICKED: frozenset({State.IDLE}),
}


@dataclass(frozen=True)
class StateChange:
    """The state has changed."""

    old: State
    new: State


class Busy(Exception):
    """The daemon cannot do this in its present state."""


class IllegalTransition(RuntimeError):
    """A transition that the table does not contain."""


class StateMachine:
    """The current state; every change follows the table.

    Parameters
    ----------
    on_change : callable
        Called with each change after it has happened.
    """

    def __init__(self, on_change: Callable[[StateChange], object]) -> None:
        self._state = State.IDLE
        self._on_change = on_change

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    def to(self, new: State) -> None:
        """Change the state.

        Raises
        ------
        IllegalTransition
            If the table does not contain the transition; the state stays.
        """
        old = self._state
        if new not in TRANSITIONS[old]:
            raise IllegalTransition(f"the engine cannot go from {old} to {new}")
        self._state = new
        self._on_change(StateChange(old, new))
