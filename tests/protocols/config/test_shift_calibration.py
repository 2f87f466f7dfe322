"""The file that says what the beam deflectors do: use, doubt, and when it is refused."""

import json
import math

import numpy as np
import pytest

from pyrotome.protocols.config.rig import BeamRig, StageRig, rig_of_text
from pyrotome.protocols.config.shift_calibration import (
    ShiftCalibration,
    load_shift_calibration,
    save_shift_calibration,
)
from pyrotome.protocols.core.errors import BadInput

BODY = {
    "unit": "nm",
    "matrix_nm": [[0.2, -0.9], [-1.1, -0.1]],
    "covariance_nm2": (np.eye(4) * 1e-4).tolist(),
    "zero": [10.0, -5.0],
    "largest_nm": 300.0,
    "field_nm": 1065.0,
    "voltage_kv": 300.0,
    "scan_rotation_deg": -3.2,
    "date": "2026-11-27T10:00:00Z",
}


def calibration(**changes) -> ShiftCalibration:
    return ShiftCalibration.model_validate({**BODY, **changes})


def test_shift_and_back():
    found = calibration()
    for shift_nm in ((0.0, 0.0), (120.0, -300.0)):
        units = found.units_for(shift_nm)
        assert found.shift_nm(units) == pytest.approx(shift_nm, abs=1e-9)
    assert found.units_for((0.0, 0.0)) == pytest.approx((10.0, -5.0))
    assert found.shift_nm((11.0, -5.0)) == pytest.approx((0.2, -1.1))


def test_its_error_grows_with_the_shift():
    found = calibration(matrix_nm=[[0.0, 1.0], [1.0, 0.0]])
    assert found.error_nm((300.0, 400.0)) == pytest.approx((5.0, 5.0))


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (("nm", 300.0, 1065.0, -3.2), None),
        (("nm", 300.0, 1160.0, -3.0), None),
        (("nm", 300.0, 1200.0, -3.2), "field of 1065 nm, and the field is 1200 nm"),
        (("nm", 200.0, 1065.0, -3.2), "at 300 kV, and the beam has 200 kV"),
        (("nm", 300.0, 1065.0, 0.0), "rotation of -3.2 deg, and the rotation is 0 deg"),
        (("nm", 300.0, 1065.0, 356.8), None),
        (("step", 300.0, 1065.0, -3.2), "deflectors in nm, and this microscope has step"),
    ],
)
def test_where_it_holds(now, problem):
    found = calibration().misfit(*now)
    assert (found is None) if problem is None else problem in found


def test_written_and_read(tmp_path):
    path = tmp_path / "shift.json"
    save_shift_calibration(path, calibration())
    assert load_shift_calibration(path) == calibration()
    save_shift_calibration(path, calibration(largest_nm=500.0))
    assert load_shift_calibration(path).largest_nm == 500.0
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(BadInput, match="cannot be written"):
        save_shift_calibration(tmp_path / "none" / "shift.json", calibration())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"matrix_nm": [[1.0, 2.0], [2.0, 4.0]]}, "along one line"),
        ({"matrix_nm": [[1.0, math.nan], [0.0, 1.0]]}, "matrix_nm"),
        ({"covariance_nm2": np.triu(np.ones((4, 4))).tolist()}, "not symmetric"),
        ({"covariance_nm2": (-np.eye(4)).tolist()}, "negative variance"),
        ({"date": "2026-11-27T10:00:00"}, "no time zone"),
        ({"unit": "um"}, "unit"),
        ({"field_nm": 0.0}, "field_nm"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_file_that_is_none(tmp_path, changes, problem):
    path = tmp_path / "shift.json"
    path.write_text(json.dumps({**BODY, **changes}))
    with pytest.raises(BadInput, match=problem) as caught:
        load_shift_calibration(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 5000, b" " * 200_000])
def test_noise_is_no_calibration(tmp_path, raw):
    path = tmp_path / "shift.json"
    path.write_bytes(raw)
    with pytest.raises(BadInput):
        load_shift_calibration(path)
    with pytest.raises(BadInput, match="cannot be read"):
        load_shift_calibration(tmp_path)


def test_the_rig_names_limits_and_the_file(tmp_path):
    rig = BeamRig.model_validate(
        {
            "driver": "x",
            "endpoint": "y",
            "shift": {"limit": "1.5 um", "hand_over": "1 um", "settle": "30 ms"},
            "focus": {"by": "probe_defocus", "limit": "20 um", "convergence": "1.2 mrad"},
            "scan_rotation": "-3.2 deg",
        }
    )
    assert rig.shift.limit_nm == pytest.approx(1500.0)
    assert (rig.focus.convergence_mrad, rig.scan_rotation_deg) == (1.2, -3.2)
    with pytest.raises(ValueError, match="hand_over is beyond limit"):
        BeamRig.model_validate({"driver": "x", "endpoint": "y", "shift": {"limit": "500 nm"}})
    stage = {"driver": "x", "endpoint": "y", "limits": {"z": ["5 um", "-5 um"]}}
    with pytest.raises(ValueError, match="z limits must be written as"):
        StageRig.model_validate(stage)
    text = """
name: r
heater: {driver: d, endpoint: e}
stage: {driver: d, endpoint: e}
beam: {driver: d, endpoint: e, shift: {calibration_file: shift.json}}
detector: {driver: d, endpoint: e}
"""
    found = rig_of_text(text, "rig.yaml", tmp_path)
    assert found.beam.shift.calibration_file == str(tmp_path / "shift.json")
