"""The denoiser tuned by the reference frames of a run, and used for what comes after."""

import numpy as np
import pytest

from pyrotome.analysis.denoise.frame import denoise_fast
from pyrotome.analysis.denoise.parameter_search import choice_of
from pyrotome.analysis.denoise.reference_frames import denoising_settings
from pyrotome.analysis.pipeline.pipeline import Notice, Pipeline, PlannedStack, Progress, Result
from pyrotome.analysis.steps.denoise import DenoiseSettings
from pyrotome.protocols.config.pipeline import (
    MAX_TRIALS,
    TRIAL_COLUMNS,
    AnalysisStep,
    planned_results,
)
from pyrotome.protocols.config.recipe import Recipe
from pyrotome.protocols.core.documents import load_model
from pyrotome.protocols.core.errors import BadInput
from pyrotome.protocols.messages.manifest import StackPlan

SIDE = 96
AUTO = [AnalysisStep.model_validate({"denoise": {"noise": "auto", "effort": "quick"}})]


def exposures(count, seed=0):
    """Counts of one unchanged view."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    truth = 4.0 + 20.0 * (x**2 + y**2 < (SIDE / 4) ** 2)
    return np.random.default_rng(seed).poisson(truth, (count, SIDE, SIDE)).astype(np.uint16)


def pipeline_of(*stacks):
    """Stacks (name, kind, frames) and their pipeline."""
    plans = [
        StackPlan(
            name=name, kind=kind, frames=frames, tilt_deg=tuple(range(frames)),
            results=tuple(planned_results(AUTO, kind, frames, (SIDE, SIDE), 1.0)),
        )
        for name, kind, frames in stacks
    ]  # fmt: skip
    return Pipeline(AUTO, [PlannedStack(plan, (SIDE, SIDE), 1.0) for plan in plans]).stacks


def outputs_of(stack, frames):
    return [o for index, frame in enumerate(frames) for o in stack.frame(index, frame, 0.0)]


def test_frames_after_the_reference_are_denoised_by_its_choice():
    stacks = pipeline_of(("reference_001", "reference", 5), ("series_001", "series", 2))
    outputs = outputs_of(stacks["reference_001"], exposures(5))
    (result,) = (o for o in outputs if isinstance(o, Result))
    assert result.name == "tuning"
    assert result.data.shape == (MAX_TRIALS, len(TRIAL_COLUMNS))
    choice = choice_of(result.data)
    assert choice.psnr_db > choice.noisy_psnr_db + 3
    assert result.parameters["noise_chosen"] == choice.noise
    fractions = [o.fraction for o in outputs if isinstance(o, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    (notice,) = (o for o in outputs if isinstance(o, Notice))
    assert f"the denoiser uses noise {choice.noise}" in notice.message
    frame = exposures(1, seed=7)[0]
    (denoised,) = stacks["series_001"].frame(0, frame, 0.0)
    expected, variance = denoise_fast(frame, choice.noise, choice.variance, "quick")
    assert np.array_equal(denoised.data, expected)
    assert denoised.parameters["noise_used"] == choice.noise
    assert denoised.parameters["variance_used"] == round(variance, 4)


def test_a_lost_or_dark_reference_frame_is_left_out():
    stack = pipeline_of(("reference_001", "reference", 5))["reference_001"]
    frames = exposures(5)
    frames[1] = 0
    outputs = outputs_of(stack, frames[:4])
    assert not [o for o in outputs if isinstance(o, Result)]
    outputs = list(stack.lost(4))
    (result,) = (o for o in outputs if isinstance(o, Result))
    assert result.parameters["frames"] == 3


def test_too_few_reference_frames_are_told_and_nothing_is_chosen():
    stacks = pipeline_of(("reference_001", "reference", 2), ("series_001", "series", 1))
    (notice,) = outputs_of(stacks["reference_001"], exposures(2))
    assert notice.level == "warning"
    assert "reference_001: 2 usable frames are too few" in notice.message
    (denoised,) = stacks["series_001"].frame(0, exposures(1)[0], 0.0)
    assert denoised.parameters["noise_used"] == "white"


def test_frames_that_do_not_differ_cannot_tune():
    stack = pipeline_of(("reference_001", "reference", 3))["reference_001"]
    (notice,) = outputs_of(stack, np.repeat(exposures(1), 3, axis=0))
    assert "cannot be chosen: 3 reference frames are all equal" in notice.message


def test_settings_that_are_given_are_taken():
    assert denoising_settings("g2", 50.0, None) == ("g2", 50.0)
    with pytest.raises(ValueError, match="chosen together"):
        DenoiseSettings(noise="auto", variance=50.0)


def test_a_recipe_that_tunes_needs_reference_frames():
    recipe = """\
title: t
sample: {name: s}
beam: {voltage: 300 kV, current: 2 pA, dwell: 500 ns, frame: [64, 64], pixel_size: 1 nm}
steps: [REFERENCE tilt_series: {from: -40 deg, to: 40 deg, step: 2 deg}]
analysis: [denoise: {noise: auto}]
"""
    with pytest.raises(BadInput, match="tuned by reference frames"):
        load_model(Recipe, recipe.replace("REFERENCE ", ""), "recipe")
    with pytest.raises(BadInput, match="3 are the fewest"):
        load_model(Recipe, recipe.replace("REFERENCE", "reference: {frames: 2},"), "recipe")
    load_model(Recipe, recipe.replace("REFERENCE", "reference: {frames: 3},"), "recipe")
