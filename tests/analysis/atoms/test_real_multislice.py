"""Multislice counts of a particle of 208 atoms, whose axis lies half a pixel beside the centre."""

from pathlib import Path

import numpy as np
import pytest

from pyrotome.analysis.alignment import TiltAxis
from pyrotome.analysis.atoms import fit_atoms, match_atoms

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "asi_multislice"
PIXEL_A = 0.195


@pytest.fixture
def truth():
    if not DATA.is_dir():
        pytest.skip("the multislice data are not beside this checkout (../shared/data)")
    x, y, z = np.loadtxt(DATA / "asi_2nm_truth.xyz").T
    return np.stack([y, -x, -z], axis=1)


@pytest.mark.parametrize(
    ("dose", "found", "rmsd_a"), [("8p0e3", 0.995, 0.178), ("1p6e5", 1.0, 0.032)]
)
def test_atoms_and_axis_are_found(truth, dose, found, rmsd_a):
    data = np.load(DATA / f"asi_2nm_dose_{dose}.npz")
    fit = fit_atoms(data["counts"], data["tilt_deg"], PIXEL_A, axis=TiltAxis(0.0, 90.0))
    match = match_atoms(fit.positions_a, truth)
    assert match.recall >= found
    assert match.precision >= found
    assert match.rmsd_a <= rmsd_a
    assert fit.axis_offset_px == pytest.approx(0.5, abs=3 * fit.axis_offset_sd_px)
    assert fit.axis_offset_sd_px < 0.1
