"""The file of what a pixel is worth: kept, read, and where it does not hold."""

import json

import numpy as np
import pytest

from pyrotome.protocols.config.scanning.pixel_calibration import (
    PixelCalibration,
    load_pixel_calibration,
    save_pixel_calibration,
)
from pyrotome.protocols.core.errors import BadInput

BODY = {
    "matrix_nm": [[0.0362, 0.0002], [0.0002, 0.0355]],
    "covariance_nm2": (1e-10 * np.eye(4)).tolist(),
    "pixel_nm": 0.03585, "pixel_sd_nm": 1e-5, "nominal_pixel_nm": 0.0358, "field_nm": 10.74,
    "voltage_kv": 300.0, "scan_rotations_deg": [0.0, 45.0], "frames": 16,
    "date": "2026-11-27T10:00:00+01:00",
}  # fmt: skip


def test_a_file_is_kept_and_read(tmp_path):
    calibration = PixelCalibration.model_validate(BODY)
    save_pixel_calibration(tmp_path / "pixel.json", calibration)
    assert load_pixel_calibration(tmp_path / "pixel.json") == calibration
    first, *rows = calibration.text()
    assert first.startswith("a pixel is 0.35850 ± 0.00010 Å (+0.14 % of the 0.358 Å")
    assert len(rows) == 2


def test_it_is_turned_with_the_scan():
    calibration = PixelCalibration.model_validate(BODY)
    np.testing.assert_allclose(calibration.matrix_at(0.0), BODY["matrix_nm"])
    quarter = calibration.matrix_at(90.0)
    np.testing.assert_allclose(quarter, [[0.0355, -0.0002], [-0.0002, 0.0362]])
    np.testing.assert_allclose(calibration.matrix_at(-90.0), quarter)


def test_where_it_does_not_hold_it_says_why():
    calibration = PixelCalibration.model_validate(BODY)
    assert calibration.misfit(300.0, 10.75) is None
    assert "measured at 300 kV, and the beam has 200 kV" in (calibration.misfit(200.0, 10.74) or "")
    assert "a field of 10.74 nm, and the field is 21.48" in (calibration.misfit(300.0, 21.48) or "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"date": "2026-11-27T10:00:00"}, "names no time zone"),
        ({"matrix_nm": [[0.1, 0], [0, 0.036]]}, "not that of a scan"),
        ({"covariance_nm2": np.triu(np.ones((4, 4))).tolist()}, "not symmetric"),
        ({"covariance_nm2": (-np.eye(4)).tolist()}, "negative variance"),
        ({"voltage_kv": 0}, "voltage_kv"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path, change, words):
    path = tmp_path / "pixel.json"
    path.write_text(json.dumps(BODY | change))
    with pytest.raises(BadInput, match=words) as caught:
        load_pixel_calibration(path)
    assert str(caught.value).startswith(str(path))
    assert "`pyrotome calibrate-pixel` writes such a file" in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "p.json").write_text("{")
    for name, words in (("p.json", "not valid JSON"), ("none.json", "cannot be read")):
        with pytest.raises(BadInput, match=words):
            load_pixel_calibration(tmp_path / name)
