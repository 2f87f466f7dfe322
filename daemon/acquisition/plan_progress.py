"""How far a run has come: the operation under way, frames so far, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...protocols.core.clock import ExperimentClock
from ..schedule.plan import AcquireStack, Operation, Plan, RampTo


class PlanProgress:
    """Progress of one run through its plan.

    Parameters
    ----------
    plan : Plan
        What is carried out.
    clock : ExperimentClock
        Time of the operations.

    Attributes
    ----------
    plan : Plan
        What is carried out; replaced when the length of a hold has been chosen.
    operation : Operation or None
        The operation under way.
    operation_index : int
        Its index in the plan; the number of operations when all are done.
    frames_done, frames_lost : int
        Frames acquired and lost so far, those before an interruption included.
    frames_extra : int
        Frames that the detector sent without a trigger; they are dropped.
    exposing : bool
        Whether the beam is on for an exposure.
    waiting_for_credit : bool
        Whether the schedule waits for the recorder.
    """

    def __init__(self, plan: Plan, clock: ExperimentClock) -> None:
        self.plan, self._clock = plan, clock
        self.operation: Operation | None = None
        self.operation_index = 0
        self.frames_done = 0
        self.frames_lost = 0
        self.frames_extra = 0
        self.exposing = False
        self.waiting_for_credit = False
        self._started_ns = clock.now_ns()

    def begin(self, index: int, done_s: float = 0.0) -> Operation:
        """Note that an operation begins, of which `done_s` were done before an interruption."""
        self.expect(index)
        self._started_ns = self._clock.now_ns() - int(done_s * 1e9)
        return self.plan.operations[index]

    def expect(self, index: int) -> None:
        """Count everything before an operation as done."""
        self.operation_index = index
        operations = self.plan.operations
        self.operation = operations[index] if index < len(operations) else None

    def finish(self) -> None:
        """Note that every operation is done."""
        self.expect(len(self.plan.operations))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The schedule waits for the recorder within."""
        self.waiting_for_credit = True
        try:
            yield
        finally:
            self.waiting_for_credit = False

    @property
    def takes_frames(self) -> bool:
        """Whether the operation under way exposes frames, one after the other."""
        operation = self.operation
        return isinstance(operation, AcquireStack) or (
            isinstance(operation, RampTo) and operation.stack is not None
        )

    @property
    def step_number(self) -> int:
        """Number of the operation under way, from 1; 0 before the first."""
        return self.operation_index + (self.operation is not None)

    @property
    def remaining_s(self) -> float:
        """Estimated experiment time to the end of the plan."""
        durations = self.plan.durations_s[self.operation_index :]
        if not durations:
            return 0.0
        elapsed_s = (self._clock.now_ns() - self._started_ns) * 1e-9
        return max(0.0, durations[0] - elapsed_s) + sum(durations[1:])
