"""A column of somebody else, with the errors of a real one and its own truth: de-twin over SOAP.

What our column is made of is seen there: the image follows the stage, a height over the axis
becomes a shift at a tilt, a shift has a matrix of its own, and a drive has play.
"""

import json

import numpy as np
import pytest

from pyrotome.daemon.schedule.scout_scans import SHIFT_PATTERN
from pyrotome.daemon.tracking.shift_solution import solve_pictures

pytest.importorskip("de_twin", reason="de-twin is not installed (extra 'interop')")


@pytest.mark.interop
@pytest.mark.timeout(900)
def test_shift_height_and_stage_against_its_own_truth(pictures, tmp_path):
    with pictures.detwin(tmp_path) as camera:
        truth = json.loads(camera.said)
        soap, pixel_um = pictures.Soap(truth["port"]), truth["true_pixel_nm"] * 1e-3
        begin = soap.stage()
        x, y, z = begin["x"], begin["y"], begin["z"]

        def seen_um(*, x=x, y=y, z=z, before=None):
            soap.move(x=x, y=y, z=z)
            after = camera.picture()
            if before is None:
                return after
            return np.array(pictures.moved_pixels(before, after)) * pixel_um

        seen_um(x=x - 1, y=y - 1)
        first = seen_um()  # both arrive from below from here on
        steps = np.stack([seen_um(x=x + 0.2, before=first)], axis=1)
        assert np.linalg.norm(steps[:, 0]) == pytest.approx(0.2, rel=0.02)
        back = np.linalg.norm(seen_um(before=first))
        assert back == pytest.approx(truth["backlash_um"], abs=0.01), "it arrives from above"
        seen_um(x=x - 1, y=y - 1)
        first = seen_um()
        steps = np.column_stack([steps, seen_um(y=y + 0.2, before=first)]) / 0.2
        np.testing.assert_allclose(steps.T @ steps, np.eye(2), atol=0.03)
        seen_um(x=x - 1, y=y - 1)
        first = seen_um()
        # An image shift moves the picture against a stage that goes the same way.
        matrix = -steps @ np.array(truth["is_matrix_um_per_unit"])
        for shift in ((0.15, 0.0), (0.0, 0.15), (-0.1, 0.1)):
            soap.call("setImageShift", **dict(zip(("x", "y"), shift, strict=True)))
            assert soap.pair("ImageShift") == pytest.approx(shift)
            found = seen_um(before=first)
            np.testing.assert_allclose(found, matrix @ shift, atol=0.02 * 0.15)
        # What `calibrate: shifts` makes of its six pictures, the drive of the stage at rest.
        taken, units = [], [(0.15 * one, 0.15 * other) for one, other in SHIFT_PATTERN]
        for one, other in units:
            soap.call("setImageShift", x=one, y=other)
            taken.append(np.maximum(camera.picture(), 0))
        solved = solve_pictures(taken, units, range(len(units)), pixel_um)
        np.testing.assert_allclose(solved.matrix_nm, matrix, atol=0.02 * np.abs(matrix).max())
        soap.call("setImageShift", x=0.0, y=0.0)
        soap.move(a=10.0)
        first = seen_um()
        step_nm = 1e3 * np.linalg.norm(seen_um(z=z + 1.0, before=first))
        assert step_nm == pytest.approx(174.0, abs=5.0)
