"""Offsets of frames that the tracker measured: from a frame, a link or a file to the alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - the frames' filter
import numpy as np
import pytest

from pyrotome.analysis.commands.process import process_file
from pyrotome.analysis.core.outputs import Notice, Result
from pyrotome.analysis.pipeline.pipeline import Pipeline, PlannedStack
from pyrotome.analysis.pipeline.stack import StackAnalysis
from pyrotome.protocols.config.pipeline import AnalysisStep, planned_results
from pyrotome.protocols.messages.manifest import StackPlan
from pyrotome.protocols.runfile.reader import open_run
from pyrotome.protocols.runfile.tracking_columns import LOST_BEYOND, TRACKING_COLUMNS
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import thickness_nm

SIDE, PIXEL_NM = 96, 10.0
TILTS = tuple(float(t) for t in range(-40, 41, 5))
# A third of the field to and fro: the registration of neighbours alone does not find that.
PLACES_NM = 160.0 * np.array([[(-1.0) ** n, (-1.0) ** (n // 2)] for n in range(len(TILTS))])
SD_NM = np.full(2, 2.0)
TRUTH = Sintering(particles=10, seed=3).truth(30.0)
ALIGN: dict[str, Any] = {"align": {"method": "phase-correlation", "axis": "0 deg"}}
TV: dict[str, Any] = {"reconstruct": {"method": "tv", "iterations": 30, "binning": 1}}


def frame_of(index: int) -> np.ndarray[Any, Any]:
    place = (float(PLACES_NM[index, 0]), float(PLACES_NM[index, 1]))
    thickness = thickness_nm(TRUTH, (SIDE, SIDE), PIXEL_NM, TILTS[index], place)
    noise = np.random.default_rng(index)
    return noise.poisson(10 + 2 * thickness).astype(np.uint16)


FRAMES = [frame_of(index) for index in range(len(TILTS))]


def stack_of(steps: list[dict[str, Any]], tilts: tuple[float, ...] = TILTS) -> StackAnalysis:
    pipeline = [AnalysisStep.model_validate(step) for step in steps]
    views = len(set(tilts))
    planned = tuple(planned_results(pipeline, "series", len(tilts), (SIDE, SIDE), PIXEL_NM, views))
    plan = StackPlan(
        name="series_001", kind="series", frames=len(tilts), tilt_deg=tilts, results=planned
    )
    stacks = [PlannedStack(plan, (SIDE, SIDE), PIXEL_NM)]
    return Pipeline(pipeline, stacks).stacks["series_001"]


def analysed(when: str, steps: list[dict[str, Any]]) -> tuple[dict[str, Result], list[str]]:
    """Results and warnings; offsets come before their frames, after them, at the end, or never."""
    stack = stack_of(steps)
    outputs: list[Any] = []
    tasks: list[Any] = []

    def note(indices: range) -> None:
        for index in indices:
            stack.note_offset(index, PLACES_NM[index], SD_NM)

    if when == "before":
        note(range(len(TILTS)))
    for index, frame in enumerate(FRAMES):
        outputs += stack.frame(index, frame, TILTS[index])
        if when == "after":
            note(range(index, index + 1))
        if index == len(FRAMES) - 1 and when == "end":
            tasks += stack.take_tasks()
            outputs += [output for task in tasks[:-1] for output in task.outputs]
            note(range(len(TILTS)))
            tasks = tasks[-1:]
        elif when != "end":
            outputs += [output for task in stack.take_tasks() for output in task.outputs]
    outputs += [output for task in tasks for output in task.outputs]
    results = {o.name: o for o in outputs if isinstance(o, Result) and o.record}
    return results, [o.message for o in outputs if isinstance(o, Notice)]


def left_nm(shifts_px: np.ndarray[Any, Any], offset_px: float) -> float:
    """What is left of the shifts, rms in nm, less any displacement of the specimen."""
    wrong = shifts_px * PIXEL_NM - PLACES_NM
    tilt = np.radians(TILTS)
    terms = np.column_stack([np.cos(tilt), np.sin(tilt), np.ones_like(tilt)])
    across = wrong[:, 1] + offset_px * PIXEL_NM
    across = across - terms @ np.linalg.lstsq(terms, across)[0]
    return float(np.hypot((wrong[:, 0] - wrong[:, 0].mean()).std(), across.std()))


@pytest.mark.parametrize("when", ["before", "after", "end"])
def test_offsets_may_come_until_the_series_ends(when: str) -> None:
    results, _ = analysed(when, [ALIGN, TV])
    shifts = results["shifts"]
    assert left_nm(shifts.data, float(shifts.parameters["axis_offset_px"])) < 3.0
    # The specimen lies where an offset of zero would show it.
    lowest = len(TILTS) // 2
    moved = shifts.data[lowest] + (0.0, float(shifts.parameters["axis_offset_px"]))
    assert moved * PIXEL_NM == pytest.approx(PLACES_NM[lowest], abs=8.0)


def test_what_too_few_views_have_seen_is_told_and_empty() -> None:
    results, told = analysed("before", [ALIGN, TV])
    (text,) = [text for text in told if "left empty" in text]
    share = float(results["volume"].parameters["unseen_share"])
    assert f"{share:.0%} of the volume" in text and 0.1 < share < 0.6
    # The corner of the volume lay in the field in a quarter of the views.
    middle = results["volume"].data[:, 48]
    assert not middle[:8, :8].any() and middle[40:56].any()


def test_offsets_of_the_frames_of_one_view_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of([ALIGN, TV], (0.0, 0.0, 10.0))
    stack.note_offset(0, (10.0, 2.0), (3.0, 3.0))
    stack.note_offset(1, (20.0, 4.0), (4.0, 4.0))
    stack.note_offset(2, (np.nan, 4.0), (4.0, 4.0))
    stack.note_offset(7, (1.0, 1.0), (1.0, 1.0))
    seen: list[Any] = []
    (step,) = [step for step in stack.steps if step.name == "align"]
    monkeypatch.setattr(step, "view", lambda view: iter([seen.append(view)][:0]))
    for index in range(3):
        list(stack.frame(index, FRAMES[index], None))
        for task in stack.take_tasks()[:1]:
            list(task.outputs)
    assert seen[0].offset_nm == (15.0, 3.0)
    assert seen[0].offset_sd_nm == pytest.approx((2.5, 2.5))
    assert seen[1].offset_nm is None


def test_offsets_are_read_from_the_file(make_run: Any) -> None:
    def run_of(name: str) -> Path:
        return make_run(
            name=name, tilts=TILTS, frame=lambda _series, index: FRAMES[index], analysis=None
        )

    path = run_of("tracked.nxs")
    with open_run(path) as run:
        assert run.stacks["series_001"].tracking is None
    places = PLACES_NM / PIXEL_NM * 1.04
    places[3] = np.nan
    with h5py.File(path, "r+") as file:
        for column in TRACKING_COLUMNS:
            file[f"/series_001/{column.path}"] = column.empty(len(TILTS))
        file[LOST_BEYOND] = 300.0
        file["/series_001/frames/offset_measured"][...] = places
        file["/series_001/frames/offset_measured_sd"][...] = SD_NM / PIXEL_NM
    steps = [AnalysisStep.model_validate(step) for step in ({"correct": False}, ALIGN, TV)]
    process_file(path, steps)
    with open_run(path) as run:
        found = run.stacks["series_001"].tracking
        assert found is not None and np.array_equal(
            found.offset_measured_nm, places, equal_nan=True
        )
        result = run.stacks["series_001"].result("shifts")
        # One view without an offset is registered as any other.
        moved = np.delete(np.asarray(result.data), 3, axis=0) - np.delete(
            PLACES_NM / PIXEL_NM, 3, axis=0
        )
    assert np.abs(moved - np.median(moved, axis=0)).max() < 12.0
