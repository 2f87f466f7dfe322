"""Blurred profiles: the closed form against a convolution, the table against the closed form."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.special import erfc

from pyrotome.analysis.spectra.front_profile import front_profile, tabulated_profiles

FINE = np.arange(-30.0, 60.0, 0.02)


def convolved(length):
    beyond = erfc(np.maximum(FINE, 0.0) / (np.sqrt(2.0) * length))
    return gaussian_filter1d(np.where(FINE < 0.0, 1.0, beyond), 50, truncate=8)


@pytest.mark.parametrize("length", [0.3, 1.0, 4.0, 12.0])
def test_the_closed_form_is_the_convolution(length):
    inside = slice(1000, -1000, 25)
    found = front_profile(FINE[inside], np.array(length))
    assert np.allclose(found, convolved(length)[inside], atol=2e-3)
    assert np.abs(found - convolved(length)[inside]).mean() < 2e-5


def test_a_front_of_no_length_is_a_blurred_step():
    assert front_profile(np.array([0.0, 1.0]), np.array(0.0)) == pytest.approx([0.5, 0.15865525])


@pytest.mark.parametrize("length", [0.0, 0.4, 3.0, 40.0])
def test_the_table_gives_the_closed_form(length):
    x = np.linspace(-12.0, 80.0, 301)
    found = tabulated_profiles(x[None], np.array([[length, -1.0]]))
    assert np.allclose(found[0, :, 0], front_profile(x, np.array(length)), atol=1e-4)
    assert not found[0, :, 1].any(), "a change to come has no profile"
