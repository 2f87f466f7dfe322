"""Fits of D0 and Q to profiles that are drawn from the transport law itself."""

import numpy as np
import pytest

from pyrotome.analysis.spectra import Profiles, fit_diffusion
from pyrotome.simulators.world.spectra.transport import Transport, concentration, source_level

Q, D0 = 87.2e3, 7.1e4
COURSE_S = np.linspace(0.0, 400.0, 1601)
COURSE_C = 50.0 + COURSE_S


def profiles(seed, law="fick", source="constant", counts=150.0, frames=50):
    """Four boxes; `counts` events a row and box in the source."""
    rng = np.random.default_rng(seed)
    transport = Transport(Q, D0, law)
    theta = transport.theta_um2(COURSE_S, COURSE_C)
    level = source_level(source, COURSE_C)
    time_s = np.linspace(212.0, 348.0, frames)
    depth = np.arange(-14, 80) * 0.055
    fine = np.arange(-3.0, 8.0, 0.011)
    kernel = np.exp(-0.5 * (np.arange(-60, 61) * 0.011 / 0.172) ** 2)
    kernel /= kernel.sum()
    found = []
    for moment in time_s:
        sharp = concentration(fine, moment, COURSE_S, theta, level)
        mean = counts * np.interp(depth, fine, np.convolve(sharp, kernel, "same"))
        found.append(rng.poisson(np.broadcast_to(mean, (4, len(depth)))))
    whole = np.broadcast_to(depth, (frames, len(depth)))
    return Profiles(np.array(found, float), whole, time_s, COURSE_S, COURSE_C)


def errors(fit):
    """Errors of Q and of ln D(330 degC), in sd."""
    true = np.log(Transport(Q, D0).d_um2_per_s(np.array([330.0]))[0])
    return (
        (fit.activation_j_per_mol - Q) / fit.activation_sd,
        (fit.log_d_reference - true) / fit.log_d_reference_sd,
    )


@pytest.mark.parametrize("law", ["fick", "paper"])
def test_the_law_that_made_the_profiles_comes_back_within_its_errors(law):
    found = []
    for seed in range(6):
        fit = fit_diffusion(profiles(seed, law), law)
        assert fit.converged
        assert fit.doubts == ()
        assert fit.activation_sd < 0.02 * Q
        assert fit.blur_um == pytest.approx(0.172, rel=0.05)
        found.append(errors(fit))
    found = np.array(found)
    assert np.abs(found).max() < 4.0
    assert np.sqrt((found**2).mean()) < 1.7


def test_the_two_laws_differ_by_the_factor_that_theory_says():
    drawn = profiles(1, "fick")
    fick, paper = fit_diffusion(drawn, "fick"), fit_diffusion(drawn, "paper")
    # int D dt is about D R T^2 / (Q rate) (1 - 2 R T / Q), and not D (T - T0) / rate.
    kelvin = 330.0 + 273.15
    part = 8.314 * kelvin / Q
    factor = np.exp(fick.log_d_reference - paper.log_d_reference)
    assert factor == pytest.approx(280.0 / (kelvin * part * (1.0 - 2.0 * part)), rel=0.03)


def test_a_source_that_depletes_needs_its_history():
    drawn = profiles(2, source="depleting", counts=1200.0, frames=80)
    constant, free = fit_diffusion(drawn), fit_diffusion(drawn, "fick-free-source")
    assert constant.misfit > 1.1 * free.misfit
    assert abs(constant.activation_j_per_mol / Q - 1) > 0.05
    assert free.activation_j_per_mol == pytest.approx(Q, rel=0.04)
    assert free.level[0] == pytest.approx(2.5, rel=0.25)


def test_values_carry_over_to_any_temperature():
    fit = fit_diffusion(profiles(3))
    true = Transport(Q, D0)
    for temperature in (260.0, 330.0, 400.0):
        d = fit.d_cm2_per_s(np.array([temperature]))[0]
        assert d == pytest.approx(1e-8 * true.d_um2_per_s(np.array([temperature]))[0], rel=0.1)
    assert fit.log_d_sd(np.array([330.0]))[0] == pytest.approx(fit.log_d_reference_sd)
    assert fit.log_d0_sd > fit.log_d_reference_sd


def test_too_little_is_refused():
    few = profiles(4, frames=2)
    with pytest.raises(ValueError, match="2 frames; at least 3"):
        fit_diffusion(few)
    dark = Profiles(np.zeros((5, 1, 9)), np.zeros((5, 9)), np.arange(5.0), COURSE_S, COURSE_C)
    with pytest.raises(ValueError, match="no counts"):
        fit_diffusion(dark)
