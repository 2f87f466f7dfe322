"""The pipeline without a process: what comes out of frames, good and bad."""

import re

import numpy as np

from pyrotome.analysis.core.arrays import binned
from pyrotome.analysis.pipeline.pipeline import Notice, Pipeline, PlannedStack, Result
from pyrotome.analysis.tomography.image_levels import without_vacuum
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.projector import project
from pyrotome.protocols.config.pipeline import AnalysisStep, planned_results
from pyrotome.protocols.messages.manifest import StackPlan

TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)
SHAPE = (24, 32)


def steps(*written):
    return [AnalysisStep.model_validate(step) for step in written]


SIRT_ONLY = steps({"reconstruct": {"method": "sirt", "iterations": 8, "binning": 2}})


def stack_of(pipeline_steps, tilts=TILTS, kind="series", shape=SHAPE, value_offset=0):
    results = planned_results(pipeline_steps, kind, len(tilts), shape, 1.0)
    plan = StackPlan(
        name="series_001", kind=kind, frames=len(tilts), tilt_deg=tilts, results=tuple(results)
    )
    stacks = Pipeline(pipeline_steps, [PlannedStack(plan, shape, 1.0)], value_offset).stacks
    return stacks["series_001"]


def frames_of(tilts=TILTS, shape=SHAPE):
    z, x = np.mgrid[: shape[1], : shape[1]] - (shape[1] - 1) / 2
    truth = np.repeat(((x - 3) ** 2 + (z + 2) ** 2 < 40.0)[None], shape[0], axis=0)
    return np.round(project(truth * 30.0, np.array(tilts))).astype(np.uint16)


def results_of(outputs):
    """What goes into the file."""
    return [o for o in outputs if isinstance(o, Result) and o.record]


def whole(stack):
    """Outputs of all tasks that have arisen."""
    return [output for task in stack.take_tasks() for output in task.outputs]


def notices_of(outputs):
    return [o.message for o in outputs if isinstance(o, Notice)]


def test_a_series_gives_the_volume_of_its_binned_frames():
    stack = stack_of(SIRT_ONLY)
    frames = frames_of()
    read_back = np.array(TILTS) + 0.3
    # In another order than that of exposure, as after a pause.
    for index in (2, 0, 4, 1, 3):
        assert not stack.complete
        assert list(stack.frame(index, frames[index], read_back[index])) == []
    assert stack.complete
    outputs = whole(stack)
    assert not whole(stack), "tasks are handed over once"
    volume, *planes = results_of(outputs)
    images = np.stack([binned(frame, 2) for frame in frames])
    shown = [o for o in outputs if isinstance(o, Result) and not o.record]
    assert [o.name for o in shown[:4]] == ["preview_y", "preview_z", "preview_x", "preview_y"]
    assert shown[-1].name == "preview"
    assert shown[-1].data.shape == (12, 16, 16)
    assert np.array_equal(shown[-2].data, shown[-1].data[:, :, 8])
    assert outputs.index(shown[-1]) < outputs.index(volume), "the preview is there first"
    assert volume.name == "volume"
    assert volume.index is None
    assert volume.data.shape == (12, 16, 16)
    assert np.allclose(volume.data, sirt(images, read_back, 8).volume, atol=1e-3)
    assert volume.parameters["iterations"] == 8
    assert volume.parameters["views"] == 5
    assert [(p.name, p.data.shape) for p in planes] == [
        ("slice_y", (16, 16)),
        ("slice_z", (12, 16)),
        ("slice_x", (12, 16)),
    ]


def test_repeated_frames_of_a_tilt_are_one_view():
    tilts = (-20.0, -20.0, 0.0, 0.0, 20.0, 20.0)
    stack = stack_of(SIRT_ONLY, tilts)
    frames = frames_of(tilts)
    for index, (frame, tilt) in enumerate(zip(frames, tilts, strict=True)):
        list(stack.frame(index, frame + index, tilt + 0.1 * index))
    volume = results_of(whole(stack))[0]
    images = np.stack([binned((frames[k] + k + frames[k + 1] + k + 1) / 2, 2) for k in (0, 2, 4)])
    expected = sirt(without_vacuum(images), np.array([-19.95, 0.25, 20.45]), 8)
    assert volume.parameters["views"] == 3
    assert np.allclose(volume.data, expected.volume, atol=1e-3)


