"""Blur beside sharp frames: its size, its sign, and an uncertainty that is honest."""

import numpy as np
import pytest
from blurred_specimen import CONVERGENCE_MRAD, blurred
from hypothesis import given
from hypothesis import strategies as st

from pyrotome.analysis.sharpness import Spectrum, blur_between, spectrum_of
from pyrotome.analysis.sharpness.spectrum import disc_contrast, mean_of

PER_NM = np.linspace(0.005, 0.11, 23)
MODES = np.full(23, 1000.0)


def made(radius_nm=0.0, strength=1.0):
    kept = disc_contrast(2 * np.pi * radius_nm * PER_NM) ** 2
    return Spectrum(strength * kept * (0.02 / PER_NM) ** 4, 1e-3, MODES, PER_NM, 4.0)


@given(st.floats(0, 20), st.floats(0.3, 3))
def test_the_radius_is_found_whatever_there_is_of_the_specimen(radius_nm, strength):
    found = blur_between(made(), made(radius_nm, strength))
    assert abs(found.square_nm2 - radius_nm**2) < 4 * found.sd_nm2 + 0.03 * radius_nm**2


@given(st.floats(0, 4), st.floats(0.3, 3))
def test_a_sharper_frame_counts_below_zero(radius_nm, strength):
    back = blur_between(made(radius_nm, strength), made())
    assert abs(back.square_nm2 + radius_nm**2) < 4 * back.sd_nm2 + 0.25 * radius_nm**2


def shown(defocus_nm, seed):
    rng = np.random.default_rng(seed)
    counts = blurred(
        defocus_nm, rng.uniform(-8, 8), rng.normal(0, 40, 2), seed, points=256, field_nm=1065.0
    )
    return spectrum_of(counts, 1065.0 / 256)


def test_frames_of_other_angles_and_places_tell_blur_honestly():
    sharp = mean_of([shown(0.0, seed) for seed in range(6)])
    still = [blur_between(sharp, shown(0.0, seed)) for seed in range(10, 22)]
    z = np.array([one.square_nm2 / one.sd_nm2 for one in still])
    assert abs(z).max() < 4
    assert abs(z.mean()) < 1.2
    found = [blur_between(sharp, shown(1600.0, seed)) for seed in range(30, 34)]
    for one in found:
        assert one.square_nm2 > 5 * one.sd_nm2
        assert one.radius_nm == pytest.approx(1600.0 * CONVERGENCE_MRAD * 1e-3, rel=0.3)


def test_rings_have_to_be_alike():
    other = Spectrum(np.ones(23), 1.0, MODES, PER_NM, 5.0)
    with pytest.raises(ValueError, match="rings"):
        blur_between(made(), other)
