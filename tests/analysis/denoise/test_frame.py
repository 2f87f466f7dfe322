"""BM3D: gain, agreement with the package, noise models, variance estimate, bad frames."""

import bm3d
import numpy as np
import pytest

from pyrotome.analysis.denoise.frame import (
    denoise_bm3d,
    noise_kernel,
    noise_spectrum,
    poisson_variance,
    scale_of,
)

SIDE = 128


def phantom(counts=20.0):
    """Bright discs on a dim ground, in electrons per pixel."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    truth = np.full((SIDE, SIDE), 0.15)
    for cx, cy, radius in ((-20, 0, 24), (25, 8, 18), (5, -40, 12)):
        truth += np.sqrt(np.maximum(0, 1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2))
    return counts * truth


def psnr_db(image, truth):
    return 10 * np.log10(truth.max() ** 2 / np.mean((image - truth) ** 2))


@pytest.fixture(scope="module")
def noisy():
    return np.random.default_rng(11).poisson(phantom()).astype(np.uint16)


def test_it_raises_the_psnr_of_a_poisson_frame(noisy):
    cleaned, used = denoise_bm3d(noisy)
    assert cleaned.dtype == np.float32
    assert cleaned.shape == noisy.shape
    assert used == pytest.approx(phantom().mean() * (255 / noisy.max()) ** 2, rel=0.2)
    assert psnr_db(cleaned, phantom()) > psnr_db(noisy, phantom()) + 5


def test_pink_noise_is_removed_best_by_the_model_of_pink_noise():
    transfer = np.sqrt(noise_spectrum("g4", 137.0, (SIDE, SIDE))) / SIDE
    white = np.random.default_rng(8).normal(size=(SIDE, SIDE))
    frame = phantom(100.0) + np.fft.ifft2(np.fft.fft2(white) * transfer).real
    offset, factor = scale_of(frame)
    assert offset <= 0
    variance = 137.0 * factor**2
    pink, _ = denoise_bm3d(frame, "g4", variance)
    plain, _ = denoise_bm3d(frame, "white", variance)
    gain_db = psnr_db(pink, phantom(100.0)) - psnr_db(frame, phantom(100.0))
    assert gain_db > 1
    assert psnr_db(pink, phantom(100.0)) > psnr_db(plain, phantom(100.0))


def test_white_noise_equals_the_package(noisy):
    cleaned, used = denoise_bm3d(noisy, "gw", 400.0)
    unit = noisy / noisy.max()
    direct = bm3d.bm3d(unit, np.sqrt(400.0) / 255) * noisy.max()
    assert used == 400.0
    assert np.allclose(cleaned, direct, rtol=1e-4, atol=1e-4 * noisy.max())


# Kernel (variance 2) at three places and spectrum at (0, 0), (3, 7), (40, 11), as the functions
# get_experiment_kernel and get_experiment_noise of the demonstration in bm3d 4.0.3 return them.
PACKAGE = [
    ("g1", 128, [(0, 15), (0, 18), (0, 11)], [0.432590456349, 0.351479745783, 0.324442842262],
     [784898.994152, 300.673570897, 1724.32874356]),
    ("g1", 105, [(0, 15), (0, 18), (0, 11)], [0.432590456349, 0.351479745783, 0.324442842262],
     [528168.421053, 8.05921052632, 386.740993632]),
    ("g2", 128, [(50, 50), (50, 53), (55, 46)], [0.113125447887, -0.107065355403, 0.0914952791027],
     [8809.01790266, 14463.9369385, 2.6201513624e-11]),
    ("g2", 105, [(50, 50), (50, 53), (55, 46)], [0.113125447887, -0.107065355403, 0.0914952791027],
     [5927.69911968, 12894.3335673, 1.05715044251e-12]),
    ("g3", 128, [(50, 50), (50, 53), (55, 46)], [0.11283791671, -0.106793227175, 0.0496662661543],
     [0.0, 0.0, 0.0]),
    ("g3", 105, [(50, 50), (50, 53), (55, 46)], [0.11283791671, -0.106793227175, 0.0496662661543],
     [0.0, 0.0, 0.0]),
    ("g4", 128, [(64, 64), (64, 67), (69, 60)], [1.35127105223, 0.0264353825423, 0.00567115073996],
     [1001274.59543, 144071.961695, 29969.2124273]),
    ("g4", 105, [(52, 52), (52, 55), (57, 48)], [1.35114924237, 0.0264497559713, 0.00570267923944],
     [673588.58143, 81616.2622608, 16627.9312951]),
]  # fmt: skip


@pytest.mark.parametrize(("noise", "side", "places", "kernel", "spectrum"), PACKAGE)
def test_noise_models_are_those_of_the_package(noise, side, places, kernel, spectrum):
    ours = np.sqrt(2.0) * noise_kernel(noise, (side, side))
    assert [ours[place] for place in places] == pytest.approx(kernel, rel=1e-9)
    power = noise_spectrum(noise, 2.0, (side, side))
    assert [power[0, 0], power[3, 7], power[40, 11]] == pytest.approx(spectrum, rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("noise", ["white", "gw", "g0"])
def test_white_noise_has_a_flat_spectrum(noise):
    assert np.allclose(noise_spectrum(noise, 3.0, (16, 24)), 3.0 * 16 * 24)


@pytest.mark.parametrize("noise", ["g1", "g2", "g3", "g4"])
def test_the_spectrum_is_that_of_noise_made_with_the_kernel(noise):
    shape, rng = (96, 80), np.random.default_rng(2)
    power = np.zeros(shape)
    transfer = np.sqrt(noise_spectrum(noise, 1.0, shape) / (96 * 80))
    for _ in range(200):
        made = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * transfer).real
        power += np.abs(np.fft.fft2(made)) ** 2 / 200
    wanted = noise_spectrum(noise, 1.0, shape)
    assert power.sum() == pytest.approx(wanted.sum(), rel=0.05)
    assert wanted.mean() == pytest.approx(96 * 80, rel=1e-4)  # a variance of 1, in a folded kernel
    bright = wanted > wanted.max() / 100
    assert np.median(power[bright] / wanted[bright]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("gain", [1.0, 7.3])
@pytest.mark.parametrize("counts", [0.5, 20.0, 500.0])
def test_the_variance_of_poisson_noise_is_found(counts, gain):
    frame = np.random.default_rng(4).poisson(phantom(counts)) * gain
    expected = gain**2 * phantom(counts).mean()
    assert poisson_variance(frame) == pytest.approx(expected, rel=0.3)


def test_no_noise_has_no_variance():
    assert poisson_variance(np.zeros((20, 30))) == 0
    assert poisson_variance(np.full((20, 30), 7)) == 0


def test_the_scale_puts_the_maximum_at_255():
    assert scale_of(np.array([[0, 51]])) == (0.0, 5.0)
    assert scale_of(np.array([[10, 51]])) == (0.0, 5.0)
    offset, factor = scale_of(np.array([[-10, 41]]))
    assert (offset, factor) == (-10.0, 5.0)
    assert scale_of(np.zeros((2, 2))) == (0.0, 1.0)


def test_negative_values_come_back_where_they_were(noisy):
    shifted = noisy.astype(np.float32) - 30
    cleaned, _ = denoise_bm3d(shifted, "white", 400.0)
    assert cleaned.mean() == pytest.approx(shifted.mean(), rel=0.02)


def test_a_frame_without_anything_in_it_passes_through():
    for value in (0, 5):
        cleaned, used = denoise_bm3d(np.full((16, 16), value, np.uint16), "g4", 137.0)
        assert used == 0
        assert np.array_equal(cleaned, np.full((16, 16), value))


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match="at least 8 rows"):
        denoise_bm3d(np.ones((7, 20)))
    frame = np.ones((16, 16))
    frame[3, 4] = np.nan
    frame[5, 5] = np.inf
    with pytest.raises(ValueError, match="2 pixels"):
        denoise_bm3d(frame)