def test_the_value_offset_is_taken_off():
    frames = frames_of()
    plain, raised = stack_of(SIRT_ONLY), stack_of(SIRT_ONLY, value_offset=32768)
    for index, frame in enumerate(frames):
        list(plain.frame(index, frame, TILTS[index]))
        list(raised.frame(index, frame + np.uint16(32768), TILTS[index]))
    first, second = results_of(whole(plain))[0], results_of(whole(raised))[0]
    assert np.array_equal(first.data, second.data)


def test_a_lost_frame_leaves_a_volume_of_the_others():
    stack = stack_of(SIRT_ONLY)
    frames = frames_of()
    assert notices_of(stack.lost(1)) == [
        "series_001 frame 1 (-20 deg) is lost; analysed without it"
    ]
    for index in (0, 2, 3, 4):
        list(stack.frame(index, frames[index], TILTS[index]))
    assert stack.complete
    assert results_of(whole(stack))[0].parameters["views"] == 4


def test_a_dark_frame_passes_through_but_into_no_volume():
    pipeline_steps = steps(
        {"denoise": {"method": "bm3d", "variance": 50}},
        {"reconstruct": {"method": "sirt", "iterations": 2, "binning": 2}},
    )
    stack = stack_of(pipeline_steps)
    notice, denoised = stack.frame(0, np.zeros(SHAPE, np.uint16), TILTS[0])
    assert isinstance(notice, Notice)
    assert "series_001 frame 0 is 0 everywhere" in notice.message
    assert isinstance(denoised, Result)
    assert not denoised.data.any()
    assert denoised.parameters["variance_used"] == 0
    frames = frames_of()
    for index in (1, 2, 3, 4):
        (output,) = stack.frame(index, frames[index], TILTS[index])
        assert (output.name, output.index, output.data.shape) == ("denoised", index, SHAPE)
        assert output.data.dtype == np.float32
    assert results_of(whole(stack))[0].parameters["views"] == 4


def test_frames_that_cannot_be_used_count_as_come():
    stack = stack_of(SIRT_ONLY)
    frames = frames_of()
    spoilt = frames[0].astype(np.float32)
    spoilt[1, 1] = np.nan
    for index, frame, told in (
        (0, spoilt, r"frame 0 holds NaN"),
        (1, frames[1][:16], r"frame 1 has shape \(16, 32\); \(24, 32\) was planned"),
        (2, frames[:2], r"frame 2 has shape"),
        (2, frames[2], r"came twice"),
        (5, frames[0], r"none has index 5"),
    ):
        (notice,) = stack.frame(index, frame, 0.0)
        assert isinstance(notice, Notice)
        assert notice.level == "error"
        assert re.search(told, notice.message)
    list(stack.frame(3, frames[3], TILTS[3]))
    assert stack.unfinished == "series_001: only 4 of 5 frames came"
    list(stack.lost(4))
    assert stack.unfinished == ""
    assert stack.complete
    assert "1 usable view(s) of 5" in notices_of(whole(stack))[0]


def test_without_a_read_back_angle_the_asked_one_is_taken():
    for angle in (None, float("nan")):
        stack = stack_of(SIRT_ONLY)
        (notice,) = stack.frame(1, frames_of()[1], angle)
        assert "-20 deg assumed" in notice.message


def test_only_series_are_reconstructed():
    plan = StackPlan(name="r", kind="reference", frames=1, tilt_deg=(0.0,))
    assert Pipeline(SIRT_ONLY, [PlannedStack(plan, SHAPE, 1.0)]).stacks == {}
