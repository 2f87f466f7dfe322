"""The specimen "sodium-front": counts, layers, fronts, onsets."""

import numpy as np
import pytest

from pyrotome.simulators.world.spectra.sodium_front import ONSETS_C, Ramp, SodiumFront
from pyrotome.simulators.world.spectra.species import IONS, mass_spectrum
from pyrotome.simulators.world.spectra.transport import Transport, concentration, source_level


@pytest.fixture(scope="module")
def specimen():
    return SodiumFront(1, counts_per_pixel=6.0, pixels=64)


def test_counts_are_poisson_about_the_maps(specimen):
    drawn, mean = specimen.draw(100), specimen.maps(100)
    assert drawn.counts.sum() == len(drawn.channels)
    dark = 0.02 * mean.sum()
    assert abs(drawn.counts.sum() - mean.sum()) < 6 * np.sqrt(mean.sum()) + dark
    sodium = (drawn.channels == 22).sum()
    expected = mean[specimen.names.index("Na")].sum()
    assert abs(sodium - expected) < 6 * np.sqrt(expected)


def test_the_ramp_is_that_of_the_paper():
    ramp = Ramp()
    assert ramp.frames == 571
    assert ramp.frame_at(260.0) == 150


def test_diffusion_coefficients_are_those_of_the_paper():
    d = 1e-8 * Transport().d_um2_per_s(np.array([260.0, 400.0]))
    assert d == pytest.approx([2.0e-12, 1.2e-10], rel=0.1)


def test_at_its_length_the_front_has_fallen_to_a_third(specimen):
    frame = specimen.ramp.frame_at(400.0)
    course = np.linspace(0.0, 800.0, 4001)
    theta = Transport().theta_um2(course, 50.0 + course)
    length = np.sqrt(2 * np.interp(specimen.time_s(frame, 0.42 * 64), course, theta))
    assert specimen.front_um(frame) == pytest.approx(length, rel=1e-3)
    found = concentration(
        np.array([-1.0, length]), specimen.time_s(frame, 0.42 * 64), course, theta,
        np.ones_like(course),
    )  # fmt: skip
    assert found == pytest.approx([1.0, 0.3173], abs=2e-3)


@pytest.mark.parametrize("name", ONSETS_C)
def test_a_species_appears_at_its_temperature(specimen, name):
    k, ramp = specimen.names.index(name), specimen.ramp
    assert specimen.maps(ramp.frame_at(ONSETS_C[name]) - 2)[k].max() == 0.0
    assert specimen.maps(ramp.frame_at(ONSETS_C[name] + 40.0))[k].max() > 0.0


def test_a_source_that_falls_leaves_a_hill_behind():
    course = np.linspace(0.0, 400.0, 801)
    theta = 1e-3 * course
    level = source_level("depleting", 50.0 + course)
    found = concentration(np.linspace(0.0, 2.0, 50), 360.0, course, theta, level)
    assert found.max() > 1.05 * found[0]
    with pytest.raises(ValueError, match="constant, late or depleting"):
        source_level("endless", course)


def test_the_drift_is_as_long_as_told(specimen):
    whole = specimen.drift_px(specimen.ramp.frames - 1) - specimen.drift_px(0)
    assert np.hypot(*whole) == pytest.approx(12.0 * 64 / 256, rel=1e-6)


@pytest.mark.parametrize("name", IONS)
def test_spectra_are_shares(name):
    spectrum = mass_spectrum(IONS[name])
    assert spectrum.sum() == pytest.approx(1.0)
    assert (spectrum >= 0).all()
