"""Isotope tables as spectra."""

import numpy as np
import pytest

from pyrotome.analysis.spectra import isotope_spectrum
from pyrotome.analysis.spectra.isotopes import prior_spectra

AXIS = np.arange(1.0, 201.0)


@pytest.mark.parametrize(
    ("formula", "mass", "share"),
    [("B", 11, 0.80), ("Na", 23, 1.0), ("Cr", 52, 0.838), ("Fe", 56, 0.918), ("FeHBO2", 100, 0.74)],
)
def test_the_isotopes_lie_where_nature_has_them(formula, mass, share):
    spectrum = isotope_spectrum(formula, AXIS)
    assert spectrum.sum() == pytest.approx(1.0)
    assert spectrum[mass - 1] == pytest.approx(share, abs=0.01)


def test_a_list_of_peaks_has_gaps():
    peaks = np.array([11.0, 52.0, 56.0])
    # 50, 53 and 54 of chromium lie in none of the peaks.
    assert isotope_spectrum("Cr", peaks).tolist() == [0.0, 1.0, 0.0]
    assert not isotope_spectrum("Na", peaks).any()


def test_a_component_that_is_not_on_the_axis_is_refused():
    with pytest.raises(ValueError, match="no isotope of 'Na' is on the axis"):
        prior_spectra(["Cr", "Na"], np.array([11.0, 52.0]), 1)
    with pytest.raises(ValueError, match="'Xx' is no chemical formula"):
        isotope_spectrum("Xx", AXIS)


def test_extra_components_begin_where_the_others_have_nothing():
    spectra, believed = prior_spectra(["B", "Na"], AXIS, 2)
    assert believed.tolist() == [1, 1, 0, 0]
    assert np.allclose(spectra.sum(axis=0), 1.0)
    assert spectra[[9, 10, 22], 2:].max() < 1e-6
    assert spectra[:, 2] @ spectra[:, 3] < 1e-6
