"""Our BM3D: gain, the package as a peer, invariances, threads, correlated noise, frame sizes."""

import math
from itertools import pairwise
from pathlib import Path

import bm3d
import numpy as np
import pytest
from skimage import data

from pyrotome.analysis.denoise import frame as denoise
from pyrotome.analysis.denoise.bm3d import (
    Noise,
    _displacements,
    _tiles,
    cosine_transform,
    fast_bm3d,
    spline_transform,
)
from pyrotome.analysis.denoise.frame import denoise_bm3d, denoise_fast, noise_spectrum
from pyrotome.analysis.denoise.simd import REFS, STEP
from pyrotome.analysis.denoise.variance_stabilisation import anscombe, inverse_anscombe
from pyrotome.analysis.steps.denoise import DenoiseSettings
from pyrotome.simulators.world.copper import Sintering
from pyrotome.simulators.world.haadf import draw_counts, expected_fraction, thickness_nm
from tests.support.denoised_frames import denoised_alike

SIDE = 128
MULTISLICE = Path(__file__).resolve().parents[4] / "shared" / "data" / "asi_multislice"


def discs(side=SIDE):
    """Bright spheres with a step and a ripple between them, from 0 to about 1."""
    y, x = np.mgrid[:side, :side] - side / 2
    truth = 0.1 + 0.05 * np.sin(y / 3) * (x > side / 4)
    for cx, cy, radius in ((-20, 0, 24), (25, 8, 18), (5, -40, 12)):
        truth += np.sqrt(np.maximum(0, 1 - ((x - cx) ** 2 + (y - cy) ** 2) / radius**2))
    return truth


def coloured(kind, variance, shape, seed):
    transfer = np.sqrt(noise_spectrum(kind, variance, shape) / np.prod(shape))
    white = np.random.default_rng(seed).normal(size=shape)
    return np.fft.ifft2(np.fft.fft2(white) * transfer).real


def psnr_db(image, truth):
    return 10 * np.log10(truth.max() ** 2 / np.mean((image - truth) ** 2))


def specimen(dose):
    """Counts of the simulated specimen (electrons per pixel that hit it) and their expectation."""
    thickness = thickness_nm(Sintering(6, 1).truth(10.0), (SIDE, SIDE), 4.0, 0.0)
    electrons = np.full(SIDE, dose, np.float32)
    counts = draw_counts(thickness, electrons, np.random.default_rng(7))
    return counts, dose * expected_fraction(thickness)


@pytest.fixture(scope="module")
def truth():
    return discs()


@pytest.fixture(scope="module")
def noisy(truth):
    return truth + np.random.default_rng(1).normal(scale=0.1, size=truth.shape)


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.4])
def test_it_is_no_worse_than_the_package(sigma):
    truth = specimen(6.0)[1]
    frame = truth + np.random.default_rng(2).normal(scale=sigma, size=truth.shape)
    ours = psnr_db(fast_bm3d(frame, sigma), truth)
    peer = psnr_db(bm3d.bm3d(frame / 2, sigma / 2, profile="np") * 2, truth)
    assert ours > psnr_db(frame, truth) + 5
    assert ours > peer - 0.1


@pytest.mark.parametrize("kind", ["white", "g3"])
def test_quick_is_nearly_as_good(kind):
    truth = specimen(6.0)[1]
    frame = truth + coloured(kind, 0.04, truth.shape, 2)
    noise = Noise.coloured(noise_spectrum(kind, 0.04, truth.shape))
    full, quick = (psnr_db(fast_bm3d(frame, model), truth) for model in (noise, noise.quick()))
    assert psnr_db(frame, truth) + 3 < quick < full + 1
    assert quick > full - 0.5


def test_quick_is_what_is_asked_for():
    counts, _ = specimen(6.0)
    assert np.array_equal(
        denoise_fast(counts, effort="quick")[0],
        inverse_anscombe(
            fast_bm3d(
                anscombe(counts.astype(float), denoise_gain(counts)), Noise.white(1.0).quick()
            ),
            denoise_gain(counts),
        ),
    )
    with pytest.raises(ValueError, match="'fast' only"):
        DenoiseSettings(method="bm3d", effort="quick")


def denoise_gain(counts):
    return denoise.poisson_variance(counts.astype(float)) / counts.mean()


