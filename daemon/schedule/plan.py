"""The plan of a recipe: its operations in order, with frames, dose and duration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...protocols.config.pipeline import ResultPlan, check_steps, planned_run_results
from ...protocols.config.recipe import Recipe
from ...protocols.config.rig import Rig
from ...protocols.config.tracking import BLIND_WAY_DEG
from ...protocols.core.documents import located
from ...protocols.core.errors import BadInput
from ...protocols.core.units import fluence_unit
from ...protocols.messages.manifest import HoldPlan, StackPlan
from .expansion import Expansion
from .focus_scans import check_focus, focus_warnings
from .operations import (
    AcquireStack,
    CalibrateHeight,
    CalibratePixel,
    CalibrateShifts,
    ChooseHold,
    Decide,
    HeatTo,
    HoldAt,
    Operation,
    RampTo,
)
from .pixel_scans import calibration_warnings, fast_settings
from .scout_scans import SCOUT_SCANS, BeamOnTimes, scout_dose_e_per_nm2
from .switching import SWITCHING_S
from .tilt_angles import frames_per_angle, tilt_angles

__all__ = [
    "AcquireStack",
    "CalibrateHeight",
    "CalibratePixel",
    "CalibrateShifts",
    "ChooseHold",
    "Decide",
    "HeatTo",
    "HoldAt",
    "HoldPlan",
    "Operation",
    "Plan",
    "RampTo",
    "make_new_plan",
    "make_plan",
]


@dataclass(frozen=True)
class Plan:
    """The operations of a recipe in order, with their estimated durations.

    Attributes
    ----------
    recipe : Recipe
        What the plan was made of.
    operations : tuple
        What to do, in order.
    durations_s : tuple of float
        Estimated experiment time of each operation.
    """

    recipe: Recipe
    operations: tuple[Operation, ...]
    durations_s: tuple[float, ...]

    @property
    def stacks(self) -> tuple[StackPlan, ...]:
        """Every image stack, in order."""
        found = (getattr(op, "stack", None) for op in self.operations)
        return tuple(stack for stack in found if isinstance(stack, StackPlan))

    @property
    def run_results(self) -> tuple[ResultPlan, ...]:
        """Results of the analysis for the run as a whole."""
        series = sum(stack.kind == "series" for stack in self.stacks)
        beam = self.recipe.beam
        planned = planned_run_results(self.recipe.analysis, series, beam.frame, beam.pixel_nm)
        return tuple(planned)

    @property
    def holds(self) -> tuple[HoldPlan, ...]:
        """Every hold, in order."""
        return tuple(op.hold for op in self.operations if isinstance(op, HoldAt))

    def is_chosen(self, index: int) -> bool:
        """Whether length and temperature of a hold are certain."""
        return index not in self.adaptive_holds

    @property
    def adaptive_holds(self) -> tuple[int, ...]:
        """Indices of the holds that are still to be chosen."""
        holds = (op for op in self.operations if isinstance(op, HoldAt))
        return tuple(op.hold.index for op in holds if op.adaptive is not None)

    @property
    def worst_case(self) -> str:
        """What of the plan is an upper bound, for people; empty where nothing is chosen later."""
        count = len(self.adaptive_holds)
        return f"{count} adaptive holds are counted at their longest" if count else ""

    def with_hold(self, index: int, hold_s: float, temperature_c: float) -> Plan:
        """The plan once the length and temperature of a hold are chosen.

        Parameters
        ----------
        index : int
            Of the hold, from 1.
        hold_s, temperature_c : float
            What was chosen.
        """
        operations, durations = list(self.operations), list(self.durations_s)
        for i, op in enumerate(operations):
            if isinstance(op, HoldAt) and op.hold.index == index:
                durations[i] += hold_s - op.hold.requested_s
                changes = {"requested_s": hold_s, "target_c": temperature_c}
                operations[i] = HoldAt(op.hold.model_copy(update=changes))
        return Plan(self.recipe, tuple(operations), tuple(durations))

    @property
    def holds_before(self) -> dict[str, int]:
        """How many holds precede each stack."""
        count, result = 0, dict[str, int]()
        for op in self.operations:
            if isinstance(op, HoldAt):
                count += 1
            elif isinstance(op, (AcquireStack, RampTo)) and op.stack is not None:
                result[op.stack.name] = count
        return result

    @property
    def frames(self) -> int:
        """Number of frames of the whole plan."""
        return sum(stack.frames for stack in self.stacks)

    @property
    def dose_e_per_nm2(self) -> float:
        """Fluence of the whole plan, in e/nm^2; dark frames have none."""
        return self._exposed * self.recipe.beam.dose_per_frame_e_per_nm2

    @property
    def parked_dose_e_per_nm2(self) -> float:
        """Fluence that the whole plan may add while the blanker works, see `SwitchingTime`."""
        return self._exposed * self.recipe.beam.parked_dose_e_per_nm2(SWITCHING_S)

    @property
    def scouts_dose_e_per_nm2(self) -> float:
        """Most fluence that the scouts of the whole plan take, with that while the blanker works.

        A search for a specimen that was lost may come on top.
        """
        dose, scans = 0.0, 0
        for op in self.operations:
            if isinstance(op, AcquireStack) and op.track is not None:
                dose += op.track.scouts_e_per_nm2
            elif isinstance(op, CalibrateHeight):
                scans += op.scouts
            elif isinstance(op, CalibrateShifts):
                scans += op.scans
        return dose + scans * self.scout_dose_e_per_nm2

    @property
    def pixel_dose_e_per_nm2(self) -> float:
        """Fluence of the fast scans that tell what a pixel is worth, with the blanker's."""
        fast = fast_settings(self.recipe.beam)
        each = fast.dose_per_frame_e_per_nm2 + fast.parked_dose_e_per_nm2(SWITCHING_S)
        return each * sum(op.frames for op in self.operations if isinstance(op, CalibratePixel))

    @property
    def calibrates_shifts_first(self) -> bool:
        """Whether the beam shift is calibrated before anything is done that needs it."""
        for op in self.operations:
            if isinstance(op, CalibrateShifts):
                return True
            if isinstance(op, CalibrateHeight) or getattr(op, "track", None) is not None:
                return False
        return False

    def warnings(self, rig: Rig) -> tuple[str, ...]:
        """What this plan cannot do on a rig, and is carried out all the same."""
        series = [stack for stack in self.stacks if stack.kind == "series"]
        angles = [a for stack in series for a in stack.tilt_deg]
        pixel = any(isinstance(op, CalibratePixel) for op in self.operations)
        return (
            *focus_warnings(self.recipe, rig, angles),
            *(() if pixel else calibration_warnings(self.recipe.beam, rig)),
        )

    @property
    def focus_dose_e_per_nm2(self) -> float:
        """Most fluence that the focus series take which the recipe asks for."""
        series = sum(stack.kind == "series" for stack in self.stacks)
        return series * self.recipe.focus_e_per_nm2

    @property
    def scout_dose_e_per_nm2(self) -> float:
        """Fluence of one scout, with that while the blanker works."""
        beam = self.recipe.beam
        return scout_dose_e_per_nm2(beam, SCOUT_SCANS[0], BeamOnTimes())

    @property
    def _exposed(self) -> int:
        return sum(stack.frames for stack in self.stacks if not stack.is_dark)

    @property
    def duration_s(self) -> float:
        """Estimated experiment time of the whole plan."""
        return sum(self.durations_s)

    @property
    def bytes_uncompressed(self) -> int:
        """Size of frames and results before compression: an upper bound of the file's size."""
        rows, columns = self.recipe.beam.frame
        results = sum(4 * math.prod(r.shape) for stack in self.stacks for r in stack.results)
        return self.frames * rows * columns * 2 + results

    def summary(self) -> dict[str, Any]:
        """What ``pyrotome check --json`` prints."""
        per_frame = self.recipe.beam.dose_per_frame_e_per_nm2
        return {
            "title": self.recipe.title,
            "steps": [
                {"step": op.label, "duration_s": round(duration, 3)}
                for op, duration in zip(self.operations, self.durations_s, strict=True)
            ],
            "frames": self.frames,
            "holds": [hold.requested_s for hold in self.holds],
            "series": [
                {
                    "name": stack.name,
                    "frames": stack.frames,
                    "dose_e_per_nm2": stack.frames * per_frame,
                    "tilt_deg": list(stack.tilt_deg),
                    "frames_per_tilt": frames_per_angle(stack.tilt_deg),
                }
                for stack in self.stacks
                if stack.kind == "series"
            ],
            "duration_s": round(self.duration_s, 3),
            "exposure_s": self.recipe.beam.exposure_s,
            "dose_per_frame_e_per_nm2": per_frame,
            "dose_e_per_nm2": self.dose_e_per_nm2,
            "dose_while_parked_e_per_nm2": self.parked_dose_e_per_nm2,
            "dose_of_scouts_e_per_nm2": self.scouts_dose_e_per_nm2,
            "dose_of_focus_e_per_nm2": self.focus_dose_e_per_nm2,
            "dose_of_pixel_calibration_e_per_nm2": self.pixel_dose_e_per_nm2,
            "bytes": self.bytes_uncompressed,
        }


