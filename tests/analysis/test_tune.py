"""Tuning: the right variance and kind of noise are found, and nonsense is refused."""

import numpy as np
import pytest

from pyrotome.analysis.denoise import denoise_fast, noise_spectrum
from pyrotome.analysis.tune import tune

SIDE = 96


def view():
    y, x = np.mgrid[:SIDE, :SIDE]
    return 60 + 60 * (np.hypot(y - 50, x - 40) < 25) + 40 * np.sin(x / 7) * np.sin(y / 9)


def exposures(kind, variance, count=12):
    rng = np.random.default_rng(5)
    transfer = np.sqrt(noise_spectrum(kind, variance, (SIDE, SIDE))) / SIDE
    white = rng.normal(size=(count, SIDE, SIDE))
    return view() + np.fft.ifft2(np.fft.fft2(white) * transfer).real


@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_the_variance_of_white_noise_is_found(sigma):
    frames = exposures("white", sigma**2)
    choice = tune(frames, kinds=["white"])
    scale = 255 / (frames[0].max() - min(0, frames[0].min()))
    given = [trial for trial in choice.trials if trial.variance != "auto"]
    best = max(given, key=lambda trial: trial.psnr_db)
    # The PSNR is flat at its top: half the variance to three times costs a few tenths of a dB.
    assert 0.5 < best.variance / (sigma * scale) ** 2 < 3
    at_truth, _ = denoise_fast(frames[0], "white", (sigma * scale) ** 2)
    reference = frames[1:].mean(axis=0)
    loss_db = 10 * np.log10(
        np.mean((at_truth - reference) ** 2) * scale**2 / 255**2 * 10 ** (best.psnr_db / 10)
    )
    assert loss_db > -1e-3
    assert loss_db < 0.5


def test_the_kind_of_noise_is_found():
    choice = tune(exposures("g1", 400.0), kinds=["white", "g1", "g3"])
    assert choice.noise == "g1"
    assert choice.psnr_db > choice.noisy_psnr_db + 3
    worst = {}
    for trial in choice.trials:
        worst[trial.noise] = max(worst.get(trial.noise, 0), trial.psnr_db)
    assert worst["g1"] == choice.psnr_db > worst["white"] + 0.5


def test_the_curve_is_whole_and_the_choice_is_its_top():
    rng = np.random.default_rng(6)
    frames = rng.poisson(view() / 40, size=(10, SIDE, SIDE))
    choice = tune(frames, kinds=["white"])
    assert choice.psnr_db == max(trial.psnr_db for trial in choice.trials)
    assert sum(trial.variance == "auto" for trial in choice.trials) == 1
    variances = [trial.variance for trial in choice.trials if trial.variance != "auto"]
    assert variances == sorted(variances)
    assert len(variances) >= 10
    cleaned, _ = denoise_fast(frames[0], choice.noise, choice.variance)
    gap = (cleaned - frames[1:].mean(axis=0)) * 255 / frames[0].max()
    assert choice.psnr_db == pytest.approx(10 * np.log10(255**2 / np.mean(gap**2)), abs=1e-3)


def test_another_frame_may_be_taken():
    frames = exposures("white", 100.0, count=4)
    frames[3] += np.random.default_rng(7).normal(scale=30, size=(SIDE, SIDE))
    assert (
        tune(frames, ["white"], index=3).noisy_psnr_db < tune(frames, ["white"]).noisy_psnr_db - 1
    )


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(ValueError, match="at least 3 frames"):
        tune(np.zeros((2, 16, 16)))
    with pytest.raises(ValueError, match="without any difference"):
        tune(np.ones((4, 16, 16)))
    with pytest.raises(ValueError, match="name one or more"):
        tune(np.ones((4, 16, 16)), kinds=[])
