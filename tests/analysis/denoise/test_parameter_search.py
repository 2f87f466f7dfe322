"""Tuning: the right variance and kind of noise are found, and nonsense is refused."""

from dataclasses import replace

import numpy as np
import pytest

from pyrotome.analysis.denoise.frame import denoise_fast, denoise_frame, noise_spectrum
from pyrotome.analysis.denoise.parameter_search import (
    KINDS,
    Exposures,
    Trial,
    choice_of,
    contrast_window,
    curve_table,
    iter_search_parameters,
    search_parameters,
)

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
    choice = search_parameters(frames, kinds=["white"])
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
    choice = search_parameters(exposures("g1", 400.0), kinds=["white", "g1", "g3"])
    assert choice.noise == "g1"
    assert choice.psnr_db > choice.noisy_psnr_db + 3
    worst = {}
    for trial in choice.trials:
        worst[trial.noise] = max(worst.get(trial.noise, 0), trial.psnr_db)
    assert worst["g1"] == choice.psnr_db > worst["white"] + 0.5


def test_the_curve_is_whole_and_the_choice_is_its_top():
    rng = np.random.default_rng(6)
    frames = rng.poisson(view() / 40, size=(10, SIDE, SIDE))
    choice = search_parameters(frames, kinds=["white"])
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
        search_parameters(frames, ["white"], index=3).noisy_psnr_db
        < search_parameters(frames, ["white"]).noisy_psnr_db - 1
    )


def test_the_curve_is_a_table():
    choice = search_parameters(exposures("g1", 400.0, count=4), kinds=["g1", "white"])
    table = curve_table(choice)
    assert table.dtype == np.float64
    assert table.shape == (len(choice.trials) + 1, 3)
    assert table[-1, 0] == -1
    assert table[-1, 2] == choice.noisy_psnr_db
    for (kind, variance, psnr_db), trial in zip(table[:-1], choice.trials, strict=True):
        assert KINDS[int(kind)] == trial.noise
        assert psnr_db == trial.psnr_db
        assert np.isnan(variance) if trial.variance == "auto" else variance == trial.variance
    assert np.isnan(table[:-1, 1]).sum() == 1
    renamed = replace(choice, trials=(Trial("g0", 4.0, 30.0), Trial("g4", 5.0, 31.0)))
    assert curve_table(renamed)[:-1].tolist() == [[0.0, 4.0, 30.0], [4.0, 5.0, 31.0]]
    # A file holds the table in more rows than are filled.
    assert choice_of(np.vstack([table, np.full((5, 3), np.nan)])) == choice
    with pytest.raises(ValueError, match="does not hold the trials"):
        choice_of(np.full((5, 3), np.nan))


@pytest.mark.parametrize("kinds", [["white", "g1", "g3"], ["g2"], ["white"]])
def test_each_step_is_one_denoising(kinds, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return denoise_frame(*arguments)

    monkeypatch.setattr("pyrotome.analysis.denoise.parameter_search.denoise_frame", counted)
    frames = exposures("g1", 400.0, count=4)
    steps, parts, choice = iter_search_parameters(Exposures.of(frames), kinds), [], None
    while choice is None:
        try:
            parts.append(next(steps))
        except StopIteration as end:
            choice = end.value
        else:
            assert len(calls) == len(parts)
    assert parts == sorted(parts)
    assert parts[0] > 0
    assert parts[-1] == pytest.approx(1)
    assert len(parts) == len(choice.trials)
    assert search_parameters(frames, kinds) == choice


def test_the_window_of_most_contrast_is_found():
    image = np.zeros((100, 140))
    image[70:90, 20:40] = np.indices((20, 20)).sum(axis=0) % 2
    rows, columns = contrast_window(image, 32)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (32, 32)
    assert rows.start <= 70
    assert rows.stop >= 90
    assert columns.start <= 20
    assert columns.stop >= 40
    assert contrast_window(image, 120) == (slice(0, 100), slice(0, 120))
    assert contrast_window(image, 1000) == (slice(0, 100), slice(0, 140))
    at_the_end = np.zeros((50, 50))
    at_the_end[-3:, -3:] = 1
    at_the_end[10, 10] = 1e4  # a hot pixel
    assert contrast_window(at_the_end, 7) == (slice(43, 50), slice(43, 50))
    # Far from zero, contrast is still what is found.
    assert contrast_window(at_the_end + 1e6, 7) == (slice(43, 50), slice(43, 50))


def test_a_part_gives_the_settings_of_the_whole():
    """The brightest pixel is outside the part: variances are for the scale of the whole frame."""
    frames = exposures("white", 100.0)
    frames = np.pad(frames, ((0, 0), (0, 64), (0, 64)), constant_values=60)
    frames[:, -1, -1] = 1000.0
    cut = search_parameters(frames[:, :SIDE, :SIDE], ["white"])
    whole = search_parameters(frames, ["white"], largest_side=SIDE)
    window = contrast_window(frames.mean(axis=0), SIDE)
    assert window == (slice(0, SIDE), slice(0, SIDE))
    lowest = min(0.0, frames[0].min())
    scale = ((frames[0, :SIDE, :SIDE].max() - lowest) / (1000 - lowest)) ** 2
    expected = [t.variance * scale for t in cut.trials if t.variance != "auto"]
    found = [t.variance for t in whole.trials if t.variance != "auto"]
    assert np.allclose(found, expected, rtol=1e-4)


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        search_parameters(np.zeros((4, 16, 16)), largest_side=4)
    with pytest.raises(ValueError, match="at least 3 frames"):
        search_parameters(np.zeros((2, 16, 16)))
    with pytest.raises(ValueError, match="reference frames are all equal"):
        search_parameters(np.ones((4, 16, 16)))
    with pytest.raises(ValueError, match="name at least one"):
        search_parameters(np.ones((4, 16, 16)), kinds=[])