@pytest.mark.parametrize(("view", "least_db"), [(15, 0.0), (24, -0.1), (53, -0.1)])
def test_a_lattice_is_kept_no_worse_than_by_the_package(view, least_db):
    """Multislice images of silicon, where alike blocks lie far apart; two of the worst views."""
    if not MULTISLICE.is_dir():
        pytest.skip(f"no {MULTISLICE}: the simulated silicon particle is not on this computer")
    with np.load(MULTISLICE / "asi_2nm_dose_8p0e3.npz") as low:
        frame = anscombe(low["counts"][view]).astype(np.float64)
    with np.load(MULTISLICE / "asi_2nm_dose_1p6e5.npz") as high:
        truth = (high["counts"][view] - 1.0) / 20
    ours = inverse_anscombe(fast_bm3d(frame, 1.0)) - 1
    peer = inverse_anscombe(bm3d.bm3d(frame / 16, 1 / 16, profile="np") * 16) - 1
    assert psnr_db(ours, truth) > psnr_db(peer, truth) + least_db


@pytest.mark.parametrize(("name", "sigma"), [("camera", 10.0), ("brick", 25.0)])
def test_photographs_are_denoised_about_as_by_the_package(name, sigma):
    truth = getattr(data, name)()[192:320, 192:320].astype(np.float64)
    frame = truth + np.random.default_rng(3).normal(scale=sigma, size=truth.shape)
    ours = psnr_db(fast_bm3d(frame, sigma), truth)
    peer = psnr_db(bm3d.bm3d(frame / 255, sigma / 255, profile="np") * 255, truth)
    assert ours > peer - 0.25


def test_transforms_have_rows_of_norm_one_and_know_constants():
    cosines, splines = cosine_transform(), spline_transform()
    assert np.allclose(cosines @ cosines.T, np.eye(8))
    assert np.allclose(np.linalg.norm(splines, axis=1), 1)
    assert np.allclose(splines[1:].sum(axis=1), 0)
    assert np.allclose(splines[0], splines[0, 0])
    assert np.linalg.cond(splines) < 3


@pytest.mark.parametrize("kind", ["g1", "g2", "g3", "g4"])
def test_correlated_noise_is_removed_best_with_its_spectrum(truth, kind):
    frame = truth + coloured(kind, 0.01, truth.shape, 3)
    spectrum = noise_spectrum(kind, 0.01, truth.shape)
    ours = psnr_db(fast_bm3d(frame, spectrum), truth)
    as_white = psnr_db(fast_bm3d(frame, 0.1), truth)
    assert ours > psnr_db(frame, truth) + 3
    assert ours > as_white + 1


def test_pink_noise_is_removed_no_worse_than_by_the_package(truth):
    frame = truth + coloured("g4", 0.01, truth.shape, 3)
    ours, _ = denoise_fast(frame, "g4", 0.01 * (255 / (frame.max() - min(0, frame.min()))) ** 2)
    peer, _ = denoise_bm3d(frame, "g4", 0.01 * (255 / (frame.max() - min(0, frame.min()))) ** 2)
    assert psnr_db(ours, truth) > psnr_db(peer, truth) - 0.1


def test_a_flat_spectrum_is_almost_white_noise(truth, noisy):
    flat = fast_bm3d(noisy, noise_spectrum("g0", 0.01, noisy.shape))
    # Correlated noise is cut off a little higher.
    assert psnr_db(flat, truth) == pytest.approx(psnr_db(fast_bm3d(noisy, 0.1), truth), abs=1)


def test_the_variances_of_a_stack_are_exact():
    """With no signal nearly all must go; too small a variance would let noise through."""
    for kind in ("g1", "g4"):
        frame = coloured(kind, 1.0, (96, 96), 4)
        left = fast_bm3d(frame, noise_spectrum(kind, 1.0, frame.shape))
        assert left.std() < 0.35 * frame.std()


def test_the_result_does_not_depend_on_the_number_of_threads():
    frame = np.random.default_rng(5).normal(size=(210, 233))
    for noise in (Noise.white(1.0), Noise.white(1.0).quick()):
        alone = fast_bm3d(frame, noise, threads=1)
        for threads in (2, 3, 7):
            assert np.array_equal(fast_bm3d(frame, noise, threads=threads), alone)


def test_a_constant_image_is_not_changed():
    assert np.allclose(fast_bm3d(np.full((50, 61), 7.25), 2.0), 7.25, atol=1e-5)


def test_offset_scale_and_turning_carry_over(noisy):
    base = fast_bm3d(noisy, 0.1)
    assert base.dtype == np.float32
    moved = fast_bm3d(40 * noisy + 1000, 4.0)
    assert np.abs((moved - 1000) / 40 - base).max() < 1e-2
    assert np.sqrt(np.mean(((moved - 1000) / 40 - base) ** 2)) < 1e-3
    # Ties are broken and stacks cut in an order that turning changes; not by more than that.
    turned = np.flip(fast_bm3d(np.flip(noisy).copy(), 0.1))
    assert np.sqrt(np.mean((turned - base) ** 2)) < 0.02 * base.std()


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (9, 10), (95, 96), (100, 113), (16, 200)])
@pytest.mark.parametrize("effort", ["full", "quick"])
def test_frames_of_any_size_are_covered(shape, effort):
    frame = 5 + np.random.default_rng(6).normal(size=shape)
    noise = Noise.white(1.0)
    cleaned = fast_bm3d(frame, noise if effort == "full" else noise.quick())
    assert cleaned.shape == shape
    assert np.isfinite(cleaned).all()
    assert cleaned.std() <= frame.std()
    assert cleaned.mean() == pytest.approx(frame.mean(), abs=0.15)


