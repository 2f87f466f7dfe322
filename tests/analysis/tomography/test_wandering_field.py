"""Reconstruction of a field that wandered: nothing is made of what it did not reach."""

import numpy as np
import pytest

from pyrotome.analysis.core.weights import field_of
from pyrotome.analysis.tomography.back_projection import completed, wbp
from pyrotome.analysis.tomography.image_levels import automatic_weight
from pyrotome.analysis.tomography.iterative import sirt
from pyrotome.analysis.tomography.live_reconstruction import LiveReconstruction
from pyrotome.analysis.tomography.projector import project
from pyrotome.analysis.tomography.reconstruction import margin_px, seen_share, without_unseen
from pyrotome.analysis.tomography.total_variation import tv

from .test_live_reconstruction import SIDE, TILTS, ball

# A wide specimen, of which the field shows the middle and now and then one side.
WIDE = SIDE + 16
BODY = np.zeros((SIDE, SIDE, WIDE), np.float32)
BODY[:, :, 8:-8] = ball((2.0, -1.0, 3.0)) + 0.5 * ball((-5.0, 4.0, -6.0))
BODY[4:12, 10:18, :10] = BODY[20:28, 14:22, -10:] = 0.8
IMAGES = project(BODY, TILTS, SIDE)
REACH = np.round(7 * np.sin(np.arange(len(TILTS)) * 1.7)).astype(int)


def weights_of(reach):
    """Fields that lie `reach` pixels to the left or right."""
    weights = np.ones(IMAGES.shape, np.float32)
    for share, px in zip(weights, reach, strict=True):
        share[:, SIDE - px :] = 0
        share[:, : max(0, -px)] = 0
        share[: abs(px) // 2] = 0
    return weights


WEIGHTS = weights_of(REACH)


def finished(images, weights):
    live = LiveReconstruction((SIDE, SIDE, SIDE), len(TILTS), 0)
    list(live.finish(images, TILTS, 80, weights=weights))
    assert live.central_slices["y"].shape == live.central_slices["z"].shape == (SIDE, SIDE)
    return live.volume


METHODS = {
    "sirt": lambda images, weights: sirt(images, TILTS, 40, weights=weights).volume,
    "tv": lambda images, weights: tv(images, TILTS, 60, weights=weights).volume,
    "tv-beside": finished,
    "wbp": lambda images, weights: wbp(images, TILTS, weights=weights),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_the_field_did_not_reach_has_no_influence(method):
    one, other = (
        METHODS[method](np.where(WEIGHTS > 0, IMAGES, np.float32(nonsense)), WEIGHTS)
        for nonsense in (50.0, -3.0)
    )
    assert one.shape == (SIDE, SIDE, SIDE)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("method", ["sirt", "tv-beside", "wbp"])
def test_the_middle_is_as_good_as_that_of_a_still_field(method):
    middle = np.s_[6:-6, :, 8:-8]
    truth = BODY[:, :, 8:-8][middle]

    def error(made):
        return np.linalg.norm(made[middle] - truth) / np.linalg.norm(truth)

    still = error(METHODS[method](IMAGES, None))
    # The border's mean, as if it were measured.
    border = np.where(WEIGHTS > 0, IMAGES, IMAGES.mean(axis=(1, 2), keepdims=True))
    before = error(METHODS[method](border, None))
    now = error(METHODS[method](np.where(WEIGHTS > 0, IMAGES, 0), WEIGHTS))
    assert now < 1.1 * still
    assert now < before


def test_gaps_are_told_from_what_the_field_did_not_reach():
    weights = np.ones((12, 16))
    weights[:3] = weights[:, 13:] = weights[7] = weights[:, 5:7] = 0
    field = field_of(weights)
    assert field[3:, :13].all()
    assert not field[:3].any() and not field[:, 13:].any()
    assert not field_of(np.zeros((4, 4))).any()


def test_the_volume_is_as_wide_as_the_field_wandered():
    assert margin_px(WEIGHTS) == max(abs(REACH))
    assert margin_px(weights_of(np.zeros(len(TILTS), int))) == 0
    # A gap of the detector is no wandering; a view without any pixel says nothing.
    gappy = np.ones(IMAGES.shape)
    gappy[:, :, 12:15] = gappy[3] = 0
    assert margin_px(gappy) == 0
    assert margin_px(np.zeros(IMAGES.shape)) == 0


def test_what_few_views_have_seen_is_left_empty_and_told():
    weights = np.ones(IMAGES.shape, np.float32)
    weights[: len(TILTS) * 2 // 3, :8] = 0
    weights[: len(TILTS) // 3, 8:10] = 0
    seen = seen_share(weights, TILTS)
    assert seen[4, 16, 16] == pytest.approx(1 - (len(TILTS) * 2 // 3) / len(TILTS), abs=0.02)
    assert seen[20, 16, 16] == pytest.approx(1.0)
    made, share = without_unseen(np.ones((SIDE, SIDE, SIDE), np.float32), weights, TILTS)
    assert share == pytest.approx(8 / SIDE, abs=0.03)
    assert not made[:8, 16, 16].any() and (made[8:, 16, 16] == 1).all()


def test_views_are_completed_by_what_the_others_show():
    made = completed(np.where(WEIGHTS > 0, IMAGES, 1e5), TILTS, WEIGHTS)
    assert np.array_equal(made[WEIGHTS > 0], IMAGES[WEIGHTS > 0])
    missing = WEIGHTS <= 0
    means = np.where(WEIGHTS > 0, IMAGES, IMAGES.mean(axis=(1, 2), keepdims=True))
    wrong, before = (np.linalg.norm((part - IMAGES)[missing]) for part in (made, means))
    assert wrong < 0.6 * before


def test_the_border_of_the_field_is_no_noise():
    rng = np.random.default_rng(0)
    images = 10 + rng.normal(0, 2.0, (9, 64, 64))
    weights = np.ones(images.shape, np.float32)
    for n in range(9):
        weights[n, :, : 6 * (n % 3)] = 0
    broken = np.where(weights > 0, images, 500.0)
    expected = automatic_weight(images, np.arange(9.0))
    assert automatic_weight(broken, np.arange(9.0), weights) == pytest.approx(expected, rel=0.15)
    assert automatic_weight(broken, np.arange(9.0)) > 3 * expected