def make_new_plan(recipe: Recipe, rig: Rig, name: str = "recipe", text: str = "") -> Plan:
    """Make the plan of a run that is to begin; the analysis checks its settings and files too.

    A run that is resumed has begun with them: its plan is that of `make_plan`, which has the same
    parameters and errors. With the `text` of the recipe, an error names its line.
    """
    try:
        plan = make_plan(recipe, rig, name)
    except BadInput as error:
        path = error.where.removeprefix(f"{name}: ")
        if not text or path == error.where:
            raise
        keys = path.replace("[", ".").replace("]", "")
        where = located(text, name, keys).replace(keys, path)
        raise BadInput(where, error.problem) from None
    check_steps(recipe.analysis, recipe.beam.frame, name)
    return plan


def make_plan(recipe: Recipe, rig: Rig, name: str = "recipe") -> Plan:
    """Expand a recipe for a rig and check it against every limit.

    Parameters
    ----------
    recipe, rig
        The experiment and the instruments.
    name : str
        File name of the recipe, for messages.

    Returns
    -------
    Plan
        Operations in order, with their estimated durations.

    Raises
    ------
    BadInput
        If an angle, a temperature, a rate, a current, a frame size or the dose is beyond a limit
        of the recipe or the rig. Nothing has been touched.
    """
    beam, limits = recipe.beam, rig.beam.limits
    if limits.current_pa is not None and beam.current_pa > limits.current_pa:
        raise BadInput(
            f"{name}: beam.current",
            f"{beam.current_pa:g} pA is beyond the rig's limit of {limits.current_pa:g} pA",
        )
    if any(n > most for n, most in zip(beam.frame, rig.detector.limits.frame, strict=True)):
        raise BadInput(
            f"{name}: beam.frame",
            f"{list(beam.frame)} is larger than the detector's {list(rig.detector.limits.frame)}",
        )
    _check_tracking(recipe, rig, name)
    check_focus(recipe, rig, name)
    expanded = list(Expansion(recipe, rig, name).operations())
    plan = Plan(
        recipe,
        tuple(op for op, _ in expanded),
        tuple(duration for _, duration in expanded),
    )
    dose, budget = plan.dose_e_per_nm2, recipe.limits.dose_e_per_nm2
    parked, scouts = plan.parked_dose_e_per_nm2, plan.scouts_dose_e_per_nm2
    focus, pixel = plan.focus_dose_e_per_nm2, plan.pixel_dose_e_per_nm2
    if budget is not None and dose + parked + scouts + focus + pixel > budget * (1 + 1e-9):
        unit = fluence_unit(budget)
        by_scouts = f", and {unit.of(scouts):.3g} by scouts (track.scouts)" if scouts else ""
        by_scouts += f", and {unit.of(focus):.3g} by focus series (focus.dose)" if focus else ""
        by_scouts += f", and {unit.of(pixel):.3g} by 'calibrate: pixel'" if pixel else ""
        raise BadInput(
            f"{name}: limits.dose",
            f"the {plan.frames} frames of this recipe take {unit.of(dose):.1f} {unit.name}, and "
            f"up to {unit.of(parked):.2g} while the blanker works{by_scouts}, beyond the budget "
            f"of {unit.of(budget):g} {unit.name}",
        )
    return plan


def _check_tracking(recipe: Recipe, rig: Rig, name: str) -> None:
    """Refuse tracking that cannot work: no beam shift, or a first series that begins far away."""
    if not recipe.tracked:
        return
    shift = rig.beam.shift
    if shift is None or shift.calibration_file is None:
        raise BadInput(
            f"{name}: track",
            f"the rig '{rig.name}' names no calibrated beam shift; give its beam a "
            "shift: {calibration_file: shift.json}, or write track: none",
        )
    if rig.goniometer_file is not None:
        return
    for path, series in recipe.tilt_series():
        track = recipe.track_of(series)
        if track is None:
            continue
        if track.scouts_e_per_nm2 > 0:
            return
        begin_deg = tilt_angles(series)[0]
        if abs(begin_deg) > BLIND_WAY_DEG:
            raise BadInput(
                f"{name}: {path}",
                f"the first series begins at {begin_deg:g} deg, and nothing has followed the "
                "specimen on the way there; use order: bidirectional or dose-symmetric, or allow "
                "scouts (track.scouts)",
            )
        return
