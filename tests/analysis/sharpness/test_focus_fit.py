"""The best focus from three pictures, and the three reasons not to use it."""

import numpy as np
import pytest
from blurred_specimen import CONVERGENCE_MRAD, blurred

from pyrotome.analysis.sharpness import FocusView, best_focus, spectrum_of

STEP_NM = 1600.0


def views(true_nm, seed=0, dose=6.0, at=(-STEP_NM, 0.0, STEP_NM)):
    return [
        FocusView(
            spectrum_of(
                blurred(true_nm - z, seed=10 * seed + k, dose=dose, offset_nm=(130.0, 0.0)), 4.16
            ),
            z,
        )
        for k, z in enumerate(at)
    ]


def test_the_focus_is_found_with_an_honest_uncertainty():
    true_nm = [-1200.0, -700.0, -200.0, 0.0, 300.0, 800.0, 1300.0]
    found = [best_focus(views(z, k), CONVERGENCE_MRAD) for k, z in enumerate(true_nm)]
    assert [one.doubt for one in found] == [""] * len(found)
    z = [(one.defocus_nm - true) / one.sd_nm for one, true in zip(found, true_nm, strict=True)]
    assert np.abs(z).max() < 3.5
    assert max(one.sd_nm for one in found) < 500


def test_more_dose_tells_it_better():
    coarse, fine = (best_focus(views(300.0, dose=dose), CONVERGENCE_MRAD) for dose in (3.0, 60.0))
    assert fine.sd_nm < coarse.sd_nm
    assert abs(fine.defocus_nm - 300.0) < 4 * fine.sd_nm + 10


def test_without_contrast_it_is_not_used():
    rng = np.random.default_rng(1)
    empty = [FocusView(spectrum_of(rng.poisson(5.0, (128, 128)), 4.16), z) for z in (-1e3, 0, 1e3)]
    assert best_focus(empty, CONVERGENCE_MRAD).doubt == "no-contrast"
    assert best_focus(views(0.0, at=(-2.0, 0.0, 2.0)), CONVERGENCE_MRAD).doubt == "no-contrast"


def test_a_focus_beyond_what_was_tried_is_not_used():
    assert best_focus(views(2.0 * STEP_NM, dose=60.0), CONVERGENCE_MRAD).doubt == "outside"


def test_pictures_of_different_fields_are_not_used():
    shown = views(0.0, dose=60.0)
    other = spectrum_of(np.random.default_rng(1).poisson(400.0, (128, 128)), 4.16)
    grid = spectrum_of(
        np.random.default_rng(2).poisson(200.0 * (1 + np.sin(np.arange(128) * 0.9))[None, :] + 1.0,
                                         (128, 128)), 4.16)  # fmt: skip
    mixed = [shown[0], FocusView(other, 0.0), FocusView(grid, STEP_NM)]
    assert best_focus(mixed, CONVERGENCE_MRAD).doubt == "different"


def test_fewer_than_three_or_unlike_pictures_are_refused():
    shown = views(0.0)
    with pytest.raises(ValueError, match="three"):
        best_focus(shown[:2], CONVERGENCE_MRAD)
    with pytest.raises(ValueError, match="differ in size"):
        best_focus([*shown[:2], FocusView(spectrum_of(blurred(points=64), 8.3), 9.0)], 5.0)
