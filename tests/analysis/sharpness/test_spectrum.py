"""Power in rings: free of the noise of counting, and lost by blur as a disc takes it."""

import numpy as np
import pytest
from blurred_specimen import CONVERGENCE_MRAD, blurred

from pyrotome.analysis.sharpness import spectrum_of
from pyrotome.analysis.sharpness.spectrum import disc_contrast, fine_counts, mean_of


def test_counting_noise_is_left_out_and_its_scatter_is_told():
    rng = np.random.default_rng(1)
    found = [spectrum_of(rng.poisson(6.0, (128, 128)), 2.0) for _ in range(20)]
    power = np.array([one.power for one in found])
    told = np.sqrt(np.array([one.variance for one in found]).mean(axis=0))
    assert abs(power.mean(axis=0) / told).max() < 5 / np.sqrt(20)
    assert 0.85 < np.mean(power.std(axis=0) / told) < 1.15
    assert found[0].per_nm[-1] < 0.25 == 1 / (2 * 2.0)


def test_blur_takes_what_a_disc_takes():
    sharp, soft = (
        mean_of([spectrum_of(blurred(z, seed=seed, dose=200.0), 4.16) for seed in range(4)])
        for z in (0.0, 1600.0)
    )
    radius_nm = 1600.0 * CONVERGENCE_MRAD * 1e-3
    kept = disc_contrast(2 * np.pi * radius_nm * sharp.per_nm) ** 2
    clear = slice(1, 8)
    assert np.allclose((soft.power / sharp.power)[clear], kept[clear], atol=0.06)


def test_a_large_frame_is_binned_and_what_fills_no_square_is_cut_off():
    frame = np.random.default_rng(1).poisson(3.0, (700, 650)).astype(np.uint16)
    counts, binning = fine_counts(frame)
    assert (counts.shape, binning) == ((233, 216), 3)
    assert counts[0, 0] == frame[0:3, 1:4].sum()
    assert fine_counts(frame[:200, :200])[1] == 1


@pytest.mark.parametrize("frame", [np.ones(9, np.uint8), np.ones((9, 9)), np.ones((0, 9), "u1")])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(ValueError, match="counts as integers"):
        fine_counts(frame)


def test_an_empty_or_a_tiny_frame_has_no_spectrum():
    assert spectrum_of(np.zeros((64, 64), np.uint16), 1.0) is None
    assert spectrum_of(np.ones((16, 64), np.uint16), 1.0) is None
