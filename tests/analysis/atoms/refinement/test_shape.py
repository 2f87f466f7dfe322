"""What all peaks share: width, tail and dependence on depth, found again from counts."""

from dataclasses import replace

import numpy as np
import pytest

from pyrotome.analysis.atoms.refinement.heights import HeightClasses
from pyrotome.analysis.atoms.refinement.likelihood import expect
from pyrotome.analysis.atoms.refinement.model import AtomModel, make_views, margin_for
from pyrotome.analysis.atoms.refinement.newton import fitted
from pyrotome.analysis.atoms.refinement.priors import Priors
from pyrotome.analysis.atoms.refinement.shape import shape_step

VIEWS = 12


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(1)
    return AtomModel(
        rng.uniform(-24, 24, (150, 3)), np.full(150, 400.0), np.zeros((VIEWS, 2)),
        np.deg2rad(np.arange(0, 180, 180 / VIEWS)), 0.0, np.full(VIEWS, 1.0), np.zeros(VIEWS),
        1.3, 0.2, 3.0,
    )  # fmt: skip


def shaped(model, start, *, depth, steps=5):
    """The model after steps of its shape, from counts of `model`."""
    views = make_views(np.zeros((VIEWS, 70, 70)), margin_for(model.width))
    views.counts[:] = np.random.default_rng(2).poisson(expect(views, model).means)
    held = np.zeros((VIEWS, 2))
    priors = Priors(0.1, held, np.zeros(VIEWS), 0.0, held, 0, 0, 0, 0, 1, np.arange(VIEWS))
    now = fitted(views, start, priors, HeightClasses(np.array([400.0]), np.ones(1)))
    for _ in range(steps):
        now = shape_step(views, now, priors, tail=True, depth=depth)
    return now.model


def test_width_tail_and_background_are_found(model):
    start = replace(model, width=1.1, tail=0.1, heights=0.9 * model.heights)
    found = shaped(model, start, depth=False, steps=8)
    assert found.width == pytest.approx(1.3, rel=0.01)
    assert found.tail == pytest.approx(0.2, abs=0.02)
    assert found.heights[0] == pytest.approx(400, rel=0.02)


@pytest.mark.parametrize("by_depth", [((0.3, 0.0), (0.0, 0.0)), ((0.0, 0.0), (0.2, 0.4))])
def test_heights_or_widths_that_change_with_depth_are_found(model, by_depth):
    found = shaped(replace(model, by_depth=np.array(by_depth)), model, depth=True)
    # Depths reach 0.3; within that the two terms are hard to tell apart, but not their sum.
    depths = np.array([-0.25, -0.1, 0.1, 0.25])
    powers = np.stack([depths, depths**2])
    assert found.by_depth @ powers == pytest.approx(np.array(by_depth) @ powers, abs=0.015)
    asked = np.any(by_depth, axis=1)
    assert np.array_equal(found.by_depth.any(axis=1), asked)


def test_depth_is_left_alone_where_the_counts_do_not_ask_for_it(model):
    assert not shaped(model, model, depth=True).by_depth.any()
