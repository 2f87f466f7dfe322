"""The fit by likelihood: atoms, alignment and errors of particles with known truth."""

import dataclasses

import numpy as np
import pytest

from pyrotome.analysis.alignment import TiltAxis
from pyrotome.analysis.atoms import LikelihoodSettings, fit_atoms, match_atoms
from pyrotome.simulators.world.atoms.tilt_series import simulated_series

PIXEL_A = 0.35


@pytest.fixture(scope="session")
def fit(particle, series):
    return fit_atoms(series.counts, series.tilt_deg, PIXEL_A)


def test_all_atoms_are_found_and_no_others(fit, particle):
    match = match_atoms(fit.positions_a, particle)
    assert match.recall == match.precision == 1
    assert fit.doubts == ()
    assert fit.probability.min() > 0.95


def test_errors_are_as_large_as_told(fit, particle):
    match = match_atoms(fit.positions_a, particle)
    covariance = fit.covariance_a2[match.pairs[:, 0]]
    squares = np.einsum("ai,aij,aj->a", match.errors_a, np.linalg.inv(covariance), match.errors_a)
    assert squares.mean() / 3 == pytest.approx(1, abs=0.35)
    assert match.rmsd_a < 0.06


def test_shape_and_background_are_those_of_the_simulation(fit, series):
    imaging = series.imaging
    assert fit.width_a == pytest.approx(np.hypot(imaging.probe_a, imaging.thermal_a), abs=0.02)
    assert fit.background == pytest.approx(imaging.pedestal, abs=0.1)
    assert fit.background.mean() == pytest.approx(imaging.pedestal, abs=0.01)
    counts = imaging.dose_e_per_a2 * imaging.counts_per_electron_a2 / len(series.tilt_deg)
    assert fit.heights.mean() * (1 + fit.tail) == pytest.approx(counts, rel=0.05)


def test_the_same_seed_gives_the_same_result(fit, series):
    again = fit_atoms(series.counts, series.tilt_deg, PIXEL_A)
    for field in dataclasses.fields(fit):
        assert np.array_equal(getattr(fit, field.name), getattr(again, field.name))


def test_axis_shifts_and_tilts_are_found(particle, series):
    imaging = dataclasses.replace(
        series.imaging, axis_offset_px=0.5, rotation_deg=0.7, shift_sd_px=0.2, tilt_sd_deg=0.1
    )
    made = simulated_series(particle, series.tilt_deg, imaging, np.random.default_rng(8))
    settings = LikelihoodSettings(rotation_sd_deg=1.0)
    fit = fit_atoms(made.counts, made.tilt_deg, PIXEL_A, settings=settings)
    match = match_atoms(fit.positions_a, particle)
    assert match.recall == match.precision == 1
    assert match.rmsd_a < 0.07
    assert fit.axis_offset_px == pytest.approx(0.5, abs=0.1)
    assert fit.rotation_deg == pytest.approx(0.7, abs=0.2)
    # The part of the shifts that a displacement of the specimen does not explain.
    off = fit.shifts_px - made.shifts_px
    tilt = np.deg2rad(made.tilt_deg)
    columns = np.stack([np.cos(tilt), np.sin(tilt), np.ones_like(tilt)], axis=1)
    off[:, 1] -= columns @ np.linalg.lstsq(columns, off[:, 1])[0]
    off[:, 0] -= off[:, 0].mean()
    assert off.std() < 0.06


def test_shifts_of_several_pixels_are_found_without_being_told(particle, series):
    imaging = dataclasses.replace(series.imaging, axis_offset_px=2.0, shift_sd_px=2.5)
    # Moved by half a pixel, the particle stays within the field.
    made = simulated_series(particle, series.tilt_deg, imaging, np.random.default_rng(8))
    fit = fit_atoms(made.counts, made.tilt_deg, PIXEL_A)
    match = match_atoms(fit.positions_a, particle)
    assert match.recall == match.precision == 1
    assert match.rmsd_a < 0.07


def test_frames_of_one_tilt_share_it_and_have_shifts_of_their_own(particle, series):
    tilts = np.repeat(series.tilt_deg[::2], 3)
    imaging = dataclasses.replace(series.imaging, shift_sd_px=0.2)
    wrong = np.repeat(np.random.default_rng(2).normal(0, 0.5, 15), 3)
    made = simulated_series(particle, tilts + wrong, imaging, np.random.default_rng(8))
    fit = fit_atoms(made.counts, tilts, PIXEL_A, settings=LikelihoodSettings(tilt_sd_deg=0.5))
    match = match_atoms(fit.positions_a, particle)
    assert match.recall == match.precision == 1
    assert match.rmsd_a < 0.07
    assert fit.doubts == ()
    by_tilt = fit.tilt_deg.reshape(15, 3)
    assert np.ptp(by_tilt, axis=1).max() < 1e-9
    left = by_tilt[:, 0] - tilts[::3] - wrong[::3]
    assert (left - left.mean()).std() < 0.6 * wrong.std()
    assert np.ptp(fit.shifts_px.reshape(15, 3, 2), axis=1).mean() > 0.2


def test_an_axis_along_the_rows_is_turned(particle, series):
    turned = np.rot90(series.counts, -1, axes=(1, 2))
    fit = fit_atoms(turned, series.tilt_deg, PIXEL_A, axis=TiltAxis(0.0, 90.0))
    match = match_atoms(fit.positions_a, particle)
    assert match.recall == match.precision == 1
    assert fit.rotation_deg == pytest.approx(90, abs=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda counts: counts[:3], "3 images but 30 tilt angles"),
        (lambda counts: counts.astype(float) - 1, "counts are negative"),
        (np.zeros_like, "no atom"),
    ],
)
def test_wrong_input_is_refused(series, change, message):
    with pytest.raises(ValueError, match=message):
        fit_atoms(change(series.counts), series.tilt_deg, PIXEL_A)


def test_a_pixel_size_that_cannot_be_is_refused(series):
    with pytest.raises(ValueError, match="pixel size of 0 A"):
        fit_atoms(series.counts, series.tilt_deg, 0.0)
