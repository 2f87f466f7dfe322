"""A whole ramp of the simulated specimen: front and diffusion coefficient from its frames alone."""

import numpy as np
import pytest
from spectra_ramp import AXIS, ELEMENTS, FAST, event_frame

from pyrotome.analysis.spectra import FrameTime, RampAnalysis, RampSettings, frame_of_counts
from pyrotome.simulators.world.spectra.sodium_front import SodiumFront


def time_of(specimen, frame):
    ramp = specimen.ramp
    moments = specimen.time_s(frame), specimen.time_s(frame + 1)
    return FrameTime(*moments, *(ramp.from_c + ramp.rate_k_per_s * moment for moment in moments))


def settings(specimen, **changes):
    known = {"elements": ELEMENTS, "stay": ("Cr", "Fe"), "front": "Na", "from_c": 260.0,
             "to_c": 420.0, "pixel_um": specimen.pixel_um, "boxes": 2}  # fmt: skip
    return RampSettings(**(known | changes))


def followed(specimen, first_c=140.0, last_c=430.0):
    ramp = RampAnalysis(settings(specimen), AXIS)
    frames = range(specimen.ramp.frame_at(first_c), specimen.ramp.frame_at(last_c))
    found = [ramp.feed(event_frame(specimen, k), time_of(specimen, k)) for k in frames]
    return ramp, found, frames


@pytest.fixture(scope="module")
def whole():
    specimen = SodiumFront(3, counts_per_pixel=20.0, ramp=FAST, pixels=96)
    return specimen, *followed(specimen)


def test_the_diffusion_coefficient_comes_back_within_its_errors(whole):
    specimen, ramp, _, _ = whole
    fit = ramp.fit("fick")
    assert fit.converged
    transport = specimen.transport
    true = np.log(transport.d_um2_per_s(np.array([330.0]))[0])
    assert abs(fit.activation_j_per_mol - transport.activation_j_per_mol) < 4 * fit.activation_sd
    assert abs(fit.log_d_reference - true) < 4 * fit.log_d_reference_sd + 0.03
    assert fit.activation_sd < 0.05 * transport.activation_j_per_mol


def test_front_lengths_are_those_of_the_specimen(whole):
    specimen, ramp, _, frames = whole
    ramp.fit("fick")
    temperature, length, sd = ramp.fronts()
    true = np.array([specimen.front_um(frames[k]) for k in ramp.followed_frames])
    assert (np.diff(temperature) > 0).all()
    assert np.abs(length - true[:, None]).mean() < 0.06
    assert np.median(np.abs(length - true[:, None]) / sd) < 1.5


def test_the_drift_is_that_of_the_field(whole):
    specimen, _, found, frames = whole
    shift = np.array([one.drift.shift_px for one in found])
    true = np.array([specimen.drift_px(k) - specimen.drift_px(frames[0]) for k in frames])
    away = shift - true
    assert np.abs(away - away.mean(axis=0))[:, 0].max() < 0.5


def test_the_same_frame_again_and_an_empty_one_are_told_and_left_out():
    specimen = SodiumFront(4, counts_per_pixel=6.0, ramp=FAST, pixels=48)
    ramp = RampAnalysis(settings(specimen), AXIS)
    frame = event_frame(specimen, 20)
    assert ramp.feed(frame, time_of(specimen, 20)).doubts == ()
    again = ramp.feed(frame, time_of(specimen, 21))
    assert again.doubts == ("the frame is the same as the one before",)
    empty = ramp.feed(frame_of_counts(np.zeros((48, 48, 200))), time_of(specimen, 22))
    assert empty.doubts == ("the frame has no counts",)
    assert empty.front is None


def test_without_frames_below_the_range_there_is_no_front():
    specimen = SodiumFront(4, counts_per_pixel=6.0, ramp=FAST, pixels=48)
    ramp, found, _ = followed(specimen, first_c=270.0, last_c=300.0)
    assert all(one.front is None for one in found)
    with pytest.raises(ValueError, match="0 frames lie below 260 degC; at least 5"):
        ramp.fit()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"front": "K"}, "'K' is not among the elements"),
        ({"stay": ("Na",)}, "elements that stay"),
        ({"stay": ()}, "elements that stay"),
    ],
)
def test_settings_that_cannot_be_are_refused(specimen, changes, words):
    with pytest.raises(ValueError, match=words):
        settings(specimen, **changes)
