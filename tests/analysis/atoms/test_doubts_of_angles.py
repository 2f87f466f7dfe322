"""Gaps in the angles: a tilt that is missing is told, frames of one tilt are none."""

import numpy as np
import pytest

from pyrotome.analysis.atoms.doubts import _gaps

TILTS = np.arange(-69.0, 70.0, 3.0)
THREE = (TILTS[:, None] + np.array([0.0, 0.003, -0.002])).ravel()


@pytest.mark.parametrize("tilts", [TILTS, THREE])
def test_a_whole_series_has_no_gap(tilts):
    assert _gaps(tilts) == []


@pytest.mark.parametrize("tilts", [TILTS, THREE])
def test_a_missing_tilt_is_told(tilts):
    (told,) = _gaps(tilts[np.abs(tilts - 12.0) > 1.0])
    assert told.startswith("no view between 9.0 and 15.0 deg, where the usual step is 3.0 deg")
