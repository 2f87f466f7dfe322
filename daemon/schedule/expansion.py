"""Expand the steps of a recipe into operations with estimated durations, checked against limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

from ...protocols.config.pipeline import planned_results
from ...protocols.config.realistic_rig import SHIFT_FILE
from ...protocols.config.recipe import Cycle, Ramp, Recipe, TiltSeries
from ...protocols.config.rig import Rig
from ...protocols.config.steering import Adaptive
from ...protocols.core.errors import BadInput
from ...protocols.core.units import fluence_unit
from ...protocols.messages.manifest import HoldPlan, StackPlan
from ...protocols.steps import StackKind
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
from .pixel_scans import FRAMES_PER_TURN, TURNS_DEG, fast_settings
from .scout_scans import HEIGHT_CHECK_DEG, HEIGHT_TILTS_DEG, SHIFT_PATTERN
from .switching import SWITCHING_S
from .tilt_angles import tilt_angles

# Settling time of the chip, for the estimate of durations only.
_SETTLING_S = 1.0


def _is_series(operation: Operation) -> TypeGuard[AcquireStack]:
    return isinstance(operation, AcquireStack) and operation.stack.kind == "series"


class Expansion:
    """Expands a recipe, keeping track of temperature, tilt angle, and names given so far.

    Parameters
    ----------
    recipe : Recipe
        What to expand.
    rig : Rig
        Whose limits apply.
    name : str
        File name of the recipe, for messages.
    """

    def __init__(self, recipe: Recipe, rig: Rig, name: str) -> None:
        self.recipe, self.rig, self.name = recipe, rig, name
        self.temperature_c = rig.heater.limits.safe_c
        self.tilt_deg = 0.0
        self.holds = 0
        self.counts: dict[str, int] = {"series": 0, "reference": 0, "ramp": 0, "dark": 0}
        self.heights = self.shifts = self.pixels = 0

    def _bad(self, path: str, problem: str) -> BadInput:
        return BadInput(f"{self.name}: {path}", problem)

    def operations(self) -> Iterator[tuple[Operation, float]]:
        """Operations in order, each with its estimated duration in seconds; raises BadInput."""
        for number, step in enumerate(self.recipe.steps):
            path = f"steps[{number}]"
            if step.heat is not None:
                self._check_temperature(f"{path}.heat.to", step.heat.to_c)
                if step.heat.rate_c_per_s is not None:
                    self._check_rate(f"{path}.heat.rate", step.heat.rate_c_per_s)
                yield self._heat(step.heat.to_c, step.heat.hold_s, step.heat.rate_c_per_s)
            elif step.reference is not None:
                yield self._reference(step.reference.frames)
            elif step.dark is not None:
                yield self._dark(step.dark.frames)
            elif step.tilt_series is not None:
                yield self._series(f"{path}.tilt_series", step.tilt_series)
            elif step.cycle is not None:
                yield from self._cycle(f"{path}.cycle", step.cycle)
            elif step.ramp is not None:
                yield self._ramp(f"{path}.ramp", step.ramp)
            elif step.calibrate == "height":
                yield self._height(f"{path}.calibrate")
            elif step.calibrate == "shifts":
                yield self._shifts(f"{path}.calibrate")
            elif step.calibrate == "pixel":
                yield self._pixel(f"{path}.calibrate")

    def _check_temperature(self, path: str, temperature_c: float) -> None:
        limits = self.rig.heater.limits
        sample = self.recipe.limits.temperature_c
        if temperature_c > limits.temperature_c:
            raise self._bad(
                path,
                f"{temperature_c:g} degC is beyond the chip's limit of "
                f"{limits.temperature_c:g} degC (rig '{self.rig.name}')",
            )
        if sample is not None and temperature_c > sample:
            raise self._bad(
                path,
                f"{temperature_c:g} degC is beyond the recipe's own limits.temperature of "
                f"{sample:g} degC",
            )
        if temperature_c < limits.safe_c:
            raise self._bad(
                path,
                f"{temperature_c:g} degC is below the heater's safe level of "
                f"{limits.safe_c:g} degC; a heater cannot cool",
            )

    def _check_rate(self, path: str, rate_c_per_s: float) -> None:
        limit = self.rig.heater.limits.rate_c_per_s
        if limit is not None and rate_c_per_s > limit:
            raise self._bad(path, f"{rate_c_per_s:g} degC/s is beyond the chip's {limit:g} degC/s")

    def _heat(self, to_c: float, hold_s: float, rate: float | None) -> tuple[Operation, float]:
        rate_s = rate or self.rig.heater.limits.rate_c_per_s
        travel_s = abs(to_c - self.temperature_c) / rate_s if rate_s else 0.0
        self.temperature_c = to_c
        return HeatTo(to_c, hold_s, rate), travel_s + _SETTLING_S + hold_s

    def _stack(self, kind: StackKind, tilts: tuple[float, ...]) -> StackPlan:
        self.counts[kind] += 1
        beam, analysis = self.recipe.beam, self.recipe.analysis
        views = len(set(tilts))
        return StackPlan(
            name=f"{kind}_{self.counts[kind]:03d}",
            kind=kind,
            frames=len(tilts),
            tilt_deg=tilts,
            tilt_axis_deg=self.rig.stage.tilt_axis_deg if kind == "series" else None,
            results=tuple(
                planned_results(analysis, kind, len(tilts), beam.frame, beam.pixel_nm, views)
            ),
        )

    def _frames_s(self, tilts: tuple[float, ...]) -> float:
        """Estimated time of a stack: exposures, moves between angles, settling."""
        limits, time_s = self.rig.stage.limits, 0.0
        for tilt in tilts:
            if tilt != self.tilt_deg:
                time_s += abs(tilt - self.tilt_deg) / limits.speed_deg_per_s + limits.settle_s
            self.tilt_deg = tilt
            time_s += self.recipe.beam.exposure_s
        return time_s

    def _reference(self, frames: int) -> tuple[Operation, float]:
        tilts = (0.0,) * frames
        return AcquireStack(self._stack("reference", tilts), self.temperature_c), self._frames_s(
            tilts
        )

    def _dark(self, frames: int) -> tuple[Operation, float]:
        tilts = (self.tilt_deg,) * frames  # the stage stays where it is
        stack = self._stack("dark", tilts)
        return AcquireStack(stack, self.temperature_c), self._frames_s(tilts)

    def _series(self, path: str, series: TiltSeries) -> tuple[Operation, float]:
        angles = tilt_angles(series)
        self._check_tilt(path, angles)
        tilts = tuple(angle for angle in angles for _ in range(series.frames_per_tilt))
        stack = self._stack("series", tilts)
        beam = self.recipe.beam
        dose = stack.frames * beam.dose_per_frame_e_per_nm2
        parked = stack.frames * beam.parked_dose_e_per_nm2(SWITCHING_S)
        track, focus = self.recipe.track_of(series), self.recipe.focus_e_per_nm2
        scouts = 0.0 if track is None else track.scouts_e_per_nm2
        limit = self.recipe.limits.dose_per_series_e_per_nm2
        if limit is not None and dose + parked + scouts + focus > limit * (1 + 1e-9):
            unit = fluence_unit(limit)
            by_scouts = f", and {unit.of(scouts):g} by scouts (track.scouts)" if scouts else ""
            by_scouts += f", and {unit.of(focus):g} by focus series (focus.dose)" if focus else ""
            raise self._bad(
                path,
                f"{stack.name} takes {unit.of(dose):.1f} {unit.name}, and up to "
                f"{unit.of(parked):.2g} while the blanker works{by_scouts}, beyond "
                f"limits.dose_per_series of {unit.of(limit):g} {unit.name}; lower the current, "
                "the dwell time or the number of angles",
            )
        if track is not None and series.until is not None and series.until.chooses_tilts:
            raise self._bad(
                f"{path}.until.next_tilt",
                "tilts that are chosen one by one cannot be tracked yet: where the specimen will "
                "be is predicted along the order that is written; use next_tilt: order, or track: "
                "none",
            )
        acquire = AcquireStack(stack, self.temperature_c, track, series.until)
        return acquire, self._frames_s(tilts)

    def _check_tilt(self, path: str, angles: Sequence[float]) -> None:
        low, high = self.rig.stage.limits.tilt_deg
        for angle in (min(angles), max(angles)):
            if not low <= angle <= high:
                raise self._bad(
                    path,
                    f"an angle of {angle:g} deg is beyond the stage's limits of {low:g} to "
                    f"{high:g} deg (rig '{self.rig.name}')",
                )

    def _height(self, path: str) -> tuple[Operation, float]:
        tilts = (*HEIGHT_TILTS_DEG, *HEIGHT_CHECK_DEG)
        self._check_tilt(path, tilts)
        if self.rig.stage.limits.z_nm is None:
            raise self._bad(
                path,
                f"the stage of the rig '{self.rig.name}' has no z (stage.limits.z); centre the "
                "height by hand and leave this step out",
            )
        self.heights += 1
        name = f"height_{self.heights:03d}"
        calibration = CalibrateHeight(name, self.temperature_c, HEIGHT_TILTS_DEG, HEIGHT_CHECK_DEG)
        return calibration, self._frames_s(tilts)

    def _shifts(self, path: str) -> tuple[Operation, float]:
        shift = self.rig.beam.shift
        if shift is None or shift.calibration_file is None:
            raise self._bad(
                path,
                f"the rig '{self.rig.name}' names no file for it; give its beam a "
                "shift: {calibration_file: shift.json, limit: 1.5 um}, or leave this step out",
            )
        if Path(shift.calibration_file) == SHIFT_FILE:
            raise self._bad(
                path,
                "the built-in microscope keeps its calibration; name a rig with a file of its own "
                "(--rig), such as a copy of examples/rigs/realistic.yaml",
            )
        self.shifts += 1
        scans = len(SHIFT_PATTERN)
        calibration = CalibrateShifts(f"shifts_{self.shifts:03d}", self.temperature_c, scans)
        return calibration, scans * (self.recipe.beam.exposure_s + shift.settle_s)

    def _pixel(self, path: str) -> tuple[Operation, float]:
        beam = self.rig.beam
        if beam.pixel_calibration_file is None:
            raise self._bad(
                path,
                f"the rig '{self.rig.name}' names no file for it; give its beam a "
                "pixel_calibration_file: pixel.json, or leave this step out",
            )
        if beam.scan_rotation_deg is None:
            raise self._bad(
                path,
                f"the rig '{self.rig.name}' names no scan rotation to which the scan is turned "
                "back; give its beam scan_rotation: 0 deg",
            )
        self.pixels += 1
        frames = FRAMES_PER_TURN * len(TURNS_DEG)
        name = f"pixel_{self.pixels:03d}"
        calibration = CalibratePixel(name, self.temperature_c, frames, len(TURNS_DEG))
        return calibration, frames * fast_settings(self.recipe.beam).exposure_s

    def _cycle(self, path: str, cycle: Cycle) -> Iterator[tuple[Operation, float]]:
        self._check_temperature(f"{path}.standby", cycle.standby_c)
        self._check_temperature(f"{path}.processing", cycle.processing_c)
        if cycle.adaptive is not None and cycle.adaptive.temperature_c is not None:
            where = f"{path}.holds.adaptive.temperature"
            self._check_temperature(where, cycle.adaptive.temperature_c[1])
        if self.temperature_c != cycle.standby_c:
            yield self._heat(cycle.standby_c, 0.0, None)
        seen = self._last_series()
        rounds = [self._round(path, cycle, hold_s) for hold_s in cycle.all_holds_s]
        for number, one in enumerate(rounds, 1):
            if cycle.adaptive is not None:
                last = number == len(rounds)
                yield self._choice(cycle.adaptive, one, seen[-1] if seen else None, last), 0.0
            yield from one
            seen += [op.stack.name for op, _ in one if _is_series(op)]
            left = rounds[number:]
            if cycle.until is not None and left:
                # Each round that follows brings a decision of its own, but for the last.
                skip = sum(map(len, left)) + len(left) - 1
                if cycle.adaptive is not None:
                    skip += len(left)  # each is chosen first
                before = seen[-2] if len(seen) > 1 else None
                yield Decide(cycle.until, seen[-1], before, skip, cycle.adaptive), 0.0

    @staticmethod
    def _choice(
        adaptive: Adaptive, one: list[tuple[Operation, float]], series: str | None, last: bool
    ) -> ChooseHold:
        """The operation before a round that chooses its hold."""
        holds = [op.hold for op, _ in one if isinstance(op, HoldAt)]
        following = [op.stack.name for op, _ in one if _is_series(op)]
        return ChooseHold(adaptive, holds[0], series, following[-1], last)

    def _last_series(self) -> list[str]:
        return [f"series_{self.counts['series']:03d}"] if self.counts["series"] else []

    def _round(self, path: str, cycle: Cycle, hold_s: float) -> list[tuple[Operation, float]]:
        self.holds += 1
        hold = HoldPlan(
            index=self.holds,
            standby_c=cycle.standby_c,
            target_c=cycle.processing_c,
            requested_s=hold_s,
        )
        operations: list[tuple[Operation, float]] = [
            (HoldAt(hold, cycle.adaptive), hold_s + _SETTLING_S)
        ]
        for position, step in enumerate(cycle.then):
            if step.tilt_series is not None:
                where = f"{path}.then[{position}].tilt_series"
                operations.append(self._series(where, step.tilt_series))
            elif step.reference is not None:
                operations.append(self._reference(step.reference.frames))
            elif step.dark is not None:
                operations.append(self._dark(step.dark.frames))
        return operations

    def _ramp(self, path: str, ramp: Ramp) -> tuple[Operation, float]:
        self._check_temperature(f"{path}.to", ramp.to_c)
        self._check_rate(f"{path}.rate", ramp.rate_c_per_s)
        start_c, self.temperature_c = self.temperature_c, ramp.to_c
        duration_s = abs(ramp.to_c - start_c) / ramp.rate_c_per_s
        every = ramp.frame_every_s
        stack = None
        if every is not None:
            if every < self.recipe.beam.exposure_s:
                raise self._bad(
                    f"{path}.frame_every",
                    f"{every:g} s is shorter than the exposure of one frame, "
                    f"{self.recipe.beam.exposure_s:g} s",
                )
            frames = math.floor(duration_s / every + 1e-9) + 1
            if frames > 100_000:
                raise self._bad(path, f"{frames} frames in one ramp; at most 100000")
            stack = self._stack("ramp", (self.tilt_deg,) * frames)
        return (
            RampTo(start_c, ramp.to_c, ramp.rate_c_per_s, every, stack),
            duration_s + _SETTLING_S,
        )
