"""The likelihood: its gradient against differences, its curvature against a dense one."""

import numpy as np
import pytest

from pyrotome.analysis.atoms.refinement import kernels
from pyrotome.analysis.atoms.refinement.likelihood import (
    Curvature,
    blur_kernel,
    blurred,
    expect,
    removal_gains,
)
from pyrotome.analysis.atoms.refinement.model import AtomModel, Step, make_views, margin_for, places
from pyrotome.analysis.atoms.refinement.priors import Priors, PriorTerms

VIEWS = 4


@pytest.fixture
def model():
    rng = np.random.default_rng(1)
    return AtomModel(
        rng.normal(0, 4, (6, 3)), rng.uniform(40, 60, 6), rng.normal(0, 0.5, (VIEWS, 2)),
        np.deg2rad([-50.0, -10, 20, 65]), 0.05, np.full(VIEWS, 0.8), rng.normal(0, 0.05, VIEWS),
        1.3, 0.2, 3.0,
    )  # fmt: skip


@pytest.fixture
def views(model):
    rng = np.random.default_rng(2)
    known = rng.random((1, 40, 36)) < 0.95
    made = make_views(np.zeros((VIEWS, 40, 36)), margin_for(model.width), known)
    made.counts[:] = rng.poisson(expect(made, model).means)
    return made


def random_step(model, seed=5):
    rng = np.random.default_rng(seed)
    return Step(
        rng.normal(0, 1, (model.size, 4)), rng.normal(0, 1, (VIEWS, 5)) * 0.2, float(rng.normal())
    )


def test_the_gradient_is_the_slope_of_the_likelihood(views, model):
    gradient = Curvature(views, model, expect(views, model)).gradient
    for seed in range(4):
        step = random_step(model, seed)
        small = 1e-3
        high, low = (
            expect(views, model.moved(step, share)).log_likelihood for share in (small, -small)
        )
        assert gradient.dot(step) == pytest.approx((high - low) / (2 * small), rel=2e-2, abs=0.5)


def test_the_curvature_is_that_of_expected_counts(views, model):
    # Without a tail, which products leave out.
    model = AtomModel(**{**vars(model), "tail": 0.0})
    found = expect(views, model)
    curvature = Curvature(views, model, found)
    one, two = random_step(model, 7), random_step(model, 8)
    changes = []
    for step in (one, two):
        high, low = (expect(views, model.moved(step, s)).means.astype(float) for s in (1e-3, -1e-3))
        changes.append((high - low) / 2e-3)
    at = found.means > 0
    direct = np.sum(changes[0][at] * changes[1][at] / found.means[at])
    assert curvature.product(one).dot(two) == pytest.approx(direct, rel=1e-2, abs=0.1)
    assert curvature.product(two).dot(one) == pytest.approx(direct, rel=1e-2, abs=0.1)


def test_blocks_are_the_curvature_of_one_atom_and_of_one_view(views, model):
    curvature = Curvature(views, model, expect(views, model))
    step = Step(np.zeros((model.size, 4)), np.zeros((VIEWS, 5)))
    step.atoms[2] = (0.3, -1, 0.5, 2)
    by_block = step.atoms[2] @ curvature.blocks[2] @ step.atoms[2]
    assert curvature.product(step).dot(step) == pytest.approx(by_block, rel=1e-3)
    step = Step(np.zeros((model.size, 4)), np.zeros((VIEWS, 5)))
    step.views[1] = (0.3, -1, 0.05, 0.2, 0.1)
    by_block = step.views[1] @ curvature.view_blocks[1, :5, :5] @ step.views[1]
    assert curvature.product(step).dot(step) == pytest.approx(by_block, rel=1e-3)


def test_random_gradients_have_the_curvature_as_covariance(views, model):
    curvature = Curvature(views, model, expect(views, model))
    rng, step = np.random.default_rng(0), random_step(model)
    drawn = [curvature.drawn(rng).dot(step) for _ in range(600)]
    assert np.var(drawn) == pytest.approx(curvature.product(step).dot(step), rel=0.25)


def test_the_gain_of_an_atom_is_what_its_removal_costs(views, model):
    model = AtomModel(**{**vars(model), "tail": 0.0})
    found = expect(views, model)
    gains = removal_gains(views, model, found)
    for a in (0, 3):
        stay = np.arange(model.size) != a
        without = expect(views, model.with_atoms(model.positions[stay], model.heights[stay]))
        lost = found.log_likelihood - without.log_likelihood
        assert gains[a] == pytest.approx(lost, rel=1e-3, abs=0.05)


def test_priors_have_the_slope_and_curvature_of_their_value(model):
    shift_sd = np.full((VIEWS, 2), 0.4)
    priors = Priors(
        0.1,
        np.zeros((VIEWS, 2)),
        np.zeros(VIEWS),
        0.0,
        shift_sd,
        0.5,
        0.1,
        0.03,
        5.0,
        0.8,
        np.arange(VIEWS),
    )
    terms, step = PriorTerms(priors, model, 50.0), random_step(model)

    def value(share):
        return PriorTerms(priors, model.moved(step, share), 50.0).value

    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    assert terms.gradient().dot(step) == pytest.approx(slope, rel=1e-4)
    one, two = random_step(model, 1), random_step(model, 2)
    assert terms.product(one).dot(two) == pytest.approx(terms.product(two).dot(one))
    drawn = [terms.drawn(np.random.default_rng(n)).dot(one) for n in range(2000)]
    assert np.var(drawn) == pytest.approx(terms.product(one).dot(one), rel=0.15)


def test_the_blur_keeps_sums_and_is_symmetric():
    rng = np.random.default_rng(0)
    one, two = rng.random((2, 50, 61), np.float32)
    kernel = blur_kernel(2.7)
    point = np.zeros((50, 61), np.float32)
    point[25, 30] = 1
    assert blurred(point, kernel).sum() == pytest.approx(1, rel=1e-5)
    left, right = np.vdot(blurred(one, kernel), two), np.vdot(one, blurred(two, kernel))
    assert left == pytest.approx(right, rel=1e-4)


def test_atoms_beyond_the_field_are_skipped(views, model):
    far = model.with_atoms(model.positions + np.array([0, 200.0, 0]), model.heights)
    found = expect(views, far)
    at = places(far, 0, views.centre)
    assert found.peaks.max() == 0
    sums = np.ones((far.size, 3), np.float32)
    kernels.gather(at.rows, at.columns, 1.3, 9, 16, found.means[0], sums)
    assert not sums.any()
