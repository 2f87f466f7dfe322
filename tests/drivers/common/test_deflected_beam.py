"""What can be found wrong with a rig's shift, focus and scan rotation before connecting."""

import json

import numpy as np
import pytest

from pyrotome.drivers.registry import driver_class
from pyrotome.protocols.config.rig import BeamRig
from pyrotome.protocols.core.errors import BadInput

CALIBRATION = {
    "unit": "nm",
    "matrix_nm": [[0.0, 1.0], [1.0, 0.0]],
    "covariance_nm2": np.zeros((4, 4)).tolist(),
    "largest_nm": 300.0,
    "field_nm": 1000.0,
    "voltage_kv": 300.0,
    "date": "2026-11-27T10:00:00Z",
}


def check(driver, **words):
    rig = BeamRig.model_validate({"driver": driver, "endpoint": "tcp://h:1", **words})
    driver_class(driver, "beam").check_rig(rig)


def test_what_a_wire_lacks():
    check("temscript-beam", focus={"by": "probe_defocus"}, scan_rotation="3 deg")
    check("instamatic-beam", focus={"by": "stage"})
    with pytest.raises(BadInput, match=r"beam\.focus\.by.*no 'defocus'; write stage"):
        check("instamatic-beam", focus={"by": "defocus"})
    with pytest.raises(BadInput, match=r"beam\.scan_rotation.*set it at the microscope"):
        check("instamatic-beam", scan_rotation="3 deg")


def test_a_calibration_that_is_another_wires_or_none(tmp_path):
    path = tmp_path / "shift.json"
    shift = {"calibration_file": str(path)}
    check("temscript-beam", shift=shift)  # not calibrated yet
    path.write_text(json.dumps(CALIBRATION))
    check("temscript-beam", shift=shift)
    with pytest.raises(BadInput, match=r"calibration_file.*in nm; instamatic-beam has step"):
        check("instamatic-beam", shift=shift)
    path.write_text("{}")
    with pytest.raises(BadInput, match=r"shift\.json: unit"):
        check("temscript-beam", shift=shift)
