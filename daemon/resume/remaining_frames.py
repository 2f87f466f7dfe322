"""Frames of an interrupted run: acquired, retaken, or missing for good. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ...protocols.messages.manifest import StackPlan
from ..schedule.dose import ROUNDING
from ..schedule.plan import AcquireStack, HeatTo, HoldAt, Plan, RampTo
from ..schedule.switching import SWITCHING_S
from ..schedule.tilt_angles import angles_text
from .journal_history import History
from .remaining import NOTHING_DONE, Recorded, RemainingWork

# Angles that a message names.
_MOST_ANGLES = 8
_REACHED = "the series had ended early, as its 'until' says"


class RemainingFrames:
    """Which frames are acquired, which are retaken, and which stay missing.

    Attributes
    ----------
    remaining : dict
        What remains of operations that are partly done, by index.
    retakes : dict
        Frame indices to retake for stacks that are done, by index of the operation.
    missing : dict
        Frame indices that stay missing, by stack.
    problems : list of str
        What the operator should know.
    """

    def __init__(
        self, plan: Plan, history: History, recorded: Recorded, remaining: dict[int, RemainingWork]
    ) -> None:
        self._plan, self._history, self._recorded = plan, history, recorded
        self.remaining = remaining
        self.retakes: dict[int, list[int]] = {}
        self.missing: dict[str, list[int]] = {}
        self.problems: list[str] = []

    def _missing_frames(self, index: int) -> tuple[StackPlan, list[int]] | None:
        operation = self._plan.operations[index]
        stack = operation.stack if isinstance(operation, AcquireStack | RampTo) else None
        return None if stack is None else (stack, self._recorded.missing(stack))

    def plan_current_stack(self, index: int, done_s: float, tolerance_c: float) -> None:
        """Frames of the stack under way: the missing ones; of a ramp, those still ahead."""
        found = self._missing_frames(index)
        if found is None:
            return
        stack, missing = found
        operation, exposed = self._plan.operations[index], self._history.exposed.get(stack.name, ())
        if self._history.decisions.get(index) is False:
            self._leave_out_goal(index, stack, missing)
            return
        indices, past = missing, list[int]()
        if isinstance(operation, RampTo) and operation.frame_every_s is not None:
            tolerance_s = tolerance_c / operation.rate_c_per_s
            past = [
                frame
                for frame in missing
                if frame in exposed and frame * operation.frame_every_s < done_s - tolerance_s
            ]
            gone = set(past)
            indices = [frame for frame in missing if frame not in gone]
        if len(indices) < stack.frames:
            rest = self.remaining.get(index, NOTHING_DONE)
            self.remaining[index] = RemainingWork(frame_indices=tuple(indices), done_s=rest.done_s)
        self._leave_out(stack, past, "the ramp is past their temperature")

    def _leave_out_goal(self, index: int, stack: StackPlan, missing: list[int]) -> None:
        """A series that has ended early, and was interrupted before the next operation."""
        self.remaining[index] = RemainingWork(frame_indices=())
        self._leave_out(stack, missing, _REACHED)

    def plan_earlier_stacks(self, index: int, heated: bool) -> None:
        """Missing frames of earlier stacks: retaken if the specimen was not heated since."""
        for i in reversed(range(index)):
            found = self._missing_frames(i)
            operation = self._plan.operations[i]
            if i in self._history.visited and found is not None and found[1]:
                stack, missing = found
                if self._history.decisions.get(i) is False:
                    exposed = self._history.exposed.get(stack.name, set())
                    given_up = [frame for frame in missing if frame not in exposed]
                    self._leave_out(stack, given_up, _REACHED)
                    missing = [frame for frame in missing if frame in exposed]
                if not missing:
                    continue
                if heated or isinstance(operation, RampTo):
                    self._leave_out(stack, missing, "the specimen was heated since")
                else:
                    self.retakes[i] = missing
            if isinstance(operation, HeatTo | HoldAt | RampTo) and i in self._history.visited:
                heated = True

    def apply_dose_budgets(self, charged: Mapping[str, float]) -> None:
        """Leave out the frames that the dose budgets do not allow.

        Frames that were never exposed come first, in the order of the schedule; retakes come last.

        Parameters
        ----------
        charged : mapping
            Electrons per nm^2 that each stack has received.
        """
        recipe = self._plan.recipe
        limits, beam = recipe.limits, recipe.beam
        dose = beam.dose_per_frame_e_per_nm2 + beam.parked_dose_e_per_nm2(SWITCHING_S)
        if limits.dose_e_per_nm2 is None and limits.dose_per_series_e_per_nm2 is None:
            return
        room = _frames_in(limits.dose_e_per_nm2, sum(charged.values()), dose)
        rooms = {
            stack.name: _frames_in(
                limits.dose_per_series_e_per_nm2 if stack.kind == "series" else None,
                charged.get(stack.name, 0.0),
                dose,
            )
            for stack in self._plan.stacks
        }
        refused: dict[int, list[int]] = {}
        dark = {stack.name for stack in self._plan.stacks if stack.is_dark}
        for index, stack, frame in (*self._wanted(False), *self._wanted(True)):
            if stack in dark:
                continue
            if room >= 1 and rooms[stack] >= 1:
                room, rooms[stack] = room - 1, rooms[stack] - 1
            else:
                refused.setdefault(index, []).append(frame)
        for index, indices in refused.items():
            self._refuse(index, indices)

    def _wanted(self, exposed: bool) -> Iterator[tuple[int, str, int]]:
        """Frames to acquire, either those exposed before or the others."""
        for index in range(len(self._plan.operations)):
            found = self._missing_frames(index)
            if found is None or (index < self._history.index and index not in self.retakes):
                continue
            stack, missing = found
            before = self._history.exposed.get(stack.name, set())
            rest = self.remaining.get(index, NOTHING_DONE)
            indices = missing if rest.frame_indices is None else rest.frame_indices
            for frame in self.retakes.get(index, indices):
                if (frame in before or index in self.retakes) is exposed:
                    yield index, stack.name, frame

    def _refuse(self, index: int, indices: list[int]) -> None:
        found = self._missing_frames(index)
        assert found is not None
        stack, missing = found
        out = set(indices)
        if index in self.retakes:
            left = [frame for frame in self.retakes.pop(index) if frame not in out]
            if left:
                self.retakes[index] = left
        else:
            rest = self.remaining.get(index, NOTHING_DONE)
            planned = missing if rest.frame_indices is None else rest.frame_indices
            kept = tuple(frame for frame in planned if frame not in out)
            self.remaining[index] = RemainingWork(frame_indices=kept, done_s=rest.done_s)
        self._leave_out(stack, indices, "the dose budget does not allow them")

    def _leave_out(self, stack: StackPlan, indices: list[int], why: str) -> None:
        if not indices:
            return
        self.missing.setdefault(stack.name, []).extend(indices)
        angles = angles_text((stack.tilt_deg[frame] for frame in sorted(indices)), _MOST_ANGLES)
        self.problems.append(
            f"{stack.name}: {len(indices)} of {stack.frames} frames stay missing ({angles}): {why}"
        )


def _frames_in(limit: float | None, charged: float, dose: float) -> float:
    """Frames that a budget (electrons per nm^2) still allows."""
    return math.inf if limit is None else max(0.0, (limit * ROUNDING - charged) / dose)