@pytest.mark.parametrize(("step", "most"), [(STEP, REFS), (2 * STEP, 18)])
def test_reference_blocks_reach_every_pixel(step, most):
    for places in range(1, 300):
        tiles = _tiles(places, step, most)
        blocks = [first + step * k for first, count in tiles for k in range(count)]
        assert max(count for _, count in tiles) <= most
        assert (blocks[0], blocks[-1]) == (0, places - 1)
        assert all(0 < b - a <= step for a, b in pairwise(blocks))


def test_blocks_are_looked_for_in_a_square_or_sparsely():
    square = {(y, x) for y in range(-6, 7) for x in range(-6, 7)}
    assert {(y, x) for y, x in _displacements(6, (math.inf, math.inf))} == square
    sparse = [(int(y), int(x)) for y, x in _displacements(6, (1.0, 4.0))]
    assert sparse[0] == (0, 0)
    assert {(y, x) for y, x in sparse if y * y + x * x <= 2} == {
        (y, x) for y, x in square if y * y + x * x <= 2
    }
    assert (1, 2) not in sparse
    assert {(1, 3), (2, 2), (0, 6)} <= set(sparse)
    assert not {(5, 1), (3, 5), (6, 6)} & set(sparse)
    lengths = [y * y + x * x for y, x in sparse]
    assert lengths == sorted(lengths)


def test_without_noise_nothing_is_done(noisy):
    assert np.array_equal(fast_bm3d(noisy, 0.0), noisy.astype(np.float32))


def test_outliers_stay_where_they_are(noisy):
    frame = noisy.copy()
    frame[60, 60] = 1e4
    cleaned = fast_bm3d(frame, 0.1)
    assert np.isfinite(cleaned).all()
    far = np.ones(frame.shape, bool)
    far[60 - 24 : 60 + 24, 60 - 24 : 60 + 24] = False
    assert np.abs(cleaned - fast_bm3d(noisy, 0.1))[far].max() < 0.1


def test_what_cannot_be_denoised_is_refused():
    with pytest.raises(ValueError, match="at least 8 rows"):
        fast_bm3d(np.ones((7, 20)), 1.0)
    spoilt = np.ones((16, 16))
    spoilt[2, 3] = np.nan
    with pytest.raises(ValueError, match="1 pixels"):
        fast_bm3d(spoilt, 1.0)
    with pytest.raises(ValueError, match="cannot be negative"):
        fast_bm3d(np.ones((16, 16)), -1.0)
    with pytest.raises(ValueError, match="they must agree"):
        fast_bm3d(np.ones((16, 16)), np.ones((16, 20)))
    with pytest.raises(ValueError, match="none negative and not all zero"):
        Noise.coloured(np.zeros((16, 16)))


@pytest.mark.parametrize("dose", [0.5, 6.0, 100.0])
def test_counts_are_stabilised(dose):
    counts, truth = specimen(dose)
    assert truth.max() > 3 * truth.min()
    cleaned, used = denoise_fast(counts)
    direct, _ = denoise_fast(counts, "white", used)
    assert used == pytest.approx(truth.mean() * (255 / counts.max()) ** 2, rel=0.15)
    assert psnr_db(cleaned, truth) > psnr_db(direct, truth) + 2
    assert cleaned.min() >= 0
    assert cleaned.mean() == pytest.approx(counts.mean(), rel=0.03)


def test_the_gain_of_the_detector_makes_no_difference():
    counts, truth = specimen(6.0)
    amplified, _ = denoise_fast(counts * 37.0 - 20)
    plain, _ = denoise_fast(counts)
    assert np.allclose((amplified + 20) / 37, plain, atol=0.01 * truth.max())


def test_recipes_name_the_methods():
    frame, _ = specimen(6.0)
    for settings in (
        DenoiseSettings(method="fast"),
        DenoiseSettings(method="bm3d", noise="g4", variance=400),
    ):
        cleaned, _ = denoise.denoise_frame(
            frame, settings.method, settings.noise, settings.variance
        )
        by = denoise_fast if settings.method == "fast" else denoise_bm3d
        direct = by(frame, settings.noise, settings.variance)[0]
        assert denoised_alike(cleaned, direct, frame)
